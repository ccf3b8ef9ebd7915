"""Autoencoder of the DCASE 2020 Task 2 baseline, and its per-ID form."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from auscult.detectors.base import DetectorConfig
from auscult.detectors.registry import register
from auscult.detectors.windowed import WindowedConfig, WindowedDetector
from auscult.nn.dense import dense_stack

_FORMS: dict[str, dict[str, Any]] = {
    # The challenge's program: one model a machine type.
    "dcase2020": {"hidden_layers": 4, "front_end": "dcase2020", "learning_rate": 1e-3},
    # The proxy-outlier paper, section 4.3.1: one model a machine ID, one layer fewer a side, unit-variance waveforms.
    "per-id": {"hidden_layers": 3, "front_end": "proxy-outlier", "learning_rate": 1e-4},
}


class AEConfig(WindowedConfig):
    """Settings of the autoencoder.

    Attributes
    ----------
    form : {"dcase2020", "per-id"}
        The official baseline, or the form the proxy-outlier paper compares with. It decides the defaults of
        `hidden_layers`, `front_end` and `learning_rate`, and the initialisation.
    hidden_layers : int
        Layers of `width` units on each side of the bottleneck.
    width, bottleneck : int
    """

    form: Literal["dcase2020", "per-id"] = Field(
        default="dcase2020", description="the challenge's baseline, or the one trained for each ID"
    )
    hidden_layers: int = Field(default=4, ge=1, description="layers on each side of the bottleneck")
    width: int = Field(default=128, ge=1, description="units in a layer")
    bottleneck: int = Field(default=8, ge=1, description="units in the bottleneck")

    @model_validator(mode="before")
    @classmethod
    def _form_decides_defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {**_FORMS.get(values.get("form", "dcase2020"), {}), **values}


@register
class AE(WindowedDetector):
    """Reconstructs five frames at once; what it reconstructs badly is strange.

    Input: 5 frames of 128 bands in dB, not normalised. Dense layers 128 x4, 8, 128 x4, each with batch
    normalisation and ReLU, then a linear layer back to 640: 267 928 parameters. Mean squared error; Adam
    1e-3, batches of 512, 100 epochs, the last epoch's weights. Score: squared error averaged over bins and
    windows. With `form="per-id"`, three layers a side, 234 392 parameters, Adam 1e-4, the front end with
    unit-variance waveforms.

    References
    ----------
    Koizumi et al., "Description and discussion on DCASE2020 Challenge Task 2", DCASE 2020 workshop, and its
    baseline program; for the per-ID form, Primus et al., "Anomalous sound detection as a simple binary
    classification problem with careful selection of proxy outlier examples", DCASE 2020 workshop, 4.3.1.

    Notes
    -----
    The baseline's program keeps the last tenth of the windows out of training and makes no use of them; auscult
    keeps whole clips out instead, and calibrates on them.
    """

    name = "ae"
    family = "reconstruction"
    paper = "DCASE 2020 Task 2 baseline (Koizumi et al., 2020)"
    exports = True
    Config: ClassVar[type[DetectorConfig]] = AEConfig
    config: AEConfig

    def build(self) -> nn.Module:
        """The network: (batch, frames * n_mels) to the same."""
        config = self.config
        n_values = config.frames * self.front_end.n_mels
        side = [config.width] * config.hidden_layers
        initialisation: Literal["keras", "xavier-relu"] = "keras" if config.form == "dcase2020" else "xavier-relu"
        return dense_stack(n_values, [*side, config.bottleneck, *side], n_values, initialisation)

    def loss(self, network: nn.Module, windows: torch.Tensor) -> torch.Tensor:
        """Mean squared error."""
        return nn.functional.mse_loss(network(windows), windows)

    def errors(self, windows: torch.Tensor) -> torch.Tensor:
        """Squared error at each bin, shape (batch, frames, n_mels)."""
        assert self.network is not None
        reconstruction: torch.Tensor = self.network(windows)
        return (reconstruction - windows).square_().view(windows.shape[0], self.config.frames, -1)

    @property
    def predicted(self) -> range:
        """Every frame of the window."""
        return range(self.config.frames)
