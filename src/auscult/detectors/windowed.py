"""What detectors share that reconstruct short windows of frames and score them by their errors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt, field_validator
from torch import nn

from auscult.corpus.clip import Clip
from auscult.detectors.base import DetectorConfig, require_fitted
from auscult.detectors.network import NetworkDetector, window_rows
from auscult.nn.aggregation import aggregate, check_aggregation
from auscult.nn.clipping import AutoClip
from auscult.nn.schedules import Schedule
from auscult.nn.tracing import is_traced
from auscult.store import LogMels, Store, require_clips
from auscult.training import Plan, Run, TrainingLog, train

_WINDOWS_AT_ONCE = 4096
"""Bounds the memory of a long clip; a ten-second one is one batch."""


class WindowedConfig(DetectorConfig):
    """Settings of a detector that judges windows of a few frames.

    Attributes
    ----------
    frames : int
        Frames in a window.
    aggregation : str
        How the windows' scores become the clip's: "mean" (the papers'), "max", "top-5", "top-10%", "power-4".
    epochs, batch_size, learning_rate : training
    max_steps : int or None
        End of training where the epochs would take longer.
    autoclip : float or None
        Percentile of adaptive gradient clipping; None for no clipping.
    """

    frames: PositiveInt = Field(default=5, description="frames in a window")
    aggregation: str = Field(default="mean", description="from window scores to the clip's score")
    epochs: PositiveInt = Field(default=100, description="passes over the training windows")
    batch_size: int = Field(default=512, ge=2, description="windows in a training step")
    learning_rate: PositiveFloat = Field(default=1e-3, description="of Adam")
    max_steps: PositiveInt | None = Field(default=None, description="end after so many steps")
    autoclip: float | None = Field(default=None, ge=0, le=100, description="percentile of adaptive gradient clipping")

    _aggregation = field_validator("aggregation")(check_aggregation)


def with_a_centre(frames: int) -> int:
    """Return the length of a window if one of its frames is the centre.

    Raises
    ------
    ValueError
        If none is.
    """
    if frames < 3 or frames % 2 == 0:
        raise ValueError("frames is an odd number from 3 on, so that one frame is the centre")
    return frames


class WindowedDetector(NetworkDetector):
    """A network over windows of frames; the error at each bin is the anomaly score there.

    A subclass builds the network, says what its loss is, and gives the errors of a batch of windows.
    """

    Config: ClassVar[type[DetectorConfig]] = WindowedConfig
    config: WindowedConfig
    scorings: ClassVar[frozenset[str]] = frozenset({"aggregation"})
    reconstructs: ClassVar[bool] = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        # Ours: half a minute on a laptop's core, whatever the number of clips; a dozen clips would otherwise
        # see only some hundred steps, too few even to learn their level.
        "quick": {"epochs": 2000, "max_steps": 2000},
    }

    @abstractmethod
    def loss(self, network: nn.Module, windows: torch.Tensor) -> torch.Tensor:
        """Training loss of a batch of windows, shape (batch, frames * n_mels), frame by frame."""

    @abstractmethod
    def errors(self, windows: torch.Tensor) -> torch.Tensor:
        """Error at each bin that the network predicts, shape (batch, n_predicted_frames, n_mels)."""

    @property
    @abstractmethod
    def predicted(self) -> range:
        """Which frames of a window `errors` covers."""

    def window_scores(self, windows: torch.Tensor) -> torch.Tensor:
        """Score of each window, shape (batch,): the mean of `errors`, unless a detector has another."""
        return self.errors(windows).mean(dim=(1, 2))

    def prepare(self, network: nn.Module, logmels: LogMels) -> None:
        """Set what a new network takes from the training clips before it is trained; nothing, as a rule."""

    def schedule(self) -> Schedule | None:
        """Factor on the learning rate at each step; None for a constant rate."""
        return None

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Adam as Keras has it: epsilon 1e-7."""
        return torch.optim.Adam(network.parameters(), lr=self.config.learning_rate, eps=1e-7, fused=True)

    @property
    def exports_any_length(self) -> bool:
        """Where the windows aggregated are not a number that follows from the length."""
        return not self.config.aggregation.startswith("top")

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
        """Train the network on all windows of the clips; see `Detector.fit`."""
        logmels = store.collect(train, self.front_end)
        require_clips(logmels)
        windows = logmels.windows(self.config.frames)
        network = self.new_network(seed)
        self.prepare(network, logmels)
        log = self._train(network, windows, budget, seed, run)
        self.network = network.cpu().eval()
        return log

    def _train(self, network: nn.Module, windows: Any, budget: float | None, seed: int, run: Run | None) -> TrainingLog:
        config = self.config
        clip = None if config.autoclip is None else AutoClip(config.autoclip)
        plan = Plan(config.epochs, config.batch_size, config.max_steps, budget, self.schedule(), clip)
        return train(network, self.loss, windows, self.optimizer(network), plan, seed=seed, run=run)

    def score_logmel(self, logmel: torch.Tensor) -> float:
        """The windows' scores, aggregated over the clip."""
        scores = [self.window_scores(batch) for _, batch in self._batches(logmel)]
        return aggregate(torch.cat(scores), self.config.aggregation)

    def squared_error(self, logmel: torch.Tensor) -> float:
        """`errors`, averaged over all that the windows predict."""
        return float(torch.cat([self.errors(batch).mean(dim=(1, 2)) for _, batch in self._batches(logmel)]).mean())

    def map_logmel(self, logmel: torch.Tensor) -> torch.Tensor:
        """Error at each bin, averaged over the windows that predict it; edge frames none predicts are copied."""
        total = torch.zeros_like(logmel)
        count = torch.zeros(len(logmel), 1)
        for first, batch in self._batches(logmel):
            errors = self.errors(batch)
            for position, frame in enumerate(self.predicted):
                here = slice(first + frame, first + frame + len(errors))
                total[here] += errors[:, position]
                count[here] += 1
        covered = count[:, 0].nonzero()[:, 0]
        mean = total / count.clamp(min=1)
        mean[: covered[0]] = mean[covered[0]]
        mean[covered[-1] + 1 :] = mean[covered[-1]]
        return mean

    def _batches(self, logmel: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """Windows of a clip as rows, with the number of the first."""
        require_fitted(self.network, self.name)
        rows = window_rows(logmel, self.config.frames)
        if is_traced():
            yield 0, rows
            return
        for first in range(0, len(rows), _WINDOWS_AT_ONCE):
            yield first, rows[first : first + _WINDOWS_AT_ONCE]
