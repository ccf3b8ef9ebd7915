"""Training examples that lie anywhere in their clips, drawn anew each time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from auscult.errors import AuscultError
from auscult.store import Windows


class Crops:
    """Windows at random places of clips.

    An epoch draws from each clip as many as cover it, and some clips once more until the last batch is whole:
    the statistics of a small rest would disturb batch normalisation. Places come from torch's own random
    numbers, whose state a checkpoint holds.

    Parameters
    ----------
    spectra : sequence of ndarray, each (n_frames, n_mels)
    length : int
        Frames in a window.
    batch_size : int

    Raises
    ------
    AuscultError
        If no clip is as long as a window.
    """

    def __init__(self, spectra: Sequence[np.ndarray], length: int, batch_size: int) -> None:
        n_frames = np.array([len(spectrum) for spectrum in spectra])
        if not (n_frames >= length).any():
            raise AuscultError(f"no clip has the {length} frames of a window", "give longer clips")
        self._windows = Windows(spectra, length)
        counts = np.maximum(0, n_frames - length + 1)
        self._first = torch.from_numpy(np.cumsum(counts) - counts)
        self._places = torch.from_numpy(counts)
        owners = np.repeat(np.arange(len(spectra)), np.where(counts > 0, -(-n_frames // length), 0))
        self._owners = torch.from_numpy(np.resize(owners, -(-len(owners) // batch_size) * batch_size))

    def __len__(self) -> int:
        return len(self._owners)

    def owners(self, indices: torch.Tensor) -> torch.Tensor:
        """Which clip each example is taken from, shape (len(indices),)."""
        return self._owners[indices]

    def gather(self, indices: torch.Tensor) -> torch.Tensor:
        """Draw a window from the clip of each example, shape (len(indices), length * n_mels), frame by frame."""
        owners = self._owners[indices]
        places = (torch.rand(len(indices), dtype=torch.float64) * self._places[owners]).long()
        return self._windows.gather(self._first[owners] + places)
