"""A file becomes a waveform: decode, choose a channel, resample, refuse what cannot be judged."""

from __future__ import annotations

import os
import stat
import struct
from typing import BinaryIO, Literal

import numpy as np
import soundfile
import soxr

from auscult.errors import AudioError

Channel = int | Literal["mean"]
"""Which channel of a recording is judged: its number, from 0, or the mean of all."""

SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64"}
)
"""File endings taken for recordings when a folder is searched."""

LONGEST_CLIP = 3600.0
"""Seconds. A longer file is refused before it is decoded: it would fill the memory, and is no clip."""

_LARGEST_SAMPLE = 1e12
"""Floats need not keep to ±1, and some programs write integers as floats; the power of larger ones would overflow."""

_UNKNOWN_LENGTHS = {0, 0xFFFFFFFF, 0x7FFFFFFF}
"""What recorders that write to a pipe leave in a WAV header in place of the length."""


def read(
    path: str | os.PathLike[str], rate: int = 16_000, channel: Channel = 0, *, name: str | None = None
) -> np.ndarray:
    """Read one recording as a mono waveform.

    Parameters
    ----------
    path : path-like
        WAV, FLAC, OGG, MP3 or another format of libsndfile; any bit depth, rate and number of channels.
    rate : int
        Wanted sample rate in Hz; other rates are resampled (soxr, high quality).
    channel : int or "mean"
        Which channel to take. Channel 0 by default, as the users of MIMII and DCASE do.
    name : str, optional
        How to call the clip in error messages; its path by default.

    Returns
    -------
    ndarray of float32, shape (n_samples,)
        Full scale is ±1.

    Raises
    ------
    AudioError
        If there is no such file, no audio in it, no sample, or some of it is missing, NaN or infinite.
    """
    samples, source_rate = decode(path, name=name)
    return prepare(samples, source_rate, rate, channel, name=name or os.fspath(path))


def decode(path: str | os.PathLike[str], *, name: str | None = None) -> tuple[np.ndarray, int]:
    """Decode a file as it is.

    Parameters
    ----------
    path : path-like
    name : str, optional
        How to call the clip in error messages; its path by default.

    Returns
    -------
    samples : ndarray of int16 or float32, shape (n_samples, n_channels)
        16-bit files stay integers: scaling them later is exact, and three times faster.
    rate : int
        Sample rate in Hz.

    Raises
    ------
    AudioError
        If the file is missing, empty, no audio, truncated, or longer than an hour.
    """
    source = os.fspath(path)
    name = name or source
    refuse_what_is_no_file(source, name)
    try:
        with soundfile.SoundFile(source) as file:
            _refuse_long(name, file.frames, file.samplerate)
            declared, rate = file.frames, file.samplerate
            kind = "int16" if file.subtype == "PCM_16" else "float32"
            samples: np.ndarray = file.read(dtype=kind, always_2d=True)
            container = file.format
        with open(source, "rb") as raw:
            cut_short = len(samples) < declared or is_cut_short(raw, os.path.getsize(source), container)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        raise _unreadable(source, name, error) from error
    if cut_short:
        raise AudioError(f"{name}: the recording is cut short", "copy it again from its source")
    if len(samples) == 0:
        raise AudioError(f"{name}: the recording holds no samples", "record it again, or leave it out")
    return samples, rate


def prepare(
    samples: np.ndarray, source_rate: int, rate: int, channel: Channel = 0, *, name: str = "clip"
) -> np.ndarray:
    """Turn decoded samples into the mono float32 waveform that detectors hear.

    Parameters
    ----------
    samples : ndarray, shape (n_samples,) or (n_samples, n_channels)
        int16, int32 or floating point.
    source_rate, rate : int
        Sample rates in Hz, before and after.
    channel : int or "mean"
    name : str
        How to call the clip in error messages.

    Returns
    -------
    ndarray of float32, shape (n_samples,)

    Raises
    ------
    AudioError
        If there is no sample or no such channel, or if a sample is NaN, infinite or absurdly large.
    """
    if source_rate <= 0:
        raise AudioError(f"{name}: the sample rate is not known", "give the rate in Hz with the samples")
    wave = _to_float(_pick_channel(np.asarray(samples), channel, name))
    if wave.size == 0:
        raise AudioError(f"{name}: the recording holds no samples", "record it again, or leave it out")
    if not np.isfinite(wave).all():
        raise AudioError(f"{name}: the recording holds NaN or infinite samples", "export it again as PCM")
    if np.abs(wave).max() > _LARGEST_SAMPLE:
        raise AudioError(f"{name}: the recording holds samples beyond any scale", "export it again as PCM")
    if source_rate != rate:
        wave = soxr.resample(wave, source_rate, rate, quality="HQ")
    return np.ascontiguousarray(wave, dtype=np.float32)


