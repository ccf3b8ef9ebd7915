"""Log-mels of a sound that goes on: each frame's transform is computed once."""

from __future__ import annotations

import numpy as np
import torch

from auscult.features import FrontEnd
from auscult.monitor.ring import Ring


class LiveFrames:
    """The frames of the last seconds, equal to those of `FrontEnd.logmel` of everything heard since the beginning.

    Parameters
    ----------
    front : FrontEnd
        One for which `can_follow` holds.
    keep : int
        Frames that are kept at least.
    """

    def __init__(self, front: FrontEnd, keep: int) -> None:
        self.front = front
        half = front.n_fft // 2
        # Where the samples held begin is a multiple of the hop, so that frames fall where the whole's would.
        self._margin = -(-half // front.hop_length) * front.hop_length
        self._samples = np.empty(0, np.float32)
        self._begin = 0
        self._power = Ring(keep, (front.n_mels,))
        # Where nothing is divided by a window's own deviation, dB are computed once too.
        self._levels = Ring(keep, (front.n_mels,)) if front.normalise == "none" else None
        self._unclipped = front.model_copy(update={"top_db": None})

    @staticmethod
    def can_follow(front: FrontEnd, window_seconds: float) -> bool:
        """Whether frames can be computed once: not where a clip's mean is taken away, or only its beginning heard."""
        whole = front.first_seconds is None or front.first_seconds >= window_seconds
        return type(front) is FrontEnd and front.normalise != "standard" and whole

    @property
    def end(self) -> int:
        """How many frames have been computed."""
        return self._power.end

    def feed(self, wave: np.ndarray) -> None:
        """Hear more of the waveform, float32 at the front end's rate; compute the frames that it completes."""
        front = self.front
        self._samples = np.concatenate([self._samples, wave])
        heard = self._begin + len(self._samples)
        # The whole, too, needs more than half a frame before its beginning can be mirrored.
        complete = max(0, (heard - front.n_fft // 2 - 1) // front.hop_length + 1) if heard > front.n_fft // 2 else 0
        if complete > self.end:
            self._compute(complete)

    def finish(self) -> None:
        """Nothing follows: compute the frames that reach beyond the end, as at the end of a clip."""
        heard = self._begin + len(self._samples)
        if heard > self.front.n_fft // 2:
            self._compute(1 + heard // self.front.hop_length)

    def _compute(self, stop: int) -> None:
        hop, skipped = self.front.hop_length, self._begin // self.front.hop_length
        power = self.front.mel_power(self._samples, self.end - skipped, stop - skipped)
        self._power.append(power)
        if self._levels is not None:
            self._levels.append(self._unclipped.levels(torch.from_numpy(power.copy())).numpy())
        # Half a frame stays, and a hop more: the mirror at the end of the sound may look so far back.
        unused = (stop * hop - 2 * self._margin - hop) // hop * hop - self._begin
        if unused > 0:
            self._samples = self._samples[unused:].copy()
            self._begin += unused

    def logmel(self, start: int, stop: int, wave: np.ndarray) -> torch.Tensor:
        """Log-mel of frames `start` to `stop`, shape (stop - start, n_mels), scaled as a clip of its own.

        Parameters
        ----------
        start, stop : int
        wave : ndarray of float32
            The samples of those frames, for front ends that divide by their deviation.
        """
        if self._levels is not None:
            levels = torch.from_numpy(self._levels.slice(start, stop).copy())
            top_db = self.front.top_db
            return levels if top_db is None else levels.clamp_(min=float(levels.max()) - top_db)
        power = self._power.slice(start, stop).astype(np.float64)
        deviation = float(np.std(wave, dtype=np.float64))
        scaled = power / deviation**2 if deviation > 0 else power
        return self.front.levels(torch.from_numpy(scaled.astype(np.float32)))
