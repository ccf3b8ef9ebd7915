"""The sounds that synthetic machines are made of: shaped noise, harmonics of a rotation, ringing blows."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

RATE = 16_000
"""Sample rate, Hz."""

Wave = NDArray[np.floating[Any]]
"""Samples, or another course over the clip, shape (n,); float32 but for long sums."""

Curve = NDArray[np.floating[Any]]
"""Magnitudes at the frequencies of `GRID`."""

Turns = NDArray[np.float64]
"""Revolutions at each sample, shape (n,)."""

Span = tuple[float, float]

GRID = np.linspace(0.0, RATE / 2, 1001)
"""Frequencies at which a noise spectrum (a `Curve`) is given, Hz."""

_TABLE = 4096


def slope(db_per_octave: float) -> Curve:
    """Magnitude that falls (or rises) steadily above 60 Hz, shape (1001,)."""
    return (np.maximum(GRID, 60.0) / 1000.0) ** (db_per_octave / 6.02)


def bump(hz: float, width: float, gain_db: float) -> Curve:
    """Magnitude of one resonance `width` Hz wide, 1 far from it, shape (1001,)."""
    away: Curve = (GRID - hz) / width
    return 1.0 + (float(10.0 ** (gain_db / 20.0)) - 1.0) / (1.0 + away * away)


def band(low: float, high: float) -> Curve:
    """Magnitude 1 between `low` and `high` Hz and next to nothing outside, shape (1001,)."""
    edge = 0.04 * (high - low) + 10.0
    rise = np.clip((GRID - low) / edge, 0.0, 1.0)
    return rise * np.clip((high - GRID) / edge, 0.0, 1.0)


def noise(rng: Generator, n: int, curve: Curve) -> Wave:
    """Gaussian noise with the magnitude spectrum `curve` and RMS 1, shape (n,)."""
    spectrum = rng.standard_normal(2 * (n // 2 + 1), np.float32).view(np.complex64)
    magnitude = curve.astype(np.float32)[_grid_points(n)]
    magnitude *= np.float32(n / 2.0) / np.sqrt(np.sum(np.square(magnitude)))
    spectrum *= magnitude
    return np.fft.irfft(spectrum, n).astype(np.float32, copy=False)


@lru_cache(maxsize=64)
def _grid_points(n: int) -> NDArray[np.intp]:
    """The point of `GRID` nearest to each bin of an n-point Fourier transform."""
    bins = np.linspace(0.0, GRID.size - 1.0, n // 2 + 1)
    return np.round(bins).astype(np.intp)


def drift(rng: Generator, n: int, per_second: float = 2.0) -> Wave:
    """Wandering around 0: `per_second` standard normal values a second, straight between them, shape (n,)."""
    step = round(RATE / per_second)
    knots = rng.standard_normal(n // step + 2).astype(np.float32)
    ramp = np.arange(step, dtype=np.float32) / np.float32(step)
    return (knots[:-1, None] + np.diff(knots)[:, None] * ramp).ravel()[:n]


def turns(rng: Generator, n: int, hz: float | Wave, wander: float = 0.0, per_second: float = 2.0) -> Turns:
    """Revolutions since an arbitrary start of what turns at `hz`, give or take a share `wander`, shape (n,)."""
    speed = np.full(n, hz / RATE) if isinstance(hz, float) else hz / RATE
    if wander:
        speed = speed * (1.0 + wander * drift(rng, n, per_second))
    return np.cumsum(speed, dtype=np.float64) + rng.random()


def timbre(rng: Generator, gains: ArrayLike) -> Wave:
    """One period of harmonics 1, 2, … with amplitudes `gains`, random phases and RMS 1, shape (4096,)."""
    amplitudes = np.asarray(gains, np.float64)
    spectrum = np.zeros(_TABLE // 2 + 1, np.complex128)
    spectrum[1 : len(amplitudes) + 1] = amplitudes * np.exp(2j * np.pi * rng.random(len(amplitudes)))
    period = np.fft.irfft(spectrum)
    return unit(period).astype(np.float32)


def play(period: Wave, rotation: Turns) -> Wave:
    """A periodic sound at the pitch of a rotation, shape (n,)."""
    within = rotation - np.floor(rotation)
    within *= _TABLE
    return period.take(within.astype(np.int32), mode="wrap")


def tones(rng: Generator, rotation: Turns, gains: ArrayLike) -> Wave:
    """Harmonics of a rotation with random phases and RMS 1, shape (n,)."""
    return play(timbre(rng, gains), rotation)


def cycle(rotation: Turns) -> Wave:
    """Cosine of a rotation, shape (n,)."""
    return play(_COSINE, rotation)


_COSINE = np.cos(2.0 * np.pi * np.arange(_TABLE) / _TABLE).astype(np.float32)


def ring(hz: float, decay: float) -> Wave:
    """A resonance at `hz` struck once, dying away with time constant `decay` seconds; peak about 1."""
    t = np.arange(int(6.0 * decay * RATE) + 1) / RATE
    return (np.exp(-t / decay) * np.sin(2.0 * np.pi * hz * t)).astype(np.float32)


def burst(rng: Generator, curve: Curve, decay: float, attack: float = 0.001) -> Wave:
    """Noise that rises in `attack` seconds and dies away with time constant `decay` seconds; RMS 1 at its top."""
    t = np.arange(int(6.0 * decay * RATE) + 16) / RATE
    envelope = np.minimum(t / attack, 1.0) * np.exp(-np.maximum(t - attack, 0.0) / decay)
    return noise(rng, len(t), curve) * envelope.astype(np.float32)


def strikes(n: int, blow: Wave, seconds: Iterable[float], gains: Iterable[float]) -> Wave:
    """The same blow at many times with many strengths, shape (n,); what falls outside the clip is lost."""
    out = np.zeros(n, np.float32)
    for second, gain in zip(seconds, gains, strict=True):
        place(out, blow, second, gain)
    return out


def place(out: Wave, sound: Wave, second: float, gain: float = 1.0) -> None:
    """Add `sound` to `out` from `second` on; what falls outside is lost."""
    start = round(second * RATE)
    first, last = max(-start, 0), min(len(sound), len(out) - start)
    if first < last:
        out[start + first : start + last] += gain * sound[first:last]


def gate(n: int, when: Iterable[Span], edge: float = 1.0 / RATE) -> Wave:
    """1 at the times `when` and 0 outside, with ramps of `edge` seconds between, shape (n,)."""
    out = np.zeros(n, np.float32)
    for start, end in when:
        first, last = max(round(start * RATE), 0), min(round(end * RATE), n)
        if first < last:
            t = np.arange(first, last) / RATE
            out[first:last] = np.clip(np.minimum(t - start, end - t) / edge, 0.0, 1.0)
    return out


def passages(rotation: Turns) -> NDArray[np.float64]:
    """Seconds at which a rotation passes its mark."""
    return np.flatnonzero(np.diff(np.floor(rotation))) / RATE


def unit(sound: Wave) -> Wave:
    """The sound at RMS 1; silence stays silence."""
    rms = float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))
    return sound / np.float32(rms) if rms > 0.0 else sound


def factory(rng: Generator, n: int) -> Wave:
    """Background of a factory hall at RMS 1, never the same: rumble, hum, now and then a distant clank."""
    curve = slope(rng.uniform(-6.0, -3.0))
    for hz in np.exp(rng.uniform(np.log(150.0), np.log(6000.0), 3)):
        curve *= bump(hz, hz * rng.uniform(0.15, 0.5), rng.uniform(-6.0, 10.0))
    hall = noise(rng, n, curve) * (1.0 + 0.2 * drift(rng, n))
    mains = tones(rng, turns(rng, n, 50.0), rng.random(8) + 0.1)
    neighbour = tones(rng, turns(rng, n, rng.uniform(90.0, 600.0), 0.002), 0.6 ** np.arange(5))
    hall += rng.uniform(0.05, 0.25) * mains + rng.uniform(0.02, 0.2) * neighbour
    for _ in range(rng.poisson(n / RATE / 5.0)):
        place(hall, _clank(rng), rng.uniform(0.0, n / RATE), np.exp(rng.normal(0.0, 0.5)))
    return unit(hall)


def _clank(rng: Generator) -> Wave:
    low, *others = np.exp(rng.uniform(np.log(300.0), np.log(3000.0), 4))
    clank = ring(low, 0.12)
    for hz in others:
        clank += ring(hz, 0.12)
    return clank
