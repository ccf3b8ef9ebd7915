"""A source is listened to in a thread of its own; one that drops is tried again, ever less often."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from auscult.errors import AuscultError
from auscult.monitor.source import Chunk, Heard, Lost, Source, SourceLost

_LONGEST_WAITING = 30.0
"""Seconds of live sound that wait to be judged; beyond that some is left out, which is a gap."""

_CHUNKS_WAITING = 8
"""Of sources that wait themselves."""


@dataclass(frozen=True)
class Patience:
    """Seconds between two attempts: the first, the longest; each wait is twice the one before."""

    first: float = 1.0
    longest: float = 60.0


class Listening:
    """What a source gives, chunk by chunk, and where it gave nothing.

    Parameters
    ----------
    source : Source
    patience : Patience
    """

    def __init__(self, source: Source, patience: Patience = Patience()) -> None:
        self.source, self.patience = source, patience
        self._stop = threading.Event()
        self._heard: queue.Queue[Heard | AuscultError | None] = queue.Queue(0 if source.live else _CHUNKS_WAITING)
        self._waiting = 0.0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, name="listening", daemon=True)

    def __enter__(self) -> Listening:
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Listen no longer."""
        self._stop.set()
        with contextlib.suppress(queue.Empty):  # a full queue would hold the thread for ever
            while True:
                self._heard.get_nowait()

    def __iter__(self) -> Iterator[Heard]:
        """Yield chunks and losses until the source has ended or `stop` was called.

        Raises
        ------
        AuscultError
            If the source can never be heard.
        """
        while not self._stop.is_set():
            try:
                item = self._heard.get(timeout=0.5)
            except queue.Empty:
                continue
            if item is None:
                return
            if isinstance(item, AuscultError):
                raise item
            if isinstance(item, Chunk):
                with self._lock:
                    self._waiting -= len(item.samples) / item.rate
            yield item

    def _read(self) -> None:
        try:
            self._attempts()
            self._put(None)
        except AuscultError as error:
            self._put(error)
        except Exception as error:  # a library's own complaint must not end in silence
            self._put(AuscultError(f"{self.source.name}: {type(error).__name__}: {error}"))

    def _attempts(self) -> None:
        wait = self.patience.first
        while not self._stop.is_set():
            reason = "the source ended"
            attempt = self.source.listen()
            try:
                for item in attempt:
                    if self._stop.is_set():
                        return
                    self._take(item)
                    wait = self.patience.first if isinstance(item, Chunk) else wait
            except SourceLost as error:
                reason = str(error)
                if not self.source.endless:
                    raise AuscultError(error.what, error.remedy) from error
            finally:
                close = getattr(attempt, "close", None)
                if close is not None:
                    close()
            if not self.source.endless:
                return
            self._put(Lost(reason))
            self._stop.wait(wait)
            wait = min(2 * wait, self.patience.longest)

    def _take(self, item: Heard) -> None:
        if isinstance(item, Chunk) and self.source.live:
            seconds = len(item.samples) / item.rate
            with self._lock:
                late = self._waiting + seconds > _LONGEST_WAITING
                self._waiting += 0.0 if late else seconds
            if late:
                self._put(Lost("judging is too slow for this source"))
                return
        elif isinstance(item, Chunk):
            with self._lock:
                self._waiting += len(item.samples) / item.rate
        self._put(item)

    def _put(self, item: Heard | AuscultError | None) -> None:
        while not self._stop.is_set():
            try:
                self._heard.put(item, timeout=0.5)
                return
            except queue.Full:
                continue
