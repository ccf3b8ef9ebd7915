"""What detectors share that judge windows by their likelihood under a normalising flow."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt, field_validator
from torch import nn

from auscult.corpus.clip import Clip
from auscult.detectors.base import DetectorConfig, require_fitted
from auscult.detectors.crops import Crops
from auscult.detectors.network import NetworkDetector, window_rows
from auscult.nn.aggregation import aggregate, check_aggregation
from auscult.nn.flows import nll_per_dimension
from auscult.nn.standardise import Standardise
from auscult.store import LogMels, Store, require_clips
from auscult.training import Batch, Examples, Plan, Run, TrainingLog, train

Latents = list[torch.Tensor]

_FARTHEST = 50.0
"""Deviations a standardised value may lie from the mean: 50 dB and more. Beyond (silence where a machine hummed)
everything is equally strange, and a deep flow would leave the range of 32 bits. Ours."""


_LARGEST_SHOWN = 1e15
"""Latent whose square and sums over a window are still within 32 bits, for the map."""


class FlowConfig(DetectorConfig):
    """Settings of a detector with a normalising flow.

    Attributes
    ----------
    frames : int
        Frames in a window.
    aggregation : str
        How the windows' scores become the clip's: "mean" (the papers'), "max", "top-5", "top-10%", "power-4".
    epochs, batch_size, learning_rate, weight_decay, max_steps : training
    clip_norm : float
        Longest gradient.
    """

    frames: PositiveInt = Field(default=4, description="frames in a window")
    aggregation: str = Field(default="mean", description="from window scores to the clip's score")
    epochs: PositiveInt = Field(default=100, description="passes over the training clips")
    batch_size: int = Field(default=512, ge=2, description="windows in a training step")
    learning_rate: PositiveFloat = Field(default=1e-4, description="of Adam")
    weight_decay: float = Field(default=0.0, ge=0, description="of Adam")
    clip_norm: PositiveFloat = Field(default=5.0, description="longest gradient")
    max_steps: PositiveInt | None = Field(default=None, description="end after so many steps")

    _aggregation = field_validator("aggregation")(check_aggregation)


class FlowDetector(NetworkDetector):
    """Fits a flow to standardised windows; the less likely, the stranger.

    A subclass makes the flow, shapes its windows, and says where in a window each latent belongs.
    """

    family = "density"
    Config: ClassVar[type[DetectorConfig]] = FlowConfig
    config: FlowConfig
    windows_at_once: ClassVar[int] = 1024
    """Bounds the memory of a long clip."""

    # What a subclass implements -----------------------------------------------------------------

    @abstractmethod
    def flow(self) -> nn.Module:
        """A new flow: from standardised windows, (batch, frames, n_mels), to latents and log-determinants."""

    @abstractmethod
    def place(self, squares: Latents) -> torch.Tensor:
        """Put half the squared latents where they belong, shape (batch, frames, n_mels)."""

    @abstractmethod
    def starts(self, n_frames: int) -> list[int]:
        """First frames of the windows that a clip is scored by."""

    def loss(self, network: nn.Module, batch: Any) -> torch.Tensor:
        """Mean negative log-likelihood per dimension."""
        return nll_per_dimension(*network(batch)).mean()

    def examples(self, logmels: LogMels) -> Examples[Any]:
        """What the flow is trained on: windows at random places."""
        return Crops(logmels.spectra, self.config.frames, self.examples_a_step)

    @property
    def examples_a_step(self) -> int:
        """Examples in a training step; an example may be more than one window."""
        return self.config.batch_size

    # What follows from it -----------------------------------------------------------------------

    def build(self) -> nn.Module:
        """A new network: from windows as rows, (batch, frames * n_mels) in dB, to latents and log-determinants."""
        return StandardisedFlow(Standardise(self.front_end.n_mels), self.flow())

    @property
    def min_frames(self) -> int:
        """One window."""
        return self.config.frames

    def fit(
        self,
        train: Sequence[Clip],
        *,
        outliers: Sequence[Clip] | None = None,  # noqa: ARG002
        store: Store,
        budget: float | None = None,
        seed: int = 0,
        run: Run | None = None,
    ) -> TrainingLog:
        """Fit the flow to windows of the clips; see `Detector.fit`."""
        logmels = store.collect(train, self.front_end)
        require_clips(logmels)
        return self.learn(logmels, self.examples(logmels), self.loss, budget, seed, run)

    def learn(
        self,
        logmels: LogMels,
        examples: Examples[Batch],
        loss: Callable[[nn.Module, Batch], torch.Tensor],
        budget: float | None,
        seed: int,
        run: Run | None,
    ) -> TrainingLog:
        """Train a new network on these examples, bands standardised as these log-mels are."""
        config = self.config
        network = self.new_network(seed)
        assert isinstance(network, StandardisedFlow)
        network.standardise.learn(logmels.spectra)
        optimizer = torch.optim.Adam(
            network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        plan = Plan(config.epochs, self.examples_a_step, config.max_steps, budget, clip=config.clip_norm)
        log = train(network, loss, examples, optimizer, plan, seed=seed, run=run)
        self.network = network.cpu().eval()
        return log

    def score_logmel(self, logmel: torch.Tensor) -> float:
        """Negative log-likelihood of each window per dimension, aggregated over the clip."""
        return self._score(logmel)

    def map_logmel(self, logmel: torch.Tensor) -> torch.Tensor:
        """Half the squared latent at each bin, averaged over the windows that hold it."""
        return self._map(logmel)

    def _score(self, logmel: torch.Tensor, **condition: torch.Tensor) -> float:
        batches = self._transformed(logmel, self.starts(len(logmel)), condition)
        return aggregate(
            torch.cat([nll_per_dimension(latents, log_det) for _, latents, log_det in batches]), self.config.aggregation
        )

    def _map(self, logmel: torch.Tensor, **condition: torch.Tensor) -> torch.Tensor:
        frames = self.config.frames
        starts = self.starts(len(logmel))
        if starts[-1] + frames < len(logmel):
            starts = [*starts, len(logmel) - frames]
        total, count = torch.zeros_like(logmel), torch.zeros(len(logmel), 1)
        for some, latents, _ in self._transformed(logmel, starts, condition):
            placed = self.place([latent.clamp(-_LARGEST_SHOWN, _LARGEST_SHOWN).square() / 2 for latent in latents])
            for start, window in zip(some, placed, strict=True):
                total[start : start + frames] += window
                count[start : start + frames] += 1
        return total / count

    def _transformed(
        self, logmel: torch.Tensor, starts: list[int], condition: dict[str, torch.Tensor]
    ) -> Iterator[tuple[list[int], Latents, torch.Tensor]]:
        """Latents and log-determinants of the windows that begin at `starts`, some at a time."""
        require_fitted(self.network, self.name)
        assert self.network is not None
        rows = window_rows(logmel, self.config.frames)
        for first in range(0, len(starts), self.windows_at_once):
            some = starts[first : first + self.windows_at_once]
            latents, log_det = self.network(rows[some], **condition)
            yield some, latents, log_det


class StandardisedFlow(nn.Module):
    """A flow behind per-band standardisation, which adds a constant to every likelihood that is left out.

    Parameters
    ----------
    standardise : Standardise
    flow : nn.Module
    """

    def __init__(self, standardise: Standardise, flow: nn.Module) -> None:
        super().__init__()
        self.standardise = standardise
        self.flow = flow

    def forward(self, windows: torch.Tensor, **condition: torch.Tensor) -> tuple[Latents, torch.Tensor]:
        """Windows as rows, (batch, frames * n_mels) in dB, to latents and log-determinants."""
        values = self.standardise(windows).clamp(-_FARTHEST, _FARTHEST)
        latents, log_det = self.flow(values, **condition)
        return latents, log_det
