"""A convolution over a grid of which only some bins are given: how many are near, and what they say."""

from __future__ import annotations

import torch
from torch import nn

_LEAST_DENSITY = 1e-5
"""Where nothing is near the signal is 0, not 0 / 0."""


class SetConvolution(nn.Module):
    """Density of the given bins, and the mean of their values weighed by nearness, by several learned kernels.

    Kernels have no negative weight, so a density is a count of what is near, and the signal divided by it a
    mean. Beyond the grid's edge nothing is given.

    Parameters
    ----------
    n_kernels : int
    size : (int, int)
        Frames and bands a kernel reaches over, odd numbers.

    References
    ----------
    Gordon et al., "Convolutional conditional neural processes", ICLR 2020, 4, on-the-grid form; kernels are made
    non-negative by their absolute value, as in the authors' program.
    """

    def __init__(self, n_kernels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.padding = (size[0] // 2, size[1] // 2)
        self.kernels = nn.Parameter(torch.rand(n_kernels, 1, *size))

    def forward(self, values: torch.Tensor, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Convolve what is given.

        Parameters
        ----------
        values : Tensor, shape (batch, 1, n_frames, n_bands)
        given : Tensor, shape (batch, 1, n_frames, n_bands)
            1 where the value counts; 0 where it is hidden, and may be anything.

        Returns
        -------
        density, signal : Tensor, each (batch, n_kernels, n_frames, n_bands)
            Density as a share of the kernel's whole weight.
        """
        kernels = self.kernels.abs()
        kernels = kernels / kernels.sum(dim=(2, 3), keepdim=True).clamp(min=_LEAST_DENSITY)
        density = nn.functional.conv2d(given, kernels, padding=self.padding)
        signal = nn.functional.conv2d(torch.where(given > 0, values, 0.0), kernels, padding=self.padding)
        return density, signal / density.clamp(min=_LEAST_DENSITY)
