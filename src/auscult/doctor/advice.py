"""Which detector to use, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from auscult.calibration import FEWEST, n_held_out
from auscult.corpus import Clip
from auscult.wording import counted

_RESTLESS_DB = 2.0
"""Restlessness of a machine that works in strokes: synthetic pumps, sliders, valves have 2 to 7, fans less than 1."""

_MANY = 200
"""Training clips from which a network that estimates densities is worth its training."""

_ENOUGH_OF_EACH = 20
"""Training clips of each machine ID from which a classifier of IDs is worth trying."""


@dataclass(frozen=True)
class Advice:
    """A detector to use.

    Attributes
    ----------
    detector : str
    why : str
    """

    detector: str
    why: str


def recommend(clips: Sequence[Clip]) -> Advice:
    """The detector that `fit` uses when none is named.

    Parameters
    ----------
    clips : sequence of Clip
        What is to be learnt from.
    """
    n_clips, n_machines = len(clips), len({(clip.machine_type, clip.machine_id) for clip in clips})
    of = counted(n_clips, "healthy clip")
    if n_machines > 1:
        of += f" of {n_machines} machines"
    return Advice(
        "bank",
        f"it needs no labels, learns from {of} in seconds, and says what is strange; "
        "of the detectors without labels it is the best on the synthetic machines",
    )


def alternatives(clips: Sequence[Clip], restlessness: float) -> list[Advice]:
    """What else is worth trying, the likeliest first.

    Parameters
    ----------
    clips : sequence of Clip
        What is to be learnt from.
    restlessness : float
        Median of the clips', in dB (see `auscult.doctor.listening.Heard`).
    """
    each = Counter((clip.machine_type, clip.machine_id) for clip in clips)
    kinds = Counter(kind for kind, _ in each)
    found = []
    if max(kinds.values(), default=0) > 1 and min(each.values()) >= _ENOUGH_OF_EACH:
        found.append(
            Advice("proxy-outlier", "several machine IDs with clips enough: a model an ID, the others its outliers")
        )
        found.append(Advice("stgram", "the same; it learns to tell the IDs apart, from waveform and log-mel"))
    if restlessness >= _RESTLESS_DB:
        found.append(Advice("pae", f"sound in strokes ({restlessness:.1f} dB up and down), which it predicts"))
        found.append(Advice("idnn", "the same in less time"))
    elif len(clips) >= _MANY:
        found.append(Advice("maf", f"steady sound and {len(clips)} clips: enough to estimate a density"))
    found.append(Advice("knn", "the bar that any other must clear, in a second"))
    return found


def promise(n_clips: int) -> str:
    """What false-alarm rate can be promised to a model of so many healthy clips."""
    held_out = n_held_out(n_clips)
    if not held_out:
        return f"with {n_clips} healthy clips no false-alarm rate can be promised; {FEWEST} are the least"
    lowest = 100 / (held_out + 1)
    return f"of {n_clips} healthy clips {held_out} would calibrate, so rates of false alarms from {lowest:.2g} % on"
