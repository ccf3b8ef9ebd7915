"""Group MADE: an autoregressive density over the frames of a window, the centre frame given all others."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, field_validator, model_validator
from torch import nn

from auscult.detectors.base import DetectorConfig
from auscult.detectors.registry import register
from auscult.detectors.windowed import WindowedConfig, WindowedDetector, with_a_centre
from auscult.nn.masked import MaskedLinear, cycled_degrees, made_masks
from auscult.nn.mixture import Mixture, n_outputs
from auscult.nn.standardise import Standardise
from auscult.store import LogMels


class GroupMADEConfig(WindowedConfig):
    """Settings of Group MADE; what the paper's were is not known here, so all are ours.

    Attributes
    ----------
    frames : int
        Frames in a window, an odd number.
    order : tuple of int or None
        The frames in the order in which they are generated; None for the centre last, (0, 1, 3, 4, 2) of five.
    output : {"gaussian", "mixture"}
        What the conditional density of a bin is.
    components : int
        Gaussians in a mixture.
    score : {"centre", "full"}
        Whose likelihood is the score: the centre frame's given those before it in the order, or the window's.
    hidden_layers, width : int
    """

    frames: PositiveInt = Field(default=5, description="frames in a window, an odd number")
    order: tuple[int, ...] | None = Field(default=None, description="order of the frames; none for the centre last")
    output: Literal["gaussian", "mixture"] = Field(default="gaussian", description="density of a bin given the others")
    components: int = Field(default=10, ge=2, description="Gaussians in a mixture")
    score: Literal["centre", "full"] = Field(default="centre", description="likelihood of the centre, or of all frames")
    hidden_layers: PositiveInt = Field(default=3, description="hidden layers")
    width: PositiveInt = Field(default=512, description="units in a hidden layer")

    _frames = field_validator("frames")(with_a_centre)

    @model_validator(mode="after")
    def _order_names_each_frame_once(self) -> GroupMADEConfig:
        if self.order is not None and sorted(self.order) != list(range(self.frames)):
            raise ValueError(f"order names each frame from 0 to {self.frames - 1} once")
        return self

    def ranks(self) -> torch.Tensor:
        """Place of each frame in the order, counted from 1, shape (frames,)."""
        centre = self.frames // 2
        order = self.order or (*(f for f in range(self.frames) if f != centre), centre)
        return torch.tensor(order).argsort() + 1

    def n_components(self) -> int:
        """Gaussians at a bin."""
        return self.components if self.output == "mixture" else 1


@register
class GroupMADE(WindowedDetector):
    """Likelihood of the centre frame of five given the other four; what is unlikely is strange.

    A MADE whose groups are frames: one pass gives a density for each bin of each frame given all frames
    earlier in the order; the bins of a frame are independent given those. With the centre frame last it is
    an interpolation network that also says how sure it is. 5 frames of 128 bands, standardised per band; three
    masked layers of 512 units with ReLU and no batch normalisation; a mean and a log sigma, clamped to [-5, 5],
    for each bin: 1 510 144 parameters; with `output="mixture"` ten Gaussians a bin, 10 703 104. Loss: negative
    log-likelihood of all frames; Adam 1e-3, batches of 512, 100 epochs.

    Score: negative log-likelihood of the centre frame, per bin, averaged over windows; it may be negative.
    Map: how many nats a bin is less likely than the likeliest value could be there, which never is; for a
    Gaussian (y - mean)^2 / (2 sigma^2), for a mixture see `Mixture.surprise`.

    References
    ----------
    Giri, Cheng, Helwani, Tenneti, Isik, Krishnaswamy, "Group masked autoencoder based density estimator for audio
    anomaly detection", DCASE 2020 workshop, which was not at hand; the sizes are ours. Germain et
    al., "MADE: masked autoencoder for distribution estimation", ICML 2015.
    """

    name = "group-made"
    family = "density"
    paper = "after the idea of Giri et al., DCASE 2020 workshop"
    exports = True
    Config: ClassVar[type[DetectorConfig]] = GroupMADEConfig
    config: GroupMADEConfig
    reconstructs = False
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        # Ours: a minute on one core, or some seven with mixtures, whose outputs are fifteen times as many.
        "quick": {"epochs": 2000, "max_steps": 1500, "batch_size": 128},
    }

    def build(self) -> nn.Module:
        """The network: (batch, frames * n_mels) to the numbers of each bin's density, and the values they judge."""
        return GroupMADENetwork(self.front_end.n_mels, self.config)

    def prepare(self, network: nn.Module, logmels: LogMels) -> None:
        """Take each band's mean and deviation over the training clips."""
        assert isinstance(network, GroupMADENetwork)
        network.standardise.learn(logmels.spectra)

    def loss(self, network: nn.Module, windows: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of all frames, per bin."""
        outputs, values = network(windows)
        return self._density(outputs).nll(values).mean()

    def window_scores(self, windows: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of the frames judged, per bin, shape (batch,)."""
        outputs, values = self._judged(windows)
        return self._density(outputs).nll(values).mean(dim=(1, 2))

    def errors(self, windows: torch.Tensor) -> torch.Tensor:
        """Surprise at each bin of the frames judged, in nats from 0, shape (batch, n_judged, n_mels)."""
        outputs, values = self._judged(windows)
        return self._density(outputs).surprise(values)

    @property
    def predicted(self) -> range:
        """The centre frame, or all."""
        centre = self.config.frames // 2
        return range(centre, centre + 1) if self.config.score == "centre" else range(self.config.frames)

    def _judged(self, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.network is not None
        outputs, values = self.network(windows, self.predicted)
        return outputs, values

    def _density(self, outputs: torch.Tensor) -> Mixture:
        return Mixture.read(outputs, self.config.n_components())


class GroupMADENetwork(nn.Module):
    """Masked layers whose outputs for a frame see the frames earlier in the order, and nothing else.

    Parameters
    ----------
    n_mels : int
    config : GroupMADEConfig
    """

    def __init__(self, n_mels: int, config: GroupMADEConfig) -> None:
        super().__init__()
        self.outputs_a_frame = n_mels * n_outputs(config.n_components())
        ranks = config.ranks()
        inputs = ranks.repeat_interleave(n_mels)
        hidden = [cycled_degrees(config.width, config.frames)] * config.hidden_layers
        outputs = ranks.repeat_interleave(self.outputs_a_frame)
        *masks, last = made_masks(inputs, hidden, outputs)
        self.standardise = Standardise(n_mels)
        self.hidden = nn.Sequential(*(part for mask in masks for part in (_masked_linear(mask), nn.ReLU())))
        self.density = _masked_linear(last)

    def forward(self, windows: torch.Tensor, judged: range | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Numbers of the density of each bin of the frames judged, and the standardised values there.

        Parameters
        ----------
        windows : Tensor, shape (batch, frames * n_mels)
            In dB.
        judged : range, optional
            Consecutive frames; default: all. The outputs of the others are not computed.

        Returns
        -------
        outputs : Tensor, shape (batch, n_judged, n_mels, numbers of a density)
        values : Tensor, shape (batch, n_judged, n_mels)
        """
        values = self.standardise(windows)
        first, last = (judged.start, judged.stop) if judged is not None else (0, values.shape[1])
        rows = slice(first * self.outputs_a_frame, last * self.outputs_a_frame)
        outputs: torch.Tensor = self.density(self.hidden(values.flatten(1)), rows)
        values = values[:, first:last]
        return outputs.view(*values.shape, -1), values


def _masked_linear(mask: torch.Tensor) -> MaskedLinear:
    n_out, n_in = mask.shape
    return MaskedLinear(n_in, n_out, mask)
