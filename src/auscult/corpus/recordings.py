"""Look at recordings without decoding them: their headers, and which of them are copies of another."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

from auscult.corpus.clip import Clip

Key = TypeVar("Key", bound=Hashable)

_SAMPLE = 16_384
"""Bytes from a file's middle: they tell nearly all different recordings apart, so that few are read whole."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a recording's header says, or why it says nothing.

    Attributes
    ----------
    seconds : float
    rate, channels : int
        Sample rate in Hz; number of channels.
    size : int
        Of the file, in bytes.
    error : str
        Empty for a recording that can be read; the other fields are 0 where it is not.
    """

    seconds: float = 0.0
    rate: int = 0
    channels: int = 0
    size: int = 0
    error: str = ""


def probe(clip: Clip) -> Header:
    """Read a clip's header. What is wrong with it is returned, never raised."""
    import soundfile

    if clip.file is None:
        return Header(error="it has no file")
    try:
        size = clip.file.stat().st_size
        if size == 0:
            return Header(error="the file is empty")
        with soundfile.SoundFile(os.fspath(clip.file)) as file:
            seconds, rate, channels = file.frames / file.samplerate, file.samplerate, file.channels
    except (OSError, RuntimeError, ValueError, TypeError, ZeroDivisionError) as error:
        return Header(error=_reason(error))
    return Header(seconds, rate, channels, size) if seconds else Header(error="it holds no samples")


def copies(clips: Sequence[Clip], headers: Sequence[Header], pool: Executor) -> list[list[Clip]]:
    """Group the clips whose files are equal byte for byte.

    Only files of equal size are compared, by a piece from their middle, and only those that agree in it are
    read whole. Clips that cannot be read are left out.
    """
    readable = [(clip, header.size) for clip, header in zip(clips, headers, strict=True) if not header.error]
    groups = _alike([clip for clip, _ in readable], [size for _, size in readable])
    for digest in (_digest_of_middle, _digest_of_all):
        candidates = list(chain.from_iterable(groups))
        groups = _alike(candidates, pool.map(_or_none(digest), candidates))
    return groups


def _alike(clips: Iterable[Clip], keys: Iterable[Key | None]) -> list[list[Clip]]:
    groups: dict[Key, list[Clip]] = {}
    for clip, key in zip(clips, keys, strict=True):
        if key is not None:
            groups.setdefault(key, []).append(clip)
    return [group for group in groups.values() if len(group) > 1]


def _digest_of_middle(file: Path) -> bytes:
    with open(file, "rb") as stream:
        stream.seek(max(0, (os.fstat(stream.fileno()).st_size - _SAMPLE) // 2))
        return hashlib.blake2b(stream.read(_SAMPLE), digest_size=16).digest()


def _digest_of_all(file: Path) -> bytes:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).digest()


def _or_none(digest: Callable[[Path], bytes]) -> Callable[[Clip], bytes | None]:
    def attempt(clip: Clip) -> bytes | None:
        try:
            return digest(clip.file) if clip.file else None
        except OSError:  # gone since its header was read
            return None

    return attempt


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "no audio in it"
