"""Archives too large for one machine: clips in, Parquet out, each clip exactly once.

The clips are cut into shards, in order. An engine judges shards; this process alone writes what comes back, a shard
at a time, into `OUTPUT.parts`, and puts the shards together at the end. So a clip is judged again when its worker
dies, and counted once all the same.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auscult.corpus import Manifest
from auscult.engines import Engine
from auscult.errors import AuscultError
from auscult.evaluation.scores import COLUMNS
from auscult.files import atomic, cannot_write, digest
from auscult.progress import progress

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from auscult.exported import ExportedModel
    from auscult.model import Model

CLIPS_A_SHARD = 256
"""Half a minute's work of a quick detector: little is lost with a worker, and little is spent on sending shards."""

_TEXT = ("path", "machine_type", "machine_id", "condition", "decision", "error", "seen")
_ORDER = (*COLUMNS, "seen")


@dataclass(frozen=True)
class Shard:
    """Some consecutive clips, and by what they are judged."""

    number: int
    model: Path
    model_digest: str
    settings: dict[str, Any]
    table: pd.DataFrame = field(compare=False)
    root: Path = Path()


@dataclass(frozen=True)
class Judgement:
    """What is told of a finished archive.

    Attributes
    ----------
    n_clips, n_alarms : int
    n_failed : int
        Clips without a score.
    first_failures : tuple of str
        Some of the reasons.
    """

    n_clips: int
    n_alarms: int
    n_failed: int
    first_failures: tuple[str, ...]


def score_archive(
    model: Path,
    manifest: Manifest,
    output: Path,
    engine: Engine,
    *,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    clips_a_shard: int = CLIPS_A_SHARD,
) -> Judgement:
    """Judge every clip of a manifest, on as many machines as the engine has.

    Parameters
    ----------
    model : Path
        The model file; every worker must see it, and the clips, under the same name.
    manifest : Manifest
    output : Path
        A `.parquet` file with the columns of scores.csv, in the manifest's order.
    engine : Engine
    settings : mapping, optional
        Score another way; see `Model.rescored`.
    resume : bool
        Go on with an archive that was cut short.
    clips_a_shard : int

    Raises
    ------
    AuscultError
        If the output is no Parquet file or cannot be written, or what is to be resumed is of another model or of
        other clips.
    """
    if output.suffix != ".parquet":
        raise AuscultError(f"{output}: an archive's scores are written as Parquet", "end the name in .parquet")
    table = manifest.table
    if table["path"].duplicated().any():
        twice = table["path"][table["path"].duplicated()].iloc[0]
        raise AuscultError(f"{twice!r} is listed twice", "list each clip once")
    shards = [
        Shard(number, model.absolute(), digest(model), dict(settings or {}), part, manifest.root.absolute())
        for number, part in enumerate(_cut(table, clips_a_shard))
    ]
    parts = _Parts(output, _identity(shards, table, clips_a_shard), resume)
    todo = [shard for shard in shards if not parts.file(shard.number).exists()]
    broken: dict[int, str] = {}
    with progress("Judging clips", len(table)) as advance:
        advance(len(table) - sum(len(shard.table) for shard in todo))
        for outcome in engine.run(judge_shard, todo):
            if outcome.error:
                broken[outcome.job.number] = outcome.error
            else:
                parts.add(outcome.job.number, outcome.result)
            advance(len(outcome.job.table))
    return parts.join(shards, broken)


def judge_shard(shard: Shard) -> pd.DataFrame:
    """Judge the clips of a shard; a clip that cannot be judged has no score and a reason.

    Returns
    -------
    DataFrame
        The columns of scores.csv and `seen`, one row a clip, in order.
    """
    from auscult.scoring import score_table

    model = _model(shard.model, shard.model_digest, json.dumps(shard.settings))
    clips = Manifest(shard.table.reset_index(drop=True), shard.root)
    table = score_table(model, clips, workers=1)
    return table if "seen" in table else table.assign(seen="yes")


@lru_cache(maxsize=1)
def _model(file: Path, expected: str, settings: str) -> Model | ExportedModel:
    """The model, read once by each worker."""
    from auscult.scoring import open_model

    if digest(file) != expected:
        raise AuscultError(f"{file} is another file here than where the command was given", "share one folder")
    return open_model(file, json.loads(settings))


