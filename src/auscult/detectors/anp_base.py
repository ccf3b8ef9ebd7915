"""What detectors share that predict any hidden bins of a window from all the others (neural processes)."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt, field_validator, model_validator
from torch import nn

from auscult.corpus.clip import Clip
from auscult.detectors.anp_map import Prediction, as_mask, fill_in
from auscult.detectors.base import DetectorConfig, require_fitted
from auscult.detectors.network import window_rows
from auscult.detectors.registry import rescored
from auscult.detectors.windowed import WindowedConfig, WindowedDetector, with_a_centre
from auscult.nn import masks
from auscult.nn.aggregation import aggregate
from auscult.nn.hidden_bins import BinNetwork, at, mean_of
from auscult.nn.masks import Partition
from auscult.nn.mixture import Mixture
from auscult.nn.schedules import Schedule, noam
from auscult.store import LogMels

_WINDOWS_AT_ONCE = 16
"""Scored together: more are no faster, since their intermediate values leave the processor's cache."""


class NeuralProcessConfig(WindowedConfig):
    """Settings of training and scoring that neural processes share.

    Attributes
    ----------
    frames : int
        Frames in a window, an odd number.
    mixture : int
        Gaussians at each bin. 1 is the paper's; more are what its conclusion proposes.
    standardise : bool
        Whether the network sees each band less its mean, by its standard deviation over the training frames,
        and has its means scaled back; sigma is in dB in any case. The paper does not; ours, so that a short
        training need not spend its steps on learning the level of each band.
    warm_up_steps : int
        Steps until the learning rate has its peak, `learning_rate`; it falls with the root of the step then.
    cool_down : float
        Share of `max_steps` over which the rate falls to zero in the end. The paper has none and no `max_steps`;
        ours, for short trainings.
    autoclip : float or None
        The paper clips adaptively and names no percentile; AutoClip's authors recommend 10.
    masking : {"idnn", "rrc", "boot"}
        What is hidden when a clip is scored (2.2): the centre frame; three draws of one or two frames and up to
        two bands, the same for every window of every clip; or the two bands and the frame that a first pass
        found hardest. The default is, with `score_by`, the best on average in Table 1.
    score_by : {"mse", "likelihood", "surprise"}
        Squared error in dB, or negative log-likelihood (equation 7), of the hidden bins; the mean over them, so
        that the three draws of "rrc" weigh the same whatever they hide. "boot" chooses by likelihood in any case.
        "surprise" is ours: the likelihood less its greatest possible value, (y - mean)^2 / (2 sigma^2). Bins that are
        hard to predict on a healthy machine too, such as those at the beginning of a stroke, then count no more than
        others, so that a stroke which fails does not pass for a quiet second.
    score_hop : int
        Frames between the windows that are scored. 1 is the paper's; every second costs half.

    References
    ----------
    Wichern, Chakrabarty, Wang, Le Roux, "Anomalous sound detection using attentive neural processes", WASPAA
    2021; sections and tables are of this paper.
    """

    mixture: PositiveInt = Field(default=1, description="Gaussians at each bin")
    standardise: bool = Field(default=False, description="whether the network sees standardised bands")
    warm_up_steps: PositiveInt = Field(default=4000, description="steps until the learning rate has its peak")
    cool_down: float = Field(default=0.0, ge=0, le=1, description="share of max_steps with a rate that falls to zero")
    autoclip: float | None = Field(default=10.0, ge=0, le=100, description="percentile of adaptive gradient clipping")
    masking: Literal["idnn", "rrc", "boot"] = Field(default="idnn", description="what is hidden in scoring")
    score_by: Literal["mse", "likelihood", "surprise"] = Field(
        default="mse", description="squared error, likelihood, or how far below its greatest the likelihood is"
    )
    score_hop: PositiveInt = Field(default=1, description="frames between the windows that are scored")

    _frames = field_validator("frames")(with_a_centre)

    @model_validator(mode="after")
    def _likelihoods_may_be_negative(self) -> Self:
        if self.score_by == "likelihood" and self.aggregation.startswith("power"):
            raise ValueError("a negative log-likelihood has no power mean; choose another aggregation, or score_by=mse")
        return self


