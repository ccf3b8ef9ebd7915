"""The part of a history that grows by itself: streams, scores, gaps, what is heard now."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

from auscult.monitor.blobs import pack, unpack
from auscult.monitor.schema import cannot_record, connect

_KEPT_WAITING = 100_000
"""Scores held in memory while the disk is full; the oldest go first."""


class Ledger:
    """A SQLite file with streams, their scores and gaps, and what is heard now.

    What a method has recorded when it returns is on the disk, except scores (see `flush`).

    Parameters
    ----------
    path : path-like
    create : bool
        Whether a file that is not there is made.

    Raises
    ------
    AuscultError
        If it cannot be opened (see `auscult.monitor.schema.connect`).
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = True) -> None:
        self.path = Path(path)
        self.connection = connect(path, create=create)
        self._lock = threading.RLock()
        self._waiting: list[tuple[int, float, float, float | None, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what waits, and close the file."""
        with self._lock:
            try:
                self.flush()
            finally:
                self.connection.close()

    @contextmanager
    def writing(self, *, scores: bool = False) -> Iterator[sqlite3.Connection]:
        """Do all of the block, or nothing, with the scores that wait if asked for; on the disk when the block ends."""
        with self._lock:
            try:
                self.connection.execute("BEGIN IMMEDIATE")
                yield self.connection
                if scores:
                    query = "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?)"
                    self.connection.executemany(query, self._waiting)
                self.connection.execute("COMMIT")
                if scores:
                    self._waiting.clear()
            except sqlite3.Error as error:
                self._undo()
                raise cannot_record(self.path, error) from error
            except BaseException:
                self._undo()
                raise

    def _undo(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            try:
                return self.connection.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise cannot_record(self.path, error) from error

    # Streams ----------------------------------------------------------------------------------------

    def stream(self, name: str, *, model: str, identity: str, facts: dict[str, Any]) -> int:
        """The number of a stream, made or brought up to date.

        Parameters
        ----------
        name : str
            Of the machine.
        model, identity : str
            Which model file judges it, and what that learnt from.
        facts : dict
            What else is to be known: detector, source, window, hop, threshold.
        """
        with self.writing() as connection:
            connection.execute(
                "INSERT INTO streams (name, model, identity, facts) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE "
                "SET model = excluded.model, identity = excluded.identity, facts = excluded.facts",
                (name, model, identity, json.dumps(facts)),
            )
            return int(connection.execute("SELECT id FROM streams WHERE name = ?", (name,)).fetchone()[0])

    def streams(self) -> list[dict[str, Any]]:
        """Every stream: id, name, model, identity, facts."""
        return [{**dict(row), "facts": json.loads(row["facts"])} for row in self._rows("SELECT * FROM streams")]

    def take_up(self, stream: int, now: float) -> None:
        """Go on with a stream that was heard before: what a killed monitor left open ends where it heard last."""
        last = self._rows("SELECT max(time) AS last FROM scores WHERE stream = ?", stream)[0]["last"]
        with self.writing() as connection:
            # An alarm may be younger than the last score on the disk; nothing ends before it began.
            connection.execute(
                "UPDATE alarms SET ended = max(raised, ?) WHERE stream = ? AND ended IS NULL", (last or 0.0, stream)
            )
            connection.execute(
                "UPDATE gaps SET ended = max(began, ?) WHERE stream = ? AND ended IS NULL", (now, stream)
            )
            if last is not None and last < now:
                connection.execute(
                    "INSERT INTO gaps (stream, began, ended, reason) VALUES (?, ?, ?, ?)",
                    (stream, last, now, "auscult was not listening"),
                )

    # Scores -----------------------------------------------------------------------------------------

    def add_score(self, stream: int, time: float, score: float, p_value: float, *, quiet: bool) -> None:
        """Note a score; it is on the disk after the next `flush`, alarm or gap."""
        with self._lock:
            self._waiting.append((stream, time, score, or_none(p_value), int(quiet)))
            del self._waiting[:-_KEPT_WAITING]

    def flush(self) -> None:
        """Write the scores that wait.

        Raises
        ------
        AuscultError
            If the disk is full or gone; they go on waiting.
        """
        if self._waiting:
            with self.writing(scores=True):
                pass

    def scores(
        self, stream: int, since: float = 0.0, until: float = 1e12, *, at_most: int = 5000
    ) -> list[dict[str, Any]]:
        """Scores in order of time; where there are more than `at_most`, the highest of each stretch of time."""
        where = "FROM scores WHERE stream = ? AND time >= ? AND time <= ?"
        first, last, count = self._rows(f"SELECT min(time), max(time), count(*) {where}", stream, since, until)[0]
        if count <= at_most:
            return [
                dict(row)
                for row in self._rows(f"SELECT time, score, p_value, quiet {where} ORDER BY time", stream, since, until)
            ]
        stretch = (last - first) / at_most * (1 + 1e-9)
        rows = self._rows(
            f"SELECT time, max(score) AS score, p_value, quiet {where} "
            "GROUP BY CAST((time - ?) / ? AS INTEGER) ORDER BY time",
            *(stream, since, until, first, stretch),
        )
        return [dict(row) for row in rows]

    # Gaps -------------------------------------------------------------------------------------------

    def begin_gap(self, stream: int, time: float, reason: str) -> int:
        """Nothing is heard from `time` on; return the gap's number."""
        with self.writing() as connection:
            number = connection.execute(
                "INSERT INTO gaps (stream, began, reason) VALUES (?, ?, ?)", (stream, time, reason)
            ).lastrowid
        assert number is not None
        return number

    def end_gap(self, gap: int, time: float) -> None:
        """Something is heard again."""
        with self.writing() as connection:
            connection.execute("UPDATE gaps SET ended = max(began, ?) WHERE id = ?", (time, gap))

    def gaps(self, stream: int, since: float = 0.0) -> list[dict[str, Any]]:
        """Gaps that end after `since`, in order of time; one that lasts has no end."""
        query = "SELECT * FROM gaps WHERE stream = ? AND (ended IS NULL OR ended >= ?) ORDER BY began, id"
        return [dict(row) for row in self._rows(query, stream, since)]

    # What is heard now ------------------------------------------------------------------------------

    def set_latest(
        self, stream: int, time: float, facts: dict[str, Any], logmel: np.ndarray | None, map: np.ndarray | None
    ) -> None:
        """Replace what is shown of a stream now, and write the scores that wait."""
        with self.writing(scores=True) as connection:
            connection.execute(
                "INSERT OR REPLACE INTO latest VALUES (?, ?, ?, ?, ?)",
                (stream, time, json.dumps(facts), pack(logmel), pack(map)),
            )

    def latest(self, stream: int) -> dict[str, Any] | None:
        """What was last heard of a stream: time, facts, logmel, map."""
        rows = self._rows("SELECT * FROM latest WHERE stream = ?", stream)
        if not rows:
            return None
        row = rows[0]
        return {
            "time": row["time"],
            "facts": json.loads(row["facts"]),
            "logmel": unpack(row["logmel"]),
            "map": unpack(row["map"]),
        }


def or_none(value: float) -> float | None:
    """NaN as a database has it."""
    return None if np.isnan(value) else float(value)
