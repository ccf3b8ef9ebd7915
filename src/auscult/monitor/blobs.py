"""Spectrograms and sounds as bytes for a database."""

from __future__ import annotations

import io
import zlib

import numpy as np
import soundfile


def pack(array: np.ndarray | None) -> bytes | None:
    """An array as compressed bytes, in half precision: a tenth of a decibel is not seen."""
    if array is None:
        return None
    buffer = io.BytesIO()
    largest = float(np.finfo(np.float16).max)
    np.save(buffer, np.clip(array, -largest, largest).astype(np.float16), allow_pickle=False)
    return zlib.compress(buffer.getvalue(), level=1)


def unpack(blob: bytes | None) -> np.ndarray | None:
    """What was packed, as float32."""
    if blob is None:
        return None
    return np.asarray(np.load(io.BytesIO(zlib.decompress(blob)), allow_pickle=False), dtype=np.float32)


def flac(wave: np.ndarray, rate: int) -> bytes:
    """A waveform of full scale ±1, shape (n_samples,), as a 16-bit FLAC file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(wave, -1.0, 1.0), rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
