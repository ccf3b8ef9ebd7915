"""One machine is watched: sound comes in, is judged, and what matters is recorded and announced."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import soxr

from auscult import audio
from auscult.corpus import Clip
from auscult.errors import AudioError
from auscult.evaluation.explanation import strangest_region
from auscult.evaluation.words import describe
from auscult.model import Model
from auscult.monitor.events import AlarmEnded, AlarmRaised, Event, GapBegan, GapEnded, Judged, Sink, Trouble
from auscult.monitor.history import History, Raised
from auscult.monitor.recorder import Recorder, Retention, sound_of
from auscult.monitor.rules import DriftRule, Rule, ThresholdRule, Thresholds
from auscult.monitor.sliding import Judgement, Sliding
from auscult.monitor.source import Chunk, Heard, Lost

_USUAL_WINDOW = 10.0
_LATE = 2.0
"""Seconds by which sound of a live source may lag behind the clock before its time is set anew."""

_SMOOTHING = 0.1

_LONGEST_CHUNK = 2.0
"""Seconds that a source gives at once, as a rule: so much may have been heard after a window that is judged."""


@dataclass(frozen=True)
class WatchSettings:
    """How a machine is watched.

    Attributes
    ----------
    machine : str
        Its name in the history and in messages.
    window, hop : float
        Seconds judged at once, and between two judgements. A window of None is as long as the clips learnt from.
    clip : Clip
        Machine type and ID, for detectors that tell machines apart.
    thresholds : Thresholds
    drift_hours : float or None
        The rule on slow drifts raises one false alarm in so many hours on average, or fewer; None for no such rule.
    before, after : float
        Seconds of sound kept around the beginning of an alarm, at least a window before.
    retention : Retention
    show : bool
        Whether the history also holds what is heard now, for the dashboard.
    """

    machine: str = "machine"
    window: float | None = None
    hop: float = 1.0
    clip: Clip = field(default_factory=lambda: Clip(path="now"))
    thresholds: Thresholds = field(default_factory=Thresholds)
    drift_hours: float | None = 1000.0
    before: float = 10.0
    after: float = 5.0
    retention: Retention = field(default_factory=Retention)
    show: bool = True


@dataclass
class _On:
    """An alarm that is on."""

    number: int | None
    raised: float
    score: float
    p_value: float


class Watch:
    """Judges a stream, keeps its history and tells its sinks.

    Parameters
    ----------
    model : Model
    settings : WatchSettings
    history : History, optional
    sinks : sequence of Sink
    model_name, source_name : str
        As the history calls them.
    live : bool
        Whether the sound is of now.

    Raises
    ------
    AuscultError
        If the model has no threshold, the window is too short, or the history cannot be written.
    """

    def __init__(
        self,
        model: Model,
        settings: WatchSettings = WatchSettings(),
        *,
        history: History | None = None,
        sinks: Sequence[Sink] = (),
        model_name: str = "",
        source_name: str = "",
        live: bool = False,
    ) -> None:
        self.model, self.settings, self.sinks, self.live = model, settings, list(sinks), live
        self.window = settings.window or float(model.provenance.get("clip_seconds") or _USUAL_WINDOW)
        self._before = max(settings.before, self.window)
        kept = self._before + settings.after + 2 * settings.hop + _LONGEST_CHUNK
        self.sliding = Sliding(model, self.window, settings.hop, clip=settings.clip, keep=kept)
        self.threshold = ThresholdRule(model.calibration, settings.thresholds)
        self.rules: list[Rule] = [self.threshold]
        if settings.drift_hours is not None and model.calibration.held_out:
            every = settings.drift_hours * 3600 / self.window
            self.rules.append(DriftRule(model.calibration, self.window, every))
        self._on: dict[str, _On] = {}
        self._gap: tuple[int | None, float, str] | None = None
        self._silent = False
        self._failing: list[Sink] = []
        self._clips_due: list[tuple[float, int, float]] = []
        self._began, self._heard_before = time.time(), 0.0
        self._resampler: tuple[int, soxr.ResampleStream] | None = None
        self._arrived = time.monotonic()
        self.real_time_factor = 0.0
        self.counts = {"windows": 0, "alarms": 0, "gaps": 0}
        stream = self._stream(history, model_name, source_name)
        self.recorder = Recorder(history, stream, settings.retention, self._trouble)
        if history is not None:
            history.take_up(stream, self._began)

    def _stream(self, history: History | None, model_name: str, source_name: str) -> int:
        if history is None:
            return 0
        front = self.model.detector.front_end
        facts = {
            "detector": self.model.detector.name,
            "source": source_name,
            "window": self.window,
            "hop": self.settings.hop,
            "threshold": self.threshold.threshold,
            "false_alarm_rate": self.threshold.calibration.false_alarm_rate,
            "promise": self.threshold.calibration.promise,
            "drift_hours": self.settings.drift_hours if len(self.rules) > 1 else None,
            "rate": front.sample_rate,
            "frame_seconds": front.hop_length / front.sample_rate,
            "band_hertz": [round(hertz, 1) for hertz in front.band_centres().tolist()],
        }
        identity = str(self.model.provenance.get("identity", ""))
        return history.stream(self.settings.machine, model=model_name, identity=identity, facts=facts)

    # Hearing ----------------------------------------------------------------------------------------

    def run(self, heard: Iterable[Heard]) -> None:
        """Watch until there is no more."""
        for item in heard:
            self.hear(item)

    def hear(self, item: Heard) -> None:
        """Take what a source gives."""
        if isinstance(item, Lost):
            self._end_stretch()
            self._begin_gap(item.time, item.reason)
            return
        try:
            wave = self._waveform(item)
        except AudioError as error:
            self._end_stretch()
            self._begin_gap(self._now, str(error))
            return
        self._end_gap(self._now)
        self._feed(wave)
        if item.ends:
            self._end_stretch()

    def _waveform(self, chunk: Chunk) -> np.ndarray:
        front = self.model.detector.front_end
        name = self.settings.machine
        wave = audio.prepare(chunk.samples, chunk.rate, chunk.rate, front.channel, name=name)
        if chunk.begins or chunk.time is not None or self.sliding.heard == 0:
            self._end_stretch()
            self._begin_stretch(chunk)
        self._arrived = chunk.arrived
        if chunk.rate == front.sample_rate:
            self._resampler = None
        else:
            if self._resampler is None or self._resampler[0] != chunk.rate:
                stream = soxr.ResampleStream(chunk.rate, front.sample_rate, 1, dtype="float32", quality="HQ")
                self._resampler = (chunk.rate, stream)
            wave = self._resampler[1].resample_chunk(wave, last=chunk.ends)
        self._keep_to_the_clock(len(wave) / front.sample_rate)
        return wave

    def _begin_stretch(self, chunk: Chunk) -> None:
        self._began = time.time() - len(chunk.samples) / chunk.rate if chunk.time is None else chunk.time
        self._resampler = None

    def _end_stretch(self) -> None:
        """What comes next does not continue what was heard."""
        if self.sliding.heard:
            last = self.sliding.finish()
            if last is not None:
                self._judged(last)
            self._heard_before += self.sliding.heard
            self._began += self.sliding.heard
        self.sliding.reset()

    def _keep_to_the_clock(self, seconds: float) -> None:
        """Live sound that lags behind has lost some on the way: its time is what the clock says."""
        if not self.live:
            return
        arrived = time.time() - (time.monotonic() - self._arrived)
        late = arrived - (self._began + self.sliding.heard + seconds)
        if late > _LATE:
            self._began += late

    def _feed(self, wave: np.ndarray) -> None:
        began, judging = time.perf_counter(), 0.0
        for judgement in self.sliding.feed(wave):
            judging += judgement.took
            self._judged(judgement)
        seconds = len(wave) / self.sliding.rate
        if seconds:
            factor = (time.perf_counter() - began) / seconds
            self.real_time_factor += (factor - self.real_time_factor) * min(1.0, _SMOOTHING * max(seconds, 0.1))
        self._extend_clips()

    @property
    def _now(self) -> float:
        return self._began + self.sliding.heard

    # Judging ----------------------------------------------------------------------------------------

    def _judged(self, judgement: Judgement) -> None:
        when, offset = self._began + judgement.end, self._heard_before + judgement.end
        self.counts["windows"] += 1
        self._tell_silence(judgement, when)
        if not judgement.error:
            self._apply_rules(judgement, when, offset)
        event = Judged(
            self.settings.machine,
            when,
            offset,
            judgement.score,
            judgement.p_value,
            self.threshold.threshold,
            tuple(self._on),
            time.monotonic() - self._arrived,
            self.real_time_factor,
            judgement.error,
        )
        self.recorder.judged(event, self._picture() if self.settings.show and self.recorder.history else None)
        self._announce(event)

    def _apply_rules(self, judgement: Judgement, when: float, offset: float) -> None:
        for on in self._on.values():
            if judgement.score > on.score:
                on.score, on.p_value = judgement.score, judgement.p_value
        for rule in self.rules:
            if rule is not self.threshold and self.threshold.on and not rule.on:
                continue  # a fault is no slow drift
            change = rule.update(offset, judgement.score)
            if change == "raised":
                self._raise(rule, judgement, when, offset)
            elif change == "ended":
                self._end(rule.name, when, offset)

    def _raise(self, rule: Rule, judgement: Judgement, when: float, offset: float) -> None:
        logmel, strange = self._picture() or (None, None)
        message = "" if strange is None else describe(strangest_region(strange, self.sliding.front), strange)
        if rule.name == "drift":
            message = f"The sound is slowly becoming another. {message}".strip()
        wave, begins = self.sliding.sound(judgement.end - self._before)
        sound = sound_of(wave, self.sliding.rate, self._began + begins)
        raised = Raised(rule.name, when, judgement.score, judgement.p_value, message, logmel, strange, sound)
        number = self.recorder.raised(raised)
        self._on[rule.name] = _On(number, when, judgement.score, judgement.p_value)
        self.counts["alarms"] += 1
        if number is not None:
            self._clips_due.append((judgement.end + self.settings.after, number, sound.begins))
        self._announce(
            AlarmRaised(
                *(self.settings.machine, when, offset, number, rule.name),
                *(judgement.score, judgement.p_value, message),
            )
        )

    def _end(self, name: str, when: float, offset: float) -> None:
        on = self._on.pop(name)
        self.recorder.ended(on.number, when, on.score, on.p_value)
        self._announce(
            AlarmEnded(self.settings.machine, when, offset, on.number, name, on.raised, on.score, on.p_value)
        )

    def _picture(self) -> tuple[np.ndarray, np.ndarray] | None:
        with contextlib.suppress(AudioError):
            return self.sliding.picture()
        return None

    def _extend_clips(self) -> None:
        """Once there is enough sound after an alarm, its clip is made longer."""
        due = [clip for clip in self._clips_due if clip[0] <= self.sliding.heard]
        for at, number, begins in due:
            wave, start = self.sliding.sound(begins - self._began)
            length = round((self._before + self.settings.after) * self.sliding.rate)
            self.recorder.extended(number, sound_of(wave[:length], self.sliding.rate, self._began + start))
            self._clips_due.remove((at, number, begins))

    # Gaps and trouble -------------------------------------------------------------------------------

    def _tell_silence(self, judgement: Judgement, when: float) -> None:
        if judgement.error and not self._silent:
            self._silent = True
            self._begin_gap(when, judgement.error)
        elif self._silent and not judgement.error:
            self._silent = False
            self._end_gap(when)

    def _begin_gap(self, when: float, reason: str) -> None:
        self._clips_due.clear()
        for rule in self.rules:
            rule.forget()
        if self._gap is not None:
            return
        self.counts["gaps"] += 1
        self._gap = (self.recorder.gap(when, reason), when, reason)
        self._announce(GapBegan(self.settings.machine, when, self._heard_before + self.sliding.heard, reason))

    def _end_gap(self, when: float) -> None:
        if self._gap is None or self._silent:
            return
        gap, began, reason = self._gap
        self._gap = None
        self.recorder.gap_ended(gap, when)
        self._announce(GapEnded(self.settings.machine, when, self._heard_before, began, reason))

    def _trouble(self, message: str, over: bool) -> None:
        self._announce(Trouble(self.settings.machine, time.time(), self._heard_before, message, over))

    def _announce(self, event: Event) -> None:
        for sink in self.sinks:
            try:
                sink.take(event)
            except Exception as error:  # a sink that fails must not stop the others, nor the watch
                if sink not in self._failing:
                    self._failing.append(sink)  # said once, by those that can
                    self._trouble(f"{type(sink).__name__} fails: {error}", False)

    def close(self) -> None:
        """End what is on, record what waits, and tell the sinks that there is no more."""
        self._end_stretch()
        for name in list(self._on):
            self._end(name, self._now, self._heard_before)
        self._silent = False
        self._end_gap(self._now)
        self.recorder.close()
        for sink in self.sinks:
            with contextlib.suppress(Exception):
                sink.close()
