"""Ground-truth lists: which of the clips handed out without a label are normal, and which are not."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from auscult.corpus.manifest import CONDITIONS
from auscult.corpus.scan import absolute
from auscult.corpus.section_truth import is_section_truth, read_sections
from auscult.corpus.sections import spellings
from auscult.corpus.words import condition_in
from auscult.errors import AuscultError

Truth = dict[tuple[str, str], str]
"""(machine type or "", name) → "normal" or "anomaly"."""

LIST_NAMES = ("eval_data_list.csv", "eval_data_list_2020.csv")
"""The list of DCASE 2020's evaluation data, as on Zenodo (record 3951620) and in later baselines."""


def read_truth(path: str | os.PathLike[str]) -> Truth:
    """Read a ground-truth list.

    Understood are:

    - The lists of the DCASE challenges (`eval_data_list.csv` on Zenodo, record 3951620, and the
      `datasets/eval_data_list_20*.csv` of the challenge's baseline): a line with a machine type alone, then
      `id_01_00000000.wav,normal_id_01_00000098.wav,0` for each of its clips. The last two fields may
      each be missing, not both; 0 is normal, 1 an anomaly.
    - A table with the columns `path` and `condition`, and if it has one `machine_type`, such as a manifest.

    For DCASE 2021 to 2025 also an evaluator's file or folder: see
    :func:`auscult.corpus.section_truth.read_sections`.

    Parameters
    ----------
    path : path-like
        The list, `.csv` or (a table only) `.parquet`, or a folder of the evaluators' lists.

    Returns
    -------
    dict of (str, str) to {"normal", "anomaly"}
        The key is the machine type, "" where the list names none, and the clip's name. In a challenge's list
        that is the file name. Each clip of a table has three: its path as written, its absolute path, and
        its bare file name unless clips of both conditions share it. `look_up` tries them all.

    Raises
    ------
    AuscultError
        If the file cannot be read, is of neither kind, or contradicts itself.
    """
    source = Path(path)
    if is_section_truth(source):
        return {key: told.condition for key, told in read_sections(source).items() if told.condition}
    if source.suffix.lower() == ".parquet":
        return _from_parquet(source)
    rows = _read_rows(source)
    header = [cell.lower() for cell in rows[0]] if rows else []
    if "path" in header and "condition" in header:
        return _from_table(source, (dict(zip(header, row, strict=False)) for row in rows[1:]))
    return _from_challenge_list(source, rows)


def look_up(truth: Mapping[tuple[str, str], str], machine_type: str, path: str) -> str:
    """The condition that a ground-truth list gives a clip, or "" where it is not listed.

    Parameters
    ----------
    truth : dict
        From `read_truth`.
    machine_type, path : str
        The clip's; a relative path starts from the current folder.
    """
    for name in (path, str(absolute(path)), *spellings(Path(path).name)):
        for kind in (machine_type, ""):
            if condition := truth.get((kind, name)):
                return condition
    return ""


def find_truth(root: str | os.PathLike[str]) -> Path | None:
    """The list of DCASE 2020's evaluation data that belongs to a folder, or None.

    It is looked for in the folder, in its `eval_data`, and up to two levels above the machine's folder.
    """
    home = absolute(root)
    if home.name in ("train", "test"):
        home = home.parent
    for folder in (home, home / "eval_data", home.parent, home.parent.parent):
        for name in LIST_NAMES:
            if (folder / name).is_file():
                return folder / name
    return None


def _read_rows(source: Path) -> list[list[str]]:
    try:
        with open(source, encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is no text table"
        raise AuscultError(f"{source}: cannot be read as a ground-truth list ({reason.lower()})") from error
    return [row for row in rows if any(row)]


def _from_challenge_list(source: Path, rows: list[list[str]]) -> Truth:
    truth: Truth = {}
    machine_type = ""
    for row in rows:
        name, *rest = (cell for cell in row if cell)
        if not rest:
            machine_type = name
            continue
        condition = _condition(rest)
        known = truth.setdefault((machine_type, name), condition)
        if not condition or known != condition:
            raise AuscultError(
                f"{source}: cannot tell the condition of {name!r} from the line {','.join(row)!r}",
                "a line holds the name, the labelled name (normal_… or anomaly_…) and 0 or 1; "
                "or the file is a table with the columns path and condition",
            )
    if not truth:
        raise AuscultError(f"{source}: the ground-truth list names no clips", "is it the right file?")
    return truth


def _condition(fields: list[str]) -> str:
    """From the labelled name, the 0 or 1, or both where they agree; else ""."""
    said = {{"0": "normal", "1": "anomaly"}.get(cell) or condition_in(Path(cell).stem) for cell in fields}
    return said.pop() if len(said) == 1 else ""


def _from_parquet(source: Path) -> Truth:
    import pandas as pd

    try:
        table = pd.read_parquet(source)
    except (OSError, ValueError) as error:
        raise AuscultError(f"{source}: cannot be read as a Parquet table", "check the file") from error
    if not {"path", "condition"} <= set(table.columns):
        raise AuscultError(f"{source}: the table lacks path or condition", "a ground-truth table needs both")
    rows = table.fillna("").astype(str).itertuples(index=False)
    return _from_table(source, (dict(zip(table.columns, row, strict=True)) for row in rows))


def _from_table(source: Path, rows: Iterable[Mapping[str, str]]) -> Truth:
    truth: Truth = {}
    by_name: dict[tuple[str, str], set[str]] = {}
    home = absolute(source).parent
    for row in rows:
        path, condition, machine_type = row["path"], row.get("condition", ""), row.get("machine_type", "")
        if condition not in CONDITIONS:
            raise AuscultError(
                f"{source}: {path!r} has the condition {condition!r}", f"it is one of {', '.join(CONDITIONS)}"
            )
        if condition == "unknown":
            continue
        for name in (path, str(absolute(home / path))):
            if truth.setdefault((machine_type, name), condition) != condition:
                raise AuscultError(f"{source}: {path!r} has two conditions", "list each clip once")
        by_name.setdefault((machine_type, Path(path).name), set()).add(condition)
    for key, conditions in by_name.items():
        if len(conditions) == 1:
            truth.setdefault(key, *conditions)
    if not truth:
        raise AuscultError(f"{source}: the table says of no clip whether it is normal", "fill in condition")
    return truth
