"""The levels that machines usually have in each mel band: a clip brought back to them is where its map begins."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from auscult.nn.standardise import band_statistics

_DEVIATIONS = 2.0
"""How far from its mean a level is still usual. Ours: beyond two deviations lie few bins of a healthy clip."""

_LEAST_STD = 1.0
"""dB, for bands that hardly change."""


class UsualLevels(nn.Module):
    """Highest and lowest usual level of each band, for each of some machines.

    Integrated gradients need a baseline, an input with nothing remarkable in it. A machine's mean spectrum, the same
    in every frame, is none: no recording is so still, and a network asked about the way from there answers anything.
    The clip itself, with only what is unusually loud or soft taken back, is near, and what was taken back is what a
    map should explain.

    Parameters
    ----------
    n_machines, n_mels : int
    """

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, n_machines: int, n_mels: int) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(n_machines, n_mels))
        self.register_buffer("high", torch.zeros(n_machines, n_mels))

    def learn(self, machine: int, spectra: Iterable[np.ndarray]) -> None:
        """Take the levels of a machine from its training clips, each (n_frames, n_mels), in dB."""
        mean, std = band_statistics(spectra)
        spread = _DEVIATIONS * np.maximum(std, _LEAST_STD)
        self.low[machine] = torch.from_numpy(mean - spread)
        self.high[machine] = torch.from_numpy(mean + spread)

    def forward(self, windows: torch.Tensor, machine: int = 0) -> torch.Tensor:
        """Windows, (..., n_mels), with every level outside of a machine's usual ones moved to the nearest of these."""
        return windows.clamp(self.low[machine], self.high[machine])
