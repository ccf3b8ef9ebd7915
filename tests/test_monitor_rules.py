"""When scores become alarms: debounced, with hysteresis, and a promise about slow drifts that is kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auscult.calibration import Calibration
from auscult.errors import AuscultError
from auscult.monitor.rules import Change, DriftRule, ThresholdRule, Thresholds, gain

CALIBRATION = Calibration(np.arange(1.0, 200.0), 0.01)
HIGH, LOW, BETWEEN = 500.0, 50.0, 195.0
"""Above the threshold (198), below the lower one (190), and between them."""


def changes(rule: ThresholdRule, scores: list[float]) -> list[Change | None]:
    return [rule.update(float(second), score) for second, score in enumerate(scores)]


def test_a_single_window_is_no_alarm_three_of_five_are() -> None:
    rule = ThresholdRule(CALIBRATION)
    assert (rule.threshold, rule.lower) == (198.0, 190.0)
    assert changes(rule, [HIGH, LOW, LOW, LOW, LOW, HIGH, LOW, HIGH]) == [None] * 8
    assert changes(rule, [LOW, HIGH]) == [None, "raised"]


def test_it_ends_only_when_scores_are_clearly_below_for_a_while() -> None:
    rule = ThresholdRule(CALIBRATION, Thresholds(least=1, of=1, release=3))
    assert changes(rule, [HIGH, BETWEEN, BETWEEN, BETWEEN, BETWEEN]) == ["raised", None, None, None, None]
    assert changes(rule, [LOW, LOW, BETWEEN, LOW, LOW, LOW]) == [None] * 5 + ["ended"]
    assert not rule.on


def test_what_was_before_a_gap_does_not_count() -> None:
    rule = ThresholdRule(CALIBRATION)
    changes(rule, [HIGH, HIGH])
    rule.forget()
    assert changes(rule, [HIGH, HIGH, HIGH]) == [None, None, "raised"]
    rule.forget()
    assert rule.on


@given(st.lists(st.floats(0, 400), max_size=80), st.integers(1, 4), st.integers(1, 4))
def test_raised_and_ended_alternate(scores: list[float], least: int, release: int) -> None:
    rule = ThresholdRule(CALIBRATION, Thresholds(least=least, of=4, release=release))
    told = [change for change in changes(rule, scores) if change]
    assert told == (["raised", "ended"] * len(told))[: len(told)]
    assert rule.on == (bool(told) and told[-1] == "raised")


def test_another_rate_is_another_threshold() -> None:
    assert ThresholdRule(CALIBRATION, Thresholds(rate=0.1)).threshold == 180.0


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"least": 4, "of": 3}, {"least": 0}, {"release": 0}):
        with pytest.raises(AuscultError, match="cannot begin"):
            Thresholds(**wrong)
    with pytest.raises(AuscultError, match="no threshold"):
        ThresholdRule(Calibration(np.empty(0)))


# Drifts ---------------------------------------------------------------------------------------------------


def test_a_bet_wins_nothing_on_average() -> None:
    edges = np.logspace(-12, 0, 200_001)
    middles = np.sqrt(edges[1:] * edges[:-1])
    mean = float(np.sum([gain(p) for p in middles] * np.diff(edges)))
    assert mean == pytest.approx(1.0, abs=0.04)  # what lies below 1e-12 is missing: 1 / 27.6
    assert gain(1.0) == 0.5
    assert gain(1 - 1e-4) == pytest.approx(gain(1 - 2e-3), abs=1e-3)
    assert gain(0.0) > gain(1e-9) > gain(0.5) > gain(1.0)


@pytest.mark.parametrize("n_calibration", [20, 200])
def test_healthy_machines_raise_no_more_drift_alarms_than_promised(n_calibration: int) -> None:
    every, length, alarms = 300.0, 3000, 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        rule = DriftRule(Calibration(random.gamma(3.0, size=n_calibration)), 10.0, every, seed)
        alarms += sum(
            rule.update(10.0 * k, score) == "raised" for k, score in enumerate(random.gamma(3.0, size=length))
        )
    assert alarms <= 20 * length / every
    assert alarms > 0, "a rule that never speaks keeps every promise"


def test_a_slow_drift_that_no_threshold_sees_is_told() -> None:
    random = np.random.default_rng(1)
    calibration = Calibration(random.normal(0, 1, 100), 0.01)
    rule, threshold = DriftRule(calibration, 10.0, 10_000.0), ThresholdRule(calibration)
    raised, limited = [], []
    for k in range(2000):
        score = float(random.normal(0 if k < 1000 else 1.0, 1))
        if rule.update(10.0 * k, score) == "raised":
            raised.append(k)
        limited.append(threshold.update(10.0 * k, score) == "raised")
    assert raised
    assert 1000 < raised[0] < 1100
    assert not any(limited[: raised[0]])


def test_a_drift_is_over_when_the_sound_is_ordinary_again() -> None:
    random = np.random.default_rng(2)
    rule = DriftRule(Calibration(random.normal(0, 1, 200)), 1.0, 1000.0)
    scores = np.concatenate([random.normal(0, 1, 200), random.normal(3, 1, 30), random.normal(0, 1, 200)])
    told = [(k, change) for k, score in enumerate(scores) if (change := rule.update(float(k), float(score)))]
    assert [change for _, change in told] == ["raised", "ended"]
    assert 200 < told[0][0] < 220
    assert 230 < told[1][0] < 250


def test_overlapping_windows_do_not_count_twice() -> None:
    rule = DriftRule(Calibration(np.arange(50.0)), 10.0, 1e9)
    for second in range(101):
        rule.update(float(second), 100.0)
    assert len(rule._before) == 50 + 11
