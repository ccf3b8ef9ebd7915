"""Perlin noise: smooth random landscapes, many at once."""

from __future__ import annotations

import math

import torch

_FINEST = 5
"""An axis has 2^0 to 2^5 cells on the image's longer side."""

_LATTICE = 48
"""Points a side of the lattice: 2^5 cells under a turned image reach across 32 * sqrt(2) of them."""


def perlin(n: int, height: int, width: int) -> torch.Tensor:
    """Draw noise with a grain and a direction of its own for each image.

    Parameters
    ----------
    n, height, width : int

    Returns
    -------
    Tensor, shape (n, height, width)
        From -1 to 1. Of torch's own random numbers on the CPU, whose state a checkpoint holds.

    References
    ----------
    Perlin, "Improving noise", SIGGRAPH 2002. Cells and turns (up to 90 degrees either way) as in the released program
    of DSR (Zavrtanik et al., ECCV 2022), where it is the image made of noise that is turned. Here the lattice is: an
    image wider than high has noise in its corners too.
    """
    cells = 2.0 ** torch.randint(_FINEST + 1, (n, 2))
    turns = (torch.rand(n) - 0.5) * math.pi
    angles = torch.rand(n, _LATTICE, _LATTICE) * 2 * math.pi
    return noise(cells, turns, angles, height, width)


def noise(cells: torch.Tensor, turns: torch.Tensor, angles: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Perlin noise over lattices of gradients.

    Parameters
    ----------
    cells : Tensor, shape (n, 2)
        Cells of the lattice's two axes on the image's longer side.
    turns : Tensor, shape (n,)
        Angle between image and lattice.
    angles : Tensor, shape (n, lattice, lattice)
        Directions of the gradients, which are of unit length.
    height, width : int

    Returns
    -------
    Tensor, shape (n, height, width)
    """
    side, lattice = max(height, width), angles.shape[1]
    down = ((torch.arange(height) + 0.5 - height / 2) / side)[:, None]
    across = ((torch.arange(width) + 0.5 - width / 2) / side)[None, :]
    sine, cosine = (turns.sin()[:, None, None], turns.cos()[:, None, None])
    y = (down * cosine + across * sine) * cells[:, 0, None, None] + lattice / 2
    x = (across * cosine - down * sine) * cells[:, 1, None, None] + lattice / 2
    row, column = y.floor(), x.floor()
    y, x = y - row, x - column
    place = (row * lattice + column).long().flatten(1)
    steep_y, steep_x = angles.sin().flatten(1), angles.cos().flatten(1)

    def slope(below: int, right: int) -> torch.Tensor:
        """What the gradient of one corner of each bin's cell makes there."""
        corner = place + below * lattice + right
        towards_y, towards_x = (steep.gather(1, corner).view_as(y) for steep in (steep_y, steep_x))
        return towards_y * (y - below) + towards_x * (x - right)

    fade_y, fade_x = (t**3 * (t * (6 * t - 15) + 10) for t in (y, x))
    above = torch.lerp(slope(0, 0), slope(0, 1), fade_x)
    beneath = torch.lerp(slope(1, 0), slope(1, 1), fade_x)
    return math.sqrt(2) * torch.lerp(above, beneath, fade_y)
