"""Clips as images of one length: cut anywhere for training, laid end to end for judging; short ones are mirrored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from auscult.nn import tiles


def image_frames(spectra: Sequence[np.ndarray], most: int, stride: int) -> int:
    """Frames of the images that clips become: the longest clip's, rounded up to a multiple of `stride`.

    Parameters
    ----------
    spectra : sequence of ndarray, each (n_frames, n_mels)
    most : int
        A multiple of `stride` that is not exceeded.
    stride : int
    """
    longest = max(len(spectrum) for spectrum in spectra)
    return min(most, -(-longest // stride) * stride)


def mirrored(n_frames: int, length: int) -> np.ndarray:
    """Numbers of the frames of a clip that goes on as its mirror image, to and fro, shape (length,)."""
    there_and_back = np.arange(length) % (2 * n_frames)
    return np.minimum(there_and_back, 2 * n_frames - 1 - there_and_back)


class Images:
    """Each clip as an image: from a place drawn at random if it is longer, mirrored if it is shorter.

    Some clips come twice in an epoch, so that its last batch is whole.

    Parameters
    ----------
    spectra : sequence of ndarray, each (n_frames, n_mels)
    length : int
        Frames of an image.
    batch_size : int
    """

    def __init__(self, spectra: Sequence[np.ndarray], length: int, batch_size: int) -> None:
        self.spectra, self.length = spectra, length
        self.n_examples = -(-len(spectra) // batch_size) * batch_size

    def __len__(self) -> int:
        return self.n_examples

    def gather(self, indices: torch.Tensor) -> torch.Tensor:
        """Draw images in dB, shape (len(indices), length, n_mels)."""
        return torch.from_numpy(np.stack([self._drawn(k % len(self.spectra)) for k in indices.tolist()]))

    def _drawn(self, number: int) -> np.ndarray:
        spectrum, length = self.spectra[number], self.length
        place = int(torch.randint(max(0, len(spectrum) - length) + 1, ()))
        drawn: np.ndarray = spectrum[place : place + length]
        return drawn if len(drawn) == length else drawn[mirrored(len(drawn), length)]


def laid(logmel: torch.Tensor, length: int) -> tuple[torch.Tensor, list[int]]:
    """Images that cover a clip end to end, the last one where the clip ends.

    Parameters
    ----------
    logmel : Tensor, shape (n_frames, n_mels)
    length : int

    Returns
    -------
    images : Tensor, shape (n_images, length, n_mels)
        One, in part the clip's mirror image, of a clip that is shorter.
    starts : list of int
        First frame of each.
    """
    if len(logmel) < length:
        return logmel[torch.from_numpy(mirrored(len(logmel), length))][None], [0]
    starts = tiles.starts(len(logmel), length, length)
    return tiles.windows(logmel, starts, length), starts


def put_together(maps: torch.Tensor, starts: Sequence[int], n_frames: int) -> torch.Tensor:
    """Map of a clip, (n_frames, n_mels), from those of its images, (n_images, length, n_mels); see `laid`."""
    return tiles.overlapped_mean(maps, starts, max(n_frames, maps.shape[1]))[:n_frames]
