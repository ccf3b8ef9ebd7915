"""The history of what was heard: scores, alarms with their sound, gaps, and what people said of the alarms."""

from __future__ import annotations

import sqlite3
import time as clock
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from auscult.errors import AuscultError
from auscult.monitor.blobs import pack, unpack
from auscult.monitor.ledger import Ledger, or_none

FALSE_ALARM, CONFIRMED, ACKNOWLEDGED, NOTE = "false alarm", "confirmed", "acknowledged", "note"
LABELS = (FALSE_ALARM, CONFIRMED)
REMARKS = (*LABELS, ACKNOWLEDGED, NOTE)


@dataclass(frozen=True)
class Sound:
    """Audio around an alarm.

    Attributes
    ----------
    begins : float
        Unix seconds.
    seconds : float
    flac : bytes
        A FLAC file.
    """

    begins: float
    seconds: float
    flac: bytes = field(repr=False)


@dataclass(frozen=True)
class Raised:
    """An alarm to be recorded.

    Attributes
    ----------
    rule : str
        Which rule raised it.
    time : float
        Unix seconds.
    score, p_value : float
    message : str
        What is wrong, in words.
    logmel, map : ndarray of float32, shape (n_mels, n_frames), or None
    sound : Sound or None
    """

    rule: str
    time: float
    score: float
    p_value: float
    message: str
    logmel: np.ndarray | None = field(default=None, repr=False)
    map: np.ndarray | None = field(default=None, repr=False)
    sound: Sound | None = None


class History(Ledger):
    """A ledger with alarms, the sound around them, and what people said of them; parameters as of `Ledger`."""

    def raise_alarm(self, stream: int, alarm: Raised) -> int:
        """Record an alarm and the scores before it; when this returns, it may be announced.

        Returns
        -------
        int
            Its number.

        Raises
        ------
        AuscultError
            If it could not be recorded.
        """
        with self.writing(scores=True) as connection:
            number = connection.execute(
                "INSERT INTO alarms (stream, rule, raised, score, p_value, message, logmel, map) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(stream, alarm.rule, alarm.time, alarm.score, or_none(alarm.p_value), alarm.message),
                    *(pack(alarm.logmel), pack(alarm.map)),
                ),
            ).lastrowid
            assert number is not None
            if alarm.sound is not None:
                _write_clip(connection, number, alarm.sound)
        return number

    def extend_clip(self, alarm: int, sound: Sound) -> None:
        """Replace an alarm's clip by one that goes on longer."""
        with self.writing() as connection:
            _write_clip(connection, alarm, sound)

    def end_alarm(self, alarm: int, time: float, score: float, p_value: float) -> None:
        """An alarm is over; `score` and `p_value` are of its worst moment."""
        with self.writing() as connection:
            connection.execute(
                "UPDATE alarms SET ended = ?, score = ?, p_value = ? WHERE id = ?",
                (time, score, or_none(p_value), alarm),
            )

    def alarms(self, stream: int | None = None, since: float = 0.0, *, at_most: int = 1000) -> list[dict[str, Any]]:
        """Alarms, the newest first, with their label, the remarks and whether there is a clip; no arrays."""
        rows = self._rows(
            "SELECT alarms.id, stream, streams.name AS machine, rule, raised, ended, score, p_value, message, "
            "clips.alarm IS NOT NULL AS clip, clips.begins AS clip_begins, clips.seconds AS clip_seconds "
            "FROM alarms JOIN streams ON streams.id = stream LEFT JOIN clips ON clips.alarm = alarms.id "
            "WHERE (? IS NULL OR stream = ?) AND raised >= ? ORDER BY raised DESC, alarms.id DESC LIMIT ?",
            *(stream, stream, since, at_most),
        )
        return [self._with_remarks(dict(row)) for row in rows]

    def alarm(self, number: int) -> dict[str, Any]:
        """One alarm, as `alarms` has it, with `logmel` and `map`, arrays of shape (n_mels, n_frames) or None.

        Raises
        ------
        AuscultError
            If there is none of that number.
        """
        rows = self._rows(
            "SELECT alarms.*, streams.name AS machine, clips.alarm IS NOT NULL AS clip, clips.begins AS clip_begins, "
            "clips.seconds AS clip_seconds FROM alarms JOIN streams ON streams.id = stream "
            "LEFT JOIN clips ON clips.alarm = alarms.id WHERE alarms.id = ?",
            number,
        )
        if not rows:
            raise AuscultError(f"there is no alarm {number}", "see the list of alarms")
        found = self._with_remarks(dict(rows[0]))
        return {**found, "logmel": unpack(found["logmel"]), "map": unpack(found["map"])}

    def exists(self, alarm: int) -> bool:
        """Whether there is an alarm of that number."""
        return bool(self._rows("SELECT 1 FROM alarms WHERE id = ?", alarm))

    def clip(self, alarm: int) -> Sound | None:
        """The sound around an alarm, if it was kept."""
        rows = self._rows("SELECT begins, seconds, flac FROM clips WHERE alarm = ?", alarm)
        return Sound(rows[0]["begins"], rows[0]["seconds"], rows[0]["flac"]) if rows else None

    def _with_remarks(self, alarm: dict[str, Any]) -> dict[str, Any]:
        rows = self._rows("SELECT time, kind, note, author FROM remarks WHERE alarm = ? ORDER BY id", alarm["id"])
        remarks = [dict(row) for row in rows]
        labels = [remark["kind"] for remark in remarks if remark["kind"] in LABELS]
        return {
            **alarm,
            "clip": bool(alarm["clip"]),
            "label": labels[-1] if labels else "",
            "acknowledged": any(remark["kind"] != NOTE for remark in remarks),
            "remarks": remarks,
        }

    def remark(self, alarm: int, kind: str, note: str = "", author: str = "") -> None:
        """Acknowledge or label an alarm, or say something of it; the latest label counts, all are kept.

        Raises
        ------
        AuscultError
            If there is no such alarm or kind of remark, or it could not be recorded.
        """
        if kind not in REMARKS:
            raise AuscultError(f"{kind!r} is no remark on an alarm", f"say one of {', '.join(REMARKS)}")
        self.alarm(alarm)
        with self.writing() as connection:
            connection.execute(
                "INSERT INTO remarks (alarm, time, kind, note, author) VALUES (?, ?, ?, ?, ?)",
                (alarm, clock.time(), kind, note, author),
            )


def _write_clip(connection: sqlite3.Connection, alarm: int, sound: Sound) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO clips VALUES (?, ?, ?, ?)", (alarm, sound.begins, sound.seconds, sound.flac)
    )
