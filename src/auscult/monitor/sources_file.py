"""Sound from files: one, a folder being filled, raw samples on standard input."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import soundfile

from auscult import audio
from auscult.errors import AudioError
from auscult.monitor.source import PCM, Chunk, Heard, Lost

_CHUNK = 1.0
"""Seconds read at once from a file."""

_SETTLED = 1.0
"""Seconds for which a file in a folder must not have changed before it is taken to be whole."""

_LOOK = 0.5
"""Seconds between two looks into a folder."""


class File:
    """A recording of any length, read as it is judged.

    Parameters
    ----------
    path : Path
    real_time : bool
        Hear it at the pace it was recorded.
    """

    endless = False

    def __init__(self, path: Path, real_time: bool = False) -> None:
        self.path, self.name, self.live = path, str(path), real_time

    def listen(self) -> Iterator[Heard]:
        """See `Source.listen`."""
        begin, wall = time.monotonic(), time.time()
        heard = 0.0
        for chunk in read_chunks(self.path):
            heard += len(chunk.samples) / chunk.rate
            if self.live:
                time.sleep(max(0.0, begin + heard - time.monotonic()))
            yield Chunk(chunk.samples, chunk.rate, wall if chunk.begins else None, chunk.begins, chunk.ends)


class Folder:
    """A folder into which a recorder writes; what is there already is heard first, by date.

    Parameters
    ----------
    path : Path
    once : bool
        End when all that is there was heard, and wait for nothing.
    """

    live = False
    endless = True

    def __init__(self, path: Path, once: bool = False) -> None:
        self.path, self.name, self.once = path, str(path), once
        self._heard: dict[Path, tuple[int, int]] = {}

    def listen(self) -> Iterator[Heard]:
        """See `Source.listen`. A file that cannot be read is a gap, and the next is heard."""
        while True:
            for file in self._new():
                try:
                    audio_begins = self._begin(file)
                    for chunk in read_chunks(file):
                        when = audio_begins if chunk.begins else None
                        yield Chunk(chunk.samples, chunk.rate, when, chunk.begins, chunk.ends)
                except AudioError as error:
                    yield Lost(str(error))
            if self.once:
                return
            time.sleep(_LOOK)

    def _begin(self, file: Path) -> float:
        """When a recording began: it was complete when its file was."""
        try:
            information = soundfile.info(os.fspath(file))
            seconds = float(information.frames / information.samplerate)
        except (soundfile.LibsndfileError, OSError):
            seconds = 0.0
        return file.stat().st_mtime - seconds if file.exists() else time.time() - seconds

    def _new(self) -> list[Path]:
        """Recordings that are new, or were written again, and have not changed for a moment; the oldest first."""
        found = []
        now = time.time()
        for entry in self._entries():
            file = Path(entry.path)
            try:
                status = entry.stat()
            except OSError:
                continue
            state = (status.st_size, status.st_mtime_ns)
            if self._heard.get(file) != state and (self.once or now - status.st_mtime >= _SETTLED):
                self._heard[file] = state
                found.append((status.st_mtime_ns, file))
        return [file for _, file in sorted(found)]

    def _entries(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.path) as entries:
                return [e for e in entries if Path(e.name).suffix.lower() in audio.SUFFIXES and e.is_file()]
        except OSError:
            return []  # a share that is not mounted now


class Stdin:
    """Raw samples on standard input, as a recorder's pipe writes them.

    Parameters
    ----------
    pcm : PCM
    stream : binary file, optional
        Default: standard input.
    """

    live = False  # a pipe waits for its reader
    endless = False
    name = "-"

    def __init__(self, pcm: PCM, stream: BinaryIO | None = None) -> None:
        self.pcm, self.stream = pcm, stream

    def listen(self) -> Iterator[Heard]:
        """See `Source.listen`."""
        stream = self.stream or sys.stdin.buffer
        rest, first = b"", True
        read = getattr(stream, "read1", stream.read)
        size = round(_CHUNK * self.pcm.rate) * self.pcm.frame_bytes
        while data := read(size):
            data = rest + data
            whole = len(data) // self.pcm.frame_bytes * self.pcm.frame_bytes
            rest = data[whole:]
            if whole:
                yield Chunk(self.pcm.decode(data[:whole]), self.pcm.rate, time.time() if first else None, first)
                first = False


def read_chunks(path: Path) -> Iterator[Chunk]:
    """A recording second by second; only its first and last chunk begin and end it.

    Raises
    ------
    AudioError
        If it is missing, empty or no audio.
    """
    audio.refuse_what_is_no_file(os.fspath(path), str(path))
    try:
        with soundfile.SoundFile(os.fspath(path)) as file:
            rate, kind = file.samplerate, "int16" if file.subtype == "PCM_16" else "float32"
            size = max(1, round(_CHUNK * rate))
            samples = file.read(size, dtype=kind, always_2d=True)
            begins = True
            if not len(samples):
                raise AudioError(f"{path}: the recording holds no samples", "record it again, or leave it out")
            while len(samples):
                following = file.read(size, dtype=kind, always_2d=True)
                yield Chunk(samples, rate, begins=begins, ends=not len(following))
                samples, begins = following, False
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        raise AudioError(f"{path}: no audio could be read ({error})", "give a WAV, FLAC, OGG or MP3 file") from error
