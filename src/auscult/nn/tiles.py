"""Windows laid over a clip: where they start, their frames as rows of a batch, and their maps put together."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def starts(n_frames: int, length: int, hop: int) -> list[int]:
    """First frames of windows that cover a clip to its end: `hop` apart, the last one where the clip ends.

    Parameters
    ----------
    n_frames, length, hop : int
        Frames in the clip (at least `length`), in a window, and between the starts of two.
    """
    last = n_frames - length
    return [*range(0, last, hop), last]


def windows(logmel: torch.Tensor, starts: Sequence[int], length: int) -> torch.Tensor:
    """Copy windows of a log-mel, shape (n_frames, n_mels), into a batch, (len(starts), length, n_mels)."""
    return logmel.unfold(0, length, 1)[list(starts)].transpose(1, 2).contiguous()


def shares_of_places(n_frames: int, length: int, hop: int, stride: int, n_places: int) -> torch.Tensor:
    """How much each place of a convolutional network's map of a whole clip counts, in place of windows of it.

    A network's map of a window has a place for every `stride` frames. Laid at the window's start, these fall between
    places of the map of the whole clip, and are interpolated.

    Parameters
    ----------
    n_frames, length, hop : int
        Frames in the clip, in a window, and between the starts of two.
    stride : int
        Frames from one place to the next.
    n_places : int
        In the map of the clip.

    Returns
    -------
    Tensor, shape (n_places,)
        The mean over windows of the mean over their places, as weights that sum to 1.
    """
    places = torch.arange(length // stride)
    at = (torch.tensor(starts(n_frames, length, hop))[:, None] / stride + places).flatten().clamp(max=n_places - 1)
    below = at.floor().long()
    above = (below + 1).clamp(max=n_places - 1)
    shares = torch.zeros(n_places)
    shares.index_add_(0, below, 1 - (at - below))
    shares.index_add_(0, above, at - below)
    return shares / shares.sum()


def overlapped_mean(maps: torch.Tensor, starts: Sequence[int], n_frames: int) -> torch.Tensor:
    """Map of a clip from those of windows that cover it, averaged where they overlap.

    Parameters
    ----------
    maps : Tensor, shape (len(starts), length, n_mels)
    starts : sequence of int
    n_frames : int

    Returns
    -------
    Tensor, shape (n_frames, n_mels)
    """
    length = maps.shape[1]
    total, count = maps.new_zeros(n_frames, maps.shape[2]), maps.new_zeros(n_frames, 1)
    for start, one in zip(starts, maps, strict=True):
        total[start : start + length] += one
        count[start : start + length] += 1
    return total / count