def is_silent(wave: np.ndarray) -> bool:
    """Whether every sample has the same value, as from a microphone that is not connected."""
    return bool(wave.size) and bool((wave == wave[0]).all())


def _pick_channel(samples: np.ndarray, channel: Channel, name: str) -> np.ndarray:
    if samples.ndim == 1:
        samples = samples[:, None]
    if samples.ndim != 2:
        raise AudioError(f"{name}: samples have {samples.ndim} dimensions", "give (n_samples, n_channels)")
    if channel == "mean":
        return np.asarray(_to_float(samples).mean(axis=1))
    if not 0 <= channel < samples.shape[1]:
        raise AudioError(
            f"{name}: there is no channel {channel}; the recording has {samples.shape[1]}",
            "channels count from 0",
        )
    return samples[:, channel]


def _to_float(samples: np.ndarray) -> np.ndarray:
    if np.issubdtype(samples.dtype, np.signedinteger):
        return samples.astype(np.float32) * np.float32(1 / (np.iinfo(samples.dtype).max + 1))
    return samples.astype(np.float32, copy=False)


def _refuse_long(name: str, frames: int, rate: int) -> None:
    if frames > LONGEST_CLIP * rate:
        raise AudioError(
            f"{name}: the recording is {frames / rate / 3600:.1f} hours long", "cut it into clips of seconds"
        )


def refuse_what_is_no_file(source: str, name: str) -> None:
    """Refuse what opening would not, or would wait for for ever: a folder, a pipe, a device."""
    try:
        status = os.stat(source)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AudioError(f"{name}: there is no such file", "check the path") from error
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise AudioError(f"{name}: cannot be opened ({reason})", "check the path") from error
    if stat.S_ISDIR(status.st_mode):
        raise AudioError(f"{name}: is a folder, not a recording", "name a file")
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(f"{name}: is no ordinary file", "copy the recording into one")
    if status.st_size == 0:
        raise AudioError(f"{name}: the file is empty", "copy it again from its source")


def _unreadable(source: str, name: str, error: Exception) -> AudioError:
    if not os.access(source, os.R_OK):
        gone = not os.access(source, os.F_OK)
        what, remedy = (
            ("there is no such file", "check the path") if gone else ("may not be read", "mend its permissions")
        )
        return AudioError(f"{name}: {what}", remedy)
    reason = str(getattr(error, "error_string", error)).rstrip(".").lower()
    return AudioError(f"{name}: no audio could be read ({reason})", "give a WAV, FLAC, OGG or MP3 file")


def is_cut_short(file: BinaryIO, size: int, container: str) -> bool:
    """Whether a file of `size` bytes ends before its own header says; libsndfile reads such files without a word.

    Parameters
    ----------
    file : binary file
        At its beginning.
    size : int
    container : str
        As libsndfile names it; only WAV and OGG can be told.
    """
    if container in ("WAV", "WAVEX"):
        return _wav_is_cut_short(file, size)
    if container == "OGG":
        return not _ogg_has_end(file, size)
    return False


def _wav_is_cut_short(file: BinaryIO, size: int) -> bool:
    order = ">" if file.read(12)[:4] == b"RIFX" else "<"
    while len(header := file.read(8)) == 8:
        length = struct.unpack(order + "I", header[4:])[0]
        if header[:4] == b"data":
            return length not in _UNKNOWN_LENGTHS and file.tell() + length > size
        file.seek(length + length % 2, os.SEEK_CUR)
    return False


def _ogg_has_end(file: BinaryIO, size: int) -> bool:
    """Whether the last page of an Ogg stream is whole and carries the end-of-stream mark (RFC 3533, section 6)."""
    longest_page = 65_307
    file.seek(max(0, size - longest_page))
    tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    n_segments = page[26] if len(page) > 26 else 256
    length = 27 + n_segments + sum(page[27 : 27 + n_segments])
    return len(page) >= length and bool(page[5] & 4)
