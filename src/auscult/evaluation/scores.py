"""The table of scores: one row a clip, written by `score`, read by `evaluate`."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from auscult.errors import AuscultError
from auscult.files import atomic

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "path",
    "machine_type",
    "machine_id",
    "condition",
    "score",
    "p_value",
    "threshold",
    "decision",
    "error",
)
MORE_COLUMNS = ("domain", "seen", "reconstruction_error")
"""What a table may hold besides: the clip's domain ("source" or "target"), whether its machine was among those learnt
from ("yes" or "no"), and the mean squared error of the levels a detector predicted, in dB squared."""
INDISPENSABLE = ("path", "machine_type", "machine_id", "condition", "score")
NUMBERS = ("score", "p_value", "threshold", "reconstruction_error")
CONDITIONS = ("normal", "anomaly", "unknown")
DECISIONS = ("normal", "anomaly", "")
DOMAINS = ("source", "target", "")


def write_scores(table: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write scores as CSV, or as Parquet where the name ends so, whole or not at all.

    Numbers are written so that reading gives the same float64 again.

    Parameters
    ----------
    table : DataFrame
        The columns of `COLUMNS`, and any of `MORE_COLUMNS` (others are left out), one row a clip, in the
        manifest's order. A clip that could not be judged has no score (NaN or None) and a reason in `error`.
    path : path
        Where to.

    Raises
    ------
    AuscultError
        If a column lacks or holds what a reader would refuse, a clip has neither a score nor a reason,
        or the file cannot be written.
    """
    target = Path(path)
    table = checked(str(target), table, required=COLUMNS)
    table = table[[*COLUMNS, *(c for c in MORE_COLUMNS if c in table)]]
    _check_reasons(str(target), table)
    table["error"] = table["error"].str.split().str.join(" ")
    unjudged = table["score"].isna()
    table.loc[unjudged, "p_value"] = math.nan
    table.loc[unjudged, "decision"] = ""
    with atomic(target) as temporary:
        if target.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False, lineterminator="\n", quoting=_quoting(table))


def read_scores(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read and check scores, `.csv` or `.parquet`.

    Returns
    -------
    DataFrame
        The columns of `COLUMNS` and then any others of the file. `score`, `p_value` and `threshold`
        are float64, NaN where the file is silent; all others text, empty where the file is silent.
        Only `INDISPENSABLE` columns must be in the file. An empty condition reads as "unknown".

    Raises
    ------
    AuscultError
        If the file cannot be read, a column is missing, it lists no clips or one twice, or a value is
        none of the allowed ones; the line at fault is named.
    """
    source = Path(path)
    return checked(str(source), _read(source))


def checked(name: str, table: pd.DataFrame, required: Sequence[str] = INDISPENSABLE) -> pd.DataFrame:
    """Give text as text and numbers as float64, or say what is wrong with a table of scores.

    Parameters
    ----------
    name : str
        What to call the table when complaining.
    table : DataFrame
        Not changed.
    required : sequence of str
        The columns it must have.

    Returns
    -------
    DataFrame
        As :func:`read_scores` describes.

    Raises
    ------
    AuscultError
        As :func:`read_scores` describes.
    """
    missing = [c for c in required if c not in table.columns]
    if missing:
        raise AuscultError(
            f"{name} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}",
            f"the header must name {', '.join(required)}, with commas between",
        )
    if table.empty:
        raise AuscultError(f"{name} lists no clips", "score at least one clip")
    others = [c for c in table.columns if c not in COLUMNS]
    table = table.reindex(columns=[*COLUMNS, *others]).reset_index(drop=True)
    for column in table.columns:
        filled = table[column].astype(object).where(table[column].notna(), "")
        table[column] = _numbers(name, column, filled) if column in NUMBERS else filled.map(_text)
    table["condition"] = table["condition"].replace("", "unknown")
    _check_values(name, table, "condition", CONDITIONS)
    _check_values(name, table, "decision", DECISIONS)
    if "domain" in table:
        _check_values(name, table, "domain", DOMAINS)
    if "seen" in table:
        _check_values(name, table, "seen", ("yes", "no", ""))
    _check_paths(name, table)
    return table


def _read(source: Path) -> pd.DataFrame:
    import pandas as pd

    if not source.is_file():
        raise AuscultError(f"{source}: no such file", "give the table that `auscult score … -o scores.csv` wrote")
    try:
        if source.suffix == ".parquet":
            return pd.read_parquet(source)
        table = pd.read_csv(source, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise AuscultError(
            f"{source}: cannot be read as a table of scores ({str(error).strip().splitlines()[0]})",
            "give a CSV or Parquet table with a header row",
        ) from error
    if not isinstance(table.index, pd.RangeIndex):
        raise AuscultError(
            f"{source}: its rows have more fields than its header", "put names that hold commas in quotes"
        )
    return table


def _quoting(table: pd.DataFrame) -> Literal[0, 2]:
    # Before Python 3.13 a lone carriage return in a name is not reason enough for csv to quote it.
    odd = any(table[column].str.contains("\r").any() for column in table.columns if column not in NUMBERS)
    return csv.QUOTE_NONNUMERIC if odd else csv.QUOTE_MINIMAL


def _text(value: Any) -> str:
    # A file name that is not UTF-8 must not cost the scores of all the others.
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def _numbers(name: str, column: str, values: Iterable[Any]) -> list[float]:
    return [_number(value, name, column, row) for row, value in enumerate(values)]


def _number(value: Any, name: str, column: str, row: int) -> float:
    if value == "":
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not _allowed(column, number):
        raise AuscultError(
            f"{name}: row {row + 2} has {column} {value!r}",
            "write a number, or leave the field empty where there is none",
        )
    return number


def _allowed(column: str, number: float) -> bool:
    if column == "p_value":
        return 0 <= number <= 1
    # An infinite threshold is one that no clip crosses; an infinite score says nothing.
    return math.isfinite(number) if column == "score" else not math.isnan(number)


def _check_values(name: str, table: pd.DataFrame, column: str, allowed: Sequence[str]) -> None:
    for row, value in enumerate(table[column]):
        if value not in allowed:
            raise AuscultError(
                f"{name}: row {row + 2} has {column} {value!r}",
                f"{column} is one of {', '.join(a or 'empty' for a in allowed)}",
            )


def _check_paths(name: str, table: pd.DataFrame) -> None:
    for row, path in enumerate(table["path"]):
        if not path:
            raise AuscultError(f"{name}: row {row + 2} has no path", "name the clip")
    twice = table["path"][table.duplicated(["path", "machine_type", "machine_id"])]
    if len(twice):
        raise AuscultError(f"{name}: {twice.iloc[0]!r} is listed twice", "list each clip once")


def _check_reasons(name: str, table: pd.DataFrame) -> None:
    silent = table["path"][table["score"].isna() & (table["error"].str.strip() == "")]
    if len(silent):
        raise AuscultError(
            f"{name}: {silent.iloc[0]!r} has neither a score nor a reason why not", "give one of the two"
        )
