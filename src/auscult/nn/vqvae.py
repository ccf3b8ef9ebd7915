"""An autoencoder of images whose middle is discrete, at two resolutions (VQ-VAE-2)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from auscult.nn.quantiser import Quantiser
from auscult.nn.standardise import band_statistics

STRIDE = 8
"""Bands and frames that a place of the coarser level stands for; an image's sides are multiples of it."""

_FARTHEST = 4.0
"""Standard deviations at which levels are cut off, so that one loud clip does not take up the codes. Ours."""


class Levels(nn.Module):
    """One mean and deviation for all bands: codes drawn for all machines need levels of about unit size."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))

    def learn(self, spectra: Iterable[np.ndarray]) -> None:
        """Take mean and deviation of all bins of a corpus, spectra of shape (n_frames, n_mels), dB."""
        mean, std = band_statistics(spectra)
        self.mean.fill_(float(mean.mean()))
        self.std.fill_(max(1.0, float(np.sqrt((std**2 + mean**2).mean() - mean.mean() ** 2))))

    def forward(self, levels: torch.Tensor) -> torch.Tensor:
        """Levels in dB in deviations from the mean, of any shape."""
        return (levels - self.mean) / self.std


class ResidualBlock(nn.Module):
    """Add a 3 x 3 convolution to half the channels and a 1 x 1 one back, ReLU before each, without biases.

    Parameters
    ----------
    width : int
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(width, width // 2, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 1, bias=False),
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Map (batch, width, height, columns) to the same."""
        return maps + self.layers(maps)  # type: ignore[no-any-return]


class DiscreteAutoencoder(nn.Module):
    """Images to codes at an eighth and a quarter of their resolution, and back.

    An encoder of stride 4 gives f1, another one on top f2, of stride 8. f2 becomes codes Q1; these, brought to the
    resolution of f1, and f1 become codes Q2; from Q1 and Q2 the image is made again. 1 920 129 parameters at a width of
    128, besides the two codebooks' 524 288 numbers each.

    Parameters
    ----------
    width : int
        Channels; an even number.
    n_codes : int
        In each codebook.
    decay, patience
        See `Quantiser`.

    References
    ----------
    Zavrtanik et al., ICASSP 2024, section 3.1, Figure 1 and equation 1 (whose text says that f1 becomes Q1: figure and
    equation have f2); Razavi, van den Oord, Vinyals, "Generating diverse high-fidelity images with VQ-VAE-2", 2019.
    Sizes: Zavrtanik, Kristan, Skočaj, "DSR", ECCV 2022, and its authors' released program.
    """

    def __init__(self, width: int = 128, n_codes: int = 4096, decay: float = 0.99, patience: int = 100) -> None:
        super().__init__()
        half = width // 2
        self.width = width
        self.levels = Levels()
        self.encoder1 = nn.Sequential(
            nn.Conv2d(1, half, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(half, width, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            ResidualBlock(width),
            ResidualBlock(width),
            nn.ReLU(),
        )
        self.encoder2 = nn.Sequential(
            nn.Conv2d(width, width, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            ResidualBlock(width),
            ResidualBlock(width),
            nn.ReLU(),
        )
        self.before1 = nn.Conv2d(width, width, 1)
        self.quantiser1 = Quantiser(n_codes, width, decay, patience)
        self.raise1 = nn.ConvTranspose2d(width, width, 4, 2, 1)
        self.before2 = nn.Conv2d(2 * width, width, 1)
        self.quantiser2 = Quantiser(n_codes, width, decay, patience)
        self.decoder = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1),
            ResidualBlock(width),
            ResidualBlock(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, half, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(half, 1, 4, 2, 1),
        )

    def standardised(self, windows: torch.Tensor) -> torch.Tensor:
        """Windows in dB, (batch, n_frames, n_mels), as images, (batch, 1, n_mels, n_frames), outliers cut off."""
        levels: torch.Tensor = self.levels(windows).clamp(-_FARTHEST, _FARTHEST)
        return levels.transpose(1, 2)[:, None].contiguous()

    def forward(self, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Windows in dB, (batch, n_frames, n_mels): as images, these made again, and the sum of both commitments."""
        images = self.standardised(windows)
        fine, coarse = self.features(images)
        quantised1, commitment1 = self.quantiser1(coarse)
        quantised2, commitment2 = self.quantiser2(self.refined(fine, quantised1))
        return images, self.decode(quantised1, quantised2), commitment1 + commitment2

    def features(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """f1, of stride 4, and what f2, of stride 8, has become before it is quantised."""
        fine = self.encoder1(images)
        return fine, self.before1(self.encoder2(fine))

    def refined(self, fine: torch.Tensor, quantised1: torch.Tensor) -> torch.Tensor:
        """What becomes Q2: f1, together with Q1 brought to its resolution."""
        refined: torch.Tensor = self.before2(torch.cat([fine, self.raise1(quantised1)], dim=1))
        return refined

    def codes(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Q1 and Q2 of images."""
        fine, coarse = self.features(images)
        quantised1 = self.quantiser1.quantise(coarse)
        return quantised1, self.quantiser2.quantise(self.refined(fine, quantised1))

    def decode(self, quantised1: torch.Tensor, quantised2: torch.Tensor) -> torch.Tensor:
        """The image that Q1 and Q2 stand for."""
        image: torch.Tensor = self.decoder(side_by_side(quantised1, quantised2))
        return image

    def figures(self) -> dict[str, float]:
        """Share of the codes in use, and perplexity, of each level."""
        return {
            f"{what} {level}": round(figure(), 4)
            for level, quantiser in (("Q1", self.quantiser1), ("Q2", self.quantiser2))
            for what, figure in (("codes used", quantiser.used), ("perplexity", quantiser.perplexity))
        }


def side_by_side(quantised1: torch.Tensor, quantised2: torch.Tensor) -> torch.Tensor:
    """Q1, brought to the resolution of Q2 bilinearly, and Q2, (batch, 2 * width, height, columns)."""
    raised = nn.functional.interpolate(quantised1, scale_factor=2.0, mode="bilinear", align_corners=False)
    return torch.cat([raised, quantised2], dim=1)
