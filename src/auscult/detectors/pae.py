"""Predictive autoencoder: a transformer predicts the centre frame from the frames around it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt, field_validator, model_validator
from torch import nn

from auscult.detectors.base import DetectorConfig
from auscult.detectors.registry import register
from auscult.detectors.windowed import WindowedConfig, WindowedDetector, with_a_centre
from auscult.nn.schedules import Schedule, warm_up
from auscult.nn.standardise import Standardise
from auscult.store import LogMels


class PAEConfig(WindowedConfig):
    """Settings of the predictive autoencoder; the paper's were not at hand, so all are ours.

    Attributes
    ----------
    frames : int
        Frames in a window, an odd number; the centre one is predicted. 5, 9, 13, 17 and 33 are worth trying.
    encoder_blocks, decoder_blocks : int
        Transformer blocks before and after the bottleneck.
    width, heads, feed_forward : int
        Of each block. Four blocks, and `width` as many as there are mel bands, after the public transformer
        autoencoder nearest to this one.
    bottleneck : int or None
        Units that each token is squeezed through between encoder and decoder; None for no bottleneck, as only
        the word "autoencoder" speaks for one.
    warm_up_steps : int
        Steps over which the learning rate rises to `learning_rate`.
    """

    frames: PositiveInt = Field(default=9, description="frames in a window, an odd number; the centre is predicted")
    encoder_blocks: PositiveInt = Field(default=2, description="transformer blocks before the bottleneck")
    decoder_blocks: PositiveInt = Field(default=2, description="transformer blocks after the bottleneck")
    width: PositiveInt = Field(default=128, description="values that stand for a frame inside the network")
    heads: PositiveInt = Field(default=8, description="attention heads of a block")
    feed_forward: PositiveInt = Field(default=512, description="units in a block's hidden layer")
    bottleneck: PositiveInt | None = Field(default=None, description="units between encoder and decoder, or none")
    warm_up_steps: PositiveInt = Field(default=4000, description="steps over which the learning rate rises")

    _frames = field_validator("frames")(with_a_centre)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> PAEConfig:
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}")
        return self


@register
class PAE(WindowedDetector):
    """Predicts the centre frame of nine by self-attention over the other eight; after the idea of the paper.

    What is published is the idea: an autoencoder of transformer blocks predicts unseen frames from the others,
    over windows longer than dense networks take. The rest is ours. Each frame is a token, standardised per
    mel band over the training clips; the centre frame's token is one learned vector, so nothing of that frame
    enters the network. Learned positions; two encoder and two decoder blocks (normalisation after each sum,
    8 heads, 512 hidden units, GELU, no dropout); a linear layer from the centre's token: 827 392 parameters.
    Mean squared error of the centre frame; Adam, 4000 steps of warm-up to 1e-3, batches of 512, 100 epochs.
    Score: squared error (of the standardised frame) averaged over bins and windows.

    References
    ----------
    Zeng, Song, Dai, Liu, "Predictive autoencoders are context-aware unsupervised anomalous sound detectors",
    NCMMSC 2022 (CCIS 1765, 2023), of which the abstract alone was at hand; the sizes are ours.
    """

    name = "pae"
    family = "reconstruction"
    paper = "after the idea of Zeng et al., NCMMSC 2022"
    exports = True
    Config: ClassVar[type[DetectorConfig]] = PAEConfig
    config: PAEConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        # Ours: three minutes on one core, whatever the number of clips. A window costs some thirty times an
        # autoencoder's, so batches are small and steps few, and the warm-up is a tenth of them.
        "quick": {"epochs": 2000, "max_steps": 1500, "batch_size": 128, "warm_up_steps": 150},
    }

    def build(self) -> nn.Module:
        """The network: (batch, frames * n_mels) to the centre frame as predicted and as it is."""
        return PredictiveAutoencoder(self.front_end.n_mels, self.config)

    def prepare(self, network: nn.Module, logmels: LogMels) -> None:
        """Take each band's mean and deviation over the training clips."""
        assert isinstance(network, PredictiveAutoencoder)
        network.standardise.learn(logmels.spectra)

    def schedule(self) -> Schedule:
        """Linear warm-up, without which blocks normalised after the sum train badly (Xiong et al., ICML 2020)."""
        return warm_up(self.config.warm_up_steps)

    def loss(self, network: nn.Module, windows: torch.Tensor) -> torch.Tensor:
        """Mean squared error of the centre frame."""
        prediction, centre = network(windows)
        return nn.functional.mse_loss(prediction, centre)

    def errors(self, windows: torch.Tensor) -> torch.Tensor:
        """Squared error of the standardised centre frame, shape (batch, 1, n_mels)."""
        assert self.network is not None
        prediction, centre = self.network(windows)
        squared: torch.Tensor = (prediction - centre).square()
        return squared[:, None]

    @property
    def predicted(self) -> range:
        """The centre frame."""
        centre = self.config.frames // 2
        return range(centre, centre + 1)


class PredictiveAutoencoder(nn.Module):
    """Transformer blocks over the frames of a window, the centre one unseen.

    Parameters
    ----------
    n_mels : int
    config : PAEConfig
    """

    def __init__(self, n_mels: int, config: PAEConfig) -> None:
        super().__init__()
        width = config.width
        self.centre = config.frames // 2
        self.standardise = Standardise(n_mels)
        self.embed = nn.Linear(n_mels, width)
        # As small as BERT has them: at first a token is its frame more than its place.
        self.unseen = nn.Parameter(0.02 * torch.randn(width))
        self.positions = nn.Parameter(0.02 * torch.randn(config.frames, width))
        self.encoder = _blocks(config.encoder_blocks, config)
        self.bottleneck = _squeeze(width, config.bottleneck)
        self.decoder = _blocks(config.decoder_blocks, config)
        self.predict = nn.Linear(width, n_mels)

    def forward(self, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows in dB, (batch, frames * n_mels), to standardised centres, (batch, n_mels): predicted and true."""
        frames = self.standardise(windows)
        before, after = frames[:, : self.centre], frames[:, self.centre + 1 :]
        unseen = self.unseen.expand(frames.shape[0], 1, -1)
        tokens = torch.cat([self.embed(before), unseen, self.embed(after)], dim=1) + self.positions
        tokens = self.decoder(self.bottleneck(self.encoder(tokens)))
        return self.predict(tokens[:, self.centre]), frames[:, self.centre]


def _blocks(number: int, config: PAEConfig) -> nn.Sequential:
    """Transformer blocks, each with its own initial weights."""
    layers = [
        nn.TransformerEncoderLayer(
            config.width, config.heads, config.feed_forward, dropout=0.0, activation="gelu", batch_first=True
        )
        for _ in range(number)
    ]
    return nn.Sequential(*layers)


def _squeeze(width: int, bottleneck: int | None) -> nn.Module:
    return (
        nn.Identity()
        if bottleneck is None
        else nn.Sequential(nn.Linear(width, bottleneck), nn.Linear(bottleneck, width))
    )
