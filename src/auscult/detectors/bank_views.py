"""Ways of summing up a clip: statistics over time of each mel band, and which frames are to blame for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
import torch

from auscult.nn.tracing import is_traced

_LOUD_SHARES = (0.03, 0.1, 0.3)
_QUIET_SHARES = (0.01, 0.1, 0.3)
"""About so large a share of the frames decides a ranked mean: of a ten-second clip, from 0.1 to 3 s."""

_LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Frames; with the usual front end from 0.03 to 1 s."""

_STRETCH = 64
"""Frames of which a modulation spectrum is taken at a time; 2 s."""

_RATES = (1, 2, 3, 5, 8, 12, 17, 24, 33)
"""Edges of the modulation bands, in bins of the spectrum of a stretch: about half an octave each, from 0.5 Hz."""

_LEAST = 0.03
"""dB. A change of the level smaller than this is none; its logarithm must end somewhere."""


class Heard:
    """What the views sum up, and what several of them want of it, worked out once and in 64 bits.

    Parameters
    ----------
    values : Tensor
        A log-mel, (n_frames, n_mels) in dB; or the tokens of an encoder, (n_times, n_bands, width).
    """

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values.double()

    @cached_property
    def rows(self) -> torch.Tensor:
        """Each mel band's levels over time side by side in memory, shape (n_mels, n_frames)."""
        return self.values.T.contiguous()

    @cached_property
    def changes(self) -> torch.Tensor:
        """`rows` less the mean of each."""
        return self.rows - self.rows.mean(1, keepdim=True)

    @cached_property
    def sums(self) -> torch.Tensor:
        """Sum of the squared `changes` of each mel band, shape (n_mels,)."""
        return self.changes.square().sum(1)

    @cached_property
    def ranked(self) -> torch.Tensor:
        """`rows`, each in order of loudness, the quietest frame first.

        NumPy sorts several times faster than torch, which a graph needs all the same. Log-mels have 32 bits, so that
        nothing is lost where as many are sorted: twice as fast.
        """
        if is_traced():
            return self.rows.sort().values
        return torch.from_numpy(np.sort(self.rows.float().numpy(), axis=1)).double()

    @cached_property
    def ranks(self) -> torch.Tensor:
        """Where each of `rows` is in `ranked`, shape (n_mels, n_frames)."""
        order = torch.from_numpy(np.argsort(self.rows.float().numpy(), axis=1))
        return torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))

    @cached_property
    def away(self) -> torch.Tensor:
        """Squared distance of each of `rows` to their median."""
        return (self.rows - self.rows.median(1, keepdim=True).values).square()


