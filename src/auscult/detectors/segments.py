"""Segments of clips: where they begin, and as labelled training examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from auscult.store import Windows


@dataclass(frozen=True)
class Segmentation:
    """How a clip is cut into overlapping segments, or taken whole.

    Attributes
    ----------
    frames : int
        Frames in a segment. A clip with fewer is repeated until it fills one: to a network that keeps what is
        loudest at any time, as the two here, a repetition is no news.
    hop : int
        Frames between the starts of two.
    cover_end : bool
        Whether there is one at the end of the clip too, where the others leave a rest.
    whole : bool
        Whether a clip is one segment, however long. In training, its first `frames` frames.
    """

    frames: int
    hop: int
    cover_end: bool = False
    whole: bool = False

    def length(self, n_frames: int) -> int:
        """Frames in a segment of a clip of at least one."""
        return n_frames if self.whole else self.frames

    def of(self, logmel: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        """A clip's log-mel, (n_frames, n_mels), perhaps repeated, and the first frames of its segments."""
        rows = self._filled(logmel)
        starts = [0] if self.whole else list(range(0, len(rows) - self.frames + 1, self.hop))
        return (self.covering(logmel)) if self.cover_end else (rows, starts)

    def covering(self, logmel: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        """As `of`, with a segment at the end."""
        rows = self._filled(logmel)
        last = len(rows) - self.length(len(rows))
        return rows, [*range(0, last, self.hop), last]

    def fill(self, spectrum: np.ndarray) -> np.ndarray:
        """A spectrum, (n_frames, n_mels), repeated until it has the frames of a segment."""
        short = len(spectrum) < self.frames
        return np.resize(spectrum, (self.frames, spectrum.shape[1])) if short else spectrum

    def _filled(self, logmel: torch.Tensor) -> torch.Tensor:
        missing = self.frames > len(logmel)
        return logmel[torch.arange(self.frames) % len(logmel)] if missing else logmel


class LabelledSegments:
    """Segments of clips with the classes of these, gathered by number.

    Parameters
    ----------
    spectra : sequence of ndarray, each (n_frames, n_mels)
    labels : ndarray of int, shape (n_clips,)
    cut : Segmentation
    """

    def __init__(self, spectra: Sequence[np.ndarray], labels: np.ndarray, cut: Segmentation) -> None:
        filled = [cut.fill(spectrum) for spectrum in spectra]
        longest = max(len(spectrum) for spectrum in filled)
        hop = longest if cut.whole else cut.hop
        self._windows = Windows(filled, cut.frames, hop)
        counts = [(len(spectrum) - cut.frames) // hop + 1 for spectrum in filled]
        self.labels = torch.from_numpy(np.repeat(labels, counts))
        self._frames = cut.frames

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images, shape (len(indices), n_mels, frames), and their labels."""
        rows = self._windows.gather(indices)
        return rows.view(len(rows), self._frames, -1).transpose(1, 2), self.labels[indices]
