"""Machines made of arithmetic, for the demo and for tests: clips and whole plants in the DCASE 2020 layout."""

from __future__ import annotations

import csv
import json
import math
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray

from auscult.corpus.synthetic_machines import FAULTS, MACHINES
from auscult.corpus.synthetic_sounds import RATE, Wave, factory
from auscult.corpus.synthetic_take import Region, Take
from auscult.errors import AuscultError
from auscult.files import atomic, cannot_write, sweep
from auscult.parallel import map_in_order

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

    samples: NDArray[np.float32]
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
    """Name the first machines of a type as DCASE 2020 does: id_00, id_02, … and for toys id_01, id_02, …."""
    toy = machine_type.startswith("Toy")
    return tuple(f"id_{i + 1 if toy else 2 * i:02d}" for i in range(count))


def synthesise(
    machine_type: str,
    machine_id: str,
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
    _check_clip(machine_type, fault, severity, snr_db)
    length = (11.0 if machine_type == "ToyCar" else 10.0) if seconds is None else seconds
    _check_at_least(seconds=(length, 1), seed=(seed, 0), index=(index, 0))
    condition = condition or ("anomaly" if fault else "normal")
    which = (seed, machine_type, machine_id, split, condition, index)
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


def write_plant(
    root: str | os.PathLike[str],
    *,
    machine_types: Sequence[str] = MACHINE_TYPES,
    ids: int = 2,
    train: int = 60,
    test_normal: int = 20,
    test_anomaly: int = 20,
    severity: float = DEFAULT_SEVERITY,
    snr_db: float = DEFAULT_SNR_DB,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[], object] | None = None,
) -> None:
    """Write clips of several machines in the DCASE 2020 layout.

    The clips are `<root>/<type>/train/normal_id_00_00000000.wav` and so on, 16 kHz, mono, 16 bit; the
    anomalous clips of an ID have the faults of its type in turn. `<root>/faults.csv` says where each fault is
    heard, one row a place: `path, fault, severity, start_s, end_s, low_hz, high_hz`. `<root>/plant.json` keeps
    the parameters. A plant that is finished is left as it is, one that was interrupted is finished; the
    bytes do not depend on the interruption, nor on `workers`, nor one clip on how many others there are.

    Parameters
    ----------
    root : path
        The folder; made if need be.
    machine_types : sequence of str
        One or more of `MACHINE_TYPES`.
    ids : int
        Machines of each type.
    train, test_normal, test_anomaly : int
        Clips of each machine.
    severity, snr_db, seed
        As for `synthesise`.
    workers : int
        Threads; the arithmetic releases the interpreter.
    progress : callable, optional
        Called after each clip.

    Raises
    ------
    AuscultError
        If a parameter makes no sense, the folder holds another plant or someone's own recordings, or it cannot
        be written to.
    """
    home = Path(root)
    parameters = _parameters(machine_types, ids, train, test_normal, test_anomaly, severity, snr_db, seed)
    _check_at_least(workers=(workers, 1))
    if _finished(home, parameters):
        return
    _write_json(home / _PLANT, {"finished": False, **parameters})
    sweep(home, "*/*/*.wav.*")
    jobs = [
        _Job(machine_type, machine_id, split, condition, index)
        for machine_type in parameters["machine_types"]
        for machine_id in machine_ids(machine_type, ids)
        for split, condition, count in (
            ("train", "normal", train),
            ("test", "normal", test_normal),
            ("test", "anomaly", test_anomaly),
        )
        for index in range(count)
    ]
    make = partial(_write_clip, home=home, severity=severity, snr_db=snr_db, seed=seed)
    rows: list[_Row] = []
    for places in map_in_order(make, jobs, workers):
        rows += places
        if progress is not None:
            progress()
    _write_faults(home / "faults.csv", rows)
    _write_json(home / _PLANT, {"finished": True, **parameters})


