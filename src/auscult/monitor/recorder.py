"""What a watch writes into the history; a disk that is full stops the recording, not the judging."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from auscult.errors import AuscultError
from auscult.monitor.blobs import flac
from auscult.monitor.events import Judged
from auscult.monitor.history import History, Raised, Sound
from auscult.monitor.retention import prune

_PRUNE_EVERY = 600.0
"""Seconds between two looks for what is too old or too much."""

T = TypeVar("T")


@dataclass(frozen=True)
class Retention:
    """How much of a history is kept.

    Attributes
    ----------
    days : float or None
    megabytes : float or None
    """

    days: float | None = 365.0
    megabytes: float | None = 2048.0


class Recorder:
    """Writes one stream's part of a history; says when it cannot, and goes on trying.

    Parameters
    ----------
    history : History or None
        None for nothing to be recorded.
    stream : int
        The stream's number.
    retention : Retention
    trouble : callable
        Told what is wrong, and whether it is over, once each time.
    """

    def __init__(
        self, history: History | None, stream: int, retention: Retention, trouble: Callable[[str, bool], None]
    ) -> None:
        self.history, self.stream, self.retention, self.trouble = history, stream, retention, trouble
        self._failing = False
        self._pruned = time.monotonic()

    def _try(self, write: Callable[[History], T]) -> T | None:
        if self.history is None:
            return None
        try:
            done = write(self.history)
        except AuscultError as error:
            if not self._failing:
                self._failing = True
                self.trouble(f"not recording: {error}", False)
            return None
        if self._failing:
            self._failing = False
            self.trouble("recording again", True)
        return done

    def judged(self, event: Judged, picture: tuple[np.ndarray, np.ndarray] | None) -> None:
        """Record a score, and what is heard now."""
        history = self.history
        if history is None:
            return
        if not event.error:
            history.add_score(self.stream, event.time, event.score, event.p_value, quiet=not event.alarms)
        facts = {key: value for key, value in event.facts().items() if key not in ("event", "machine", "at")}
        logmel, strange = picture or (None, None)
        self._try(lambda history: history.set_latest(self.stream, event.time, facts, logmel, strange))
        if time.monotonic() - self._pruned > _PRUNE_EVERY:
            self.prune(event.time)

    def prune(self, now: float) -> None:
        """Delete what is too old or too much."""
        self._pruned = time.monotonic()
        size = self.retention.megabytes
        limit = None if size is None else round(size * 2**20)
        self._try(lambda history: prune(history, now, max_days=self.retention.days, max_bytes=limit))

    def raised(self, alarm: Raised) -> int | None:
        """Record an alarm; its number once it is on the disk, None if it is not."""
        return self._try(lambda history: history.raise_alarm(self.stream, alarm))

    def extended(self, alarm: int, sound: Sound) -> None:
        """Record the sound after an alarm."""
        self._try(lambda history: history.extend_clip(alarm, sound))

    def ended(self, alarm: int | None, when: float, score: float, p_value: float) -> None:
        """Record the end of an alarm."""
        if alarm is not None:
            self._try(lambda history: history.end_alarm(alarm, when, score, p_value))

    def gap(self, when: float, reason: str) -> int | None:
        """Record the beginning of a gap."""
        return self._try(lambda history: history.begin_gap(self.stream, when, reason))

    def gap_ended(self, gap: int | None, when: float) -> None:
        """Record the end of a gap."""
        if gap is not None:
            self._try(lambda history: history.end_gap(gap, when))

    def close(self) -> None:
        """Write what waits."""
        self._try(lambda history: history.flush())


def sound_of(wave: np.ndarray, rate: int, begins: float) -> Sound:
    """A waveform as it is recorded."""
    return Sound(begins, len(wave) / rate, flac(wave, rate))
