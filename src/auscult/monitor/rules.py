"""When scores become an alarm: at once, when several in a row are high; and in the long run, by what adds up."""

from __future__ import annotations

import bisect
import math
from collections import deque
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from auscult.calibration import Calibration, check_rate
from auscult.errors import AuscultError

Change = Literal["raised", "ended"]

_MOST_REMEMBERED = 100_000
"""Windows that new ones are ranked among. Eleven days of ten-second windows; after that, more change nothing."""

_ORDINARY = 0.25
_LOOKED_BACK = 10
"""A slow drift is over when half of the last ten windows have a p-value above a quarter."""


class Rule(Protocol):
    """Looks at each score and says when an alarm begins and ends.

    Attributes
    ----------
    name : str
    on : bool
        Whether its alarm is on.
    """

    name: str
    on: bool

    def update(self, end: float, score: float) -> Change | None:
        """Look at the score of the window that ends `end` seconds into the stream."""
        ...

    def forget(self) -> None:
        """Something was not heard: scores before are no longer neighbours of those to come."""
        ...


@dataclass(frozen=True)
class Thresholds:
    """Settings of the rule on single windows.

    Attributes
    ----------
    rate : float or None
        False-alarm rate of a single window; None for the model's.
    least, of : int
        An alarm begins when `least` of the last `of` windows are above the threshold.
    release : int
        It ends when so many in a row are below the lower threshold, of five times the rate, but at most a tenth.
    """

    rate: float | None = None
    least: int = 3
    of: int = 5
    release: int = 5

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.of or self.release < 1:
            raise AuscultError(
                f"an alarm cannot begin with {self.least} of {self.of} windows and end with {self.release}",
                "give --alarm-windows 3/5 or so, and --release 1 or more",
            )


class ThresholdRule:
    """Debounced, with hysteresis: several windows above the threshold; over when a few are clearly below.

    Parameters
    ----------
    calibration : Calibration
        Of the model.
    settings : Thresholds

    Raises
    ------
    AuscultError
        If there is nothing to tell a threshold from, or the rate is not possible.
    """

    name = "threshold"

    def __init__(self, calibration: Calibration, settings: Thresholds = Thresholds()) -> None:
        rate = check_rate(calibration.false_alarm_rate if settings.rate is None else settings.rate)
        self.calibration = calibration.at_rate(rate)
        threshold, lower = self.calibration.threshold, calibration.at_rate(max(rate, min(5 * rate, 0.1))).threshold
        if threshold is None or lower is None:
            raise AuscultError("this model has no threshold", "fit it on healthy clips, or `auscult recalibrate` it")
        self.threshold, self.lower = threshold, min(threshold, lower)
        self.settings = settings
        self.on = False
        self.forget()

    def forget(self) -> None:
        """Begin to count anew; an alarm that is on stays on."""
        self._above: deque[bool] = deque(maxlen=self.settings.of)
        self._below = 0

    def update(self, end: float, score: float) -> Change | None:  # noqa: ARG002
        """See `Rule.update`."""
        self._above.append(score > self.threshold)
        self._below = self._below + 1 if score <= self.lower else 0
        if not self.on and sum(self._above) >= self.settings.least:
            self.on, self._below = True, 0
            return "raised"
        if self.on and self._below >= self.settings.release:
            self.on = False
            self._above.clear()
            return "ended"
        return None


class DriftRule:
    """Adds up small evidence that the sound is not what it was: a Shiryaev-Roberts conformal test.

    Each window that does not overlap the one before is ranked among the healthy clips of the calibration and the
    windows before it; ranks of a healthy machine are uniform and independent, whatever its scores. Each is a bet
    against that, at odds of a mixture of powers, and the gains are added up and multiplied on. As long as nothing
    changes, an alarm comes once in `every` windows on average, or less often.

    Parameters
    ----------
    calibration : Calibration
        With scores that were not learnt from.
    window : float
        Seconds.
    every : float
        Windows.

    References
    ----------
    Vovk, Petej, Nouretdinov, Ahlberg, Carlsson, Gammerman, "Retrain or not retrain: conformal test martingales for
    change-point detection", COPA 2021. Volkhonskiy et al., "Inductive conformal martingales for change-point
    detection", COPA 2017. Vovk, Gammerman, Shafer, "Algorithmic learning in a random world", section 7.1 (the
    mixture of power martingales).
    """

    name = "drift"

    def __init__(self, calibration: Calibration, window: float, every: float, seed: int = 0) -> None:
        self.window, self.every = window, every
        self.on = False
        self.evidence = 0.0
        self._random = np.random.default_rng(seed)
        self._before = calibration.scores.tolist()
        self._last_end = -math.inf
        self._recent: deque[float] = deque(maxlen=_LOOKED_BACK)

    def forget(self) -> None:
        """Ranks do not depend on neighbours: nothing to forget but where the last window ended."""
        self._last_end = -math.inf

    def update(self, end: float, score: float) -> Change | None:
        """See `Rule.update`."""
        if end - self._last_end < self.window * (1 - 1e-9):
            return None
        self._last_end = end
        p = self._rank(score)
        self._recent.append(p)
        self.evidence = min((1 + self.evidence) * gain(p), 1e300)
        if not self.on and self.evidence >= self.every:
            self.on, self.evidence = True, 0.0
            self._recent.clear()
            return "raised"
        ordinary = sum(p > _ORDINARY for p in self._recent)
        if self.on and len(self._recent) == _LOOKED_BACK and 2 * ordinary >= _LOOKED_BACK:
            self.on, self.evidence = False, 0.0
            return "ended"
        return None

    def _rank(self, score: float) -> float:
        """Smoothed conformal p-value among all before, which the score joins."""
        low, high = bisect.bisect_left(self._before, score), bisect.bisect_right(self._before, score)
        larger, equal = len(self._before) - high, high - low + 1
        p = (larger + self._random.uniform() * equal) / (len(self._before) + 1)
        if len(self._before) < _MOST_REMEMBERED:
            self._before.insert(high, score)
        return float(p)


def gain(p: float) -> float:
    """What a bet on small p-values wins: the integral of e p^(e-1) over e from 0 to 1, of mean 1 for uniform p."""
    p = min(max(p, 1e-12), 1.0)
    log = math.log(p)
    if abs(log) < 1e-3:  # where the formula loses its digits: its limit at 1 is a half
        return 0.5 - log / 6
    return (1 - p + p * log) / (p * log * log)
