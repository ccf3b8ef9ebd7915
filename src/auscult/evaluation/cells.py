"""AUC and pAUC of groups of clips that share clips with one another, and how they vary together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from auscult.evaluation import metrics

Cell = tuple[str, str]
"""(domain, condition)"""

Curve = tuple[Sequence[Cell], Sequence[Cell]]
"""The cells whose clips count as normal, and those whose clips count as anomalous."""


def curves(
    cells: Mapping[Cell, metrics.Floats],
    wanted: Mapping[str, Curve],
    *,
    resamples: int,
    seed: int | Sequence[int],
) -> dict[str, tuple[metrics.Figure, metrics.Figure]]:
    """AUC and pAUC of curves over the clips of some cells, each with its bootstrap.

    Clips are drawn anew, with replacement, within each cell; curves that share a cell share its draws, so that
    their averages vary as they should.

    Parameters
    ----------
    cells : mapping of (domain, condition) to ndarray of float64
        The scores.
    wanted : mapping of name to (cells of normal clips, cells of anomalies)
        Cells that are empty or not there add nothing; a curve without clips of either class is left out.
    resamples, seed
        As for :func:`auscult.evaluation.metrics.bootstrap`.
    """
    filled = {key: np.sort(cells[key]) for key in sorted(cells) if len(cells[key])}
    possible = {
        name: (tuple(c for c in normal if c in filled), tuple(c for c in anomalous if c in filled))
        for name, (normal, anomalous) in wanted.items()
    }
    possible = {name: curve for name, curve in possible.items() if all(curve)}
    drawn = _bootstrap(filled, possible, resamples, seed) if possible else {}
    found = {}
    for name, (normal, anomalous) in possible.items():
        scores = [np.concatenate([filled[cell] for cell in side]) for side in (normal, anomalous)]
        labels = np.repeat([0, 1], [len(side) for side in scores])
        values = np.concatenate(scores)
        both = metrics.auc(labels, values), metrics.pauc(labels, values)
        if min(len(side) for side in scores) == 1:
            low, high = np.zeros(resamples), np.ones(resamples)
            found[name] = metrics.Figure(both[0], low, high), metrics.Figure(both[1], low, high)
        else:
            wholes, partials = drawn[name]
            found[name] = metrics.Figure(both[0], wholes, wholes), metrics.Figure(both[1], partials, partials)
    return found


def _bootstrap(
    cells: Mapping[Cell, metrics.Floats], wanted: Mapping[str, Curve], resamples: int, seed: int | Sequence[int]
) -> dict[str, tuple[metrics.Floats, metrics.Floats]]:
    values = np.unique(-np.concatenate(list(cells.values())))
    levels = {key: np.sort(np.searchsorted(values, -scores)) for key, scores in cells.items()}
    rngs = {
        key: np.random.default_rng(s)
        for key, s in zip(levels, np.random.SeedSequence(seed).spawn(len(levels)), strict=True)
    }
    chunk = max(1, metrics.CHUNK // sum(map(len, levels.values())))
    areas: dict[str, list[tuple[metrics.Floats, metrics.Floats]]] = {name: [] for name in wanted}
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        counts = {key: metrics.drawn(level, len(values), size, rngs[key]) for key, level in levels.items()}
        for name, (normal, anomalous) in wanted.items():
            sides = (np.sum([counts[cell] for cell in side], axis=0) for side in (normal, anomalous))
            areas[name].append(metrics.roc_areas(*sides))
    return {
        name: (np.concatenate([a for a, _ in parts]), np.concatenate([p for _, p in parts]))
        for name, parts in areas.items()
    }
