"""AUC, pAUC and rates, and how far each would move had other clips been recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from auscult.errors import AuscultError

MAX_FPR = 0.1
"""The false-alarm rate up to which the field's pAUC looks."""

LEVEL = 0.95
"""Coverage of every interval."""

# So many counts stay in the processor's cache; and memory stays bounded however many clips there are.
CHUNK = 2**18

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Mean = Callable[[Floats], Floats]
"""Averages over the first axis."""


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Area under the ROC curve.

    Parameters
    ----------
    labels : array_like of bool or int, shape (n_clips,)
        1 for an anomaly, 0 for a normal clip.
    scores : array_like of float, shape (n_clips,)
        Larger is more anomalous; finite.

    Raises
    ------
    AuscultError
        If one of the classes has no clip, or a score is not finite.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*_checked(labels, scores)))


def pauc(labels: npt.ArrayLike, scores: npt.ArrayLike, max_fpr: float = MAX_FPR) -> float:
    """Area under the ROC curve up to the false-alarm rate `max_fpr`, standardised so that chance is 0.5.

    The curve is interpolated at `max_fpr` and the area standardised after McClish, as the evaluation
    script of DCASE Task 2 does. (The challenge's printed formula is another one: its chance level is
    ``max_fpr / 2``.)

    Parameters
    ----------
    labels, scores
        As for :func:`auc`.
    max_fpr : float
        In (0, 1].

    Raises
    ------
    AuscultError
        If one of the classes has no clip, a score is not finite, or `max_fpr` lies outside (0, 1].

    References
    ----------
    D. K. McClish, "Analyzing a portion of the ROC curve", Medical Decision Making 9(3), 1989.
    """
    from sklearn.metrics import roc_auc_score

    _check_max_fpr(max_fpr)
    return float(roc_auc_score(*_checked(labels, scores), max_fpr=max_fpr))


def roc_areas(normal: npt.ArrayLike, anomaly: npt.ArrayLike, max_fpr: float = MAX_FPR) -> tuple[Floats, Floats]:
    """AUC and pAUC of many weighted samples at once.

    Parameters
    ----------
    normal, anomaly : array_like, shape (n_samples, n_values)
        How often each score value occurs among the normal clips and among the anomalies of a sample;
        the values in descending order, each once (clips with tied scores share a column). Every row
        counts at least one clip of either class.
    max_fpr : float
        In (0, 1].

    Returns
    -------
    auc, pauc : ndarray of float64, shape (n_samples,)
        What ``roc_auc_score(sample_weight=…)`` gives for each row, without and with `max_fpr`.
    """
    normal, anomaly = np.asarray(normal), np.asarray(anomaly)
    n_normal = normal.sum(axis=1)
    n_pairs = n_normal * anomaly.sum(axis=1, dtype=np.float64)
    false_before = np.cumsum(normal, axis=1) - normal
    hits_before = np.cumsum(anomaly, axis=1) - anomaly
    # Tied clips make one slanted step of the curve, under which lies half of their own hits.
    whole = np.einsum("ij,ij->i", normal, hits_before + anomaly / 2) / n_pairs

    # Steps that start beyond max_fpr in every sample add nothing to the partial area.
    allowed = max_fpr * n_normal[:, None]
    reach = np.count_nonzero((false_before < allowed).any(axis=0))
    normal, anomaly, hits_before = normal[:, :reach], anomaly[:, :reach], hits_before[:, :reach]
    width = np.clip(allowed - false_before[:, :reach], 0, normal)
    share = np.divide(width, normal, out=np.zeros_like(width), where=normal > 0)
    partial = np.einsum("ij,ij->i", width, hits_before + anomaly * share / 2) / n_pairs

    chance = max_fpr**2 / 2
    return whole, (1 + (partial - chance) / (max_fpr - chance)) / 2


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure, and what it came to in every resample of the clips.

    Attributes
    ----------
    value : float
        Of the clips themselves.
    low, high : ndarray of float64, shape (n_resamples,)
        The resampled values. The two differ only where nothing can be said of how the figure would
        vary: there they hold its bounds, 0 and 1.
    """

    value: float
    low: Floats
    high: Floats

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The percentile interval that covers `level` of the resamples, and the value itself.

        The pAUC of few normal clips is biased upwards under resampling: ties among clips drawn twice count half.
        Its percentiles may then miss the value, and are widened to it.
        """
        tail = (1 - level) / 2
        low, high = float(np.quantile(self.low, tail)), float(np.quantile(self.high, 1 - tail))
        return min(low, self.value), max(high, self.value)

    @staticmethod
    def averaged(figures: Sequence[Figure], mean: Mean) -> Figure:
        """Average figures of independent sets of clips: resample by resample as the values themselves."""
        return Figure(
            float(mean(np.array([f.value for f in figures]))),
            mean(np.stack([f.low for f in figures])),
            mean(np.stack([f.high for f in figures])),
        )


