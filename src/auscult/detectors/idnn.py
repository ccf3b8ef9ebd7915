"""Interpolation network: the centre frame from the frames around it."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, field_validator
from torch import nn

from auscult.detectors.base import DetectorConfig
from auscult.detectors.registry import register
from auscult.detectors.windowed import WindowedConfig, WindowedDetector, with_a_centre
from auscult.nn.dense import dense_stack


class IDNNConfig(WindowedConfig):
    """Settings of the interpolation network.

    Attributes
    ----------
    frames : int
        Frames in a window, an odd number; the centre one is predicted.
    hidden_layers, width, bottleneck : int
        As of the autoencoder.
    autoclip : float or None
        10 by default: the attentive-neural-process paper trains with AutoClip and names no percentile; its
        authors recommend 10.
    """

    hidden_layers: int = Field(default=4, ge=1, description="layers on each side of the bottleneck")
    width: int = Field(default=128, ge=1, description="units in a layer")
    bottleneck: int = Field(default=8, ge=1, description="units in the bottleneck")
    autoclip: float | None = Field(default=10.0, ge=0, le=100, description="percentile of adaptive gradient clipping")

    _frames = field_validator("frames")(with_a_centre)


@register
class IDNN(WindowedDetector):
    """Predicts the centre frame of five from the other four; what it cannot predict is strange.

    The frames at the edges of a window are hard to predict whether the machine is healthy or not, so they are
    not asked for; this helps most where the sound is not stationary (valve, slider). Input 4 x 128 dB values,
    dense layers 128 x4, 8, 128 x4 with batch normalisation and ReLU, linear to 128: 185 496 parameters. Mean
    squared error, Adam 1e-3, AutoClip, batches of 512, 100 epochs (the last two as of the baseline the paper
    follows). Score: squared error averaged over bins and windows.

    References
    ----------
    Suefusa et al., "Anomalous sound detection based on interpolation deep neural network", ICASSP 2020, in the
    form of Wichern et al., "Anomalous sound detection using attentive neural processes", WASPAA 2021, 3.2.
    """

    name = "idnn"
    family = "reconstruction"
    paper = "Suefusa et al., 2020, as in Wichern et al., 2021"
    exports = True
    Config: ClassVar[type[DetectorConfig]] = IDNNConfig
    config: IDNNConfig

    def build(self) -> nn.Module:
        """The network: (batch, (frames - 1) * n_mels) to (batch, n_mels)."""
        config, n_mels = self.config, self.front_end.n_mels
        side = [config.width] * config.hidden_layers
        return dense_stack((config.frames - 1) * n_mels, [*side, config.bottleneck, *side], n_mels)

    def loss(self, network: nn.Module, windows: torch.Tensor) -> torch.Tensor:
        """Mean squared error of the centre frame."""
        context, centre = self._split(windows)
        return nn.functional.mse_loss(network(context), centre)

    def errors(self, windows: torch.Tensor) -> torch.Tensor:
        """Squared error of the centre frame, shape (batch, 1, n_mels)."""
        assert self.network is not None
        context, centre = self._split(windows)
        prediction: torch.Tensor = self.network(context)
        return (prediction - centre).square_()[:, None]

    @property
    def predicted(self) -> range:
        """The centre frame."""
        centre = self.config.frames // 2
        return range(centre, centre + 1)

    def _split(self, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The frames around the centre, and the centre: the centre never enters the network."""
        n_mels = self.front_end.n_mels
        first = self.config.frames // 2 * n_mels
        context = torch.cat([windows[:, :first], windows[:, first + n_mels :]], dim=1)
        return context, windows[:, first : first + n_mels]
