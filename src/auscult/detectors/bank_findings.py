"""Why the bank finds a clip strange: in which view, at which frequencies, and at which frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from auscult.detectors.bank_tokens import TOKEN_VIEWS
from auscult.detectors.bank_views import VIEWS, Heard, View
from auscult.nn.memory import BandMemory, nearest

_MERGED = 0.5
"""Bands next to the strangest one are named with it if they are at least so strange, as a share."""

_SAME = 1e-3
"""Whitened distance, in every band, within which a clip is one that was learnt from."""


@dataclass(frozen=True)
class Finding:
    """What one view finds strange about a clip.

    Attributes
    ----------
    view : str
        Name of the view.
    low, high : float
        Where it is strangest, Hz.
    excess : float
        By how many standard deviations of healthy clips' distances this one's lies above their mean there.
    more : bool
        Whether there is more of what the view measures than in the nearest healthy clip, or less.
    """

    view: str
    low: float
    high: float
    excess: float
    more: bool

    def __str__(self) -> str:
        view = (VIEWS | TOKEN_VIEWS)[self.view]
        words = view.more if self.more else view.less
        return f"{words}, {self.low / 1000:.1f}–{self.high / 1000:.1f} kHz ({self.excess:.1f} spreads off)"


@dataclass(frozen=True)
class Usual:
    """What distances are usual, and which bands count.

    Attributes
    ----------
    mean, spread : Tensor of float64, shape (n_bands,)
        Of the distances that the bank's own clips have when left out.
    weights : Tensor of float64, shape (n_bands,)
        Of the bands; their sum is 1.
    """

    mean: torch.Tensor
    spread: torch.Tensor
    weights: torch.Tensor


def blame_bins(heard: Heard, view: View, memory: BandMemory, own: torch.Tensor, usual: Usual) -> torch.Tensor:
    """How strange a view finds each bin of a clip, in multiples of what is usual.

    The squared distance to the clip nearest in each band is a sum over mel bands and statistics; the view shares
    each term out among the frames. The mean over all bins is that of the squared distances over bands, so that nothing
    is lost or counted twice.

    Parameters
    ----------
    heard : Heard
        The clip.
    view : View
    memory : BandMemory
    own : Tensor, shape (n_mels, view.size)
        The clip's statistics.
    usual : Usual

    Returns
    -------
    Tensor of float64, shape (n_mels, n_frames)
        Not negative.
    """
    squares, healthy = _parts(memory, own, usual)
    return view.share_out(heard, own.double(), healthy, squares)


def finding(view: View, memory: BandMemory, own: torch.Tensor, usual: Usual, k: int, edges: np.ndarray) -> Finding:
    """What a view finds strangest about a clip.

    Parameters
    ----------
    view, memory, own, usual
        As for `blame_bins`.
    k : int
        Neighbours averaged.
    edges : ndarray, shape (n_mels, 2)
        From where to where each mel band (or band of tokens) reaches, Hz.
    """
    _, by_band = nearest(memory.squared_distances(own), usual.weights, k)
    excess = torch.where(usual.weights > 0, (by_band - usual.mean) / usual.spread, -torch.inf).tolist()
    first = last = int(np.argmax(excess))
    least = max(_MERGED * excess[first], 0.0)
    strangest = excess[first]
    while first > 0 and excess[first - 1] > least:
        first -= 1
    while last + 1 < len(excess) and excess[last + 1] > least:
        last += 1
    low, high = int(memory.bands[first, 0]), int(memory.bands[last, -1])
    squares, healthy = _parts(memory, own, usual)
    direction = (squares * (own.double() - healthy).sign())[low : high + 1].sum()
    return Finding(view.name, float(edges[low, 0]), float(edges[high, 1]), strangest, bool(direction > 0))


def _parts(memory: BandMemory, own: torch.Tensor, usual: Usual) -> tuple[torch.Tensor, torch.Tensor]:
    """What each mel band and statistic adds to the squared distance, and the healthy clip's; both (n_mels, size)."""
    bands, n_mels, size = memory.bands, *own.shape
    apart = memory.squared_distances(own)
    itself = apart.amax(0) < _SAME**2
    if not itself.all():
        # A clip that was learnt from is compared with the others: beside itself nothing is strange, or usual.
        apart[:, itself] = torch.inf
    closest = apart.argmin(1)
    squares = memory.differences(own, closest).square().view(*bands.shape, size)
    # In each band they add up to its squared distance; over its mel bands that is to be their mean.
    squares = squares * (usual.weights * bands.numel() / usual.mean.square())[:, None, None]
    healthy = memory.statistics[closest[:, None], bands].double()
    return _by_mel_band(squares, bands, n_mels), _by_mel_band(healthy, bands, n_mels)


def _by_mel_band(values: torch.Tensor, bands: torch.Tensor, n_mels: int) -> torch.Tensor:
    """From (n_bands, width, size) to (n_mels, size): the mean where bands overlap."""
    where = bands.flatten()
    total = torch.zeros(n_mels, values.shape[2], dtype=values.dtype).index_add_(0, where, values.flatten(0, 1))
    return total / where.bincount(minlength=n_mels)[:, None]
