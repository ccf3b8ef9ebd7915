"""The scales that pictures share, large and small: colours, decibels, multiples of the healthy level, ticks."""

from __future__ import annotations

import numpy as np

from auscult.features import FrontEnd

SPECTROGRAM_COLOURS, MAP_COLOURS = "Greys", "inferno"

_OCTAVES = (31, 62, 125, 250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000)


def decibel_range(logmel: np.ndarray) -> tuple[float, float]:
    """From which level to which a log-mel in dB is drawn: at most some 70 dB, a few loud bins aside."""
    low, high = np.quantile(logmel, (0.02, 0.998))
    return max(low, high - 70.0) - 3.0, high + 1.0


def map_ceiling(relative: np.ndarray) -> float:
    """Which multiple of the healthy level is the brightest colour: 30, or more where much exceeds it."""
    peak = float(np.quantile(relative, 0.998))
    return next((step for step in (30.0, 100.0, 300.0) if peak <= step), 1000.0)


def frequency_ticks(front_end: FrontEnd, apart: float = 0.085) -> list[tuple[float, str]]:
    """Octaves that fall on the mel axis, at least `apart` of its length from one another.

    Returns
    -------
    list of (position, label)
        Position in bands, 0 at the middle of the lowest.
    """
    centres = front_end.band_centres()
    ticks: list[tuple[float, str]] = []
    for hertz in reversed(_OCTAVES):
        if not centres[0] <= hertz <= centres[-1] * 1.03:
            continue
        position = float(np.interp(hertz, centres, np.arange(len(centres))))
        if not ticks or ticks[-1][0] - position >= apart * len(centres):
            ticks.append((position, f"{hertz // 1000} kHz" if hertz >= 1000 else f"{hertz} Hz"))
    return ticks[::-1]


def round_numbers(low: float, high: float, most: int) -> list[float]:
    """Steps of 1, 2 or 5 from `low` to `high`, in at most `most` intervals."""
    from matplotlib.ticker import MaxNLocator

    numbers = MaxNLocator(most, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(number) for number in numbers if low <= number <= high]


def even_edges(n: int, most: int) -> np.ndarray:
    """Cut `n` bins into at most `most` stretches of equal length: where each begins, and `n`."""
    return np.unique(np.linspace(0, n, min(n, most) + 1).round().astype(int))
