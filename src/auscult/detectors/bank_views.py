"""Ways of summing up a clip: statistics over time of each mel band, and which frames are to blame for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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

Describe = Callable[[torch.Tensor], torch.Tensor]
Blame = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


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
        From a log-mel, (n_frames, n_mels) in dB, to its statistics, (n_mels, size) in dB.
    blame : callable
        From a log-mel, its statistics and a healthy clip's to non-negative weights, (size, n_frames, n_mels): how
        much each frame has to do with the difference. Only their proportions over the frames matter.
    """

    name: str
    more: str
    less: str
    size: int
    describe: Describe
    blame: Blame

    def shares(self, logmel: torch.Tensor, own: torch.Tensor, healthy: torch.Tensor) -> torch.Tensor:
        """`blame` with a mean of 1 over the frames of each mel band and statistic; even where no frame is to blame.

        Returns
        -------
        Tensor, shape (size, n_frames, n_mels)
        """
        weights = self.blame(logmel, own, healthy)
        mean = weights.mean(1, keepdim=True)
        return torch.where(mean > 1e-12, weights / mean.clamp(min=1e-12), 1.0)


# Means over all or some frames -------------------------------------------------------------------------


def rank_weights(n_frames: int, share: float) -> torch.Tensor:
    """Weights of the frames of a band in order of loudness, shape (n_frames,), sum 1.

    They fall as r^n with the rank n (global weighted ranking pooling: Kolesnikov and Lampert 2016), where
    r = exp(-1 / (share * n_frames)): r = 0.9 in a ten-second clip for a share of 3 %. Tied to the clip's length, so
    that a longer clip's statistics are alike; ours.
    """
    weights = torch.exp(-torch.arange(n_frames, dtype=torch.float64) / (share * n_frames))
    return weights / weights.sum()


def in_order(rows: torch.Tensor, descending: bool) -> torch.Tensor:
    """Each row's numbers by size. NumPy sorts several times faster than torch, which a graph needs all the same.

    Log-mels have 32 bits, so that nothing is lost where as many are sorted: twice as fast.
    """
    if is_traced():
        return rows.contiguous().sort(descending=descending).values
    ascending = torch.from_numpy(np.sort(rows.float().numpy(), axis=1)).to(rows.dtype)
    return ascending.flip(1) if descending else ascending


def _ranked(shares: tuple[float, ...], loudest: bool) -> Describe:
    def describe(logmel: torch.Tensor) -> torch.Tensor:
        ranked = in_order(logmel.T, loudest)
        return torch.stack([ranked @ rank_weights(len(logmel), share) for share in shares], 1)

    return describe


def _blame_ranked(shares: tuple[float, ...], loudest: bool) -> Blame:
    """The frames that decide the mean, as far as they are on the wrong side of the healthy value."""

    def blame(logmel: torch.Tensor, own: torch.Tensor, healthy: torch.Tensor) -> torch.Tensor:
        ranks = logmel.argsort(dim=0, descending=loudest).argsort(dim=0)
        weights = torch.stack([rank_weights(len(logmel), share) for share in shares])[:, ranks]
        return weights * wrong_side(logmel, own, healthy)

    return blame


def wrong_side(logmel: torch.Tensor, own: torch.Tensor, healthy: torch.Tensor) -> torch.Tensor:
    """How far each frame lies beyond the healthy value, in the direction in which the clip's lies.

    Parameters
    ----------
    logmel : Tensor, shape (n_frames, n_mels), or (size, n_frames, n_mels) where each statistic has its own
    own, healthy : Tensor, shape (n_mels, size)

    Returns
    -------
    Tensor, shape (size, n_frames, n_mels)
    """
    beyond = logmel - healthy.T[:, None]
    return (beyond * (own - healthy).sign().T[:, None]).clamp(min=0)


def _blame_loudest(logmel: torch.Tensor, own: torch.Tensor, healthy: torch.Tensor) -> torch.Tensor:
    """The frames above the healthy maximum; all of them if none reaches it."""
    return (logmel - healthy.T[:, None]).clamp(min=0) * (own > healthy).T[:, None]


# Change over time --------------------------------------------------------------------------------------


def _log_rms(squares: torch.Tensor) -> torch.Tensor:
    return 10 * torch.log10(squares + _LEAST**2)


def _blame_spread(logmel: torch.Tensor, own: torch.Tensor, healthy: torch.Tensor) -> torch.Tensor:
    """Too much change: the frames far from the band's median; too little: all."""
    away = (logmel - logmel.median(0).values).square()
    return torch.where((own > healthy).T[:, None], away, 1.0)


def _jumps(logmel: torch.Tensor) -> torch.Tensor:
    """Size of the change from a frame to the one some lag later, for several lags (the structure function).

    Together they say what the autocorrelation of the level says, so that a rhythm shows in them too. A lag longer
    than the clip is cut to its length.
    """
    sizes = [_lagged(logmel, lag).square().mean(0) for lag in _LAGS]
    return _log_rms(torch.stack(sizes, 1))


def _lagged(logmel: torch.Tensor, lag: int) -> torch.Tensor:
    lag = min(lag, len(logmel) - 1)
    return logmel[lag:] - logmel[: len(logmel) - lag]


def _blame_jumps(logmel: torch.Tensor, own: torch.Tensor, healthy: torch.Tensor) -> torch.Tensor:
    """Too much change: of the two frames that differ, the one further from the band's median; too little: all."""
    away = (logmel - logmel.median(0).values).square() + 1e-9
    blame = torch.zeros(len(_LAGS), *logmel.shape, dtype=logmel.dtype)
    for total, lag in zip(blame, _LAGS, strict=True):
        change = _lagged(logmel, lag).square()
        n = len(change)
        later, sooner = away[len(away) - n :], away[:n]
        total[len(total) - n :] += change * later / (later + sooner)
        total[:n] += change * sooner / (later + sooner)
    return torch.where((own > healthy).T[:, None], blame, 1.0)


def _rhythm(logmel: torch.Tensor) -> torch.Tensor:
    """Spectrum of each band's level over time, in half octaves (Welch's method), shape (n_mels, size)."""
    length = min(_STRETCH, len(logmel))
    starts = sorted({*range(0, len(logmel) - length + 1, _STRETCH // 2), len(logmel) - length})
    rows = logmel.T.contiguous()
    stretches = torch.stack([rows[:, start : start + length] for start in starts])
    window = torch.hann_window(length + 1, dtype=logmel.dtype)[1:] + 1e-3
    level = stretches - stretches.mean(2, keepdim=True)
    spectra = torch.fft.rfft(level * window, n=_STRETCH)
    power = (spectra.real.square() + spectra.imag.square()).mean(0) / window.square().sum()
    return _log_rms(torch.stack([power[:, low:high].mean(1) for low, high in pairwise(_RATES)], 1))


# By name -----------------------------------------------------------------------------------------------

VIEWS: dict[str, View] = {
    view.name: view
    for view in (
        View("level", "louder on the whole", "quieter on the whole", 1, lambda x: x.mean(0)[:, None], wrong_side),
        View("peak", "a louder peak", "a quieter peak", 1, lambda x: x.amax(0)[:, None], _blame_loudest),
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
            lambda x: (x - x.mean(0)).square().mean(0).sqrt()[:, None],
            _blame_spread,
        ),
        View("jumps", "more change over time", "less change over time", len(_LAGS), _jumps, _blame_jumps),
        View("rhythm", "a stronger rhythm", "a weaker rhythm", len(_RATES) - 1, _rhythm, _blame_spread),
    )
}
