"""Scores of several detectors become one: scaled by what healthy clips get, then combined."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from auscult.nn.gamma import GammaLaw

SCALINGS = ("gamma", "rank", "raw")
RULES = ("probability", "mean", "product", "max")


class Fusion:
    """Combines the members' scores of a clip by their scaled values f in (0, 1).

    Every rule is a strictly rising function of the one it is named after, written so that values of f which 64 bits
    round to 1 still count: of the survivals 1 - f, in logarithms. So no two clips tie that the members tell apart.

    Parameters
    ----------
    reference : sequence of ndarray of float64, each (n_clips,)
        Each member's scores of healthy clips, the same for all; what f is relative to. None are needed, and none
        used, with scaling "raw".
    scaling : {"gamma", "rank", "raw"}
        f is the cumulative gamma law fitted to the reference (Inoue et al., DCASE 2020 workshop, equation 5); or the
        share of the reference that is less, going on towards 1 above the largest (ours); or the score is taken for
        -log(1 - f) already, as that of classifiers with their own class's probability 1 - f is (systems i and iii).
    rule : {"probability", "mean", "product", "max"}
        1 - prod (1 - f) (equation 6), mean f, prod f, or max f. Product and maximum are ours.
    """

    def __init__(self, reference: Sequence[np.ndarray], scaling: str, rule: str) -> None:
        self.scaling, self.rule = scaling, rule
        self.laws: Sequence[GammaLaw | Ranks] = []
        if scaling == "gamma":
            self.laws = [GammaLaw.fit(scores) for scores in reference]
        elif scaling == "rank":
            self.laws = [Ranks(scores) for scores in reference]

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Combine.

        Parameters
        ----------
        scores : ndarray of float64, shape (n_members, n_clips)

        Returns
        -------
        ndarray of float64, shape (n_clips,)
            -log(1 - f) of the combined f, except for "product": -log(-log f). Larger is more anomalous.
        """
        if self.rule == "product":
            return np.asarray(-np.logaddexp.reduce(self._log_log(scores), axis=0))
        surprise = -self._log_survival(scores)
        if self.rule == "probability":
            return np.asarray(surprise.sum(axis=0))
        if self.rule == "max":
            return np.asarray(surprise.max(axis=0))
        return np.asarray(np.log(len(scores)) - np.logaddexp.reduce(-surprise, axis=0))

    def _log_survival(self, scores: np.ndarray) -> np.ndarray:
        """log(1 - f), shape (n_members, n_clips)."""
        if self.scaling == "raw":
            return -scores
        return np.stack([law.log_survival(own) for law, own in zip(self.laws, scores, strict=True)])

    def _log_log(self, scores: np.ndarray) -> np.ndarray:
        """log(-log f), shape (n_members, n_clips)."""
        if self.scaling == "raw":
            return log_minus_log(-scores)
        return np.stack([law.log_log_cdf(own) for law, own in zip(self.laws, scores, strict=True)])


class Ranks:
    """Where a score lies among healthy ones, as a share in (0, 1); beyond the ends it goes on without reaching them.

    Parameters
    ----------
    scores : ndarray of float64, shape (n,)
    """

    def __init__(self, scores: np.ndarray) -> None:
        self.levels, counts = np.unique(np.asarray(scores, dtype=np.float64), return_counts=True)
        self.shares = (np.cumsum(counts) - counts / 2 + 0.5) / (counts.sum() + 1)
        self.spread = max(float(self.levels[-1] - self.levels[0]), 1e-6 * abs(float(self.levels[-1])), 1e-30)

    def log_survival(self, scores: np.ndarray) -> np.ndarray:
        """log(1 - f), strictly falling."""
        scores = np.asarray(scores, dtype=np.float64)
        inside = np.log1p(-np.interp(scores, self.levels, self.shares))
        above = np.maximum(scores - self.levels[-1], 0) / self.spread
        below = np.maximum(self.levels[0] - scores, 0) / self.spread
        return np.asarray(np.where(below > 0, inside / (1 + below), inside - above))

    def log_log_cdf(self, scores: np.ndarray) -> np.ndarray:
        """log(-log f), strictly falling."""
        return log_minus_log(self.log_survival(scores))


def log_minus_log(log_survival: np.ndarray) -> np.ndarray:
    """log(-log f) from log(1 - f), which is below 0; where f rounds to 1 it is log(1 - f) itself."""
    some = np.clip(log_survival, -30.0, -1e-300)
    return np.asarray(np.where(log_survival < -30.0, log_survival, np.log(-np.log(-np.expm1(some)))))
