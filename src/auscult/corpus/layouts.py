"""DATA becomes a manifest: a folder in a known layout, a manifest, or recordings named one by one."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from auscult.audio import SUFFIXES
from auscult.corpus.manifest import REQUIRED, Manifest
from auscult.corpus.scan import Found, absolute, find_recordings, is_recording, natural
from auscult.corpus.trees import LAYOUTS, Layout, Place, Row
from auscult.corpus.truth import look_up, read_truth
from auscult.errors import AuscultError
from auscult.wording import counted

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LAYOUTS", "Layout", "Place", "look_up", "open_data", "read_truth"]

NEARLY_ALL = 0.95
"""The share of a tree's recordings that a layout must explain to be taken for that tree."""

_DISTINCT = list({id(layout): name for name, layout in reversed(LAYOUTS.items())}.values())[::-1]
"""The layouts, those that several years share once."""

MANIFEST_ENDINGS = (".csv", ".parquet")


def open_data(data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, layout: str = "auto") -> Manifest:
    """Open what a command is given as DATA.

    Parameters
    ----------
    data : path-like or sequence of path-like
        A folder, a manifest (`.csv`, `.parquet`), a recording, or several folders and recordings.
    layout : str
        How a folder is arranged: one of `LAYOUTS`, or "auto" to recognise it.

    Returns
    -------
    Manifest
        The clips of a folder in natural order (9 before 10); recordings named one by one in the order given,
        and with `split` unknown, since whoever names a clip wants that clip. Paths start where `data`
        starts: they can be opened from the current folder. What was passed over is in `notes`.

    Raises
    ------
    AuscultError
        If there is no such path or layout, no recording, or a folder does not have the layout asked for.
    """
    _check_layout(layout)
    items = [os.fspath(item) for item in ([data] if isinstance(data, str | os.PathLike) else data)]
    if not items:
        raise AuscultError("no data is named", "name a folder, a manifest or recordings")
    for item in items:
        _check_item(item, alone=len(items) == 1)
    if not _is_data(items[0]):
        return Manifest.read(items[0])
    rows: dict[str, Row] = {}
    notes: dict[str, None] = {}
    for item in items:
        new, said = _read_folder(item, layout) if Path(item).is_dir() else ([_read_file(item, layout)], [])
        for row in new:
            rows.setdefault(row["path"], row)
        notes |= dict.fromkeys(said)
    return Manifest(_table(rows.values()), Path(), tuple(notes))


def _check_layout(layout: str) -> None:
    known = ("auto", *LAYOUTS)
    if layout not in known:
        near = difflib.get_close_matches(layout, known, n=1, cutoff=0.4)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise AuscultError(f"there is no layout {layout!r}", f"{meant}layouts are {', '.join(known)}")


def _check_item(item: str, *, alone: bool) -> None:
    if not Path(item).exists():
        raise AuscultError(f"{item}: there is no such file or folder", "check the path")
    if _is_data(item):
        return
    if not item.lower().endswith(MANIFEST_ENDINGS):
        raise AuscultError(f"{item}: is neither a recording nor a manifest", _endings())
    if not alone:
        raise AuscultError(f"{item}: a manifest stands alone", "give one manifest, or folders and recordings")


def _is_data(item: str) -> bool:
    return Path(item).is_dir() or is_recording(item)


def _read_folder(data: str, layout: str) -> tuple[list[Row], list[str]]:
    found = find_recordings(data)
    if not len(found):
        raise _nothing_found(data, found)
    name = _recognise(data, found) if layout == "auto" else layout
    rows, strays, n_ignored = _apply(LAYOUTS[name], data, found)
    if len(strays) > (1 - NEARLY_ALL) * len(found):
        example = LAYOUTS[name].shape
        raise AuscultError(f"{strays[0]} does not fit the layout {name}", f"it should look like {example}")
    if not rows:
        raise AuscultError(f"{data}: holds background noise only", "add the recordings of the machine")
    notes = [f"{data}: read in the layout {_called(name)}"] if layout == "auto" else []
    if n_ignored:
        notes.append(f"{data}: {counted(n_ignored, 'clip')} of background noise left out")
    if strays:
        notes.append(f"{data}: {counted(len(strays), 'clip')} left out, not in the layout {name} (first: {strays[0]})")
    return rows, [*notes, *_passed_over(data, found), *LAYOUTS[name].finish(data, rows)]


