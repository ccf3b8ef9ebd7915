"""The table of clips that every command understands."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from auscult.corpus.clip import Clip
from auscult.corpus.scan import absolute
from auscult.errors import AuscultError
from auscult.files import atomic

if TYPE_CHECKING:
    import pandas as pd

REQUIRED = ("path", "machine_type", "machine_id", "split", "condition")
OPTIONAL = ("section", "domain", "attributes")
SPLITS = ("train", "test", "unknown")
CONDITIONS = ("normal", "anomaly", "unknown")


@dataclass(frozen=True)
class Manifest:
    """Which clips there are, and what is known of each.

    Attributes
    ----------
    table : DataFrame
        One row a clip; the columns `path, machine_type, machine_id, split, condition`, where known
        `section, domain, attributes`, and any others the user keeps. All text.
    root : Path
        The folder that relative paths start from.
    notes : tuple of str
        What a reader of the table should know (files passed over, labels guessed).
    """

    table: pd.DataFrame
    root: Path
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips())

    def clips(self) -> list[Clip]:
        """The clips, in the table's order."""
        columns = [c for c in (*REQUIRED, *OPTIONAL) if c in self.table.columns]
        rows = zip(*(self.table[c].tolist() for c in columns), strict=True)
        return [self._clip(dict(zip(columns, row, strict=True))) for row in rows]

    def _clip(self, row: dict[str, Any]) -> Clip:
        return Clip(file=self.root / row["path"], **row)

    def select(
        self,
        *,
        split: str | None = None,
        condition: str | None = None,
        machine_type: str | None = None,
        machine_id: str | None = None,
    ) -> Manifest:
        """Keep the clips that match everything named; `machine_id` may be bare ("00" is "id_00" or "section_00").

        Raises
        ------
        AuscultError
            If the type or ID asked for is not in the table at all.
        """
        table = self.table
        if machine_type is not None:
            table = _only(table, "machine_type", {machine_type}, machine_type)
        if machine_id is not None:
            bare = machine_id.removeprefix("id_")
            spellings = {machine_id, f"id_{bare}", f"id_{bare:0>2}", f"section_{bare:0>2}"}
            table = _only(table, "machine_id", spellings, machine_id)
        if split is not None:
            table = table[table["split"] == split]
        if condition is not None:
            table = table[table["condition"] == condition]
        return Manifest(table.reset_index(drop=True), self.root, self.notes)

    @property
    def machine_types(self) -> list[str]:
        """The machine types, in order of appearance."""
        return list(dict.fromkeys(self.table["machine_type"]))

    @property
    def splits_known(self) -> bool:
        """Whether any clip says that it is for training or for testing."""
        return bool(self.table["split"].isin(("train", "test")).any())

    def for_training(self) -> Manifest:
        """The normal clips of the train split where splits are known, else all normal clips."""
        return self.select(split="train" if self.splits_known else None, condition="normal")

    def for_scoring(self, split: str | None = None) -> Manifest:
        """The clips of `split` ("all": everything); without it the test split where splits are known."""
        if split == "all" or (split is None and not self.splits_known):
            return self
        return self.select(split=split or "test")

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the table as CSV or Parquet, paths relative to it where the clips lie beside or below it."""
        target = Path(path)
        table = self.table.copy()
        home = absolute(target).parent
        table["path"] = [_relative(self.root / p, home) for p in table["path"]]
        with atomic(target) as temporary:
            if target.suffix.lower() == ".parquet":
                table.to_parquet(temporary, index=False)
            else:
                table.to_csv(temporary, index=False, lineterminator="\n", quoting=_quoting(table))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Manifest:
        """Read and check a manifest, `.csv` or `.parquet`.

        Raises
        ------
        AuscultError
            If the file cannot be read, a column is missing, a value is none of the allowed ones, a path
            is given twice, or a relative path leads out of the manifest's folder.
        """
        source = Path(path)
        table = _read_table(source)
        missing = [c for c in REQUIRED if c not in table.columns]
        if missing:
            raise AuscultError(
                f"{source}: the manifest lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}",
                f"its header must name {', '.join(REQUIRED)}; `auscult index FOLDER -o {source.name}` writes one",
            )
        if table.empty:
            raise AuscultError(f"{source}: the manifest lists no clips", "add a row for each clip")
        _check_values(source, table, "split", SPLITS)
        _check_values(source, table, "condition", CONDITIONS)
        _check_paths(source, table)
        return cls(table, absolute(source).parent)


def _read_table(source: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        if source.suffix.lower() == ".parquet":
            table = pd.read_parquet(source)
        else:
            table = _read_csv(source)
    except (OSError, ValueError, pd.errors.ParserWarning) as error:
        raise AuscultError(
            f"{source}: cannot be read as a manifest ({(str(error) or 'it is damaged').splitlines()[0]})",
            "give a CSV or Parquet table with a header row",
        ) from error
    return table.fillna("").astype(str)


def _read_csv(source: Path) -> pd.DataFrame:
    import pandas as pd

    with warnings.catch_warnings():
        # Rows longer than the header: pandas would warn and drop what is too much.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(source, dtype=str, keep_default_na=False, skipinitialspace=True, index_col=False)


def _quoting(table: pd.DataFrame) -> Literal[0, 1]:
    """Quote everything where a cell would not survive unquoted: leading spaces are skipped on reading."""
    cells = [cell for column in table.columns for cell in (column, *table[column])]
    fragile = any(cell.startswith(" ") or "\r" in cell for cell in cells)
    return csv.QUOTE_ALL if fragile else csv.QUOTE_MINIMAL


def _check_values(source: Path, table: pd.DataFrame, column: str, allowed: tuple[str, ...]) -> None:
    wrong = table.index[~table[column].isin(allowed)]
    if len(wrong):
        row = int(wrong[0])
        raise AuscultError(
            f"{source}: row {row + 2} has {column} {table[column].iloc[row]!r}",
            f"{column} is one of {', '.join(allowed)}",
        )


def _check_paths(source: Path, table: pd.DataFrame) -> None:
    for row, name in enumerate(table["path"]):
        if not name:
            raise AuscultError(f"{source}: row {row + 2} has no path", "name the clip's file")
        if Path(os.path.normpath(name)).parts[:1] == (os.pardir,):
            raise AuscultError(
                f"{source}: row {row + 2}: the path {name!r} leads out of the manifest's folder",
                "put the manifest at or above the clips, or write the path in full",
            )
    twice = table["path"][table["path"].duplicated()]
    if len(twice):
        raise AuscultError(f"{source}: {twice.iloc[0]!r} is listed twice", "list each clip once")


def _only(table: pd.DataFrame, column: str, wanted: set[str], asked: str) -> pd.DataFrame:
    chosen = table[table[column].isin(wanted)]
    if chosen.empty:
        there = ", ".join(dict.fromkeys(table[column])) or "none"
        raise AuscultError(f"no clip has {column} {asked!r}", f"the data holds {there}")
    return chosen


def _relative(file: Path, home: Path) -> str:
    full = absolute(file)
    return full.relative_to(home).as_posix() if full.is_relative_to(home) else full.as_posix()