_PLANT = "plant.json"
_RECIPE = 2  # changes whenever the same parameters would give other clips
_Row = tuple[str, str, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class _Job:
    machine_type: str
    machine_id: str
    split: str
    condition: str
    index: int

    @property
    def path(self) -> str:
        name = f"{self.condition}_{self.machine_id}_{self.index:08d}.wav"
        return f"{self.machine_type}/{self.split}/{name}"

    @property
    def fault(self) -> str | None:
        faults = faults_of(self.machine_type)
        return faults[self.index % len(faults)] if self.condition == "anomaly" else None


def _write_clip(job: _Job, *, home: Path, severity: float, snr_db: float, seed: int) -> list[_Row]:
    file = home / job.path
    if job.fault is None and file.exists():
        return []  # written whole or not at all, and by these parameters
    clip = synthesise(
        job.machine_type,
        job.machine_id,
        fault=job.fault,
        severity=severity,
        snr_db=snr_db,
        seed=seed,
        split=job.split,
        condition=job.condition,
        index=job.index,
    )
    with atomic(file) as temporary:
        samples = np.round(clip.samples * 32767.0).astype(np.int16)
        soundfile.write(temporary, samples, RATE, subtype="PCM_16", format="WAV")
    return [
        (job.path, job.fault, severity, round(r.start, 3), round(r.end, 3), round(r.low, 1), round(r.high, 1))
        for r in clip.regions
        if job.fault is not None
    ]


def _parameters(
    machine_types: Sequence[str],
    ids: int,
    train: int,
    test_normal: int,
    test_anomaly: int,
    severity: float,
    snr_db: float,
    seed: int,
) -> dict[str, Any]:
    """Check what a plant is made from, in the form in which `plant.json` keeps it."""
    for machine_type in machine_types:
        _check_type(machine_type)
        _check_clip(machine_type, None, severity, snr_db)
    counts = {"train": train, "test_normal": test_normal, "test_anomaly": test_anomaly}
    _check_at_least(
        machine_types=(len(machine_types), 1),
        ids=(ids, 1),
        seed=(seed, 0),
        **{name: (count, 0) for name, count in counts.items()},
    )
    return {
        "recipe": _RECIPE,
        "machine_types": list(dict.fromkeys(machine_types)),
        "ids": ids,
        **counts,
        "severity": float(severity),
        "snr_db": float(snr_db),
        "seed": seed,
    }


def _finished(home: Path, parameters: dict[str, Any]) -> bool:
    """Whether this very plant is there already; refuse a folder that holds anything it must not be mixed with."""
    file = home / _PLANT
    try:
        there = dict(json.loads(file.read_text()))
    except FileNotFoundError:
        foreign = [name for name in (*parameters["machine_types"], "faults.csv") if (home / name).exists()]
        if foreign:
            raise AuscultError(
                f"{home} already holds {foreign[0]}, which no {_PLANT} vouches for", "choose an empty folder"
            ) from None
        return False
    except (ValueError, TypeError) as error:
        raise AuscultError(f"{file} cannot be read", "delete the folder or choose another") from error
    except OSError as error:
        raise cannot_write(file, error) from error
    finished = there.pop("finished", False)
    if there != parameters:
        changed = [name for name, value in parameters.items() if there.get(name) != value]
        raise AuscultError(
            f"{home} already holds a plant made with other parameters ({', '.join(changed)})",
            "choose an empty folder, or delete this one to make the plant anew",
        )
    return bool(finished)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    with atomic(file) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def _write_faults(file: Path, rows: list[_Row]) -> None:
    with atomic(file) as temporary, open(temporary, "w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("path", "fault", "severity", "start_s", "end_s", "low_hz", "high_hz"))
        table.writerows(rows)


def _check_type(machine_type: str) -> None:
    if machine_type not in MACHINES:
        raise AuscultError(
            f"there is no synthetic machine type {machine_type!r}", f"choose from {', '.join(MACHINE_TYPES)}"
        )


def _check_clip(machine_type: str, fault: str | None, severity: float, snr_db: float) -> None:
    if fault is not None and fault not in FAULTS[machine_type]:
        raise AuscultError(
            f"a synthetic {machine_type} has no fault {fault!r}", f"choose from {', '.join(FAULTS[machine_type])}"
        )
    if not 0.0 <= severity <= 100.0:
        raise AuscultError(f"severity is {severity}", "give 0 (healthy) to 100; 1 is the calibrated strength")
    if not -100.0 <= snr_db <= 100.0:
        raise AuscultError(f"snr_db is {snr_db}", f"give -100 to 100 dB; {DEFAULT_SNR_DB:g} is the default")


def _check_at_least(**least: tuple[float, float]) -> None:
    for name, (value, bound) in least.items():
        if not value >= bound:
            raise AuscultError(f"{name} is {value}", f"give {bound} or more")


def _generator(*key: str | int) -> Generator:
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    return default_rng(SeedSequence(words))


def _rms(sound: Wave) -> float:
    return float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))


def _limited(sound: Wave) -> NDArray[np.float32]:
    """Bend what exceeds the knee smoothly towards, and never to, full scale."""
    over = np.abs(sound) > _KNEE
    if over.any():
        loud = sound[over]
        room = 0.99 - _KNEE
        sound[over] = np.sign(loud) * (_KNEE + room * np.tanh((np.abs(loud) - _KNEE) / room))
    return sound.astype(np.float32, copy=False)
