"""The smoke form of an experiment: everything happens, nothing is learnt; minutes in place of days."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auscult.benchmark.corpus import Corpus
from auscult.benchmark.experiment import Experiment, Plant, Row, Special
from auscult.corpus import Manifest
from auscult.corpus.synthetic import MACHINE_TYPES, RATE, faults_of, machine_ids, synthesise
from auscult.detectors import registry
from auscult.detectors.ensemble import Member
from auscult.files import atomic

AT_MOST: dict[str, float] = {
    "max_steps": 2,
    "batch_size": 18,
    "frames": 32,
    "hop": 16,
    "hidden": 64,
    "blocks": 2,
    "steps": 1,
    "folds": 3,
    "warm_up_steps": 1,
    "max_clips": 6,
    "seconds": 1.0,
    "seeds": 1,
    "width": 16,
    "feed_forward": 16,
}
"""Settings, of whichever detector has them, are taken down to these."""

FEW = {"train": 4, "test": 2}
"""Clips of each machine and condition that are used."""

SECONDS = 2.0
"""Length of the clips of a plant: maps of long ones take their time."""


def smoke(experiment: Experiment) -> Experiment:
    """The same rows on the same data, with settings that end at once; its figures are worth nothing.

    Its name ends in `-smoke`, so that its runs are never taken for those of the experiment itself.
    """
    source = experiment.data
    if source.plant is not None:
        sizes = {"train": FEW["train"], "test_normal": FEW["test"], "test_anomaly": FEW["test"]}
        two_types = {"machine_types": experiment.machine_types[:2]}
        plant = Plant.model_validate({**source.plant.model_dump(), **sizes, **two_types})
        source = source.model_copy(update={"plant": plant})
    elif source.sets is not None:
        two_sets = {name: folder for name, folder in source.sets.items() if name in experiment.machine_types[:2]}
        source = source.model_copy(update={"sets": two_sets})
    return experiment.model_copy(
        update={
            "name": f"{experiment.name}-smoke",
            "title": f"{experiment.title} (smoke form: the figures mean nothing)",
            "preset": "quick",
            "seeds": experiment.seeds[:1],
            "data": source,
            "rows": [_row(row) for row in experiment.rows],
        }
    )


def few(corpus: Corpus) -> Corpus:
    """The first clips of each machine, split and condition: enough to see that everything runs."""
    table = corpus.table
    place = table.groupby(["machine_type", "machine_id", "split", "condition", "subset"]).cumcount()
    kept = table[place < table["split"].map(FEW).fillna(0)].reset_index(drop=True)
    return Corpus(Manifest(kept, corpus.manifest.root), corpus.notes, corpus.also)


def write_small_plant(folder: Path, plant: Plant) -> None:
    """Write a plant of short clips."""
    for machine_type in plant.machine_types or MACHINE_TYPES:
        for machine_id in machine_ids(machine_type, plant.ids):
            write_machine(folder / machine_type, machine_type, machine_id, plant)


def write_machine(folder: Path, machine_type: str, machine_id: str, plant: Plant, named: bool = True) -> list[str]:
    """Write the clips of one machine as DCASE 2020 names them, those that are not there yet.

    Parameters
    ----------
    folder : Path
        Of the machine type.
    machine_type, machine_id : str
    plant : Plant
        How many clips, how faulty.
    named : bool
        Whether the names of test clips tell their condition; those of the evaluation data do not.

    Returns
    -------
    list of str
        Of test clips whose names do not tell: name and 0 or 1, for normal or anomalous, as the list of ground truth
        has them.
    """
    import soundfile

    counts = {("train", "normal"): plant.train, ("test", "normal"): plant.test_normal}
    counts["test", "anomaly"] = plant.test_anomaly
    truth: list[str] = []
    for (split, condition), count in counts.items():
        for index in range(count):
            name = f"{condition}_{machine_id}_{index:08d}.wav"
            if split == "test" and not named:
                name = f"{machine_id}_{len(truth):08d}.wav"
                truth.append(f"{name},{int(condition == 'anomaly')}")
            file = folder / split / name
            if file.exists():
                continue
            faults = faults_of(machine_type)
            clip = synthesise(
                machine_type,
                machine_id,
                fault=faults[index % len(faults)] if condition == "anomaly" else None,
                severity=plant.severity,
                snr_db=plant.snr_db,
                seconds=SECONDS,
                seed=plant.seed,
                split=split,
                condition=condition,
                index=index,
            )
            with atomic(file) as temporary:
                soundfile.write(temporary, (clip.samples * 32767).astype("int16"), RATE, format="WAV")
    return truth


def _row(row: Row) -> Row:
    if row.detector not in registry.detectors():
        return row
    by_type = {
        machine_type: Special(settings=_small(special.settings), outliers=special.outliers)
        for machine_type, special in row.by_type.items()
    }
    return row.model_copy(
        update={
            "preset": "quick",
            "settings": _small({**_taken_down(row.detector), **row.settings}),
            "by_type": by_type,
            "seeds": row.seeds[:1] if row.seeds else None,
        }
    )


def _taken_down(detector: str) -> dict[str, Any]:
    """Settings of the quick preset that are too large, made small."""
    kind = registry.get(detector)
    usual = {name: field.get_default(call_default_factory=True) for name, field in kind.Config.model_fields.items()}
    usual |= kind.presets["quick"]
    parts = {name: {**usual[name], "max_steps": AT_MOST["max_steps"]} for name in usual if name.endswith("_settings")}
    return {name: small for name, small in _small(usual | parts).items() if small != usual[name]}


def _small(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with no number larger than it may be; those of a part, and an ensemble's members, likewise."""
    small = {
        name: _small(value) if isinstance(value, Mapping) else _at_most(value, AT_MOST.get(name))
        for name, value in settings.items()
    }
    return small if "members" not in small else {**small, "members": [_member(one) for one in small["members"]]}


def _member(member: Any) -> dict[str, Any]:
    described = Member.model_validate({"detector": member} if isinstance(member, str) else member)
    settings = _small({**_taken_down(described.detector), **described.settings})
    return {"detector": described.detector, "settings": settings}


def _at_most(value: Any, limit: float | None) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return type(value)(limit) if number and limit is not None and value > limit else value
