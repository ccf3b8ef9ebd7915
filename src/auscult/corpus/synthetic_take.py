"""One synthetic recording in the making, and the faults that several machines share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from auscult.corpus.synthetic_sounds import (
    RATE,
    Span,
    Turns,
    Wave,
    band,
    burst,
    cycle,
    gate,
    passages,
    place,
    ring,
    strikes,
    tones,
    turns,
    unit,
)


@dataclass(frozen=True, slots=True)
class Region:
    """Where in a clip a fault is heard: seconds from its beginning, and Hz."""

    start: float
    end: float
    low: float
    high: float


@dataclass
class Take:
    """One recording in the making.

    The three generators are apart so that a faulty clip is its healthy twin in all but the fault.

    Attributes
    ----------
    n : int
        Length in samples.
    machine, clip, wear : Generator
        Randomness of the machine ID (alike for all its clips), of this clip, and of the fault.
    fault : str
        Empty for a healthy machine.
    strength : float
        Severity times the fault's entry in `FAULTS`.
    change : ndarray of float32, shape (n,)
        What the fault adds to the healthy sound.
    regions : list of Region
        Where it does.
    """

    n: int
    machine: Generator
    clip: Generator
    wear: Generator
    fault: str = ""
    strength: float = 0.0
    change: Wave = field(init=False)
    regions: list[Region] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.change = np.zeros(self.n, np.float32)

    @property
    def seconds(self) -> float:
        """Length of the clip."""
        return self.n / RATE

    def add(self, sound: Wave, low: float, high: float, when: Iterable[Span] | None = None) -> None:
        """Let the fault add `sound`, heard from `low` to `high` Hz at the times `when` (else throughout)."""
        self.change += sound
        spans = [(0.0, self.seconds)] if when is None else when
        self.regions += [Region(start, end, low, high) for start, end in _merged(spans, self.seconds)]


def bearing(take: Take, rotation: Turns, hz: float) -> None:
    """Blows of a cracked outer race on its resonance, louder once a turn; strength: their RMS."""
    at = passages(3.57 * rotation)
    load = 1.0 + 0.5 * np.interp(at, np.arange(take.n) / RATE, cycle(rotation))
    slip = take.wear.normal(0.0, 0.001, len(at))
    blows = strikes(take.n, ring(hz, 0.002), at + slip, load * take.wear.lognormal(0.0, 0.2, len(at)))
    take.add(take.strength * unit(blows), hz - 800.0, hz + 800.0)


def missing_strokes(take: Take, working: Wave, strokes: list[Span], hum: float) -> None:
    """Let some strokes fail: the drive only hums, at RMS `hum`; strength: the share of them."""
    failed = _some(take, strokes, take.strength)
    held = gate(take.n, failed)
    mains = tones(take.wear, turns(take.wear, take.n, 100.0), 0.8 ** np.arange(10))
    take.add((hum * mains - working) * held, 0.0, RATE / 2, failed)


def late_strokes(take: Take, working: Wave, strokes: list[Span], delay: float, jerk: float) -> None:
    """Let a third of the strokes break away `delay` seconds late, before the next at the latest, with a jerk.

    `jerk` is the peak of the blow at breaking away per unit of strength.
    """
    delay = min(delay, 0.95 * min(b[0] - a[1] for a, b in pairwise(strokes)))
    late = _some(take, strokes, 1.0 / 3.0)
    held = working * gate(take.n, late)
    moved = np.zeros_like(held)
    place(moved, held, delay)
    blow = burst(take.wear, band(800.0, 4000.0), 0.01)
    jerks = strikes(take.n, blow, [start + delay for start, _ in late], [jerk * take.strength] * len(late))
    take.add(moved - held + jerks, 0.0, RATE / 2, [(start, end + delay) for start, end in late])


def _some(take: Take, strokes: list[Span], share: float) -> list[Span]:
    """Each stroke with probability `share`, and one that is wholly in the clip whatever the dice say."""
    dice = take.wear.random(len(strokes))
    whole = [i for i, (start, end) in enumerate(strokes) if start > 0.0 and end < take.seconds]
    if whole:
        dice[take.wear.choice(whole)] = 0.0
    return [stroke for stroke, die in zip(strokes, dice, strict=True) if die < share]


def episodes(take: Take, most: int, shortest: float, longest: float) -> list[Span]:
    """From one to `most` times at which a fault shows."""
    lengths = take.wear.uniform(shortest, longest, int(take.wear.integers(1, most + 1)))
    starts = take.wear.uniform(0.0, np.maximum(take.seconds - lengths, 0.0))
    return _merged([(float(s), float(s + d)) for s, d in zip(starts, lengths, strict=True)], take.seconds)


def during(times: NDArray[np.float64], when: list[Span]) -> NDArray[np.float64]:
    """Those of `times` (seconds) that fall into `when`, in order."""
    return np.sort([t for t in times if any(start <= t < end for start, end in when)])


def lengthened(when: list[Span], tail: float) -> list[Span]:
    """Each time with `tail` seconds more, in which the last blow dies away."""
    return [(start, end + tail) for start, end in when]


def confined(sound: Wave, rms: float, when: list[Span]) -> Wave:
    """`sound`, confined to `when`, with this RMS there."""
    seconds = sum(end - start for start, end in when)
    return unit(sound) * np.float32(rms * np.sqrt(len(sound) / RATE / seconds))


def _merged(spans: Iterable[Span], seconds: float) -> list[Span]:
    """Cut to the clip, in order, and joined where they overlap."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        first, last = max(float(start), 0.0), min(float(end), seconds)
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        elif first < last:
            merged.append((first, last))
    return merged
