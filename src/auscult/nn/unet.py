"""A U-Net over spectrogram windows that halves the bands from level to level and never the frames."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


class ResidualBlock(nn.Module):
    """Add two 3 x 3 convolutions of the channels, ReLU before each; at first the block changes nothing.

    There is no normalisation: statistics of a batch would mix windows, those of a window would reach from end
    to end of it.

    Parameters
    ----------
    width : int
        Channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Map (batch, width, n_frames, n_bands) to the same."""
        return maps + self.second(self.first(maps.relu()).relu())  # type: ignore[no-any-return]


class BandUNet(nn.Module):
    """Down to few bands, where a 3 x 3 kernel reaches across the spectrum, and up again with what was passed.

    Parameters
    ----------
    widths : sequence of int
        Channels of each level from the top; a level has half the bands of the one above, rounded up.

    References
    ----------
    After Ronneberger et al., "U-Net", MICCAI 2015; skips are added, not concatenated, to keep it small.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        above = list(pairwise(widths))
        self.before = nn.ModuleList(ResidualBlock(width) for width in widths)
        self.widen = nn.ModuleList(nn.Conv2d(upper, lower, 1) for upper, lower in above)
        self.narrow = nn.ModuleList(nn.Conv2d(lower, upper, 1) for upper, lower in above)
        self.after = nn.ModuleList(ResidualBlock(upper) for upper, _ in above)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Map (batch, widths[0], n_frames, n_bands) to the same, for any numbers of frames and bands."""
        passed = []
        for block, widen in zip(self.before, self.widen, strict=False):
            maps = block(maps)
            passed.append(maps)
            maps = widen(nn.functional.avg_pool2d(maps, (1, 2), ceil_mode=True))
        maps = self.before[-1](maps)
        for skip, narrow, block in zip(reversed(passed), reversed(self.narrow), reversed(self.after), strict=True):
            raised = nn.functional.interpolate(narrow(maps), size=skip.shape[2:])
            maps = block(skip + raised)
        return maps
