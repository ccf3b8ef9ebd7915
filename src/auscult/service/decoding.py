"""Uploads are decoded in processes of their own: bounded in number, memory and time, and they open no file."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import queue
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import soundfile

from auscult import audio
from auscult.errors import AudioError, AuscultError

_MEMORY = 2 * 2**30
"""Bytes a worker may take."""

_MOST_CHANNELS = 32
_RATES = (1000, 400_000)
_BLOCK_SECONDS = 10.0
_RENEWED_AFTER = 2000
"""Clips after which a worker makes room for a new one: whatever a decoder leaks ends there."""


class Decoder:
    """A few processes that turn bytes into waveforms.

    Parameters
    ----------
    workers : int
    clip_seconds : float
        Longer clips are refused before they are decoded.
    decode_seconds : float
        After which a worker is killed.
    """

    def __init__(self, workers: int, clip_seconds: float, decode_seconds: float) -> None:
        self.clip_seconds, self.decode_seconds = clip_seconds, decode_seconds
        self._free: queue.Queue[_Worker] = queue.Queue()
        self._all: set[_Worker] = set()
        self._lock = threading.Lock()
        self._closed = False
        for _ in range(workers):
            self._free.put(self._new())

    def _new(self) -> _Worker:
        worker = _Worker(self.clip_seconds)
        with self._lock:
            self._all.add(worker)
        return worker

    def decode(self, data: bytes, rate: int, channel: audio.Channel, name: str = "clip") -> np.ndarray:
        """Decode a recording; waits for a free worker.

        Parameters
        ----------
        data : bytes
            A WAV, FLAC, OGG or MP3 file.
        rate : int
            Wanted, in Hz.
        channel : int or "mean"
        name : str
            How to call it in messages.

        Returns
        -------
        ndarray of float32, shape (n_samples,)

        Raises
        ------
        AudioError
            If it is no recording, too long, or takes too long to decode.
        """
        worker = self._free.get()
        try:
            answer = worker.ask((data, rate, channel, name), self.decode_seconds)
        except (EOFError, OSError, TimeoutError) as error:
            worker.kill()
            late = isinstance(error, TimeoutError)
            reason = f"took longer than {self.decode_seconds:g} s" if late else "broke the decoder"
            raise AudioError(f"{name}: {reason}", "export it again as WAV") from error
        finally:
            if worker.done >= _RENEWED_AFTER:
                worker.kill()
            if not worker.alive() and not self._closed:
                with self._lock:
                    self._all.discard(worker)
                worker = self._new()
            self._free.put(worker)
        if isinstance(answer, np.ndarray):
            return answer
        raise AudioError(*answer)

    def close(self) -> None:
        """End the workers."""
        self._closed = True
        with self._lock:
            for worker in self._all:
                worker.kill()


class _Worker:
    def __init__(self, clip_seconds: float) -> None:
        # Spawned: a fork of a process with threads may hang, and would hold its memory.
        context = multiprocessing.get_context("spawn")
        self._end, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, clip_seconds), daemon=True)
        self._process.start()
        theirs.close()
        self.done = 0
        self._ready = False

    def ask(self, question: Any, seconds: float) -> Any:
        if not self._ready:  # it may take a second to start, which is not the clip's fault
            if not self._end.poll(60.0):
                raise TimeoutError
            self._end.recv()
            self._ready = True
        self._end.send(question)
        if not self._end.poll(seconds):
            raise TimeoutError
        self.done += 1
        return self._end.recv()

    def alive(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._end.close()


def _serve(connection: Connection, clip_seconds: float) -> None:
    """What a worker does until its pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it has nothing to write
    connection.send("ready")
    with contextlib.suppress(EOFError, OSError):
        while True:
            data, rate, channel, name = connection.recv()
            try:
                connection.send(decode(data, rate, channel, name, clip_seconds))
            except AuscultError as error:
                connection.send((error.what, error.remedy))
            except MemoryError:
                connection.send((f"{name}: takes too much memory to decode", "send it as WAV, and shorter"))
            except Exception as error:  # whatever a hostile file provokes is that file's fault
                connection.send((f"{name}: no audio could be read ({type(error).__name__})", "send it as WAV"))


def decode(data: bytes, rate: int, channel: audio.Channel, name: str, clip_seconds: float) -> np.ndarray:
    """Decode bytes to a mono waveform at `rate`; see `Decoder.decode`.

    Raises
    ------
    AudioError
        If it is no recording or longer than `clip_seconds`.
    """
    if not data:
        raise AudioError(f"{name}: is empty", "send a WAV, FLAC, OGG or MP3 file")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _refuse(file, name, clip_seconds)
            samples, source_rate = _read(file, name, clip_seconds), file.samplerate
            container = file.format
    except (soundfile.LibsndfileError, TypeError, ValueError, RuntimeError) as error:
        raise AudioError(f"{name}: no audio could be read", "send a WAV, FLAC, OGG or MP3 file") from error
    if audio.is_cut_short(io.BytesIO(data), len(data), container):
        raise AudioError(f"{name}: the recording is cut short", "send it again")
    return audio.prepare(samples, source_rate, rate, channel, name=name)


def _refuse(file: soundfile.SoundFile, name: str, clip_seconds: float) -> None:
    """By what the header says, before anything is decoded."""
    if not _RATES[0] <= file.samplerate <= _RATES[1] or not 1 <= file.channels <= _MOST_CHANNELS:
        what = f"{file.samplerate} Hz, {file.channels} channels"
        raise AudioError(f"{name}: {what}: is no recording of a machine", "send 1 to 400 kHz, at most 32 channels")
    if file.frames > clip_seconds * file.samplerate:
        raise _too_long(name, clip_seconds)


def _read(file: soundfile.SoundFile, name: str, clip_seconds: float) -> np.ndarray:
    """By and by: a header may say less than there is."""
    kind = "int16" if file.subtype == "PCM_16" else "float32"
    blocks, total, most = [], 0, clip_seconds * file.samplerate
    while len(block := file.read(round(_BLOCK_SECONDS * file.samplerate), dtype=kind, always_2d=True)):
        total += len(block)
        if total > most:
            raise _too_long(name, clip_seconds)
        blocks.append(block)
    if total < min(file.frames, most):
        raise AudioError(f"{name}: the recording is cut short", "send it again")
    if not blocks:
        raise AudioError(f"{name}: the recording holds no samples", "record it again")
    return np.concatenate(blocks)


def _too_long(name: str, clip_seconds: float) -> AudioError:
    return AudioError(f"{name}: is longer than {clip_seconds:g} s", "cut it into clips of seconds")
