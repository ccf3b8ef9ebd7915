"""Glow over images of the log-mel: trained on the machine alone, or also away from other machines."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import nn

from auscult.corpus.clip import Clip
from auscult.detectors.base import DetectorConfig, Needs
from auscult.detectors.crops import Crops
from auscult.detectors.flow import FlowConfig, FlowDetector, Latents
from auscult.detectors.registry import register
from auscult.errors import AuscultError
from auscult.nn.flows import (
    ActNorm,
    Chain,
    Coupling,
    Gaussianise,
    InvertibleConv,
    nll_per_dimension,
    squeeze,
    unsqueeze,
)
from auscult.store import Store, require_clips
from auscult.training import Run, TrainingLog


class GlowConfig(FlowConfig):
    """Settings of Glow; what the paper's were is not known here, so all are ours.

    Attributes
    ----------
    frames : int
        Frames in a window, divisible by 2 to the power of `levels`, as is the number of bands.
    hop : int
        Frames between two windows that a clip is scored by; the last one ends with the clip.
    levels, steps, width : int
        Scales; flow steps at each; channels of the networks in the couplings.
    coupling : {"affine", "additive"}
    """

    frames: PositiveInt = Field(default=32, description="frames in a window")
    hop: PositiveInt = Field(default=16, description="frames between two windows of a clip")
    batch_size: int = Field(default=64, ge=2, description="windows in a training step")
    levels: PositiveInt = Field(default=3, description="scales")
    steps: PositiveInt = Field(default=12, description="flow steps at each scale")
    width: PositiveInt = Field(default=128, description="channels of the networks in the couplings")
    coupling: Literal["affine", "additive"] = Field(default="affine", description="scale and shift, or only shift")

    @model_validator(mode="after")
    def _windows_can_be_halved(self) -> GlowConfig:
        if self.frames % 2**self.levels:
            raise ValueError(f"frames is divisible by {2**self.levels}: each of {self.levels} levels halves a window")
        return self


# Ours: two minutes on one core. Four steps of 32 channels cost a twentieth of the paper's twelve of 128, and a batch
# is half as large; ten times its rate, since there are some hundred steps and not tens of thousands. On forty clips
# of a real pump the likelihood has all but settled after two hundred.
_QUICK = {"steps": 4, "width": 32, "batch_size": 32, "learning_rate": 1e-3, "epochs": 1000, "max_steps": 600}


@register
class Glow(FlowDetector):
    """Density of images of 32 frames; what is unlikely is strange.

    The log-mel, standardised per band, as an image of 1 x 128 x 32. Three levels, each: 2x2 squares become
    channels, twelve steps of ActNorm, invertible 1x1 convolution and coupling (3x3, 1x1 and 3x3 convolutions, 128
    channels), then half of the channels leave as latents, normalised by what the other half predicts of them.
    Adam 1e-4, batches of 64 windows from anywhere in the clips, 100 epochs, gradients no longer than 5.

    Score: negative log-likelihood per dimension, averaged over windows 16 frames apart, the last one at the end of
    the clip. Map: half the squared latents of each place at each level, spread evenly over the bins of that
    place (2x2, 4x4, 8x8), so that a window's map sums to the quadratic part of its negative log-likelihood;
    overlapping windows are averaged.

    References
    ----------
    Dohi, Endo, Purohit, Tanabe, Kawaguchi, "Flow-based self-supervised density estimation for anomalous sound
    detection", ICASSP 2021, which was not at hand beyond its introduction; sizes and training are
    ours. Kingma, Dhariwal, "Glow: generative flow with invertible 1x1 convolutions", NeurIPS 2018.

    Notes
    -----
    Two guards are ours: the logarithm of a split's deviation is bent to stay within 5 of zero, and standardised
    values lie within 50 of it.
    """

    name = "glow"
    paper = "after the idea of Dohi et al., ICASSP 2021, without its outlier term"
    exports = True
    Config: ClassVar[type[DetectorConfig]] = GlowConfig
    config: GlowConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {}, "quick": _QUICK}
    windows_at_once = 32

    def flow(self) -> nn.Module:
        """A new flow."""
        config, n_mels = self.config, self.front_end.n_mels
        if n_mels % 2**config.levels:
            raise AuscultError(
                f"{config.levels} levels cannot halve {n_mels} mel bands each", "choose fewer: --set levels=1"
            )
        return GlowNetwork(config.levels, config.steps, config.width, config.coupling)

    def starts(self, n_frames: int) -> list[int]:
        """Windows `hop` frames apart, and one at the end."""
        last = n_frames - self.config.frames
        return [*range(0, last, self.config.hop), last]

    def place(self, squares: Latents) -> torch.Tensor:
        """Spread the sum over channels at each place of each level over the bins that the place stands for."""
        total = torch.zeros(len(squares[0]), self.front_end.n_mels, self.config.frames)
        for square in squares:
            side = self.front_end.n_mels // square.shape[2]
            density = square.sum(1) / side**2
            total += density.repeat_interleave(side, dim=1).repeat_interleave(side, dim=2)
        return total.transpose(1, 2)


class GlowAffConfig(GlowConfig):
    """Settings of Glow with outliers. The paper's form of the outlier term is not known here.

    Attributes
    ----------
    batch_size : int
        Windows in a training step, half of them outliers.
    outlier_weight, temperature : float
        Of the outlier term.
    margin : float
        Nats per dimension by which outliers should be less likely than targets usually are. Ours: one
        temperature.
    warm_up : float
        Share of the training, at its beginning, that leaves the outliers out: 10 of 100 epochs.
    """

    outlier_weight: float = Field(default=1.0, ge=0, description="weight of the outlier term")
    temperature: PositiveFloat = Field(default=1.0, description="softness of the outlier term, nats per dimension")
    margin: float = Field(default=1.0, description="by how much outliers should be less likely, nats per dimension")
    warm_up: float = Field(default=0.1, ge=0, le=1, description="share of the training before outliers count")


@register
class GlowAff(Glow):
    """Glow that is also taught to find other machines of the same type unlikely.

    As `glow`, one model for a machine ID; recordings of other IDs of its type are the outliers. Loss: mean negative
    log-likelihood per dimension of the targets, plus the mean of softplus((c - that of an outlier) / temperature)
    with c = running mean of the targets' + margin: bounded below, because an outlier can be made unlikely
    without end, and the model would do nothing else. Half of a batch is outliers; the first tenth of the training
    goes without. "Aff" is for its affine couplings; `coupling="additive"` is the other variant.

    References
    ----------
    See `glow`.
    """

    name = "glow-aff"
    paper = "after the idea of Dohi et al., ICASSP 2021"
    needs = frozenset({Needs.NORMALS, Needs.OUTLIERS})
    Config: ClassVar[type[DetectorConfig]] = GlowAffConfig
    config: GlowAffConfig

    def build(self) -> nn.Module:
        """The network of `glow`, and what the outlier term keeps count of."""
        network = super().build()
        network.outlier_term = OutlierTerm(self.config.outlier_weight, self.config.margin, self.config.temperature)
        return network

    @property
    def examples_a_step(self) -> int:
        """An example is a pair of windows, of the target and of an outlier."""
        return max(1, self.config.batch_size // 2)

    def fit(
        self,
        train: Sequence[Clip],
        *,
        outliers: Sequence[Clip] | None = None,
        store: Store,
        budget: float | None = None,
        seed: int = 0,
        run: Run | None = None,
    ) -> TrainingLog:
        """Fit the flow to windows of the clips, and away from windows of the outliers; see `Detector.fit`."""
        if not outliers:
            raise AuscultError(
                "glow-aff learns from recordings of other machines too, and there are none",
                "give some, or use glow, which needs none",
            )
        targets, others = store.collect(train, self.front_end), store.collect(outliers, self.front_end)
        require_clips(targets)
        require_clips(others)
        n_frames = self.config.frames
        pairs = _Pairs(*(Crops(x.spectra, n_frames, self.examples_a_step) for x in (targets, others)))
        n_steps = self.config.epochs * (len(pairs) // self.examples_a_step)
        if self.config.max_steps is not None:
            n_steps = min(n_steps, self.config.max_steps)
        loss = partial(_loss_with_outliers, round(self.config.warm_up * n_steps))
        return self.learn(targets, pairs, loss, budget, seed, run)


class _Pairs:
    """A window of the target with a window of some outlier, chosen anew each time."""

    def __init__(self, targets: Crops, outliers: Crops) -> None:
        self.targets, self.outliers = targets, outliers

    def __len__(self) -> int:
        return len(self.targets)

    def gather(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.randint(len(self.outliers), indices.shape)
        return self.targets.gather(indices), self.outliers.gather(chosen)


def _loss_with_outliers(
    warm_up_steps: int, network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    targets, outliers = batch
    term = network.outlier_term
    assert isinstance(term, OutlierTerm)
    if term.step < warm_up_steps:
        nll = nll_per_dimension(*network(targets))
        term.note(nll)
        return nll.mean()
    both = nll_per_dimension(*network(torch.cat([targets, outliers])))
    nll, of_outliers = both[: len(targets)], both[len(targets) :]
    term.note(nll)
    cost: torch.Tensor = nll.mean() + term(of_outliers)
    return cost


class OutlierTerm(nn.Module):
    """What outliers cost for being likely: bounded, so that making them unlikely has an end.

    Parameters
    ----------
    weight, margin, temperature : float
        See `GlowAffConfig`.
    """

    step: torch.Tensor
    usual: torch.Tensor

    def __init__(self, weight: float, margin: float, temperature: float) -> None:
        super().__init__()
        self.weight, self.margin, self.temperature = weight, margin, temperature
        self.register_buffer("step", torch.tensor(0))
        self.register_buffer("usual", torch.tensor(0.0, dtype=torch.float64))

    def note(self, nll: torch.Tensor) -> None:
        """Take the targets' negative log-likelihoods into their running mean, over about a hundred steps."""
        self.step += 1
        self.usual.lerp_(nll.detach().mean(), (1 / self.step.double()).clamp(min=0.01))

    def forward(self, nll: torch.Tensor) -> torch.Tensor:
        """Cost of outliers with these negative log-likelihoods per dimension."""
        short = (self.usual + self.margin - nll) / self.temperature
        return self.weight * nn.functional.softplus(short).mean()


