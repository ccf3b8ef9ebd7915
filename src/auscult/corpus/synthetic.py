"""Machines made of arithmetic, for the demo and for tests: clips and whole plants in the DCASE 2020 layout."""

from __future__ import annotations

import csv
import json
import math
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng

from auscult.corpus.synthetic_machines import FAULTS, MACHINES
from auscult.corpus.synthetic_sounds import RATE, Wave, factory, unit
from auscult.corpus.synthetic_take import Region, Take
from auscult.errors import AuscultError
from auscult.files import atomic, cannot_write

__all__ = [
    "DEFAULT_SEVERITY",
    "DEFAULT_SNR_DB",
    "MACHINE_TYPES",
    "RATE",
    "Region",
    "SyntheticClip",
    "faults_of",
    "machine_ids",
    "synthesise",
    "write_plant",
]

MACHINE_TYPES: tuple[str, ...] = tuple(MACHINES)
"""The machine types of DCASE 2020 Task 2."""

DEFAULT_SEVERITY = 1.0
"""Hard enough that detectors differ; 0 is a healthy machine, 3 a plain failure."""

DEFAULT_SNR_DB = 6.0
"""Machine over factory background, the cleanest of MIMII's three."""

_LEVEL = 0.02
_KNEE = 0.7


@dataclass(frozen=True, slots=True, eq=False)
class SyntheticClip:
    """One clip and where its fault is heard.

    Attributes
    ----------
    samples : ndarray of float32, shape (n_samples,)
        At `RATE` Hz, within (-1, 1).
    regions : tuple of Region
        In time order; empty for a healthy machine. A fault that shows throughout has one region of the clip's
        length, one without a band of its own reaches from 0 Hz to `RATE` / 2.
    """

    samples: Wave
    regions: tuple[Region, ...]


def faults_of(machine_type: str) -> tuple[str, ...]:
    """Name the faults that a machine type can have.

    Raises
    ------
    AuscultError
        If there is no such machine type.
    """
    _check_type(machine_type)
    return tuple(FAULTS[machine_type])


def machine_ids(machine_type: str, count: int) -> tuple[str, ...]:
    """Name the first `count` machines of a type as DCASE 2020 does: id_00, id_02, …; toys id_01, id_02, …"""
    toy = machine_type.startswith("Toy")
    return tuple(f"id_{i + 1 if toy else 2 * i:02d}" for i in range(count))


def synthesise(
    machine_type: str,
    machine_id: str = "id_01",
    *,
    fault: str | None = None,
    severity: float = DEFAULT_SEVERITY,
    snr_db: float = DEFAULT_SNR_DB,
    seconds: float | None = None,
    seed: int = 0,
    split: str = "train",
    condition: str | None = None,
    index: int = 0,
) -> SyntheticClip:
    """Make one clip.

    The machine's character follows from type and ID alone; all that differs between its clips follows from
    those, `seed`, `split`, `condition` and `index`. A fault changes nothing else: with `fault=None` but
    `condition="anomaly"` one gets the healthy twin of a faulty clip.

    Parameters
    ----------
    machine_type, machine_id : str
        A type of `MACHINE_TYPES`, and any name for the machine.
    fault : str, optional
        One of `faults_of(machine_type)`; None for a healthy machine.
    severity : float
        0 is healthy, 1 the calibrated strength, more is worse.
    snr_db : float
        Power of the healthy machine over that of the factory background, dB. The level of the two together
        is kept.
    seconds : float, optional
        Length; by default that of the challenge, 11 s for ToyCar and 10 s for the others.
    seed, split, condition, index
        Which of the endlessly many clips; `condition` is by default "anomaly" with a fault, else "normal".

    Returns
    -------
    SyntheticClip

    Raises
    ------
    AuscultError
        If the type or the fault is not known, or a number makes no sense.
    """
    _check_type(machine_type)
    _check_clip(machine_type, fault, severity, snr_db, seconds)
    condition = condition or ("anomaly" if fault else "normal")
    which = (seed, machine_type, machine_id, split, condition, index)
    length = seconds or (11.0 if machine_type == "ToyCar" else 10.0)
    take = Take(
        n=round(length * RATE),
        machine=_generator(machine_type, machine_id),
        clip=_generator("machine", *which),
        wear=_generator("fault", *which),
        fault=fault if fault and severity > 0.0 else "",
        strength=severity * FAULTS[machine_type][fault] if fault else 0.0,
    )
    sound = MACHINES[machine_type](take)
    hall = _generator("hall", *which)
    background = factory(hall, take.n)
    level = _LEVEL * 10.0 ** (hall.normal(0.0, 1.0) / 20.0)
    noise_share = 1.0 / (1.0 + 10.0 ** (snr_db / 10.0))
    gain = level * math.sqrt(1.0 - noise_share) / _rms(sound)
    mixed = gain * (sound + take.change) + level * math.sqrt(noise_share) * background
    return SyntheticClip(_limited(mixed), tuple(sorted(take.regions, key=lambda region: region.start)))


def _check_type(machine_type: str) -> None:
    if machine_type not in MACHINES:
        raise AuscultError(
            f"there is no synthetic machine type {machine_type!r}", f"choose from {', '.join(MACHINE_TYPES)}"
        )


def _check_clip(
    machine_type: str, fault: str | None, severity: float, snr_db: float, seconds: float | None
) -> None:
    if fault is not None and fault not in FAULTS[machine_type]:
        raise AuscultError(
            f"a synthetic {machine_type} has no fault {fault!r}",
            f"choose from {', '.join(FAULTS[machine_type])}",
        )
    if not (math.isfinite(severity) and severity >= 0.0):
        raise AuscultError(f"severity is {severity}", "give 0 (healthy) or more; 1 is the calibrated strength")
    if not math.isfinite(snr_db):
        raise AuscultError(f"snr_db is {snr_db}", "give a finite number of dB; 6 is the default")
    if seconds is not None and not 1.0 <= seconds <= 3600.0:
        raise AuscultError(f"seconds is {seconds}", "give between 1 and 3600")


def _generator(*key: str | int) -> Generator:
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    return default_rng(SeedSequence(words))


def _rms(sound: Wave) -> float:
    return float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))


def _limited(sound: Wave) -> Wave:
    """Bend what exceeds the knee smoothly towards, and never to, full scale."""
    over = np.abs(sound) > _KNEE
    if over.any():
        loud = sound[over]
        room = 0.99 - _KNEE
        sound[over] = np.sign(loud) * (_KNEE + room * np.tanh((np.abs(loud) - _KNEE) / room))
    return sound.astype(np.float32, copy=False)
