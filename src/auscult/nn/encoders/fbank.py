"""Log energies of mel bands as the speech toolkit Kaldi defines them, which most published encoders listen to."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import torch

RATE = 16_000
"""Hz."""

HOP = 160
"""Samples from one frame to the next: 10 ms."""

LENGTH = 400
"""Samples of a frame: 25 ms."""

_N_FFT = 512
_EMPHASIS = 0.97
_LOWEST, _HIGHEST = 20.0, RATE / 2
_FLOOR = float(np.finfo(np.float32).eps)


def fbank(wave: torch.Tensor, n_mels: int, window: Literal["povey", "hanning"]) -> torch.Tensor:
    """Log energies of mel bands, without dither.

    Of each frame the mean is taken away, then 0.97 of each sample from the next. Frames lie within the clip; one
    shorter than a frame is filled up with zeros.

    Parameters
    ----------
    wave : Tensor, shape (n_samples,)
        At 16 kHz.
    n_mels : int
    window : {"povey", "hanning"}
        Kaldi's own, a Hann window to the power of 0.85; or the Hann window itself.

    Returns
    -------
    Tensor of float32, shape (n_frames, n_mels)
        Natural logarithm of the power, at least that of 1.2e-7.
    """
    exact = wave.double()
    if len(exact) < LENGTH:
        exact = torch.nn.functional.pad(exact, (0, LENGTH - len(exact)))
    frames = exact.unfold(0, LENGTH, HOP)
    frames = frames - frames.mean(1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], 1)
    hann = torch.hann_window(LENGTH, periodic=False, dtype=torch.float64)
    shape = hann**0.85 if window == "povey" else hann
    power = torch.fft.rfft((frames - _EMPHASIS * before) * shape, n=_N_FFT).abs().square()
    energies: torch.Tensor = (power @ _filters(n_mels)).clamp(min=_FLOOR).log().float()
    return energies


def mel_centres(n_mels: int) -> np.ndarray:
    """Centre frequencies of the mel bands in Hz, shape (n_mels,)."""
    return np.asarray(700 * np.expm1(_points(n_mels)[1:-1] / 1127))


def _mel(hertz: float | np.ndarray) -> np.ndarray:
    return np.asarray(1127 * np.log1p(np.asarray(hertz) / 700))


def _points(n_mels: int) -> np.ndarray:
    """Corners of the filters, in mel, shape (n_mels + 2,)."""
    return np.linspace(float(_mel(_LOWEST)), float(_mel(_HIGHEST)), n_mels + 2)


@cache
def _filters(n_mels: int) -> torch.Tensor:
    """Triangles on the mel scale, shape (n_bins, n_mels)."""
    points = _points(n_mels)
    bins = _mel(np.fft.rfftfreq(_N_FFT, 1 / RATE))[:, None]
    rising = (bins - points[:-2]) / (points[1:-1] - points[:-2])
    falling = (points[2:] - bins) / (points[2:] - points[1:-1])
    triangles = np.maximum(np.minimum(rising, falling), 0)
    triangles[-1] = 0  # Kaldi leaves out the bin at half the sample rate
    return torch.from_numpy(triangles)