Describe = Callable[[Heard], torch.Tensor]
Blame = Callable[[Heard, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class View:
    """One way of summing up a clip.

    Attributes
    ----------
    name : str
        As in the settings.
    more, less : str
        As in an explanation, where a clip has more of it than healthy ones, or less.
    size : int
        Statistics of each mel band.
    describe : callable
        From what is heard to its statistics, (n_mels, size) in dB.
    blame : callable
        From what is heard, its statistics and a healthy clip's to non-negative weights, (size, n_mels, n_frames): how
        much each frame has to do with the difference. Only their proportions over the frames matter.
    """

    name: str
    more: str
    less: str
    size: int
    describe: Describe
    blame: Blame

    def share_out(
        self, heard: Heard, own: torch.Tensor, healthy: torch.Tensor, differences: torch.Tensor
    ) -> torch.Tensor:
        """Share out what distinguishes a clip from a healthy one among its frames, by `blame`.

        Parameters
        ----------
        heard : Heard
            The clip.
        own, healthy : Tensor, shape (n_mels, size)
            Its statistics, and the healthy clip's.
        differences : Tensor, shape (n_mels, size)
            How much each statistic counts.

        Returns
        -------
        Tensor, shape (n_mels, n_frames)
            The mean over the frames is the sum over the statistics; what no frame is to blame for is in all alike.
        """
        weights = self.blame(heard, own, healthy)
        mean, differences = weights.mean(2), differences.T
        blamed = mean > 1e-12
        evenly = differences.where(~blamed, 0).sum(0)
        shares = (differences / mean.clamp(min=1e-12)).where(blamed, 0)
        return torch.einsum("smt,sm->mt", weights, shares) + evenly[:, None]


# Means over all or some frames -------------------------------------------------------------------------


@lru_cache
def rank_weights(n_frames: int, shares: tuple[float, ...]) -> np.ndarray:
    """Weights of the frames of a band in order of loudness for each share, shape (n_frames, n_shares), sums 1.

    They fall as r^n with the rank n (global weighted ranking pooling: Kolesnikov and Lampert 2016), where
    r = exp(-1 / (share * n_frames)): r = 0.9 in a ten-second clip for a share of 3 %. Tied to the clip's length, so
    that a longer clip's statistics are alike; ours.
    """
    weights = np.exp(-np.arange(n_frames)[:, None] / (np.array(shares) * n_frames))
    return np.asarray(weights / weights.sum(0))


def _ranked(shares: tuple[float, ...], loudest: bool) -> Describe:
    def describe(heard: Heard) -> torch.Tensor:
        weights = torch.from_numpy(rank_weights(len(heard.values), shares))
        return heard.ranked @ (weights.flip(0) if loudest else weights)

    return describe


def _blame_ranked(shares: tuple[float, ...], loudest: bool) -> Blame:
    """The frames that decide the mean, as far as they are on the wrong side of the healthy value."""

    def blame(heard: Heard, own: torch.Tensor, healthy: torch.Tensor) -> torch.Tensor:
        weights = torch.from_numpy(rank_weights(len(heard.values), shares)).T
        return (weights.flip(1) if loudest else weights)[:, heard.ranks] * wrong_side(heard.rows, own, healthy)

    return blame


def wrong_side(rows: torch.Tensor, own: torch.Tensor, healthy: torch.Tensor) -> torch.Tensor:
    """How far each frame lies beyond the healthy value, in the direction in which the clip's lies.

    Parameters
    ----------
    rows : Tensor, shape (n_mels, n_frames), or (size, n_mels, n_frames) where each statistic has its own
    own, healthy : Tensor, shape (n_mels, size)

    Returns
    -------
    Tensor, shape (size, n_mels, n_frames)
    """
    beyond = rows - healthy.T[:, :, None]
    return (beyond * (own - healthy).sign().T[:, :, None]).clamp(min=0)


def _blame_level(heard: Heard, own: torch.Tensor, healthy: torch.Tensor) -> torch.Tensor:
    return wrong_side(heard.rows, own, healthy)


def _blame_loudest(heard: Heard, own: torch.Tensor, healthy: torch.Tensor) -> torch.Tensor:
    """The frames above the healthy maximum; all of them if none reaches it."""
    return (heard.rows - healthy.T[:, :, None]).clamp(min=0) * (own > healthy).T[:, :, None]


# Change over time --------------------------------------------------------------------------------------


def _log_rms(squares: torch.Tensor) -> torch.Tensor:
    return 10 * torch.log10(squares + _LEAST**2)


def _blame_spread(heard: Heard, own: torch.Tensor, healthy: torch.Tensor) -> torch.Tensor:
    """Too much change: the frames far from the band's median; too little: all."""
    return torch.where((own > healthy).T[:, :, None], heard.away, 1.0)


def _spread(heard: Heard) -> torch.Tensor:
    return (heard.sums / len(heard.values)).sqrt()[:, None]


def _jumps(heard: Heard) -> torch.Tensor:
    """Size of the change from a frame to the one some lag later, for several lags (the structure function).

    Together they say what the autocorrelation of the level says, so that a rhythm shows in them too, and are worked
    out from it: (a - b)^2 = a^2 + b^2 - 2ab. A lag longer than the clip is cut to its length.
    """
    changes, n = heard.changes, len(heard.values)
    lags = [min(lag, n - 1) for lag in _LAGS]
    first, last = changes[:, : lags[-1]], changes[:, n - lags[-1] :].flip(1)
    left_out = (first.square() + last.square()).cumsum(1)[:, [lag - 1 for lag in lags]]
    sums = 2 * (heard.sums[:, None] - _lagged_products(changes, lags)) - left_out
    return _log_rms(sums.clamp(min=0) / torch.tensor([n - lag for lag in lags]))


def _lagged_products(rows: torch.Tensor, lags: list[int]) -> torch.Tensor:
    """Scalar product of each row and itself some frames later, shape (n_rows, n_lags).

    NumPy takes half the time that torch does, which a graph needs all the same.
    """
    if is_traced():
        return torch.stack([(rows[:, lag:] * rows[:, :-lag]).sum(1) for lag in lags], 1)
    numbers = rows.numpy()
    return torch.from_numpy(np.stack([np.einsum("mt,mt->m", numbers[:, lag:], numbers[:, :-lag]) for lag in lags], 1))


def _blame_jumps(heard: Heard, own: torch.Tensor, healthy: torch.Tensor) -> torch.Tensor:
    """Too much change: of the two frames that differ, the one further from the band's median; too little: all."""
    rows, away = heard.rows, heard.away + 1e-9
    blame = torch.zeros(len(_LAGS), *rows.shape, dtype=rows.dtype)
    for total, lag in zip(blame, _LAGS, strict=True):
        n = max(rows.shape[1] - lag, 1)
        later, sooner = away[:, -n:], away[:, :n]
        change = (rows[:, -n:] - rows[:, :n]).square_().div_(later + sooner)
        total[:, -n:].addcmul_(change, later)
        total[:, :n].addcmul_(change, sooner)
    return torch.where((own > healthy).T[:, :, None], blame, 1.0)


def _rhythm(heard: Heard) -> torch.Tensor:
    """Spectrum of each band's level over time, in half octaves (Welch's method), shape (n_mels, size)."""
    n = len(heard.values)
    length = min(_STRETCH, n)
    starts = sorted({*range(0, n - length + 1, _STRETCH // 2), n - length})
    waves, bands = (torch.from_numpy(matrix) for matrix in _modulation(length))
    power = torch.zeros(len(heard.changes), waves.shape[1], dtype=torch.float64)
    for start in starts:
        part = heard.changes[:, start : start + length] @ waves
        power = power.addcmul(part, part)
    return _log_rms(power @ bands / len(starts))


@lru_cache
def _modulation(length: int) -> tuple[np.ndarray, np.ndarray]:
    """What a stretch of frames is multiplied by for its spectrum, and what the squares of that for their bands.

    A product with the 32 waves that are wanted costs half of what a transform does: stretches are short.

    Returns
    -------
    waves : ndarray of float64, shape (length, 64)
        Cosines and sines, windowed, each less what it makes of the stretch's mean.
    bands : ndarray of float64, shape (64, n_bands)
    """
    times = np.arange(length)
    window = np.sin(np.pi * (times + 1) / (length + 1)) ** 2 + 1e-3
    turns = 2 * np.pi * np.outer(times, np.arange(_RATES[0], _RATES[-1])) / _STRETCH
    waves = window[:, None] * np.concatenate([np.cos(turns), np.sin(turns)], 1) / np.sqrt(np.square(window).sum())
    rates = np.arange(_RATES[0], _RATES[-1])[:, None]
    bands = np.stack([(rates >= low) & (rates < high) for low, high in pairwise(_RATES)], 2)[:, 0]
    return waves - waves.mean(0), np.tile(bands / bands.sum(0), (2, 1))


# By name -----------------------------------------------------------------------------------------------

VIEWS: dict[str, View] = {
    view.name: view
    for view in (
        View(
            "level", "louder on the whole", "quieter on the whole", 1, lambda x: x.rows.mean(1)[:, None], _blame_level
        ),
        View("peak", "a louder peak", "a quieter peak", 1, lambda x: x.rows.amax(1)[:, None], _blame_loudest),
        View(
            "loudest",
            "louder in its loudest frames",
            "quieter in its loudest frames",
            len(_LOUD_SHARES),
            _ranked(_LOUD_SHARES, True),
            _blame_ranked(_LOUD_SHARES, True),
        ),
        View(
            "quietest",
            "louder in its quietest frames",
            "quieter in its quietest frames",
            len(_QUIET_SHARES),
            _ranked(_QUIET_SHARES, False),
            _blame_ranked(_QUIET_SHARES, False),
        ),
        View(
            "spread",
            "a less steady level",
            "a steadier level",
            1,
            _spread,
            _blame_spread,
        ),
        View("jumps", "more change over time", "less change over time", len(_LAGS), _jumps, _blame_jumps),
        View("rhythm", "a stronger rhythm", "a weaker rhythm", len(_RATES) - 1, _rhythm, _blame_spread),
    )
}