class _Parts:
    """The shards that are done, a Parquet file each, beside the output."""

    def __init__(self, output: Path, identity: str, resume: bool) -> None:
        self.output = output
        self.home = output.with_name(output.name + ".parts")
        note = self.home / "archive.json"
        there = _read(note) if resume else None
        if there is not None and there != identity:
            raise AuscultError(
                f"{self.home} belongs to another model or other clips", "delete it, or begin anew without --resume"
            )
        if there is None:
            shutil.rmtree(self.home, ignore_errors=True)
            with atomic(note) as temporary:
                temporary.write_text(json.dumps({"identity": identity}), encoding="utf-8")

    def file(self, number: int) -> Path:
        """Where a shard is kept."""
        return self.home / f"part-{number:07d}.parquet"

    def add(self, number: int, table: pd.DataFrame) -> None:
        """Keep a shard that is done."""
        import pyarrow.parquet as pq

        with atomic(self.file(number)) as temporary:
            pq.write_table(_arrow(table), temporary)

    def join(self, shards: list[Shard], broken: Mapping[int, str]) -> Judgement:
        """Put the shards together, in order; each clip once."""
        import pyarrow.parquet as pq

        columns = _schema().names if self._some_unseen(shards) else [n for n in _schema().names if n != "seen"]
        n_clips = n_alarms = n_failed = 0
        reasons: list[str] = []
        with atomic(self.output) as temporary, pq.ParquetWriter(temporary, _schema(columns)) as writer:
            for shard, table in self._tables(shards, broken):
                if table["path"].to_pylist() != shard.table["path"].tolist():
                    raise AuscultError(f"{self.file(shard.number)} is damaged", "delete it, and go on with --resume")
                writer.write_table(table.select(columns))
                errors = [reason for reason in table["error"].to_pylist() if reason]
                reasons += errors[: max(0, 10 - len(reasons))]
                n_clips += len(table)
                n_failed += len(errors)
                n_alarms += table["decision"].to_pylist().count("anomaly")
        try:
            shutil.rmtree(self.home)
        except OSError as error:
            raise cannot_write(self.home, error) from error
        return Judgement(n_clips, n_alarms, n_failed, tuple(reasons))

    def _tables(self, shards: list[Shard], broken: Mapping[int, str]) -> Iterator[tuple[Shard, pa.Table]]:
        import pyarrow.parquet as pq

        for shard in shards:
            if shard.number in broken:
                yield shard, _arrow(_unjudged(shard, broken[shard.number]))
            else:
                yield shard, pq.read_table(self.file(shard.number))

    def _some_unseen(self, shards: list[Shard]) -> bool:
        import pyarrow.parquet as pq

        files = [file for shard in shards if (file := self.file(shard.number)).exists()]
        return any("no" in pq.read_table(file, columns=["seen"])["seen"].to_pylist() for file in files)


def _unjudged(shard: Shard, reason: str) -> pd.DataFrame:
    """The clips of a shard whose worker died again and again."""
    labels = shard.table[["path", "machine_type", "machine_id", "condition"]]
    nothing = dict.fromkeys(("score", "p_value", "threshold"), float("nan"))
    return labels.assign(**nothing, decision="", error=f"was not judged: {reason}", seen="yes")


def _cut(table: pd.DataFrame, size: int) -> Iterator[pd.DataFrame]:
    for start in range(0, len(table), size):
        yield table.iloc[start : start + size]


def _identity(shards: list[Shard], table: pd.DataFrame, size: int) -> str:
    """What an archive is: model, way of scoring, clips, and how they are cut."""
    what = [shards[0].model_digest, json.dumps(shards[0].settings, sort_keys=True)] if shards else []
    text = "\n".join([*what, str(size), *table["path"]])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _read(note: Path) -> str | None:
    try:
        return str(json.loads(note.read_text(encoding="utf-8"))["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _schema(columns: list[str] | None = None) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(name, pa.string() if name in _TEXT else pa.float64()) for name in columns or _ORDER])


def _arrow(table: pd.DataFrame) -> pa.Table:
    import pyarrow as pa

    # As read_scores has it: no clip of a table that cannot be read again.
    texts = {name: table[name].map(lambda t: str(t).encode("utf-8", "backslashreplace").decode()) for name in _TEXT}
    return pa.Table.from_pandas(table.assign(**texts), schema=_schema(), preserve_index=False)
