"""The whole examination of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from auscult.corpus import Clip, Manifest
from auscult.corpus.summary import Summary, summarise
from auscult.doctor.advice import Advice, alternatives, promise, recommend
from auscult.doctor.dangers import by_machine, dangers, for_training
from auscult.doctor.listening import Heard, listen
from auscult.errors import AuscultError


@dataclass(frozen=True)
class Machine:
    """How a machine sounds, by its clips for training, or all if there is none.

    Attributes
    ----------
    machine : str
    clips : int
        Listened to.
    level : float
        Median, dB below full scale.
    restlessness : float
        Median; see `auscult.doctor.listening.Heard`.
    """

    machine: str
    clips: int
    level: float
    restlessness: float


@dataclass(frozen=True)
class Examination:
    """What was found.

    Attributes
    ----------
    summary : Summary
    machines : list of Machine
    dangers : list of str
    promise : str
    advice : Advice
    alternatives : list of Advice
    """

    summary: Summary
    machines: list[Machine]
    dangers: list[str]
    promise: str
    advice: Advice
    alternatives: list[Advice]

    def lines(self) -> list[str]:
        """The whole as plain text."""
        wide = max(len(one.machine) for one in self.machines)
        sounds = [
            f"{one.machine:<{wide}}  {one.level:6.1f} dB below full scale, up and down by {one.restlessness:.1f} dB"
            for one in self.machines
        ]
        return [
            *self.summary.lines(),
            "",
            *sounds,
            "",
            *(f"caution: {danger}" for danger in self.dangers or ["nothing heard that would mislead a detector"]),
            f"note: {self.promise}",
            "",
            f"use {self.advice.detector}: {self.advice.why}",
            *(f"or {one.detector}: {one.why}" for one in self.alternatives),
        ]

    def facts(self) -> dict[str, Any]:
        """The whole as JSON can hold it."""
        return {
            "clips": self.summary.n_clips,
            "problems": self.summary.problems,
            "machines": [asdict(one) for one in self.machines],
            "cautions": self.dangers,
            "promise": self.promise,
            "use": asdict(self.advice),
            "alternatives": [asdict(one) for one in self.alternatives],
        }


def examine(manifest: Manifest) -> Examination:
    """Read all headers, listen to some clips of each machine, and say what to do.

    Raises
    ------
    AuscultError
        If no clip can be read.
    """
    summary = summarise(manifest)
    heard = listen(manifest)
    if not heard:
        first = f": {summary.problems[0]}" if summary.problems else ""
        raise AuscultError(f"none of {len(manifest)} clips can be read{first}", "check the recordings")
    learnt = manifest.for_training().clips() or [one.clip for one in heard]
    machines = [_machine(name, its) for name, its in by_machine(heard)]
    restlessness = median(one.restlessness for one in for_training(heard) or heard)
    others = alternatives(learnt, restlessness)
    return Examination(summary, machines, dangers(heard), promise(_of_one_machine(learnt)), recommend(learnt), others)


def _machine(name: str, heard: Sequence[Heard]) -> Machine:
    own = for_training(heard) or heard
    return Machine(name, len(own), median(o.level for o in own), median(o.restlessness for o in own))


def _of_one_machine(clips: Sequence[Clip]) -> int:
    """Clips of the machine type that has the fewest: one model each is usual."""
    types: dict[str, int] = {}
    for clip in clips:
        types[clip.machine_type] = types.get(clip.machine_type, 0) + 1
    return min(types.values())