class GlowNetwork(nn.Module):
    """Squeeze, flow steps, split; at the last level all is latent, normal with a mean and deviation a channel.

    Parameters
    ----------
    n_levels, n_steps, width : int
    coupling : {"affine", "additive"}
    """

    def __init__(
        self, n_levels: int, n_steps: int, width: int, coupling: Literal["affine", "additive"] = "affine"
    ) -> None:
        super().__init__()
        # A squeeze makes four channels of one, a split leaves two of them.
        n_channels = [4 * 2**level for level in range(n_levels)]
        self.levels = nn.ModuleList(
            Chain(
                *(
                    layer
                    for _ in range(n_steps)
                    for layer in (ActNorm(n), InvertibleConv(n), Coupling(n, width, coupling))
                )
            )
            for n in n_channels
        )
        self.splits = nn.ModuleList(Gaussianise(n // 2, n // 2) for n in n_channels[:-1])
        self.top = ActNorm(n_channels[-1])

    def forward(self, windows: torch.Tensor) -> tuple[Latents, torch.Tensor]:
        """Latents, standard normal in training, and log-determinants.

        Parameters
        ----------
        windows : Tensor, shape (batch, frames, n_mels)

        Returns
        -------
        list of Tensor, each (batch, channels, n_mels / 2**level, frames / 2**level)
            Finest level first.
        Tensor, shape (batch,)
        """
        images = windows.transpose(1, 2)[:, None]
        log_det = windows.new_zeros(len(windows), dtype=torch.float32)
        latents: Latents = []
        for number, level in enumerate(self.levels):
            images, change = level(squeeze(images))
            log_det = log_det + change
            if number < len(self.splits):
                images, leaving = images.chunk(2, dim=1)
                latent, change = self.splits[number](leaving, images)
            else:
                latent, change = self.top(images)
            log_det = log_det + change
            latents.append(latent)
        return latents, log_det

    def inverse(self, latents: Latents) -> torch.Tensor:
        """Windows that have these latents, shape (batch, frames, n_mels)."""
        images = self.top.inverse(latents[-1])
        for number in reversed(range(len(self.levels))):
            if number < len(self.splits):
                split = self.splits[number]
                assert isinstance(split, Gaussianise)
                images = torch.cat([images, split.inverse(latents[number], images)], dim=1)
            level = self.levels[number]
            assert isinstance(level, Chain)
            images = unsqueeze(level.inverse(images))
        return images[:, 0].transpose(1, 2)
