"""The charts of a report: the curves' areas, and histograms that lose no clip."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from auscult.evaluation.charts import CHART, _score_range, histogram, roc_charts


def test_mean_roc_is_the_mean_of_the_ids() -> None:
    """The area under the drawn bold line is the mean AUC of the IDs, as far as the drawing resolves it."""
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    levels = {"normal": 1.0, "anomaly": 1.4}
    rows = [
        ("pump", machine_id, condition, level + rng.normal(0, 0.3))
        for machine_id in ("id_00", "id_02") for condition, level in levels.items() for _ in range(40)
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["machine_type", "machine_id", "condition", "score"])
    (chart,) = roc_charts(table)
    areas = {}
    for kind, points, name in chart.shapes:
        x, y = np.array([point.split(",") for point in points.split()], dtype=float).T
        areas[kind, name] = np.trapezoid(1 - y / CHART[1], x / CHART[0])
    expected = {
        machine_id: roc_auc_score(own["condition"] == "anomaly", own["score"])
        for machine_id, own in table.groupby("machine_id")
    }
    for machine_id, auc in expected.items():
        assert areas["one", machine_id] == pytest.approx(auc, abs=2e-3)
    assert areas["mean", "mean"] == pytest.approx(np.mean(list(expected.values())), abs=6e-3)


@pytest.mark.parametrize("threshold", [1.6, float("inf"), float("nan"), -40.0])
def test_histograms_hold_every_clip_and_the_threshold(threshold: float) -> None:
    scores = np.concatenate([np.random.default_rng(0).normal(0, 1, 200), [1e6]])
    judged = pd.DataFrame({"score": scores, "threshold": threshold, "condition": "normal"})
    chart = histogram("pump", judged)
    assert len(chart.limits) == np.isfinite(threshold)
    assert all(0 <= limit <= 1 for limit in chart.limits)
    assert all(0 <= place <= 1 for place, _ in chart.marks)
    low, high = _score_range(scores, [])
    assert high < 20
    assert low < scores.min()


@pytest.mark.parametrize("scores", [[1.0], [0.0, 0.0], [-3.0, -3.0, -3.0]])
def test_histograms_of_equal_scores(scores: list[float]) -> None:
    judged = pd.DataFrame({"score": scores, "threshold": np.nan, "condition": "unknown"})
    chart = histogram("pump", judged)
    assert "nan" not in chart.shapes[0][1]
    assert chart.marks
