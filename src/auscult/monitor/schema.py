"""The tables of a history, and how an older file is brought up to date."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from auscult.errors import AuscultError

BUSY_SECONDS = 10.0
"""How long one process waits for another that is writing."""

_FIRST = """
CREATE TABLE streams (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  model TEXT NOT NULL,        -- which model file judges it
  identity TEXT NOT NULL,     -- what that model learnt from, as its provenance says
  facts TEXT NOT NULL         -- JSON: detector, source, window, hop, threshold, rate
);
CREATE TABLE scores (
  stream INTEGER NOT NULL REFERENCES streams ON DELETE CASCADE,
  time REAL NOT NULL,         -- end of the window judged, Unix seconds
  score REAL NOT NULL,
  p_value REAL,
  quiet INTEGER NOT NULL,     -- 1 while no alarm is on
  PRIMARY KEY (stream, time)
) WITHOUT ROWID;
CREATE TABLE alarms (
  id INTEGER PRIMARY KEY,
  stream INTEGER NOT NULL REFERENCES streams ON DELETE CASCADE,
  rule TEXT NOT NULL,
  raised REAL NOT NULL,
  ended REAL,
  score REAL NOT NULL,        -- the highest while it was on
  p_value REAL,
  message TEXT NOT NULL,
  logmel BLOB,
  map BLOB
);
CREATE INDEX alarms_by_time ON alarms (stream, raised);
CREATE TABLE clips (
  alarm INTEGER PRIMARY KEY REFERENCES alarms ON DELETE CASCADE,
  begins REAL NOT NULL,
  seconds REAL NOT NULL,
  flac BLOB NOT NULL
);
CREATE TABLE remarks (
  id INTEGER PRIMARY KEY,
  alarm INTEGER NOT NULL REFERENCES alarms ON DELETE CASCADE,
  time REAL NOT NULL,
  kind TEXT NOT NULL,         -- acknowledged, false alarm, confirmed, note
  note TEXT NOT NULL,
  author TEXT NOT NULL
);
CREATE INDEX remarks_by_alarm ON remarks (alarm);
CREATE TABLE gaps (
  id INTEGER PRIMARY KEY,
  stream INTEGER NOT NULL REFERENCES streams ON DELETE CASCADE,
  began REAL NOT NULL,
  ended REAL,
  reason TEXT NOT NULL
);
CREATE INDEX gaps_by_time ON gaps (stream, began);
"""

_LATEST = """
CREATE TABLE latest (
  stream INTEGER PRIMARY KEY REFERENCES streams ON DELETE CASCADE,
  time REAL NOT NULL,
  facts TEXT NOT NULL,        -- JSON: score, p-value, alarms that are on, latency, real-time factor
  logmel BLOB,
  map BLOB
);
"""

MIGRATIONS = (_FIRST, _LATEST)
"""What brings a file from each version to the next; a file's version is how many it has had."""


def connect(path: str | os.PathLike[str], *, create: bool = True) -> sqlite3.Connection:
    """Open a history, making it or bringing it up to date where that is needed.

    Every commit is flushed to the disk (write-ahead log, `synchronous=FULL`): what was committed survives `kill -9`
    and power cuts.

    Parameters
    ----------
    path : path-like
    create : bool
        Whether a file that is not there is made.

    Raises
    ------
    AuscultError
        If it is not there, is no history, of a later version, damaged, or cannot be written.
    """
    file = Path(path)
    if not create and not file.is_file():
        raise AuscultError(f"{file}: there is no such history", "name one that `auscult monitor --history` keeps")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise cannot_record(file, error) from error
    try:
        _prepare(connection, file)
    except (sqlite3.Error, AuscultError) as error:
        connection.close()
        raise error if isinstance(error, AuscultError) else cannot_record(file, error) from error
    return connection


def _prepare(connection: sqlite3.Connection, file: Path) -> None:
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # of effect in an empty file only
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    migrate(connection, file)


def migrate(connection: sqlite3.Connection, file: Path) -> None:
    """Bring a file to the newest version, one step a transaction.

    Raises
    ------
    AuscultError
        If it is of a later version, or another program's.
    """
    while (version := _version(connection)) < len(MIGRATIONS):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if _version(connection) == version:  # else another process has just done it
                if version == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    raise AuscultError(f"{file}: is another program's database", "name a file of its own")
                for statement in MIGRATIONS[version].split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version={version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    if version > len(MIGRATIONS):
        raise AuscultError(
            f"{file}: was written by a later auscult (history version {version})",
            f"this one knows version {len(MIGRATIONS)}; upgrade it: pip install --upgrade auscult",
        )


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def cannot_record(file: Path, error: Exception) -> AuscultError:
    """Turn the database's complaint into one line that names the file and the remedy."""
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(error, sqlite3.DatabaseError) and "not a database" in reason:
        return AuscultError(f"{file}: is no history", "name a file of its own")
    if "malformed" in reason:
        return AuscultError(f"{file}: the history is damaged ({reason})", "move it away; a new one is begun")
    return AuscultError(f"{file}: cannot record: {reason.lower()}", "see that its folder is writable and has space")
