"""Two decoders of the same codes, one that knows a machine's healthy sound, and what looks for their difference."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import nn

from auscult.nn.quantiser import Quantiser
from auscult.nn.vqvae import DiscreteAutoencoder, ResidualBlock, side_by_side

STRIDE = 32
"""An image's sides are multiples of it. The decoder halves codes of a quarter resolution twice, the detection module
the image thrice: 16 would do; 32 leaves room for the coarse codes to be halved as often."""

_TOO_NEAR = 0.05
"""Share of the codebook that is nearest to a feature, and so no anomaly in its place."""


class ObjectDecoder(nn.Sequential):
    """Makes the healthy image of codes that may be of an anomalous one; 9 416 321 parameters at a width of 128.

    Parameters
    ----------
    width : int
        Of the codes.

    References
    ----------
    Zavrtanik, Kristan, Skočaj, "DSR", ECCV 2022, and its authors' released program.
    """

    def __init__(self, width: int) -> None:
        half = width // 2
        super().__init__(
            *_convolution(2 * width, 2 * width),
            *_convolution(2 * width, 4 * width),
            nn.MaxPool2d(2),
            *_convolution(4 * width, 4 * width),
            *_convolution(4 * width, 8 * width),
            nn.MaxPool2d(2),
            nn.Conv2d(8 * width, half, 1),
            nn.ConvTranspose2d(half, half, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(half, half, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(half, width, 3, padding=1),
            ResidualBlock(width),
            ResidualBlock(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, half, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(half, 1, 4, 2, 1),
        )


class DetectionModule(nn.Module):
    """A U-Net over the two images; 5 608 386 parameters at a width of 64.

    Parameters
    ----------
    width : int
        Channels at full resolution.

    References
    ----------
    As `ObjectDecoder`.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width, 4 * width)
        self.down = nn.ModuleList(_twice(n_in, n_out) for n_in, n_out in zip((2, *widths), widths, strict=False))
        up = list(zip(reversed(widths[1:]), reversed(widths[:-1]), strict=True))
        self.up = nn.ModuleList(nn.Sequential(_Double(), *_convolution(n_in, n_out)) for n_in, n_out in up)
        self.merge = nn.ModuleList(_twice(2 * n_out, n_out) for _, n_out in up)
        self.tell = nn.Conv2d(width, 2, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of normal and anomalous bins, of pairs of images; both (batch, 2, height, columns)."""
        passed: list[torch.Tensor] = []
        maps = images
        for number, block in enumerate(self.down):
            maps = block(maps if number == 0 else nn.functional.max_pool2d(maps, 2))
            passed.append(maps)
        for skip, up, merge in zip(reversed(passed[:-1]), self.up, self.merge, strict=True):
            maps = merge(torch.cat([up(maps), skip], dim=1))
        logits: torch.Tensor = self.tell(maps)
        return logits


class Corruption(NamedTuple):
    """How the codes of some images are replaced; each field of shape (batch,).

    Attributes
    ----------
    at1, at2 : Tensor of bool
        Whether coarse and fine codes are.
    strength1, strength2 : Tensor
        See `drawn_codes`.
    """

    at1: torch.Tensor
    at2: torch.Tensor
    strength1: torch.Tensor
    strength2: torch.Tensor

    @classmethod
    def drawn(cls, n: int, least_strength: float, device: torch.device) -> Corruption:
        """Both levels of half the images, else one or the other; any strength from the least to 1."""
        both, coarse_alone, *shares = torch.rand(4, n).to(device)
        strengths = (least_strength + (1 - least_strength) * share for share in shares)
        return cls((both < 0.5) | (coarse_alone < 0.5), (both < 0.5) | (coarse_alone >= 0.5), *strengths)


class Judgement(NamedTuple):
    """What the network makes of images in training.

    Attributes
    ----------
    logits : Tensor, shape (batch, 2, n_mels, n_frames)
        Of normal and anomalous bins.
    truth : Tensor, shape (batch, n_mels, n_frames)
        1 where codes were replaced.
    images, corrected : Tensor, shape (batch, 1, n_mels, n_frames)
        As they are, and as the object's decoder makes them.
    """

    logits: torch.Tensor
    truth: torch.Tensor
    images: torch.Tensor
    corrected: torch.Tensor


class DualDecoder(nn.Module):
    """A general autoencoder, which stays as it is, and beside it the decoder of one object and the detection module.

    Parameters
    ----------
    general : DiscreteAutoencoder
    width : int
        Of the detection module.
    least_strength : float
        Replacements are drawn from the nearest codes: from this share of the codebook up to all of it.
    """

    def __init__(self, general: DiscreteAutoencoder, width: int = 64, least_strength: float = 0.2) -> None:
        super().__init__()
        self.general = general.requires_grad_(False)
        self.specific = ObjectDecoder(general.width)
        self.detect = DetectionModule(width)
        self.least_strength = least_strength

    def train(self, mode: bool = True) -> Self:
        """As any module, but for the autoencoder, whose codes would follow in training."""
        super().train(mode)
        self.general.eval()
        return self

    def trained(self) -> list[nn.Parameter]:
        """The parameters that learn."""
        return [*self.specific.parameters(), *self.detect.parameters()]

    def forward(self, windows: torch.Tensor, masks: torch.Tensor, outliers: torch.Tensor) -> Judgement:
        """Simulate anomalies and look for them.

        Parameters
        ----------
        windows : Tensor, shape (batch, n_frames, n_mels), dB
        masks : Tensor of bool, shape (batch, n_mels, n_frames)
            Where anomalies are wanted.
        outliers : Tensor of bool, shape (batch,)
            Which windows are anomalous everywhere as they are.
        """
        with torch.no_grad():
            images = self.general.standardised(windows)
            how = Corruption.drawn(len(images), self.least_strength, images.device)
            quantised1, quantised2, truth = self.corrupted(images, masks, how)
        logits, corrected, _ = self.judge(quantised1, quantised2)
        return Judgement(logits, truth | outliers[:, None, None], images, corrected)

    def judge(
        self, quantised1: torch.Tensor, quantised2: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits of the detection module, and the images that the object's decoder and the general one make."""
        with torch.no_grad():
            made_again = self.general.decode(quantised1, quantised2)
        corrected: torch.Tensor = self.specific(side_by_side(quantised1, quantised2))
        # The detection module's loss does not reach the decoder.
        return self.detect(torch.cat([corrected.detach(), made_again], dim=1)), corrected, made_again

    def maps(self, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What is strange about windows in dB, (batch, n_frames, n_mels); both maps of that shape.

        Returns
        -------
        found : Tensor
            Probability that a bin is anomalous, as the detection module says.
        unsaid : Tensor
            Squared error, in deviations, of what the codes say of a bin. The detection module hears only that.
        """
        logits, _, made_again = self.judge(*self.general.codes(self.general.standardised(windows)))
        unsaid = (made_again[:, 0].transpose(1, 2) - self.general.levels(windows)).square()
        return logits.softmax(1)[:, 1].transpose(1, 2), unsaid

    @torch.no_grad()
    def corrupted(
        self, images: torch.Tensor, masks: torch.Tensor, how: Corruption
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Q1 and Q2 of images with codes replaced under masks.

        Returns
        -------
        quantised1, quantised2 : Tensor
        truth : Tensor of bool, shape (batch, n_mels, n_frames)
            The masks at the resolution of the coarsest level that was touched.
        """
        general = self.general
        at1, at2 = how.at1[:, None, None], how.at2[:, None, None]
        mask1, mask2 = pooled(masks, 8), pooled(masks, 4)
        fine, coarse = general.features(images)
        quantised1 = general.quantiser1.quantise(coarse)
        quantised1 = replaced(general.quantiser1, coarse, quantised1, mask1 & at1, how.strength1)
        # Q2 hears of what has become of Q1.
        refined = general.refined(fine, quantised1)
        quantised2 = general.quantiser2.quantise(refined)
        quantised2 = replaced(general.quantiser2, refined, quantised2, mask2 & at2, how.strength2)
        return quantised1, quantised2, torch.where(at1, spread(mask1, 8), spread(mask2, 4))


def pooled(masks: torch.Tensor, stride: int) -> torch.Tensor:
    """Masks, bool, at a coarser resolution: true where any bin under a place is."""
    return nn.functional.max_pool2d(masks[:, None].float(), stride)[:, 0] > 0


def spread(masks: torch.Tensor, stride: int) -> torch.Tensor:
    """Masks, bool, at a finer resolution: each place over all its bins."""
    return masks.repeat_interleave(stride, 1).repeat_interleave(stride, 2)


def replaced(
    quantiser: Quantiser,
    features: torch.Tensor,
    quantised: torch.Tensor,
    where: torch.Tensor,
    strengths: torch.Tensor,
) -> torch.Tensor:
    """Put other codes in some places.

    Parameters
    ----------
    quantiser : Quantiser
    features, quantised : Tensor, shape (batch, width, height, columns)
        What was quantised, and its codes.
    where : Tensor of bool, shape (batch, height, columns)
    strengths : Tensor, shape (batch,)
        See `drawn_codes`.

    Returns
    -------
    Tensor, as `quantised`
    """
    rows = quantised.movedim(1, -1).clone()
    each = strengths[:, None, None].expand_as(where)[where]
    rows[where] = quantiser.codes[drawn_codes(quantiser, features.movedim(1, -1)[where], each)]
    return rows.movedim(-1, 1).contiguous()


def drawn_codes(quantiser: Quantiser, vectors: torch.Tensor, strengths: torch.Tensor) -> torch.Tensor:
    """Draw a code for each vector among those nearest to it, the very nearest left out, all equally likely.

    Parameters
    ----------
    quantiser : Quantiser
    vectors : Tensor, shape (n, width)
    strengths : Tensor, shape (n,)
        Which share of the codebook counts as nearest, rounded up; the nearest twentieth of the codebook is left out.

    Returns
    -------
    Tensor of int, shape (n,)
    """
    n_codes = len(quantiser.codes)
    first = max(1, int(_TOO_NEAR * n_codes))
    last = (strengths * n_codes).ceil().clamp(first + 1, n_codes)
    # Drawn on the CPU, whose random numbers a checkpoint holds.
    drawn = torch.rand(len(vectors), dtype=torch.float64).to(vectors.device)
    ranks = (first + drawn * (last - first)).long()
    chosen, begin = [], 0
    for distances in quantiser.distances(vectors):
        some = ranks[begin : begin + len(distances)]
        chosen.append(distances.argsort(1).gather(1, some[:, None])[:, 0])
        begin += len(distances)
    return torch.cat(chosen)


class _Double(nn.Module):
    """Twice as high and wide, bilinearly, corners on corners."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (batch, channels, height, columns) to (batch, channels, 2 height, 2 columns)."""
        return nn.functional.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=True)


def _convolution(n_in: int, n_out: int) -> list[nn.Module]:
    """Convolution, normalisation of each image's channels, ReLU."""
    return [nn.Conv2d(n_in, n_out, 3, padding=1), nn.InstanceNorm2d(n_out), nn.ReLU()]


def _twice(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(*_convolution(n_in, n_out), *_convolution(n_out, n_out))
