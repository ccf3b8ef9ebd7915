"""What an experiment runs on: recordings on disk or a plant made for it, each clip in its subset."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from auscult.benchmark.experiment import Experiment, Plant
from auscult.benchmark.selection import Selection
from auscult.corpus import Manifest, open_data
from auscult.errors import AuscultError

if TYPE_CHECKING:
    import pandas as pd

_MIMII = ("id_01", "id_03", "id_05")
EVAL_IDS = {
    "fan": _MIMII,
    "pump": _MIMII,
    "slider": _MIMII,
    "valve": _MIMII,
    "ToyCar": ("id_05", "id_06", "id_07"),
    "ToyConveyor": ("id_04", "id_05", "id_06"),
}
"""The machines of the evaluation data of DCASE 2020 Task 2; all others are of the development data."""

_COLUMNS = ("path", "machine_type", "machine_id", "split", "condition", "subset")


@dataclass
class Corpus:
    """The clips of an experiment.

    Attributes
    ----------
    manifest : Manifest
        With a column `subset`: "dev", "eval", or the name of additional recordings. Paths are absolute.
    notes : tuple of str
        What was passed over.
    also : frozenset of str
        Which additional recordings there are.
    """

    manifest: Manifest
    notes: tuple[str, ...] = ()
    also: frozenset[str] = frozenset()
    _marks: list[str] = field(default_factory=list)
    _digests: dict[Selection, tuple[str, int]] = field(default_factory=dict)

    @property
    def table(self) -> pd.DataFrame:
        """The table of clips."""
        return self.manifest.table

    def digest(self, selection: Selection) -> tuple[str, int]:
        """What determines the clips of a selection (names, labels, sizes, times), as a digest; and their number.

        Computed once for each selection: planning stays linear in the number of runs.
        """
        if selection not in self._digests:
            if not self._marks:
                self._marks = [_mark(row) for row in self.table[list(_COLUMNS)].itertuples(index=False)]
            rows = selection.rows(self.table).index
            text = "\n".join(self._marks[k] for k in rows)
            self._digests[selection] = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest(), len(rows)
        return self._digests[selection]

    def machines(self, selection: Selection) -> list[tuple[str, str]]:
        """Type and ID of the machines of a selection, in the order of the table."""
        rows = selection.rows(self.table)
        return list(dict.fromkeys(zip(rows["machine_type"], rows["machine_id"], strict=True)))


def open_corpus(
    experiment: Experiment,
    home: Path,
    data: Path | None = None,
    also: Mapping[str, Path] | None = None,
    make_plant: Callable[[Path, Plant], None] | None = None,
) -> Corpus:
    """Find or make the clips of an experiment.

    Parameters
    ----------
    experiment : Experiment
    home : Path
        Where a synthetic plant is put.
    data : Path, optional
        The data folder, for an experiment that needs one.
    also : mapping of str to Path, optional
        Additional recordings by name.
    make_plant : callable, optional
        Writes a plant into a folder; by default `auscult.corpus.synthetic.write_plant`.

    Raises
    ------
    AuscultError
        If the data folder is missing or not what the experiment wants.
    """
    source = experiment.data
    unknown = sorted(set(also or ()) - set(source.also))
    if unknown:
        known = ", ".join(source.also) or "none"
        raise AuscultError(f"{experiment.name} has no use for recordings called {unknown[0]!r}", f"it knows {known}")
    if source.plant is not None:
        folder = home / "plants" / experiment.name
        (make_plant or _make_plant)(folder, source.plant)
        parts = [_part(open_data(folder, layout="dcase2020"))]
    elif data is None:
        raise AuscultError(
            f"{experiment.name} needs recordings", f"name their folder with --data: {_wanted(experiment)}"
        )
    elif source.sets is not None:
        parts = [_set(data, machine_type, folder) for machine_type, folder in source.sets.items()]
    else:
        parts = [_part(open_data(data, layout=source.layout or "auto"))]
    notes = [note for part in parts for note in part.notes]
    tables = [part.table for part in parts] + [_additional(n, folder) for n, folder in (also or {}).items()]
    return Corpus(_joined(tables), tuple(notes), frozenset(also or ()))


def _part(manifest: Manifest) -> Manifest:
    """With the subset of each clip, by its machine: folders may be arranged in many ways."""
    if not manifest.splits_known:
        raise AuscultError(
            "the recordings are in no train and test split", "an experiment learns from one and judges the other"
        )
    table = manifest.table.copy()
    machines = zip(table["machine_type"], table["machine_id"], strict=True)
    table["subset"] = ["eval" if i in EVAL_IDS.get(t, ()) else "dev" for t, i in machines]
    return Manifest(_absolute(table, manifest.root), Path(), manifest.notes)


def _set(data: Path, machine_type: str, folder: str) -> Manifest:
    """One folder of recordings, all of one machine type and of the development data."""
    place = data / folder
    if not place.is_dir():
        raise AuscultError(f"{place}: there is no such folder", "name the folder above all sets with --data")
    part = _part(open_data(place))
    table = part.table.assign(machine_type=machine_type, subset="dev")
    return Manifest(table, part.root, part.notes)


def _additional(name: str, folder: Path) -> pd.DataFrame:
    """Recordings of something else: a subset of their own, to be learnt from as outliers."""
    manifest = open_data(folder, layout="folder")
    table = manifest.table.assign(machine_type=name, split="train", condition="unknown", subset=name)
    return _absolute(table, manifest.root)


def _absolute(table: pd.DataFrame, root: Path) -> pd.DataFrame:
    return table.assign(path=[str((root / path).absolute()) for path in table["path"]])


def _joined(tables: list[pd.DataFrame]) -> Manifest:
    import pandas as pd

    table = pd.concat(tables, ignore_index=True).fillna("")
    return Manifest(table[[*_COLUMNS, *(c for c in table.columns if c not in _COLUMNS)]], Path())


def _mark(row: tuple[str, ...]) -> str:
    """A clip's name, labels, size and time in one line; the folders above the last three may change."""
    path, *labels = row
    try:
        facts = Path(path).stat()
        content = f"{facts.st_size} {facts.st_mtime_ns}"
    except OSError:
        content = "missing"
    return "|".join(["/".join(Path(path).parts[-3:]), *labels, content])


def _make_plant(folder: Path, plant: Plant) -> None:
    from auscult.corpus.synthetic import MACHINE_TYPES, write_plant
    from auscult.parallel import available_cores
    from auscult.progress import progress

    machine_types = plant.machine_types or MACHINE_TYPES
    n_clips = len(machine_types) * plant.ids * (plant.train + plant.test_normal + plant.test_anomaly)
    with progress("Making machines", n_clips) as advance:
        write_plant(
            folder,
            **plant.model_dump(exclude={"machine_types"}),
            machine_types=machine_types,
            workers=available_cores(),
            progress=advance,
        )


def _wanted(experiment: Experiment) -> str:
    source = experiment.data
    if source.sets:
        return f"it holds {', '.join(source.sets.values())}"
    return f"a data set in the layout {source.layout}"
