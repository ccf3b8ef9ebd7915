"""Clips of synthetic machines, for the benchmarks that look into a detector."""

from __future__ import annotations

from typing import Any

from auscult.corpus import Clip
from auscult.corpus.synthetic import RATE, faults_of, synthesise


def clips(
    machine_type: str, machine_id: str, split: str, condition: str, count: int, *, first: int = 0, **more: Any
) -> list[Clip]:
    """Clips of one machine from number `first` on; anomalous ones have the faults of the type in turn.

    `more` is what `synthesise` takes besides.
    """
    faults, made = faults_of(machine_type), []
    for k in range(count):
        fault = faults[k % len(faults)] if condition == "anomaly" else None
        which = {"split": split, "condition": condition, "index": first + k}
        sound = synthesise(machine_type, machine_id, fault=fault, **which, **more)
        name = f"{machine_type}/{split}/{condition}_{machine_id}_{first + k:03d}"
        made.append(Clip(name, None, machine_type, machine_id, split, condition, samples=sound.samples, rate=RATE))
    return made
