"""Scores become p-values, thresholds and decisions.

Healthy clips that the detector has not learnt from are scored; a new clip's p-value is its rank among them
(split conformal prediction). With n of them the decision at rate a = k / (n + 1) raises false alarms on a share
of healthy clips that follows the Beta(k, n + 1 - k) law over draws of the calibration clips, of mean a: a
promise, as long as new healthy clips come from the same source as the calibration clips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from auscult.errors import AuscultError
from auscult.nn.gamma import GammaLaw

HELD_OUT_SHARE = 0.15
FEWEST = 20
"""At least so many clips calibrate, where there are twice as many; below that none are held out."""


def n_held_out(n_clips: int) -> int:
    """How many of the healthy training clips are kept for calibration.

    15 %, at least 20 where there are 40 or more. Between 20 and 39 clips 15 % (three to six); fewer are all
    learnt from, and no rate can be promised.
    """
    if n_clips < FEWEST:
        return 0
    share = round(HELD_OUT_SHARE * n_clips)
    return max(share, FEWEST) if n_clips >= 2 * FEWEST else share


_FAR_ABOVE = 3
"""So many times the distance from the median to the second highest score must the highest lie above that, to be called
far above. By chance 2 % of sets of 20 have such a score where scores fall off exponentially, and fewer of more. It is
our choice."""


@dataclass(frozen=True)
class Calibration:
    """What makes decisions of a detector's scores.

    Attributes
    ----------
    scores : ndarray of float64, shape (n,)
        Of healthy clips.
    false_alarm_rate : float
        The share of healthy clips that the user accepts as alarms.
    held_out : bool
        Whether the detector had not learnt from those clips. If it had, nothing can be promised.
    """

    scores: np.ndarray
    false_alarm_rate: float = 0.01
    held_out: bool = True

    def __post_init__(self) -> None:
        check_rate(self.false_alarm_rate)
        object.__setattr__(self, "scores", np.sort(np.asarray(self.scores, dtype=np.float64)))

    @property
    def n(self) -> int:
        """Number of calibration clips."""
        return len(self.scores)

    @property
    def promised(self) -> bool:
        """Whether the false-alarm rate is a promise, not an extrapolation."""
        return self.held_out and self._rank >= 1

    @property
    def _rank(self) -> int:
        """How many calibration clips may score as high as an alarm: floor(rate x (n + 1))."""
        # The tiny allowance is for products such as 0.29 x 100, which floating point puts just below 29.
        return math.floor(self.false_alarm_rate * (self.n + 1) + 1e-9)

    @cached_property
    def threshold(self) -> float | None:
        """Clips that score above this are alarms; None where there is nothing to tell it from."""
        if self.n == 0:
            return None
        if self.promised:
            return float(self.scores[-self._rank])
        return self._extrapolated()

    def _extrapolated(self) -> float | None:
        """The quantile of a gamma law fitted to the scores, never below the largest of them.

        The gamma law is the challenge baselines'.
        """
        spread = float(self.scores.std())
        if self.n < 2 or spread == 0:
            return float(self.scores[-1])
        quantile = GammaLaw.fit(self.scores).exceeded_by(self.false_alarm_rate)
        largest = float(self.scores[-1])
        return max(quantile, largest) if self._rank < 1 else quantile

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """The share of healthy clips that would score as high: (1 + those that do) / (n + 1).

        Returns
        -------
        ndarray of float64
            NaN where the score is NaN, and everywhere if no clips were held out.
        """
        scores = np.asarray(scores, dtype=np.float64)
        if not self.held_out or self.n == 0:
            return np.full(scores.shape, np.nan)
        as_high = self.n - np.searchsorted(self.scores, scores, side="left")
        return np.where(np.isnan(scores), np.nan, (1 + as_high) / (self.n + 1))

    def decide(self, scores: np.ndarray) -> list[str]:
        """Return "anomaly" for each score above the threshold, else "normal"; "" for NaN, or without a threshold."""
        limit = math.nan if self.threshold is None else self.threshold
        return [
            "" if math.isnan(score) or math.isnan(limit) else ("anomaly" if score > limit else "normal")
            for score in np.asarray(scores, dtype=np.float64).ravel()
        ]

    @property
    def promise(self) -> str:
        """One sentence: what the threshold promises."""
        rate = f"{self.false_alarm_rate:.3g}"
        if self.n == 0:
            return "no false-alarm rate can be promised, and nothing decided: there is no healthy clip to calibrate on"
        if not self.held_out:
            return (
                f"no false-alarm rate can be promised: with fewer than {FEWEST} healthy clips none were held out, "
                f"and the threshold is a guess from the {self.n} that were learnt from"
            )
        if self.promised:
            return f"false-alarm rate {rate} promised by {self.n} healthy clips kept out of training"
        return (
            f"false-alarm rate {rate} is extrapolated by a gamma law: {self.n} healthy clips kept out of training can "
            f"promise no rate below {1 / (self.n + 1):.3g}"
        )

    @property
    def doubt(self) -> str:
        """One sentence where a single healthy clip, far above all others, decides the threshold; else empty."""
        if not self.held_out or self.n < FEWEST or self._rank > 1:
            return ""
        highest, next_highest, middle = self.scores[-1], self.scores[-2], np.median(self.scores)
        if highest - next_highest <= _FAR_ABOVE * (next_highest - middle):
            return ""
        return (
            f"one of these {self.n} clips decides the threshold: it scores {highest:.3g}, the next {next_highest:.3g}"
            " — listen whether it is healthy"
        )

    def at_rate(self, false_alarm_rate: float) -> Calibration:
        """The same clips, another rate."""
        return Calibration(self.scores, false_alarm_rate, self.held_out)


def check_rate(rate: float) -> float:
    """Return a false-alarm rate that is one.

    Raises
    ------
    AuscultError
        If it does not lie between 0 and 1.
    """
    if not 0 < rate < 1:
        raise AuscultError(f"a false-alarm rate of {rate} is not possible", "choose one between 0 and 1, as 0.01")
    return rate
