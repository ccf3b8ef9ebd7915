"""Convolutional conditional neural process: any hidden bins of a window from all the others, by convolutions."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt, field_validator
from torch import nn

from auscult.detectors.anp_base import NeuralProcess, NeuralProcessConfig
from auscult.detectors.base import DetectorConfig
from auscult.detectors.registry import register
from auscult.nn import masks
from auscult.nn.hidden_bins import BinNetwork, Distributions, at, read_decibels, start_wide
from auscult.nn.masks import Partition
from auscult.nn.mixture import n_outputs
from auscult.nn.set_convolution import SetConvolution
from auscult.nn.standardise import Standardise
from auscult.nn.unet import BandUNet


class ConvCNPConfig(NeuralProcessConfig):
    """Settings of the convolutional conditional neural process; all that are not the ANP's are ours.

    Attributes
    ----------
    kernels : int
        Kernels of the set convolution, each with a density and a signal.
    near_frames, near_bands : int
        Over how many frames and bands a kernel reaches, odd numbers. Five frames are two to either side: where
        one or two are hidden, as in training, each of them has something given within reach.
    widths : tuple of int
        Channels of the U-Net's levels from the top; each level has half the bands of the one above.
    standardise : bool
        As of the ANP, but true: a convolution cannot know the level of each band.
    """

    kernels: PositiveInt = Field(default=16, description="kernels of the set convolution")
    near_frames: PositiveInt = Field(default=5, description="frames a kernel reaches over")
    near_bands: PositiveInt = Field(default=9, description="bands a kernel reaches over")
    widths: tuple[PositiveInt, ...] = Field(
        default=(64, 64, 128, 128, 128, 128), min_length=1, description="channels of each level, halving the bands"
    )
    standardise: bool = Field(default=True, description="whether the network sees standardised bands")

    @field_validator("near_frames", "near_bands")
    @classmethod
    def _odd(cls, reach: int) -> int:
        if reach % 2 == 0:
            raise ValueError("a kernel reaches equally far to both sides: give an odd number")
        return reach


class ConvCNPNetwork(BinNetwork):
    """Predicts any bins of a window from any others: set convolution, U-Net, a distribution at every bin.

    Parameters
    ----------
    n_mels : int
    config : ConvCNPConfig

    Notes
    -----
    Shifted in time, a context gives a prediction shifted likewise, but for what lies beyond the window's edges.
    In frequency it does not: a learned offset for every band and channel says which band is which. ConvCNPs as
    published have none; a machine's spectrum, unlike an image, is not the same everywhere.
    """

    def __init__(self, n_mels: int, config: ConvCNPConfig) -> None:
        super().__init__()
        width = config.widths[0]
        self.n_mels, self.mixture = n_mels, config.mixture
        self.standardise = Standardise(n_mels)
        self.near = SetConvolution(config.kernels, (config.near_frames, config.near_bands))
        self.begin = nn.Conv2d(2 * config.kernels, width, 1)
        self.bands = nn.Parameter(torch.zeros(width, 1, n_mels))
        self.unet = BandUNet(config.widths)
        self.end = nn.Conv2d(width, n_outputs(config.mixture), 1)
        start_wide(self.end, config.mixture)
        # Convolutions on a processor take a quarter less time so.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, windows: torch.Tensor, context: torch.Tensor, target: torch.Tensor) -> Distributions:
        """Predict the target bins from the context bins, and from nothing else; see `BinNetwork`."""
        values = self.standardise(windows)
        given = torch.zeros_like(values).flatten(1).scatter(1, context.expand(len(windows), -1), 1.0)
        density, signal = self.near(values[:, None], given.view_as(values)[:, None])
        near = self.begin(torch.cat([density, signal], dim=1))
        outputs = self.end(self.unet(near + self.bands)).flatten(2)
        wanted = torch.stack([at(channel, target) for channel in outputs.unbind(1)], dim=-1)
        return read_decibels(wanted, self.mixture, self.standardise, target % self.n_mels)


@register
class ConvCNP(NeuralProcess):
    """Predicts hidden time-frequency bins from all the others by convolutions; what it cannot predict is strange.

    The convolutional variant that the conclusion of the attentive neural process's paper proposes, in its
    on-the-grid form: the set of given bins becomes two images for each of 16 kernels, the density of what is
    given nearby and the mean of its values, weighed by nearness; a U-Net of residual 3 x 3 convolutions, which
    halves the bands five times and never the frames, gives mean and standard deviation at every bin:
    2 496 722 parameters. Cost grows with the number of bins, where attention's grows with its square, and
    every window of a batch has a mask of its own.

    All else is as of `anp`: masks, likelihood, learning rate, AutoClip, the six scores of one fitted detector
    (`rescored`), `predict_hidden` and the anomaly map. Nothing was published of this system on machine sounds,
    so the preset `paper` too is ours: its sizes, and training as of `anp`.

    References
    ----------
    Gordon, Bruinsma, Foong, Requeima, Dubois, Turner, "Convolutional conditional neural processes", ICLR 2020;
    Wichern, Chakrabarty, Wang, Le Roux, "Anomalous sound detection using attentive neural processes", WASPAA
    2021, 4.
    """

    name = "convcnp"
    paper = "ours, after Gordon et al., 2020, and Wichern et al., 2021"
    why_no_export = "how many bins are hidden is known from the masks' values only, which a graph cannot branch on"
    Config: ClassVar[type[DetectorConfig]] = ConvCNPConfig
    config: ConvCNPConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        # Two minutes on a laptop's core; settled as `anp`'s.
        "quick": {
            "kernels": 8,
            "widths": (16, 16, 32, 32, 64, 64),
            "epochs": 20_000,
            "max_steps": 3000,
            "batch_size": 16,
            "learning_rate": 3e-3,
            "warm_up_steps": 300,
            "cool_down": 0.9,
            "score_hop": 2,
            "score_by": "surprise",
        },
    }

    def build(self) -> ConvCNPNetwork:
        """The network: windows and a partition of their bins to a distribution at each target."""
        return ConvCNPNetwork(self.front_end.n_mels, self.config)

    def training_partition(self, n_windows: int) -> Partition:
        """One or two frames and up to two bands hidden: equally many in every window, each time others."""
        return Partition.of(_as_many_in_each(n_windows, masks.random_rows_and_columns(*self._size)))


def _as_many_in_each(n_windows: int, mask: torch.Tensor) -> torch.Tensor:
    """Masks that hide as many whole frames and bands as one mask does, by lot for each window which.

    Parameters
    ----------
    n_windows : int
    mask : Tensor of bool, shape (n_frames, n_mels)

    Returns
    -------
    Tensor of bool, shape (n_windows, n_frames, n_mels)
        All hide equally many bins.
    """
    frames = torch.rand(n_windows, mask.shape[0]).argsort(dim=1)
    bands = torch.rand(n_windows, mask.shape[1]).argsort(dim=1)
    whole_frames, whole_bands = mask.all(dim=1)[frames], mask.all(dim=0)[bands]
    return whole_frames[:, :, None] | whole_bands[:, None, :]
