"""Hidden bins of a whole clip, each predicted from what is left of the window about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from auscult.detectors.network import window_rows
from auscult.errors import AuscultError
from auscult.nn import masks
from auscult.nn.hidden_bins import mean_of, std_of
from auscult.nn.masks import Partition
from auscult.nn.mixture import Mixture

Predict = Callable[[torch.Tensor, Partition], tuple[Mixture, torch.Tensor]]
"""From windows, (batch, frames * n_mels), and a partition to the targets as predicted and as they are."""

Filled = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

_WINDOWS_AT_ONCE = 16


@dataclass(frozen=True)
class Prediction:
    """What the hidden bins of a clip should be, from those that are not hidden.

    Attributes
    ----------
    mean, std : ndarray of float32, shape (n_mels, n_frames)
        dB; NaN where nothing is hidden.
    surprise : ndarray of float32, shape (n_mels, n_frames)
        How much less likely the value there is than the likeliest, in nats: half the squared error in units
        of std, for a single Gaussian. NaN where nothing is hidden.
    """

    mean: np.ndarray
    std: np.ndarray
    surprise: np.ndarray


def fill_in(predict: Predict, logmel: torch.Tensor, mask: torch.Tensor | None, length: int) -> Filled:
    """Mean, standard deviation and surprise at the bins a mask hides, NaN elsewhere.

    Parameters
    ----------
    predict : callable
    logmel : Tensor, shape (n_frames, n_mels)
    mask : Tensor of bool, shape (n_frames, n_mels), or None
        Without one each frame is hidden once, with nothing else.
    length : int
        Frames in a window.

    Returns
    -------
    mean, std, surprise : Tensor, each (n_frames, n_mels)

    Raises
    ------
    AuscultError
        If the mask hides the whole of some window.
    """
    windows, n_mels = window_rows(logmel, length), logmel.shape[1]
    mean, std, surprise = (torch.full_like(logmel, torch.nan) for _ in range(3))
    for frames, partition in _questions(len(logmel), n_mels, mask, length):
        bands = partition.target % n_mels
        for some in torch.split(frames, _WINDOWS_AT_ONCE):
            predicted, values = predict(windows[_window_about(some, len(windows), length)], partition)
            here = (some[:, None], bands)
            mean[here], std[here] = mean_of(predicted), std_of(predicted)
            surprise[here] = predicted.surprise(values)
    return mean, std, surprise


def as_mask(mask: str | np.ndarray, logmel: torch.Tensor) -> torch.Tensor:
    """A user's mask, (n_mels, n_frames) or in words, as the log-mel lies, (n_frames, n_mels).

    Raises
    ------
    AuscultError
        If it does not fit the clip or hides nothing.
    """
    n_frames, n_mels = logmel.shape
    if isinstance(mask, str):
        return masks.parse_mask(mask, n_frames, n_mels)
    if mask.shape != (n_mels, n_frames) or mask.dtype != bool:
        raise AuscultError(
            f"the mask is of {mask.dtype}, shape {mask.shape}", f"give bool, shape ({n_mels}, {n_frames})"
        )
    if not mask.any():
        raise AuscultError("the mask hides nothing", "set some of its bins to True")
    return torch.from_numpy(np.ascontiguousarray(mask.T))


def _questions(
    n_frames: int, n_mels: int, mask: torch.Tensor | None, length: int
) -> Iterator[tuple[torch.Tensor, Partition]]:
    """Frames of a clip whose windows are partitioned alike, and how: the targets are that frame's bins."""
    asked = torch.arange(n_frames) if mask is None else mask.any(dim=1).nonzero()[:, 0]
    alike: dict[tuple[int, bytes], tuple[torch.Tensor, list[int]]] = {}
    for frame in asked.tolist():
        first = int(_window_about(torch.tensor(frame), n_frames - length + 1, length))
        position = frame - first
        if mask is None:
            hidden = masks.hide(length, n_mels, frames=[position])
        else:
            hidden = mask[first : first + length]
        if hidden.all():
            raise AuscultError(
                f"the mask hides every bin of frames {first} to {first + length - 1}",
                f"leave something of every {length} frames: the network hears no further",
            )
        alike.setdefault((position, hidden.numpy().tobytes()), (hidden, []))[1].append(frame)
    for (position, _), (hidden, frames) in alike.items():
        own = hidden.new_zeros(hidden.shape)
        own[position] = hidden[position]
        yield torch.tensor(frames), Partition(Partition.of(hidden).context, Partition.of(own).target)


def _window_about(frame: torch.Tensor, n_windows: int, length: int) -> torch.Tensor:
    """The window that has the frame at its centre, or as near to it as the clip allows."""
    return (frame - length // 2).clamp(0, n_windows - 1)
