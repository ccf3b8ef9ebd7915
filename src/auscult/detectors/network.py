"""What detectors share that train a network: its weights are what they have learnt."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import nn

from auscult.corpus.clip import Clip
from auscult.detectors.base import Detector, DetectorConfig, require_fitted
from auscult.errors import AuscultError
from auscult.nn.tracing import is_traced


class NetworkDetector(Detector):
    """A detector whose fitted state is a network.

    Attributes
    ----------
    network : nn.Module or None
        In evaluation mode, on the CPU; None until fitted.
    """

    def __init__(self, config: DetectorConfig | None = None) -> None:
        super().__init__(config)
        self.network: nn.Module | None = None

    @abstractmethod
    def build(self) -> nn.Module:
        """A new network."""

    def n_parameters(self) -> int:
        """Trainable parameters of the network."""
        with torch.device("meta"):  # counted without being made
            return sum(p.numel() for p in self.build().parameters())

    def new_network(self, seed: int) -> nn.Module:
        """A new network whose weights are drawn by this seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.build()

    def logmel(self, clip: Clip) -> torch.Tensor:
        """The log-mel that the detector hears, once it is fitted; see `Detector.logmel`."""
        require_fitted(self.network, self.name)
        return super().logmel(clip)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The network's weights and running statistics."""
        require_fitted(self.network, self.name)
        assert self.network is not None
        return dict(self.network.state_dict()), {}

    def restore(self, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:  # noqa: ARG002
        """Load weights into a new network.

        Raises
        ------
        AuscultError
            If the tensors are not this network's.
        """
        network = self.build()
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise AuscultError(f"the model's tensors do not fit {self.name}", "fit it again") from error
        self.network = network.eval()


def window_rows(logmel: torch.Tensor, length: int) -> torch.Tensor:
    """Every window of a clip as a row, by strides alone.

    Parameters
    ----------
    logmel : Tensor, shape (n_frames, n_mels)
    length : int
        Frames in a window.

    Returns
    -------
    Tensor, shape (n_frames - length + 1, length * n_mels)
        Frame by frame.
    """
    n_frames, n_mels = logmel.shape
    if is_traced():
        return logmel.unfold(0, length, 1).transpose(1, 2).reshape(-1, length * n_mels)
    return logmel.contiguous().as_strided((n_frames - length + 1, length * n_mels), (n_mels, 1))
