"""A waveform becomes a log-mel: the front ends of the published systems, by name.

Spectra are computed with 32-bit transforms, and frames in which those could be off by more than 1e-4 dB are
computed again with 64-bit ones. A 32-bit transform spreads its rounding errors over all bins, so it is the weak
bands of a frame that suffer. Two things keep them few. Each windowed frame is first differenced, circularly,
which divides out exactly afterwards: most machines are loudest at low frequencies, and it lifts the rest. And a
frame is computed again only if a band lies far below the frame's mean, or one bin holds most of its energy. The
recordings of pumps and fans that this was measured on hardly ever need it, pure tones and fades always.
"""

from __future__ import annotations

import math
import threading
from functools import cache, cached_property
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, model_validator

from auscult.errors import AudioError, AuscultError

EPSILON = float(np.finfo(np.float64).eps)

_WEAK = 1.3e-3
"""A band's power over that of an even spectrum with the frame's energy, below which 32 bits may not do. Errors
grow as its inverse square root: 8e-5 dB was the largest found at 1e-3, over thousands of sounds."""

_TONAL = 0.6
"""Share of one bin in a frame's energy, above which the errors gather in a few bins and 32 bits may not do."""

_DIFFERENCE = 0.6
"""Share of a sample subtracted from the next: lifts the highest frequencies 12 dB above the lowest."""

_BLOCK = 512
"""Frames transformed at once; a ten-second clip is one block, an hour needs no more memory."""

_FILTER_GROUPS = 8
"""Filters are narrow: eight groups, each over its own bins, take an eighth of the full product's work."""


