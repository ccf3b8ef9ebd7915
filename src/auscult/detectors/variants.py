"""A clip at another pitch and tempo, as a front end of its own: the store keeps its log-mels like any other's."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import soxr
import torch
from pydantic import Field

from auscult.errors import AuscultError
from auscult.features import FrontEnd

_ALMOST_ONE = 1 + 1e-7
"""Resampling by exactly 1 would skip the resampler's filter, and a network hear which clips it skipped. It is
two ten-thousandths of a cent."""


class VariantFrontEnd(FrontEnd):
    """A front end that hears every clip at another pitch and tempo.

    Attributes
    ----------
    semitones : float
        By which the pitch is higher.
    tempo : float
        By which time runs faster, pitch kept: 0.9 makes of ten seconds eleven.
    stretcher : str
        What changes them, so that kept log-mels are those of this program.
    """

    semitones: float = 0.0
    tempo: float = Field(default=1.0, gt=0)
    stretcher: str = "python-stretch and soxr"

    def logmel(self, wave: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Log-mel of the variant; see `FrontEnd.logmel`."""
        samples = np.asarray(wave, dtype=np.float32)
        flat = samples.reshape(-1, samples.shape[-1])
        changed = np.stack([change(row, self.semitones, self.tempo, self.sample_rate) for row in flat])
        return super().logmel(changed.reshape(*samples.shape[:-1], -1))


def change(wave: np.ndarray, semitones: float, tempo: float, rate: int) -> np.ndarray:
    """Shift the pitch and change the tempo of a waveform.

    A time stretch, and resampling for the pitch: exact to a thousandth of a cent, where python-stretch's own shift
    misses a tenth of a semitone by up to seven cents. Every waveform takes the same way, one that stays as it is too.

    Parameters
    ----------
    wave : ndarray of float32, shape (n_samples,)
    semitones, tempo : float
        See `VariantFrontEnd`.
    rate : int
        Sample rate, Hz.

    Returns
    -------
    ndarray of float32, shape (round(n_samples / tempo),)

    Raises
    ------
    AuscultError
        If python-stretch is not installed.
    """
    pitch = 2 ** (semitones / 12)
    # Seeded: it would be random otherwise.
    stretch = _stretching().Stretch(0)
    stretch.preset(1, rate)
    stretch.setTimeFactor(tempo / pitch)
    stretched = np.asarray(stretch.process(np.ascontiguousarray(wave[None], dtype=np.float32)), dtype=np.float32)[0]
    resampled = soxr.resample(stretched, rate * pitch * _ALMOST_ONE, rate)
    missing = round(len(wave) / tempo) - len(resampled)
    whole: np.ndarray = np.pad(resampled, (0, missing)) if missing > 0 else resampled[: round(len(wave) / tempo)]
    return whole


def require_stretching() -> None:
    """Refuse to go on without python-stretch.

    Raises
    ------
    AuscultError
        If it is not installed.
    """
    _stretching()


def _stretching() -> Any:
    try:
        return importlib.import_module("python_stretch.Signalsmith")
    except ImportError as error:
        raise AuscultError(
            "python-stretch, which changes pitch and tempo, is not installed",
            "pip install 'auscult[augmentation]', or python-stretch by itself",
        ) from error
