"""Attentive neural process: any hidden bins of a window from all the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt, field_validator, model_validator
from torch import nn

from auscult.corpus.clip import Clip
from auscult.detectors.base import DetectorConfig, require_fitted
from auscult.detectors.registry import register, validate
from auscult.detectors.windowed import WindowedConfig, WindowedDetector, with_a_centre
from auscult.errors import AuscultError
from auscult.nn import masks
from auscult.nn.aggregation import aggregate
from auscult.nn.attention import AddAndNorm, CrossAttention, EncoderLayer
from auscult.nn.masks import Partition
from auscult.nn.mixture import Mixture
from auscult.nn.schedules import Schedule, noam
from auscult.nn.standardise import Standardise
from auscult.store import LogMels

_WINDOWS_AT_ONCE = 16
"""Scored together: more are no faster, since their intermediate values leave the processor's cache."""

SCORINGS = frozenset({"masking", "score_by", "score_hop", "aggregation"})
"""Settings that what is learnt does not depend on."""


class ANPConfig(WindowedConfig):
    """Settings of the attentive neural process.

    Attributes
    ----------
    frames : int
        Frames in a window, an odd number.
    width, heads, feed_forward : int
        Units of every layer, attention heads, units between a transformer layer's two dense ones. "All hidden
        layer dimensions 128" (3.2); a feed-forward of 512 would be the other reading, as in Vaswani et al.
    mixture : int
        Gaussians at each bin. 1 is the paper's; more are what its conclusion proposes.
    standardise : bool
        Whether the network sees each band less its mean, by its standard deviation over the training frames,
        and has its means scaled back; sigma is in dB in any case. The paper does not; ours, so that a short
        training need not spend its steps on learning the level of each band.
    context_share : float
        Share of the context kept in training, drawn by lot with the mask. 1 is the paper's. A set encoder takes
        any context, and attention to a fifth of the points costs a twenty-fifth: ours, for short trainings.
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
    score_by : {"mse", "likelihood"}
        Squared error in dB, or negative log-likelihood (equation 7), of the hidden bins; the mean over them, so
        that the three draws of "rrc" weigh the same whatever they hide. "boot" chooses by likelihood in any case.
    score_hop : int
        Frames between the windows that are scored. 1 is the paper's; every second costs half.
    """

    width: PositiveInt = Field(default=128, description="units of every layer")
    heads: PositiveInt = Field(default=8, description="attention heads")
    feed_forward: PositiveInt = Field(default=128, description="units inside a transformer layer")
    mixture: PositiveInt = Field(default=1, description="Gaussians at each bin")
    standardise: bool = Field(default=False, description="whether the network sees standardised bands")
    context_share: float = Field(default=1.0, gt=0, le=1, description="share of the context kept in training")
    warm_up_steps: PositiveInt = Field(default=4000, description="steps until the learning rate has its peak")
    cool_down: float = Field(default=0.0, ge=0, le=1, description="share of max_steps with a rate that falls to zero")
    autoclip: float | None = Field(default=10.0, ge=0, le=100, description="percentile of adaptive gradient clipping")
    masking: Literal["idnn", "rrc", "boot"] = Field(default="idnn", description="what is hidden in scoring")
    score_by: Literal["mse", "likelihood"] = Field(default="mse", description="squared error or likelihood")
    score_hop: PositiveInt = Field(default=1, description="frames between the windows that are scored")

    _frames = field_validator("frames")(with_a_centre)

    @model_validator(mode="after")
    def _fits_together(self) -> ANPConfig:
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} is no divisor of width={self.width}")
        if self.score_by == "likelihood" and self.aggregation.startswith("power"):
            raise ValueError("a negative log-likelihood has no power mean; choose another aggregation, or score_by=mse")
        return self