def figures(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    resamples: int = 1000,
    seed: int | Sequence[int] = 0,
    max_fpr: float = MAX_FPR,
) -> tuple[Figure, Figure]:
    """AUC and pAUC of a set of clips, each with its bootstrap.

    Where a class has a single clip, no resampling can tell how it would vary: the interval is (0, 1).

    Parameters
    ----------
    labels, scores, max_fpr
        As for :func:`auc` and :func:`pauc`.
    resamples, seed
        As for :func:`bootstrap`. Sets of clips whose figures will be averaged need seeds of their own.

    Raises
    ------
    AuscultError
        As :func:`auc` and :func:`pauc` do.
    """
    truth, values = _checked(labels, scores)
    whole, partial = auc(truth, values), pauc(truth, values, max_fpr)
    if min(truth.sum(), (~truth).sum()) == 1:
        low, high = np.zeros(resamples), np.ones(resamples)
        return Figure(whole, low, high), Figure(partial, low, high)
    wholes, partials = bootstrap(truth, values, resamples=resamples, seed=seed, max_fpr=max_fpr)
    return Figure(whole, wholes, wholes), Figure(partial, partials, partials)


def bootstrap(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    resamples: int = 1000,
    seed: int | Sequence[int] = 0,
    max_fpr: float = MAX_FPR,
    chunk: int | None = None,
) -> tuple[Floats, Floats]:
    """AUC and pAUC of clips drawn anew, with replacement, within each class.

    The same clips in another order give the same resamples, and so does another `chunk`.

    Parameters
    ----------
    labels, scores, max_fpr
        As for :func:`auc` and :func:`pauc`.
    resamples : int
        How many times the clips are drawn.
    seed : int or sequence of int
        Not negative.
    chunk : int, optional
        How many resamples are held in memory at once; by default as many as fit the processor's cache.

    Returns
    -------
    auc, pauc : ndarray of float64, shape (resamples,)

    References
    ----------
    B. Efron, R. J. Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 8 (two samples) and 13
    (percentile interval).
    """
    _check_max_fpr(max_fpr)
    truth, values = _checked(labels, scores)
    levels, level = np.unique(-values, return_inverse=True)
    normal, anomaly = np.sort(level[~truth]), np.sort(level[truth])
    normal_rng, anomaly_rng = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    chunk = chunk or max(1, CHUNK // len(values))

    areas = []
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        areas.append(
            roc_areas(
                drawn(normal, len(levels), size, normal_rng),
                drawn(anomaly, len(levels), size, anomaly_rng),
                max_fpr,
            )
        )
    return np.concatenate([a for a, _ in areas]), np.concatenate([p for _, p in areas])


@dataclass(frozen=True)
class Rate:
    """How often something happened among `n` clips, with its 95 % interval."""

    value: float
    interval: tuple[float, float]
    hits: int
    n: int


def rate(hits: int, n: int, level: float = LEVEL) -> Rate:
    """A share of clips with its exact interval.

    Parameters
    ----------
    hits, n : int
        The clips in question, and all clips; ``0 <= hits <= n``, ``n >= 1``.
    level : float
        Coverage of the interval.

    References
    ----------
    C. J. Clopper, E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of
    the binomial", Biometrika 26(4), 1934.
    """
    # The quantile function of the beta distribution; scipy.stats, which wraps it, is slow to import.
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = float(betaincinv(hits, n - hits + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0
    return Rate(hits / n, (low, high), hits, n)


def drawn(levels: Counts, n_levels: int, size: int, rng: np.random.Generator) -> Counts:
    """Draw one class `size` times: how often each score value came up, shape (size, n_levels)."""
    drawn = levels[rng.integers(len(levels), size=(size, len(levels)))]
    drawn += n_levels * np.arange(size)[:, None]
    counts: Counts = np.bincount(drawn.ravel(), minlength=size * n_levels)
    return counts.reshape(size, n_levels)


def _checked(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[npt.NDArray[np.bool_], Floats]:
    truth, values = np.asarray(labels).astype(bool), np.asarray(scores, dtype=np.float64)
    if truth.all() or not truth.any():
        raise AuscultError(
            "AUC and pAUC compare normal with anomalous clips, and one of the two is missing",
            "give clips of both conditions",
        )
    if not np.isfinite(values).all():
        raise AuscultError("a score is not a finite number", "leave out the clips that could not be judged")
    return truth, values


def _check_max_fpr(max_fpr: float) -> None:
    if not 0 < max_fpr <= 1:
        raise AuscultError(f"max_fpr is {max_fpr}", "give a false-alarm rate above 0 and up to 1")
