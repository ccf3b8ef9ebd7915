"""ROC curves and histograms of scores, as points for a template to draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from auscult.evaluation.scales import round_numbers

if TYPE_CHECKING:
    import pandas as pd

CHART = (320, 200)
"""Width and height of a chart's plot, in the units of its drawing."""

BARS = 32
_CONDITIONS = ("normal", "anomaly", "unknown")


@dataclass
class Chart:
    """Lines or bars in the units of `CHART`, and the numbers under and beside them."""

    title: str
    description: str
    shapes: list[tuple[str, str, str]] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)


def roc_charts(table: pd.DataFrame) -> Iterator[Chart]:
    """For each machine type a curve per machine ID, and their mean at equal false-alarm rate."""
    from sklearn.metrics import roc_curve

    known = table[table["score"].notna() & (table["condition"] != "unknown")]
    grid = np.linspace(0, 1, 201)
    for machine_type, clips in known.groupby("machine_type", sort=False):
        curves = []
        for machine_id, own in clips.groupby("machine_id", sort=False):
            truth = (own["condition"] == "anomaly").to_numpy()
            if truth.any() and not truth.all():
                rates = roc_curve(truth, own["score"].to_numpy())
                curves.append((str(machine_id), rates[0], rates[1]))
        if not curves:
            continue
        chart = Chart(str(machine_type), f"ROC curves of {machine_type}: {len(curves)} machine IDs")
        for name, false_alarms, hits in curves:
            kind = "one" if len(curves) > 1 else "mean"
            chart.shapes.append((kind, _points(false_alarms, hits), name))
        if len(curves) > 1:
            mean = np.mean([np.interp(grid, f, h) for _, f, h in curves], axis=0)
            chart.shapes.append(("mean", _points(np.append(0, grid), np.append(0, mean)), "mean"))
        yield chart


def histogram(title: str, judged: pd.DataFrame) -> Chart:
    """Scores by condition, each condition's bars relative to its own highest one."""
    scores = judged["score"].to_numpy()
    limits = [float(t) for t in judged["threshold"].unique() if np.isfinite(t)][:3]
    low, high = _score_range(scores, limits)
    chart = Chart(title, f"Scores of {title} from {low:.3g} to {high:.3g}, by condition")
    edges = np.linspace(low, high, BARS + 1)
    for condition in _CONDITIONS:
        own = scores[(judged["condition"] == condition).to_numpy()]
        if len(own):
            counts = np.histogram(np.clip(own, low, high), edges)[0]
            label = f"{condition}, {len(own)}"
            chart.shapes.append((condition, _steps(counts / counts.max()), label))
    chart.marks = [((m - low) / (high - low), f"{m:g}") for m in round_numbers(low, high, 5)]
    chart.limits = [(limit - low) / (high - low) for limit in limits]
    return chart


def _score_range(scores: np.ndarray, limits: Sequence[float]) -> tuple[float, float]:
    """From the least score to the greatest, except that a few far ones end up in the last bar."""
    middle, upper = np.quantile(scores, (0.5, 0.95))
    high = min(scores.max(), middle + 3 * (upper - middle)) if upper > middle else scores.max()
    low, high = float(min(scores.min(), *limits, high)), float(max(high, *limits, scores.min()))
    spare = 0.03 * (high - low) or max(abs(low), 1.0) * 0.05
    return low - spare, high + spare


def _steps(heights: np.ndarray) -> str:
    """The outline of bars."""
    edges = np.repeat(np.linspace(0, 1, len(heights) + 1), 2)
    tops = np.concatenate([[0], np.repeat(heights, 2), [0]])
    return _points(edges, 0.94 * tops)


def _points(x: np.ndarray, y: np.ndarray) -> str:
    """A line from shares to the units of a chart; y grows upwards."""
    width, height = CHART
    places = (f"{px * width:.1f},{(1 - py) * height:.1f}" for px, py in zip(x, y, strict=True))
    return " ".join(dict.fromkeys(places))
