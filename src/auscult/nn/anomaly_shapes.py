"""Where simulated anomalies lie: blots of Perlin noise, or one band of the spectrum at some times."""

from __future__ import annotations

import torch

from auscult.nn.perlin import perlin

_THRESHOLD = 0.5
"""Of the noise, above which a bin is anomalous, as in DSR's program."""

_BANDS = (4, 64)
_FRAMES = (4, 160)
_SEGMENTS = 6
"""Least and most bands and frames of a band's segments, and most segments. Ours: the paper does not say. An image
with fewer than twice the most is at most half filled."""

_WHOLE = 0.3
"""Share of the bands that last from end to end, since the paper names such anomalies. Ours."""


def anomaly_shapes(n: int, height: int, width: int, perlin_share: float = 0.5) -> torch.Tensor:
    """Draw masks, some of either kind.

    Parameters
    ----------
    n : int
    height, width : int
        Bands and frames.
    perlin_share : float
        Probability that a mask is made of Perlin noise. Such a mask may be empty.

    Returns
    -------
    Tensor of bool, shape (n, height, width)

    References
    ----------
    Zavrtanik et al., ICASSP 2024, section 3.3.
    """
    masks = torch.empty(n, height, width, dtype=torch.bool)
    of_noise = torch.rand(n) < perlin_share
    n_noise = int(of_noise.sum())
    masks[of_noise] = perlin(n_noise, height, width) > _THRESHOLD
    masks[~of_noise] = band_masks(n - n_noise, height, width)
    return masks


def band_masks(n: int, height: int, width: int) -> torch.Tensor:
    """Draw masks of one band each, from one to six times or from end to end, bool, shape (n, height, width)."""
    first, last = _intervals((n, 1), height, *_BANDS)
    begin, end = _intervals((n, _SEGMENTS), width, *_FRAMES)
    taken = torch.arange(_SEGMENTS) < torch.randint(1, _SEGMENTS + 1, (n, 1))
    bands, frames = torch.arange(height), torch.arange(width)
    in_band = (bands >= first) & (bands < last)
    in_segment = (frames >= begin[..., None]) & (frames < end[..., None]) & taken[..., None]
    in_time = in_segment.any(1) | (torch.rand(n, 1) < _WHOLE)
    return in_band[:, :, None] & in_time[:, None, :]


def _intervals(shape: tuple[int, int], size: int, least: int, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Intervals inside of 0 to `size`: any length from `least` to `most`, then any place, all equally likely."""
    least = min(least, size)
    most = max(least, min(most, size // 2))
    length = torch.randint(least, most + 1, shape)
    begin = (torch.rand(shape, dtype=torch.float64) * (size - length + 1)).long()
    return begin, begin + length
