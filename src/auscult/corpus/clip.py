"""One recording, and what is known of it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from auscult import audio
from auscult.errors import AudioError

DEFAULT_ID = "id_00"
"""The ID of a machine whose recordings name none."""


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """One recording.

    Attributes
    ----------
    path : str
        As the manifest or the user writes it; the name under which results are reported.
    file : Path or None
        Where the recording lies; None for a clip held in memory.
    machine_type, machine_id : str
        Which machine was recorded.
    split : {"train", "test", "unknown"}
    condition : {"normal", "anomaly", "unknown"}
    section, domain, attributes : str
        Known for DCASE 2021 onwards, else empty.
    samples : ndarray of float32, shape (n_samples,) or (n_samples, n_channels), or None
        The waveform of a clip held in memory.
    rate : int
        Sample rate of `samples`, in Hz.
    """

    path: str
    file: Path | None = None
    machine_type: str = "machine"
    machine_id: str = DEFAULT_ID
    split: str = "unknown"
    condition: str = "unknown"
    section: str = ""
    domain: str = ""
    attributes: str = ""
    samples: np.ndarray | None = field(default=None, repr=False)
    rate: int = 0

    def waveform(self, rate: int, channel: audio.Channel = 0) -> np.ndarray:
        """Decode, pick a channel and resample.

        Returns
        -------
        ndarray of float32, shape (n_samples,)
            At `rate` Hz.

        Raises
        ------
        AudioError
            If the recording cannot be judged.
        """
        if self.samples is not None:
            return audio.prepare(self.samples, self.rate, rate, channel, name=self.path)
        if self.file is None:
            raise AudioError(f"{self.path}: the clip has neither a file nor samples")
        return audio.read(self.file, rate, channel, name=self.path)


def clip_key(file: Path) -> str | None:
    """What identifies a file and its present content, without reading it; None if there is no such file.

    The change time is part of it, which users cannot set: a file replaced by another of the same size and
    date is told apart.
    """
    try:
        status = os.stat(file)
    except (OSError, ValueError):  # a name that no file can have
        return None
    identity = (os.path.realpath(file), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return hashlib.blake2b(repr(identity).encode(), digest_size=16).hexdigest()


def tail(path: str) -> tuple[str, ...]:
    """The last folders of a path and its name: by these the same clip is known, reached from elsewhere."""
    return Path(os.path.abspath(path)).parts[-4:]
