"""Per-band standardisation as a layer: its statistics are learnt from the training clips and saved with the weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

_LEAST_STD = 1.0
"""dB. Noise in a mel band scatters more than this; a band that never changed in training (a tone, an empty band)
would otherwise count for any multiple of all the others, and a constant one divide by zero. Ours."""

_FRAMES_AT_ONCE = 1 << 14


class Standardise(nn.Module):
    """Subtract each mel band's mean and divide by its standard deviation.

    Parameters
    ----------
    n_mels : int
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, n_mels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_mels))
        self.register_buffer("std", torch.ones(n_mels))

    def learn(self, spectra: Iterable[np.ndarray]) -> None:
        """Take the statistics of a corpus, read once and never copied as a whole.

        Parameters
        ----------
        spectra : iterable of ndarray, each (n_frames, n_mels), dB
        """
        mean, std = band_statistics(spectra)
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std.clip(min=_LEAST_STD)))

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Windows as rows, frame by frame, (batch, n_frames * n_mels) in dB, to (batch, n_frames, n_mels)."""
        return (windows.view(windows.shape[0], -1, len(self.mean)) - self.mean) / self.std


def band_statistics(spectra: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each band over all frames, in one pass and in 64 bits.

    Parameters
    ----------
    spectra : iterable of ndarray, each (n_frames, n_mels)

    Returns
    -------
    mean, std : ndarray of float64, shape (n_mels,)

    References
    ----------
    Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979: sums
    of squares about the running mean, which do not cancel as sums of plain squares do.
    """
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for spectrum in spectra:
        for first in range(0, len(spectrum), _FRAMES_AT_ONCE):
            frames = spectrum[first : first + _FRAMES_AT_ONCE].astype(np.float64)
            here = frames.mean(axis=0)
            apart = here - mean
            total = count + len(frames)
            squares = squares + ((frames - here) ** 2).sum(axis=0) + apart**2 * (count * len(frames) / total)
            mean = mean + apart * (len(frames) / total)
            count = total
    return mean, np.sqrt(squares / max(count, 1))