class FrontEnd(BaseModel):
    """How a waveform becomes a log-mel spectrogram.

    Attributes
    ----------
    sample_rate : int
        Hz.
    n_fft, hop_length : int
        Length of a frame and distance between frames, in samples. Frames are centred, Hann-windowed.
    n_mels : int
    fmin, fmax : float
        Lowest and highest frequency of the mel bands, Hz.
    mel_scale : {"slaney", "htk"}
    mel_norm : {"slaney", "none"}
        Whether each filter is divided by its width.
    log : {"add", "max"}
        10 log10(power + floor) or 10 log10(max(power, floor)).
    floor : float
        Power added to, or the smallest kept.
    top_db : float or None
        Values further than this below the clip's maximum are raised to it.
    padding : {"reflect", "constant"}
        What stands beyond the ends of the clip.
    normalise : {"none", "std", "standard"}
        The waveform as it is; divided by its standard deviation; or also freed of its mean.
    first_seconds : float or None
        Only so much of the clip's beginning is used.
    channel : int or "mean"
        Which channel of a recording is judged.
    precision : {"auto", "float64", "float32"}
        Arithmetic of the transform; see the module's first lines.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample_rate: int = 16_000
    n_fft: int = 1024
    hop_length: int = 512
    n_mels: int = 128
    fmin: float = 0.0
    fmax: float = 8000.0
    mel_scale: Literal["slaney", "htk"] = "slaney"
    mel_norm: Literal["slaney", "none"] = "slaney"
    log: Literal["add", "max"] = "add"
    floor: float = EPSILON
    top_db: float | None = None
    padding: Literal["reflect", "constant"] = "reflect"
    normalise: Literal["none", "std", "standard"] = "none"
    first_seconds: float | None = None
    channel: int | Literal["mean"] = 0
    precision: Literal["auto", "float64", "float32"] = "auto"

    @model_validator(mode="after")
    def _is_possible(self) -> FrontEnd:
        if not 0 < self.hop_length <= self.n_fft or self.n_fft % 2:
            raise ValueError("hop_length must lie between 1 and n_fft, and n_fft be even")
        if not 0 <= self.fmin < self.fmax <= self.sample_rate / 2:
            raise ValueError("fmin < fmax must lie between 0 and half the sample rate")
        return self

    def n_frames(self, n_samples: int) -> int:
        """How many frames a waveform of `n_samples` gives (313 for ten seconds at 16 kHz, 344 for eleven)."""
        if self.first_seconds is not None:
            n_samples = min(n_samples, round(self.first_seconds * self.sample_rate))
        return 1 + n_samples // self.hop_length

    def band_centres(self) -> np.ndarray:
        """Centre frequency of each mel band in Hz, shape (n_mels,)."""
        return _band_edges(self)[1:-1]

    def frame_times(self, n_frames: int) -> np.ndarray:
        """Time of the centre of each frame in seconds, shape (n_frames,)."""
        return np.arange(n_frames) * (self.hop_length / self.sample_rate)

    def mel_matrix(self) -> np.ndarray:
        """The mel filters, shape (n_mels, n_fft // 2 + 1), float32; equal to librosa's."""
        return _mel_matrix(self)

    def logmel(self, wave: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Log-mel spectrogram in dB.

        Parameters
        ----------
        wave : array of float, shape (..., n_samples)
            Full scale ±1, at `sample_rate`. Each clip of a batch is computed by itself.

        Returns
        -------
        Tensor of float32, shape (..., n_frames, n_mels)

        Raises
        ------
        AudioError
            If the waveform is too short for one frame.
        """
        tensor = torch.as_tensor(wave, dtype=torch.float32)
        if tensor.ndim == 1:
            return self._clip_logmel(tensor)
        flat = tensor.reshape(-1, tensor.shape[-1])
        spectra = torch.stack([self._clip_logmel(clip) for clip in flat])
        return spectra.reshape(*tensor.shape[:-1], *spectra.shape[1:])

    def mel_power(self, samples: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Mel power of some frames of a waveform that goes on, neither scaled nor in dB.

        Frame `i` is centred at sample `i * hop_length`; beyond the ends of `samples` stands the padding.

        Parameters
        ----------
        samples : ndarray of float32, shape (n_samples,)
        start, stop : int
            The first frame, and the one after the last.

        Returns
        -------
        ndarray of float32, shape (stop - start, n_mels)
        """
        workspace = _workspace(self)
        blocks = range(start, stop, _BLOCK)
        parts = [workspace.mel_power(samples, first, min(first + _BLOCK, stop)).numpy().copy() for first in blocks]
        return np.concatenate(parts) if parts else np.empty((0, self.n_mels), np.float32)

    def levels(self, power: torch.Tensor) -> torch.Tensor:
        """Turn mel power, shape (n_frames, n_mels), into dB; what is given is overwritten."""
        power = power.add_(self.floor) if self.log == "add" else power.clamp_(min=self.floor)
        decibels = power.log10().mul_(10)
        if self.top_db is not None:
            decibels.clamp_(min=float(decibels.max()) - self.top_db)
        return decibels

    def _clip_logmel(self, wave: torch.Tensor) -> torch.Tensor:
        return self.levels(self._mel_power(self._scale(self._crop(wave))))

    def _crop(self, wave: torch.Tensor) -> torch.Tensor:
        if self.first_seconds is None:
            return wave
        return wave[: round(self.first_seconds * self.sample_rate)]

    def _scale(self, wave: torch.Tensor) -> torch.Tensor:
        if self.normalise == "none":
            return wave
        exact = wave.double()
        deviation = float(exact.std(correction=0))
        if self.normalise == "standard":
            exact = exact - exact.mean()
        return (exact / deviation if deviation > 0 else exact).float()

    def _mel_power(self, wave: torch.Tensor) -> torch.Tensor:
        """Mel power of every frame. The next clip of this thread overwrites the result."""
        if len(wave) <= self.n_fft // 2:
            raise AudioError(
                f"the clip is too short: {len(wave) / self.sample_rate * 1000:.0f} ms",
                f"at least {(self.n_fft // 2 + 1) / self.sample_rate * 1000:.0f} ms are needed for one frame",
            )
        samples = wave.numpy()
        n_frames = 1 + len(samples) // self.hop_length
        workspace = _workspace(self)
        if n_frames <= _BLOCK:
            return workspace.mel_power(samples, 0, n_frames)
        starts = range(0, n_frames, _BLOCK)
        blocks = [workspace.mel_power(samples, start, min(start + _BLOCK, n_frames)).clone() for start in starts]
        return torch.cat(blocks)

    @cached_property
    def _plan(self) -> _Plan:
        return _Plan(self)


class _Plan:
    """What is computed once for a front end: windows, filters by group, the guard's limits."""

    def __init__(self, front: FrontEnd) -> None:
        # The periodic Hann window in 64 bits, as scipy and librosa have it.
        window = torch.hann_window(front.n_fft, periodic=True, dtype=torch.float64)
        self.window = window.numpy()
        self.window32 = window.float()
        # The window is zero at its first sample, so the difference that goes round the frame's end needs nothing.
        self.subtracted = -_DIFFERENCE * self.window32.roll(-1)
        filters = torch.from_numpy(front.mel_matrix())
        self.groups_exact = _groups(filters)
        # What differencing does to the power at each bin is divided out in the filters.
        turn = torch.arange(front.n_fft // 2 + 1, dtype=torch.float64) * (2 * math.pi / front.n_fft)
        gain = 1 + _DIFFERENCE**2 - 2 * _DIFFERENCE * torch.cos(turn)
        undone = (filters / gain).float()
        self.groups = _groups(undone)
        width = undone.sum(1) * (_WEAK / (front.n_fft // 2))
        # Bands so narrow that no bin falls into them hold nothing, and are never weak.
        self.relative = torch.where(width > 0, 1 / width, 0)
        self.excused = torch.where(width > 0, 0.0, torch.inf)


_Group = tuple[slice, slice, np.ndarray]


def _groups(filters: torch.Tensor) -> list[_Group]:
    bands = np.array_split(np.arange(len(filters)), min(_FILTER_GROUPS, len(filters)))
    return [_group(filters, int(rows[0]), int(rows[-1]) + 1) for rows in bands]


def _group(filters: torch.Tensor, first: int, last: int) -> _Group:
    """The bins that bands `first` to `last` look at, those bands, and their weights on the bins."""
    bins = filters[first:last].sum(0).nonzero()[:, 0]
    low, high = (int(bins[0]), int(bins[-1]) + 1) if len(bins) else (0, 1)
    return slice(low, high), slice(first, last), np.ascontiguousarray(filters[first:last, low:high].T.numpy())


class _Workspace:
    """Buffers of one thread: fresh ones for every clip would cost more than the arithmetic."""

    def __init__(self, front: FrontEnd) -> None:
        self.front = front
        self.plan = front._plan
        self.n_frames = 0

    def mel_power(self, samples: np.ndarray, start: int, stop: int) -> torch.Tensor:
        """Mel power of frames `start` to `stop` of a clip, in a buffer of shape (n_frames, n_mels)."""
        self._fit_to(stop - start)
        self._fill(samples, start * self.front.hop_length - self.front.n_fft // 2)
        if self.front.precision == "float64":
            return torch.from_numpy(self._exact(self.frames.numpy()))
        self._fast()
        if self.front.precision == "auto":
            rows = self._doubtful()
            if len(rows):
                self.mel.numpy()[rows] = self._exact(self.frames.numpy()[rows])
        return self.mel

    def _fill(self, samples: np.ndarray, first: int) -> None:
        """Lay the samples from number `first` on under the frames, with what stands beyond the clip's ends."""
        block, n = self.block, len(samples)
        before, inside = max(-first, 0), min(first + len(block), n)
        beyond = first + len(block) - inside
        block[before : len(block) - beyond] = samples[max(first, 0) : inside]
        if self.front.padding == "constant":
            block[:before] = 0
            block[len(block) - beyond :] = 0
        else:
            block[:before] = samples[before:0:-1]
            block[len(block) - beyond :] = samples[::-1][1 : 1 + beyond]

    def _fast(self) -> None:
        """Fill `power` and `mel`. numpy where it is the quicker of the two: magnitudes, slender products."""
        torch.mul(self.frames, self.plan.window32, out=self.differenced)
        self.differenced.addcmul_(self.frames_after, self.plan.subtracted)
        np.abs(torch.fft.rfft(self.differenced).numpy(), out=self.power.numpy())
        self.power.square_()
        for power, weights, mel in self.products:
            np.matmul(power, weights, out=mel)

    def _doubtful(self) -> np.ndarray:
        """Numbers of the frames just computed that 32 bits may not do for."""
        energy = self.power.sum(1).numpy()
        torch.addcmul(self.plan.excused, self.mel, self.plan.relative, out=self.levels)
        weakest = self.levels.amin(1).numpy()
        strongest = self.power.amax(1).numpy()
        return np.flatnonzero((weakest < energy) | (strongest > energy * np.float32(_TONAL)))

    def _exact(self, frames: np.ndarray) -> np.ndarray:
        """Mel power of some frames, by way of a 64-bit spectrum."""
        spectrum = torch.fft.rfft(torch.from_numpy(frames * self.plan.window)).numpy()
        power = (np.abs(spectrum) ** 2).astype(np.float32)
        mel = np.empty((len(frames), self.front.n_mels), dtype=np.float32)
        for bins, bands, weights in self.plan.groups_exact:
            np.matmul(power[:, bins], weights, out=mel[:, bands])
        return mel

    def _fit_to(self, n_frames: int) -> None:
        if n_frames == self.n_frames:
            return
        self.n_frames = n_frames
        bins = self.front.n_fft // 2 + 1
        # Ordinary tensors, even if made in inference mode: training may use them next.
        with torch.inference_mode(False):
            length, hop = self.front.n_fft, self.front.hop_length
            # One sample more at the end, always zero: differencing looks there, and takes nothing from it.
            padded = torch.zeros(1 + (n_frames - 1) * hop + length)
            self.differenced = torch.empty(n_frames, length)
            self.power = torch.empty(n_frames, bins)
            self.mel = torch.empty(n_frames, self.front.n_mels)
            self.levels = torch.empty_like(self.mel)
        self.block = padded[:-1].numpy()
        self.frames = padded[:-1].unfold(0, length, hop)
        self.frames_after = padded[1:].unfold(0, length, hop)
        power, mel = self.power.numpy(), self.mel.numpy()
        self.products = [(power[:, bins], weights, mel[:, bands]) for bins, bands, weights in self.plan.groups]


_threads = threading.local()


def _workspace(front: FrontEnd) -> _Workspace:
    current: _Workspace | None = getattr(_threads, "workspace", None)
    if current is None or (current.front is not front and current.front != front):
        current = _threads.workspace = _Workspace(front)
    return current


def _hertz_to_mel(hertz: np.ndarray, scale: str) -> np.ndarray:
    """Slaney: linear to 1 kHz, then 27 bands to a factor of 6.4. HTK: 2595 log10(1 + f / 700)."""
    if scale == "htk":
        return np.asarray(2595.0 * np.log10(1.0 + hertz / 700.0))
    return np.where(
        hertz < 1000.0, hertz * 3 / 200, 15.0 + np.log(np.maximum(hertz, 1e-9) / 1000.0) * (27 / np.log(6.4))
    )


def _mel_to_hertz(mel: np.ndarray, scale: str) -> np.ndarray:
    if scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))
    return np.where(mel < 15.0, mel * 200 / 3, 1000.0 * np.exp((mel - 15.0) * (np.log(6.4) / 27)))


def _band_edges(front: FrontEnd) -> np.ndarray:
    """Edges and centres of the bands in Hz, shape (n_mels + 2,): band m rises from m to m+1, falls to m+2."""
    low, high = _hertz_to_mel(np.array([front.fmin, front.fmax]), front.mel_scale)
    return _mel_to_hertz(np.linspace(low, high, front.n_mels + 2), front.mel_scale)


@cache
def _mel_matrix(front: FrontEnd) -> np.ndarray:
    edges = _band_edges(front)
    bins = np.linspace(0, front.sample_rate / 2, front.n_fft // 2 + 1)
    widths = np.diff(edges)
    rising = (bins - edges[:-2, None]) / widths[:-1, None]
    falling = (edges[2:, None] - bins) / widths[1:, None]
    weights = np.maximum(0.0, np.minimum(rising, falling))
    if front.mel_norm == "slaney":
        weights *= (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return np.asarray(weights, dtype=np.float32)


FRONT_ENDS: dict[str, FrontEnd] = {
    "dcase2020": FrontEnd(),
    "dcase2021": FrontEnd(log="max", padding="constant"),
    "proxy-outlier": FrontEnd(normalise="std", log="max", floor=1e-10, top_db=80.0),
    "stgram": FrontEnd(mel_scale="htk", mel_norm="none", log="max", floor=1e-10, first_seconds=10.0),
}
"""The front ends of the published systems: the DCASE baselines of 2020 and of 2021 on, the one of the
proxy-outlier and MAF systems (unit variance, 80 dB), and the one of STgram (HTK mel, first ten seconds)."""


def front_end(name: str, **changes: Any) -> FrontEnd:
    """Return a named front end, with some settings changed.

    Raises
    ------
    AuscultError
        If there is no front end of that name.
    """
    if name not in FRONT_ENDS:
        raise AuscultError(f"there is no front end {name!r}", f"choose one of {', '.join(FRONT_ENDS)}")
    return FrontEnd.model_validate({**FRONT_ENDS[name].model_dump(), **changes})
