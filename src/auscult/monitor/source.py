"""Where sound comes from: what every source is, and which one a name means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from time import time as now
from typing import Protocol
from urllib.parse import urlsplit

import numpy as np

from auscult.errors import AuscultError


@dataclass(frozen=True)
class Chunk:
    """Some sound.

    Attributes
    ----------
    samples : ndarray of int16 or float32, shape (n_samples, n_channels)
    rate : int
        Hz.
    time : float or None
        Unix seconds at which it begins; None where it follows what came before.
    begins : bool
        Whether it continues nothing: the first of a recording.
    ends : bool
        Whether nothing continues it: the last of a recording.
    arrived : float
        When it was there, by `time.monotonic`.
    """

    samples: np.ndarray = field(repr=False)
    rate: int
    time: float | None = None
    begins: bool = False
    ends: bool = False
    arrived: float = field(default_factory=monotonic)


@dataclass(frozen=True)
class Lost:
    """Nothing is heard from now on, and why."""

    reason: str
    time: float = field(default_factory=now)


Heard = Chunk | Lost


class SourceLost(AuscultError):
    """A source dropped; it is worth trying again."""


class Source(Protocol):
    """Something to listen to.

    Attributes
    ----------
    name : str
        As messages and the history call it, without passwords.
    live : bool
        Whether sound comes at its own pace, and what is not taken is lost; else it waits.
    endless : bool
        Whether an end is a loss, after which to try again.
    """

    name: str
    live: bool
    endless: bool

    def listen(self) -> Iterator[Heard]:
        """Open it and yield what is heard; closing the iterator closes the source.

        Raises
        ------
        SourceLost
            If it drops, or is not there.
        AuscultError
            If it can never be.
        """
        ...


@dataclass(frozen=True)
class PCM:
    """How raw samples are written.

    Attributes
    ----------
    rate : int
        Hz.
    channels : int
    format : str
        s16le, s32le, f32le (or be).
    """

    rate: int = 16_000
    channels: int = 1
    format: str = "s16le"

    def __post_init__(self) -> None:
        if self.format not in _FORMATS:
            raise AuscultError(f"raw samples cannot be {self.format!r}", f"choose one of {', '.join(_FORMATS)}")
        if not 1000 <= self.rate <= 1_000_000 or not 1 <= self.channels <= 64:
            raise AuscultError(f"raw samples at {self.rate} Hz with {self.channels} channels", "see --pcm")

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Of one sample."""
        return np.dtype(_FORMATS[self.format])

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels."""
        return self.channels * self.dtype.itemsize

    def decode(self, data: bytes) -> np.ndarray:
        """Samples, shape (n_samples, n_channels), of whole frames."""
        samples = np.frombuffer(data, self.dtype).reshape(-1, self.channels)
        return samples.astype(self.dtype.newbyteorder("="))

    @staticmethod
    def parse(text: str) -> PCM:
        """Read "16000", "48000:2" or "48000:2:s32le": rate, channels, format.

        Raises
        ------
        AuscultError
            If it is none of these.
        """
        parts = text.split(":")
        if not 1 <= len(parts) <= 3 or not all(part.isdigit() for part in parts[:2]):
            raise AuscultError(f"--pcm {text}: is no rate, channels and format", "as --pcm 16000:1:s16le")
        numbers = [int(part) for part in parts[:2]]
        return PCM(numbers[0], numbers[1] if len(numbers) > 1 else 1, *parts[2:])


_FORMATS = {"s16le": "<i2", "s16be": ">i2", "s32le": "<i4", "s32be": ">i4", "f32le": "<f4", "f32be": ">f4"}


def open_source(spec: str, *, pcm: PCM = PCM(), real_time: bool = False) -> Source:
    """The source that a name means. Nothing is opened yet.

    Parameters
    ----------
    spec : str
        `mic:` or `mic:NAME`; `-` for raw samples on standard input; a folder; a file; `rtsp://`, `http://` or
        `https://`; `mqtt://HOST/TOPIC`.
    pcm : PCM
        How raw samples are written.
    real_time : bool
        Hear a file as if it were being recorded now, not as fast as it can be judged.

    Raises
    ------
    AuscultError
        If it means none.
    """
    from auscult.monitor import sources_file, sources_live

    if spec == "-":
        return sources_file.Stdin(pcm)
    if spec.startswith("mic:"):
        return sources_live.Microphone(spec.removeprefix("mic:"))
    scheme = urlsplit(spec).scheme if "://" in spec else ""
    if scheme in ("rtsp", "rtsps", "http", "https", "rtmp", "udp", "srt"):
        return sources_live.NetworkStream(spec)
    if scheme in ("mqtt", "mqtts"):
        return sources_live.MQTTMessages(spec, pcm)
    if scheme:
        raise AuscultError(f"{without_password(spec)}: cannot listen to {scheme}", "rtsp, http, https and mqtt do")
    path = Path(spec)
    if path.is_dir():
        return sources_file.Folder(path)
    if path.exists():
        return sources_file.File(path, real_time)
    raise AuscultError(f"{spec}: there is no such file or folder", "or say mic:, -, rtsp://…, http://… or mqtt://…")


def without_password(url: str) -> str:
    """A URL as it may be shown: user names and passwords are left out."""
    return re.sub(r"(?<=://)[^/@]*@", "", url)