class NeuralProcess(WindowedDetector):
    """Learns to predict hidden bins under random masks; judges by what it cannot predict under a chosen one.

    A subclass builds the network and says how a training step hides bins if not by one random
    mask for the whole batch.

    Notes
    -----
    The likelihood keeps the constant log sqrt(2 pi) that equation 7 drops: it is the same for every clip.
    """

    family = "reconstruction"
    scorings: ClassVar[frozenset[str]] = frozenset({"masking", "score_by", "score_hop", "aggregation"})
    Config: ClassVar[type[DetectorConfig]] = NeuralProcessConfig
    config: NeuralProcessConfig

    @abstractmethod
    def build(self) -> BinNetwork:
        """A new network."""

    # Learning -----------------------------------------------------------------------------------

    def prepare(self, network: nn.Module, logmels: LogMels) -> None:
        """Learn the bands' levels, where they are asked for."""
        assert isinstance(network, BinNetwork)
        if self.config.standardise:
            network.standardise.learn(logmels.spectra)

    def schedule(self) -> Schedule:
        """Warm-up, then a fall with the root of the step, then (if asked for) to zero."""
        rate, end = noam(self.config.warm_up_steps), self.config.max_steps
        if end is None or not self.config.cool_down:
            return rate
        length = self.config.cool_down * end
        return lambda step: rate(step) * min(1.0, (end + 1 - step) / length)

    def training_partition(self, n_windows: int) -> Partition:  # noqa: ARG002
        """What a training step hides: by default one random mask for all windows, by torch's global generator."""
        return Partition.of(masks.random_rows_and_columns(*self._size))

    def loss(self, network: nn.Module, windows: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of the hidden bins."""
        partition = self.training_partition(len(windows)).to(windows.device)
        predicted = Mixture(*network(windows, partition.context, partition.target))
        return predicted.nll(at(windows, partition.target)).mean()

    # Scoring ------------------------------------------------------------------------------------

    def score_logmel(self, logmel: torch.Tensor) -> float:
        """The windows' scores, aggregated over the clip."""
        require_fitted(self.network, self.name)
        windows = window_rows(logmel, self.config.frames)
        last = len(windows) - 1
        starts = torch.tensor([*range(0, last, self.config.score_hop), last])
        scores = [self.window_scores(windows[some]) for some in torch.split(starts, _WINDOWS_AT_ONCE)]
        return aggregate(torch.cat(scores), self.config.aggregation)

    def window_scores(self, windows: torch.Tensor) -> torch.Tensor:
        """Score of each window under the masking chosen, shape (batch,)."""
        if self.config.masking == "boot":
            partitions = [self._hardest(windows)]
        else:
            partitions = [Partition.of(mask) for mask in self._fixed_masks()]
        scores = [self._target_errors(windows, partition).mean(dim=1) for partition in partitions]
        return torch.stack(scores).mean(dim=0)

    def errors(self, windows: torch.Tensor) -> torch.Tensor:
        """Squared error of the centre frame, shape (batch, 1, n_mels): what Table 2 of the paper averages."""
        centre = Partition.of(masks.centre_frame(*self._size))
        guesses = (self._predict(some, centre) for some in torch.split(windows, _WINDOWS_AT_ONCE))
        return torch.cat([(values - mean_of(predicted)).square() for predicted, values in guesses])[:, None]

    @property
    def predicted(self) -> range:
        """The centre frame."""
        centre = self.config.frames // 2
        return range(centre, centre + 1)

    def rescored(self, **settings: Any) -> Self:
        """The same fitted network, scored another way: `auscult.detectors.registry.rescored`.

        Raises
        ------
        AuscultError
            If a setting is none of `scorings`, or its value is not possible.
        """
        other = rescored(self, settings)
        assert isinstance(other, type(self))
        return other

    @property
    def _size(self) -> tuple[int, int]:
        """Frames and bands of a window."""
        return self.config.frames, self.front_end.n_mels

    def _fixed_masks(self) -> list[torch.Tensor]:
        if self.config.masking == "idnn":
            return [masks.centre_frame(*self._size)]
        return masks.fixed_rows_and_columns(*self._size)

    def _hardest(self, windows: torch.Tensor) -> Partition:
        """What a first pass found hardest to predict in each window."""
        mask = masks.three_of_eight(*self._size)
        predicted, values = self._predict(windows, Partition.of(mask))
        return Partition.of(masks.hardest(predicted.nll(values), mask))

    def _target_errors(self, windows: torch.Tensor, partition: Partition) -> torch.Tensor:
        predicted, values = self._predict(windows, partition)
        if self.config.score_by == "likelihood":
            return predicted.nll(values)
        if self.config.score_by == "surprise":
            return predicted.surprise(values)
        return (values - mean_of(predicted)).square()

    def _predict(self, windows: torch.Tensor, partition: Partition) -> tuple[Mixture, torch.Tensor]:
        """The targets as predicted, and as they are."""
        assert self.network is not None
        predicted = Mixture(*self.network(windows, partition.context, partition.target))
        return predicted, at(windows, partition.target)

    # Showing where ------------------------------------------------------------------------------

    def map_logmel(self, logmel: torch.Tensor) -> torch.Tensor:
        """Surprise at each bin, predicted with its whole frame hidden; both of shape (n_frames, n_mels)."""
        return self._predict_clip(logmel, None)[2]

    def predict_hidden(self, clip: Clip, mask: str | np.ndarray) -> Prediction:
        """Predict any hidden bins of a clip from those that are not hidden.

        Each frame's hidden bins are predicted from what is left of the window about it (of the first or last
        window, for the frames at either end).

        Parameters
        ----------
        clip : Clip
        mask : str or ndarray of bool, shape (n_mels, n_frames)
            True where hidden, aligned with the log-mel; or in words, such as "bands:60-70,box:10-200x20-30"
            (see `auscult.nn.masks.parse_mask`).

        Raises
        ------
        AuscultError
            If the mask does not fit the clip, hides nothing, or hides the whole of some window.
        """
        with torch.inference_mode():
            logmel = self.logmel(clip)
            filled = self._predict_clip(logmel, as_mask(mask, logmel))
            return Prediction(*(values.T.contiguous().numpy() for values in filled))

    def map_with_mask(self, clip: Clip, mask: str | np.ndarray) -> np.ndarray:
        """Anomaly map of the bins that a mask hides, 0 elsewhere; see `predict_hidden`.

        Returns
        -------
        ndarray of float32, shape (n_mels, n_frames)
        """
        surprise = self.predict_hidden(clip, mask).surprise
        return np.where(np.isnan(surprise), np.float32(0), surprise)

    def _predict_clip(
        self, logmel: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean, standard deviation and surprise at the bins a mask hides, NaN elsewhere; without one, at each.

        All three, the mask and the log-mel are of shape (n_frames, n_mels).
        """
        require_fitted(self.network, self.name)
        return fill_in(self._predict, logmel, mask, self.config.frames)