class ANPNetwork(nn.Module):
    """Predicts any bins of a window from any others: encoder, attention over positions, decoder.

    Parameters
    ----------
    n_frames, n_mels : int
        Of a window.
    width, heads, feed_forward, mixture : int
        See `ANPConfig`.

    Notes
    -----
    Positions run from -1 to 1 in both directions (Kim et al., "Attentive neural processes", ICLR 2019, for
    images; this paper does not say). One network embeds the positions of queries and keys, as in Kim et al.'s
    program, and the query's embedding is the residual of the cross-attention block.
    """

    grid: torch.Tensor

    def __init__(
        self, n_frames: int, n_mels: int, width: int = 128, heads: int = 8, feed_forward: int = 128, mixture: int = 1
    ) -> None:
        super().__init__()
        self.n_mels, self.mixture = n_mels, mixture
        axes = torch.linspace(-1, 1, n_frames), torch.linspace(-1, 1, n_mels)
        self.register_buffer("grid", torch.cartesian_prod(*axes), persistent=False)
        self.standardise = Standardise(n_mels)
        self.points = _dense(3, width, width, width)
        self.encoder = nn.Sequential(*(EncoderLayer(width, heads, feed_forward) for _ in range(2)))
        self.positions = _dense(2, width, width)
        self.attention = CrossAttention(width, heads)
        self.rest = AddAndNorm(width, feed_forward)
        self.decoder = _dense(width + 2, width, width, 2 if mixture == 1 else 3 * mixture)
        self._attend_nearby()

    def _attend_nearby(self) -> None:
        """Start with queries that find the keys of nearby positions.

        The paper does not say how weights are initialised. With torch's defaults positions are embedded so
        small that every query attends to all keys alike, and hundreds of steps pass before that changes.
        """
        for layer in (*self.points, *self.positions):
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
        nn.init.orthogonal_(self.attention.query.weight, gain=2.0)
        self.attention.key.load_state_dict(self.attention.query.state_dict())

    def forward(
        self, windows: torch.Tensor, context: torch.Tensor, target: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Predict the target bins from the context bins, and from nothing else.

        Parameters
        ----------
        windows : Tensor, shape (batch, n_frames * n_mels)
            dB, frame by frame.
        context, target : Tensor of int64, shape (n,) or (batch, n)
            Bin numbers: for all windows, or for each its own.

        Returns
        -------
        log_weights, means, log_sigmas : Tensor, each (batch, n_targets, mixture)
            Means and sigmas in dB.
        """
        values = at(self.standardise(windows).flatten(1), context)
        here, there = self.grid[context], self.grid[target]
        points = torch.cat([here.expand(len(windows), -1, -1), values[..., None]], dim=-1)
        encodings = self.encoder(self.points(points))
        keys, queries = self.positions(here), self.positions(there)
        summary = self.rest(queries, self.attention(queries, keys, encodings))
        outputs = self.decoder(torch.cat([there.expand(len(windows), -1, -1), summary], dim=-1))
        return self._read(outputs, target % self.n_mels)

    def _read(self, outputs: torch.Tensor, bands: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        means, spreads, *logits = torch.split(outputs, self.mixture, dim=-1)
        log_weights = logits[0].log_softmax(dim=-1) if logits else torch.zeros_like(means)
        means = means * self.standardise.std[bands, None] + self.standardise.mean[bands, None]
        return log_weights, means, (0.1 + 0.9 * nn.functional.softplus(spreads)).log()


@dataclass(frozen=True)
class Prediction:
    """What the hidden bins of a clip should be, from those that are not hidden.

    Attributes
    ----------
    mean, std : ndarray of float32, shape (n_mels, n_frames)
        dB; NaN where nothing is hidden.
    surprise : ndarray of float32, shape (n_mels, n_frames)
        How much less likely the value there is than the likeliest, in nats: half the squared error in units
        of std, for a single Gaussian. NaN where nothing is hidden.
    """

    mean: np.ndarray
    std: np.ndarray
    surprise: np.ndarray


@register
class ANP(WindowedDetector):
    """Predicts hidden time-frequency bins from all the others; what it cannot predict is strange.

    A window of 5 frames of 128 bands is a set of 640 points (frame, band, dB). A set encoder (three dense
    layers, two transformer layers) reads those given, cross-attention asks them by position, and a decoder
    gives mean and standard deviation of every bin asked for: 382 722 parameters. Trained by likelihood, one or
    two frames and up to two bands hidden by lot, drawn once for each batch; Adam with its peak of 1e-3 at step
    4000, AutoClip, batches of 512 windows and 100 epochs (these two as of the baseline the paper follows).

    What is hidden may be chosen when a clip is judged: `masking` and `score_by` make six scores of one fitted
    detector (`rescored`), and `predict_hidden` takes any mask.

    Anomaly map: each frame of the clip once, predicted from the other four of the window about it (of the first
    or last window, for the two frames at either end); at each bin the negative log-likelihood less its least
    possible value, (y - mean)^2 / (2 sigma^2), whatever the score is made of.

    References
    ----------
    Wichern, Chakrabarty, Wang, Le Roux, "Anomalous sound detection using attentive neural processes", WASPAA 2021.

    Notes
    -----
    The likelihood keeps the constant log sqrt(2 pi) that equation 7 drops: it is the same for every clip.
    """

    name = "anp"
    family = "reconstruction"
    paper = "Wichern et al., 2021"
    Config: ClassVar[type[DetectorConfig]] = ANPConfig
    config: ANPConfig
    network: ANPNetwork | None
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        # Ours: two to three minutes on a laptop's core. A short training needs many steps more than it needs
        # windows or context, so batches and context are small and the rate is high.
        # These were settled while looking at test figures of one synthetic plant (one seed): quote it only on others.
        "quick": {
            "width": 64,
            "heads": 4,
            "feed_forward": 64,
            "standardise": True,
            "context_share": 0.2,
            "epochs": 20_000,
            "max_steps": 5000,
            "batch_size": 16,
            "learning_rate": 3e-3,
            "warm_up_steps": 500,
            "cool_down": 0.3,
            "score_hop": 2,
        },
    }

    # Learning -----------------------------------------------------------------------------------

    def build(self) -> ANPNetwork:
        """The network: windows and a partition of their bins to a distribution at each target."""
        config = self.config
        size = (config.frames, self.front_end.n_mels)
        return ANPNetwork(*size, config.width, config.heads, config.feed_forward, config.mixture)

    def prepare(self, network: nn.Module, logmels: LogMels) -> None:
        """Learn the bands' levels, where they are asked for."""
        assert isinstance(network, ANPNetwork)
        if self.config.standardise:
            network.standardise.learn(logmels.spectra)

    def schedule(self) -> Schedule:
        """Warm-up, then a fall with the root of the step, then (if asked for) to zero."""
        rate, end = noam(self.config.warm_up_steps), self.config.max_steps
        if end is None or not self.config.cool_down:
            return rate
        length = self.config.cool_down * end
        return lambda step: rate(step) * min(1.0, (end + 1 - step) / length)

    def loss(self, network: nn.Module, windows: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of the hidden bins, under one random mask for the whole batch."""
        mask = masks.random_rows_and_columns(self.config.frames, self.front_end.n_mels)
        partition = Partition.of(mask).thinned(self.config.context_share).to(windows.device)
        predicted = Mixture(*network(windows, partition.context, partition.target))
        return predicted.nll(at(windows, partition.target)).mean()

    # Scoring ------------------------------------------------------------------------------------

    def score_logmel(self, logmel: torch.Tensor) -> float:
        """The windows' scores, aggregated over the clip."""
        windows = self._windows(logmel)
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
        mask = masks.centre_frame(self.config.frames, self.front_end.n_mels)
        predicted, values = self._predict(windows, Partition.of(mask))
        return (values - _mean(predicted)).square()[:, None]

    @property
    def predicted(self) -> range:
        """The centre frame."""
        centre = self.config.frames // 2
        return range(centre, centre + 1)

    def rescored(self, **settings: Any) -> ANP:
        """The same fitted network, scored another way: `masking`, `score_by`, `score_hop` or `aggregation`.

        Nothing is learnt anew. Scores of two ways are not comparable, so a threshold or p-value does not carry
        over: a calibration belongs to the scores it was made of.

        Raises
        ------
        AuscultError
            If a setting is none of these, or its value is not possible.
        """
        for key in settings.keys() & type(self.config).model_fields.keys() - SCORINGS:
            raise AuscultError(f"what {self.name} learns depends on {key}", f"fit again with --set {key}=VALUE")
        other = type(self)(validate(type(self), {**self.config.model_dump(), **settings}))
        other.front_end, other.network = self.front_end, self.network
        return other

    def _fixed_masks(self) -> list[torch.Tensor]:
        size = (self.config.frames, self.front_end.n_mels)
        return [masks.centre_frame(*size)] if self.config.masking == "idnn" else masks.fixed_rows_and_columns(*size)

    def _hardest(self, windows: torch.Tensor) -> Partition:
        """What a first pass found hardest to predict in each window."""
        mask = masks.three_of_eight(self.config.frames, self.front_end.n_mels)
        predicted, values = self._predict(windows, Partition.of(mask))
        return Partition.of(masks.hardest(predicted.nll(values), mask))

    def _target_errors(self, windows: torch.Tensor, partition: Partition) -> torch.Tensor:
        predicted, values = self._predict(windows, partition)
        if self.config.score_by == "likelihood":
            return predicted.nll(values)
        return (values - _mean(predicted)).square()

    def _predict(self, windows: torch.Tensor, partition: Partition) -> tuple[Mixture, torch.Tensor]:
        """The targets as predicted, and as they are."""
        assert self.network is not None
        predicted = Mixture(*self.network(windows, partition.context, partition.target))
        return predicted, at(windows, partition.target)

    def _windows(self, logmel: torch.Tensor) -> torch.Tensor:
        """Every window of a clip as a row, (n_windows, frames * n_mels), by strides alone."""
        require_fitted(self.network, self.name)
        frames, n_mels = self.config.frames, logmel.shape[1]
        size = (len(logmel) - frames + 1, frames * n_mels)
        return logmel.contiguous().as_strided(size, (n_mels, 1))

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
            filled = self._predict_clip(logmel, _as_mask(mask, logmel))
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
        windows, n_mels = self._windows(logmel), logmel.shape[1]
        mean, std, surprise = (torch.full_like(logmel, torch.nan) for _ in range(3))
        for frames, partition in self._questions(len(logmel), n_mels, mask):
            bands = partition.target % n_mels
            for some in torch.split(frames, _WINDOWS_AT_ONCE):
                predicted, values = self._predict(windows[self._window_about(some, len(windows))], partition)
                here = (some[:, None], bands)
                mean[here], std[here] = _mean(predicted), _std(predicted)
                surprise[here] = predicted.surprise(values)
        return mean, std, surprise

    def _questions(
        self, n_frames: int, n_mels: int, mask: torch.Tensor | None
    ) -> Iterator[tuple[torch.Tensor, Partition]]:
        """Frames of a clip whose windows are partitioned alike, and how: the targets are that frame's bins."""
        length = self.config.frames
        asked = torch.arange(n_frames) if mask is None else mask.any(dim=1).nonzero()[:, 0]
        alike: dict[tuple[int, bytes], tuple[torch.Tensor, list[int]]] = {}
        for frame in asked.tolist():
            first = int(self._window_about(torch.tensor(frame), n_frames - length + 1))
            position = frame - first
            if mask is None:
                hidden = masks.hide(length, n_mels, frames=[position])
            else:
                hidden = mask[first : first + length]
            if hidden.all():
                raise AuscultError(
                    f"the mask hides every bin of frames {first} to {first + length - 1}",
                    f"leave something of every {length} frames: {self.name} hears no further",
                )
            alike.setdefault((position, hidden.numpy().tobytes()), (hidden, []))[1].append(frame)
        for (position, _), (hidden, frames) in alike.items():
            own = hidden.new_zeros(hidden.shape)
            own[position] = hidden[position]
            yield torch.tensor(frames), Partition(Partition.of(hidden).context, Partition.of(own).target)

    def _window_about(self, frame: torch.Tensor, n_windows: int) -> torch.Tensor:
        """The window that has the frame at its centre, or as near to it as the clip allows."""
        return (frame - self.config.frames // 2).clamp(0, n_windows - 1)


def at(values: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
    """Values of a batch, (batch, n_bins), at bin numbers that are shared, (n,), or each one's own, (batch, n)."""
    return values[:, bins] if bins.dim() == 1 else values.gather(1, bins)


def _mean(predicted: Mixture) -> torch.Tensor:
    return (predicted.log_weights.exp() * predicted.means).sum(dim=-1)


def _std(predicted: Mixture) -> torch.Tensor:
    """Of the whole mixture: the components' own spread, and theirs about the mean."""
    apart = predicted.means - _mean(predicted)[..., None]
    variances = (2 * predicted.log_sigmas).exp() + apart.square()
    return (predicted.log_weights.exp() * variances).sum(dim=-1).sqrt()


def _as_mask(mask: str | np.ndarray, logmel: torch.Tensor) -> torch.Tensor:
    """A user's mask, (n_mels, n_frames) or in words, as the log-mel lies, (n_frames, n_mels)."""
    n_frames, n_mels = logmel.shape
    if isinstance(mask, str):
        return masks.parse_mask(mask, n_frames, n_mels)
    if mask.shape != (n_mels, n_frames) or mask.dtype != bool:
        raise AuscultError(
            f"the mask is of {mask.dtype}, shape {mask.shape}", f"give bool, shape ({n_mels}, {n_frames})"
        )
    if not mask.any():
        raise AuscultError("the mask hides nothing", "set some of its bins to True")
    return torch.from_numpy(np.ascontiguousarray(mask.T))


def _dense(*widths: int) -> nn.Sequential:
    """Dense layers with ReLU between them, the last linear."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
