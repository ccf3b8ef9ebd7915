"""A sound that goes on is judged window by window, each hop a new one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from auscult.audio import is_silent
from auscult.corpus import Clip
from auscult.detectors.base import Detector
from auscult.detectors.network import window_rows
from auscult.detectors.windowed import WindowedDetector
from auscult.errors import AudioError, AuscultError
from auscult.model import Model
from auscult.monitor.frames import LiveFrames
from auscult.monitor.ring import Ring
from auscult.nn.aggregation import aggregate

SILENCE = "nothing but silence: is the microphone connected?"


@dataclass(frozen=True)
class Judgement:
    """What was made of one window.

    Attributes
    ----------
    end : float
        Seconds from the beginning of the stretch to the end of the window.
    score, p_value : float
        NaN if it could not be judged.
    error : str
        Why it could not.
    took : float
        Seconds of computing.
    """

    end: float
    score: float
    p_value: float
    error: str = ""
    took: float = 0.0


class Sliding:
    """Judges the last `window` seconds every `hop` seconds.

    Parameters
    ----------
    model : Model
    window, hop : float
        Seconds.
    clip : Clip, optional
        Whose machine type and ID the sound is of, for detectors that tell machines apart.
    keep : float
        Seconds of sound that are kept at least.

    Raises
    ------
    AuscultError
        If the window is shorter than the detector can judge, or the hop is not positive.
    """

    def __init__(
        self, model: Model, window: float, hop: float = 1.0, *, clip: Clip | None = None, keep: float = 0.0
    ) -> None:
        detector, front = model.detector, model.detector.front_end
        self.model, self.front = model, front
        self.clip = clip or Clip(path="now")
        self.rate = front.sample_rate
        self.window, self.hop = round(window * self.rate), round(hop * self.rate)
        _check(detector, self.window, self.hop)
        self.n_frames = 1 + self.window // front.hop_length
        self._keep = max(self.window, round(keep * self.rate)) + self.hop + front.n_fft
        self.follows = LiveFrames.can_follow(front, window)
        self.reset()

    def reset(self) -> None:
        """Forget what was heard: what comes next does not continue it."""
        self._samples = Ring(self._keep)
        frames_kept = self._keep // self.front.hop_length + 2
        self._frames = LiveFrames(self.front, frames_kept)
        self._windows = _WindowScores(self.model.detector, frames_kept) if _has_window_scores(self.model) else None
        self._judged = 0
        self._last_end = 0

    @property
    def heard(self) -> float:
        """Seconds heard since the beginning of the stretch."""
        return self._samples.end / self.rate

    def feed(self, wave: np.ndarray) -> Iterator[Judgement]:
        """Hear more, float32 at the front end's rate; yield what becomes of each window that it completes."""
        for start in range(0, len(wave), self.hop):
            began = time.perf_counter()
            part = wave[start : start + self.hop]
            self._samples.append(part)
            if self.follows:
                self._frames.feed(part)
            while (end := self.window + self._judged * self.hop) + self._lag <= self._samples.end:
                self._judged += 1
                judgement = self._judge(end - self.window, end)
                now = time.perf_counter()
                yield replace(judgement, took=now - began)
                began = time.perf_counter()

    @property
    def _lag(self) -> int:
        """Samples after a window's end that its last frame needs."""
        return self.front.n_fft // 2 + 1 if self.follows else 0

    def finish(self) -> Judgement | None:
        """Nothing follows: judge what there is if it was too short for a window, but not for the detector."""
        if self._judged or not self._samples.end:
            return None
        began = time.perf_counter()
        heard = self._samples.end
        wave = self._samples.slice(0, heard)
        clip = replace(self.clip, samples=wave.copy(), rate=self.rate)
        judgement = self._judgement(heard, wave, lambda: self.model.detector.score_clip(clip))
        self._judged, self._last_end = 1, heard
        return replace(judgement, took=time.perf_counter() - began)

    def _judge(self, start: int, end: int) -> Judgement:
        wave = self._samples.slice(start, end)
        self._last_end = end
        return self._judgement(end, wave, lambda: self._score(start, wave))

    def _judgement(self, end: int, wave: np.ndarray, score: object) -> Judgement:
        if is_silent(wave):
            return Judgement(end / self.rate, np.nan, np.nan, SILENCE)
        try:
            with torch.inference_mode():
                value = float(score())  # type: ignore[operator]
        except AudioError as error:
            return Judgement(end / self.rate, np.nan, np.nan, str(error))
        if not np.isfinite(value):
            return Judgement(end / self.rate, np.nan, np.nan, f"the score is {value}")
        p_value = float(self.model.calibration.p_values(np.array([value]))[0])
        return Judgement(end / self.rate, value, p_value)

    def _score(self, start: int, wave: np.ndarray) -> float:
        if not self.follows:
            return self.model.detector.score_clip(self._clip(wave))
        first = -(-start // self.front.hop_length)
        stop = (start + self.window) // self.front.hop_length + 1
        if self._windows is not None:
            return self._windows.score(self._frames, first, stop)
        return self.model.detector.score_of(self._clip(wave), self._frames.logmel(first, stop, wave))

    def _clip(self, wave: np.ndarray) -> Clip:
        return replace(self.clip, samples=wave, rate=self.rate)

    def sound(self, since: float) -> tuple[np.ndarray, float]:
        """What was heard from `since` on, in seconds of the stretch, as far as it is kept; and where that begins."""
        start = min(max(self._samples.begin, round(since * self.rate)), self._samples.end)
        return self._samples.slice(start, self._samples.end).copy(), start / self.rate

    def picture(self) -> tuple[np.ndarray, np.ndarray]:
        """Log-mel and relative anomaly map of the last window judged, both of shape (n_mels, n_frames).

        Raises
        ------
        AudioError
            If nothing was judged, or there is no map of it.
        """
        if not self._last_end:
            raise AudioError("nothing was judged yet")
        start = max(self._last_end - self.window, self._samples.begin)
        clip = self._clip(self._samples.slice(start, self._last_end).copy())
        return self.model.logmel(clip), np.asarray(self.model.relative_map(clip))


class _WindowScores:
    """Scores of a windowed detector's windows of a few frames, each computed once."""

    def __init__(self, detector: Detector, keep: int) -> None:
        assert isinstance(detector, WindowedDetector)
        self.detector = detector
        self._scores = Ring(keep)

    def score(self, frames: LiveFrames, first: int, stop: int) -> float:
        """Score of frames `first` to `stop`: of all windows inside."""
        detector, length = self.detector, self.detector.config.frames
        last = stop - length + 1
        if first > self._scores.end:  # frames between two windows that no window holds
            self._scores = Ring(self._scores.keep)
            self._scores.end = first
        if last > self._scores.end:
            logmel = frames.logmel(self._scores.end, stop, np.empty(0))
            rows = window_rows(logmel, length)
            self._scores.append(detector.window_scores(rows).numpy())
        return aggregate(torch.from_numpy(self._scores.slice(first, last)), detector.config.aggregation)


def _has_window_scores(model: Model) -> bool:
    """Whether a window's score is an aggregate of scores that do not depend on where the window begins."""
    kind, front = type(model.detector), model.detector.front_end
    own = kind.score_of is not Detector.score_of or kind.score_clip is not Detector.score_clip
    per_frame = front.normalise == "none" and front.top_db is None
    return (
        isinstance(model.detector, WindowedDetector)
        and kind.score_logmel is WindowedDetector.score_logmel
        and per_frame
        and not own
    )


def _check(detector: Detector, window: int, hop: int) -> None:
    front = detector.front_end
    if hop < 1 or window < 1:
        raise AuscultError("window and hop are lengths of time", "give seconds above 0, as --window 10 --hop 1")
    if window // front.hop_length < detector.min_frames:
        least = (detector.min_frames + 1) * front.hop_length / front.sample_rate
        raise AuscultError(
            f"a window of {window / front.sample_rate:g} s is too short for {detector.name}",
            f"give at least {least:.2f} s (--window)",
        )