def _recognise(data: str, found: Found) -> str:
    """The data set's layout that explains nearly all recordings, else "folder"."""
    explained: Counter[str] = Counter()
    for place, _, files in _places(data, found):
        for name in _DISTINCT:
            layout = LAYOUTS[name]
            if name != "folder":
                ignored = layout.ignored(place)
                explained[name] += sum(ignored or layout.read(place, file) is not None for file in files)
    best, count = explained.most_common(1)[0]
    return best if count >= NEARLY_ALL * len(found) else "folder"


def _called(name: str) -> str:
    """The name of a layout, and the years that share it."""
    alike = [other for other, layout in LAYOUTS.items() if layout is LAYOUTS[name]]
    return f"{name} (as all of {alike[0]} to {alike[-1]})" if len(alike) > 1 else name


def _apply(layout: Layout, data: str, found: Found) -> tuple[list[Row], list[str], int]:
    """The rows, the paths that do not fit, and how many recordings the layout ignores."""
    rows: list[Row] = []
    strays: list[str] = []
    n_ignored = 0
    for place, folder, files in _places(data, found):
        if layout.ignored(place):
            n_ignored += len(files)
            continue
        for file in files:
            row = layout.read(place, file)
            if row is None:
                strays.append(folder + file)
            else:
                rows.append({"path": folder + file, **row})
    rows.sort(key=lambda row: natural(row["path"]))
    return rows, sorted(strays, key=natural), n_ignored


def _places(data: str, found: Found) -> Iterator[tuple[Place, str, list[str]]]:
    """Each folder with recordings: its place, its path as far as the file name, and the file names."""
    outside = absolute(data).parts[1:]
    root = "" if Path(data) == Path() else Path(data).as_posix().rstrip("/") + "/"
    for folder, files in found.folders.items():
        inside = tuple(folder.split("/")) if folder else ()
        yield Place(outside + inside, len(outside)), f"{root}{folder}/" if folder else root, files


def _read_file(file: str, layout: str) -> Row:
    name = "folder" if layout == "auto" else layout
    folders = absolute(file).parts[1:-1]
    row = LAYOUTS[name].read(Place(folders, len(folders)), Path(file).name)
    if row is None:
        shape = LAYOUTS[name].shape
        raise AuscultError(f"{file} does not fit the layout {name}", f"it should look like {shape}")
    return {"path": Path(file).as_posix(), **row, "split": "unknown"}


def _table(rows: Iterable[Row]) -> pd.DataFrame:
    import pandas as pd

    rows = list(rows)
    columns = dict.fromkeys([*REQUIRED, *(column for row in rows for column in row)])
    return pd.DataFrame({column: [row.get(column, "") for row in rows] for column in columns}, dtype=str)


def _passed_over(data: str, found: Found) -> list[str]:
    notes = []
    if found.closed:
        notes.append(f"{data}: {len(found.closed)} folders could not be opened (first: {found.closed[0]})")
    if found.unnameable:
        notes.append(
            f"{data}: {counted(len(found.unnameable), 'clip')} left out, the name being no valid text "
            f"(first: {found.unnameable[0]}): rename them"
        )
    return notes


def _nothing_found(data: str, found: Found) -> AuscultError:
    if "" in found.closed:
        return AuscultError(f"{data}: the folder cannot be opened", "mend its permissions")
    if found.unnameable:
        return AuscultError(_passed_over(data, found)[-1], "use letters, digits, _ and -")
    others = found.other_endings.most_common(1)
    what = f", but {others[0][1]} files ending in {others[0][0] or 'nothing'}" if others else ""
    return AuscultError(f"{data}: holds no recordings{what}", _endings())


def _endings() -> str:
    return f"recordings end in {', '.join(sorted(SUFFIXES))}"
