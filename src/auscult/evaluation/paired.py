"""Several systems on the same clips: AUCs with their covariance, and resamples that all systems share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from auscult.evaluation import metrics
from auscult.evaluation.cells import Cell, Curve


@dataclass(frozen=True)
class Shared:
    """AUC and pAUC of one curve for each system, and in every resample.

    Attributes
    ----------
    auc, pauc : ndarray of float64, shape (n_systems,)
    aucs, paucs : ndarray of float64, shape (n_systems, n_resamples)
        Column for column of the same draws.
    """

    auc: metrics.Floats
    pauc: metrics.Floats
    aucs: metrics.Floats
    paucs: metrics.Floats


def delong(normal: metrics.Floats, anomaly: metrics.Floats) -> tuple[metrics.Floats, metrics.Floats]:
    """AUCs of several systems on the same clips, and their covariance.

    Parameters
    ----------
    normal, anomaly : ndarray of float64, shape (n_systems, n_clips)
        Scores of the normal clips and of the anomalies; at least two of each.

    Returns
    -------
    auc : ndarray of float64, shape (n_systems,)
    covariance : ndarray of float64, shape (n_systems, n_systems)

    References
    ----------
    E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, "Comparing the areas under two or more correlated receiver
    operating characteristic curves: a nonparametric approach", Biometrics 44(3), 1988. By midranks as in X. Sun,
    W. Xu, "Fast implementation of DeLong's algorithm …", IEEE Signal Processing Letters 21(11), 2014.
    """
    from scipy.stats import rankdata

    n_normal, n_anomaly = normal.shape[1], anomaly.shape[1]
    ranks = rankdata(np.concatenate([normal, anomaly], axis=1), axis=1)
    # How often a clip scores above those of the other condition; ties count half.
    above_normals = (ranks[:, n_normal:] - rankdata(anomaly, axis=1)) / n_normal
    above_anomalies = (ranks[:, :n_normal] - rankdata(normal, axis=1)) / n_anomaly
    auc: metrics.Floats = above_normals.mean(axis=1)
    covariance = np.cov(above_normals) / n_anomaly + np.cov(above_anomalies) / n_normal
    return auc, np.atleast_2d(covariance)


def shared_curves(
    cells: Mapping[Cell, metrics.Floats],
    wanted: Mapping[str, Curve],
    *,
    resamples: int,
    seed: int | Sequence[int],
) -> dict[str, Shared]:
    """AUC and pAUC of curves over the clips of some cells, for several systems, with a bootstrap that they share.

    Parameters
    ----------
    cells : mapping of (domain, condition) to ndarray of float64, shape (n_clips, n_systems)
        The scores. The order of the clips decides over the draws.
    wanted : mapping of name to (cells of normal clips, cells of anomalies)
        Cells that are empty add nothing; a curve without clips of either class is left out.
    resamples, seed
        As for :func:`auscult.evaluation.metrics.bootstrap`.
    """
    filled = {key: cells[key] for key in sorted(cells) if len(cells[key])}
    curves = {
        name: tuple(tuple(cell for cell in side if cell in filled) for side in curve) for name, curve in wanted.items()
    }
    curves = {name: curve for name, curve in curves.items() if all(curve)}
    if not curves:
        return {}
    n_systems = next(iter(filled.values())).shape[1]
    rngs = dict(zip(filled, np.random.SeedSequence(seed).spawn(len(filled)), strict=True))
    found = {name: (np.empty((n_systems, resamples)), np.empty((n_systems, resamples))) for name in curves}
    chunk = max(1, metrics.CHUNK // sum(map(len, filled.values())))
    draws = {key: np.random.default_rng(rngs[key]) for key in filled}
    systems = [_levels(filled, system) for system in range(n_systems)]
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        picked = {key: draws[key].integers(len(scores), size=(size, len(scores))) for key, scores in filled.items()}
        for system, (levels, n_levels) in enumerate(systems):
            counts = {key: _counts(levels[key][picks], n_levels) for key, picks in picked.items()}
            for name, curve in curves.items():
                sides = (np.sum([counts[cell] for cell in side], axis=0) for side in curve)
                for array, areas in zip(found[name], metrics.roc_areas(*sides), strict=True):
                    array[system, start : start + size] = areas
    return {name: Shared(*_values(filled, curve), *found[name]) for name, curve in curves.items()}


def _values(
    cells: Mapping[Cell, metrics.Floats], curve: tuple[tuple[Cell, ...], ...]
) -> tuple[metrics.Floats, metrics.Floats]:
    scores = [np.concatenate([cells[cell] for cell in side]) for side in curve]
    labels = np.repeat([0, 1], [len(side) for side in scores])
    values = np.concatenate(scores).T
    return np.array([metrics.auc(labels, v) for v in values]), np.array([metrics.pauc(labels, v) for v in values])


def _levels(cells: Mapping[Cell, metrics.Floats], system: int) -> tuple[dict[Cell, metrics.Counts], int]:
    """Each clip's place among the different scores of a system, from the largest down."""
    values = np.unique(-np.concatenate([scores[:, system] for scores in cells.values()]))
    return {key: np.searchsorted(values, -scores[:, system]) for key, scores in cells.items()}, len(values)


def _counts(levels: metrics.Counts, n_levels: int) -> metrics.Counts:
    size = len(levels)
    counts: metrics.Counts = np.bincount(
        (levels + n_levels * np.arange(size)[:, None]).ravel(), minlength=size * n_levels
    )
    return counts.reshape(size, n_levels)
