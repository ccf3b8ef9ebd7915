"""The promised false-alarm rate holds, and what cannot be promised is not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from auscult.calibration import Calibration, n_held_out
from auscult.errors import AuscultError


@pytest.mark.parametrize(
    ("clips", "held_out"), [(0, 0), (1, 0), (19, 0), (20, 3), (39, 6), (40, 20), (100, 20), (134, 20), (200, 30)]
)
def test_how_many_are_held_out(clips: int, held_out: int) -> None:
    assert n_held_out(clips) == held_out


@settings(max_examples=200, deadline=None)
@given(
    scores=st.lists(st.integers(-20, 20).map(float), min_size=1, max_size=60),
    new=st.lists(st.integers(-25, 25).map(float), min_size=1, max_size=20),
    rate=st.sampled_from([0.01, 0.05, 0.1, 0.29, 0.5]),
)
def test_p_values_and_decisions_are_their_definitions(scores: list[float], new: list[float], rate: float) -> None:
    calibration = Calibration(np.array(scores), rate)
    n = len(scores)
    p = calibration.p_values(np.array(new))
    slow = [(1 + sum(s >= x for s in scores)) / (n + 1) for x in new]
    np.testing.assert_allclose(p, slow)
    if calibration.promised:
        decided = ["anomaly" if value <= rate + 1e-12 else "normal" for value in slow]
        assert calibration.decide(np.array(new)) == decided


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.10])
@pytest.mark.parametrize("law", ["normal", "lognormal", "heavy"])
def test_the_promise_holds(rate: float, law: str) -> None:
    """40 draws of calibration clips, 1 000 fresh normal clips each: no more alarms than promised on the mean, and
    single draws follow the Beta law (Vovk 2012; Angelopoulos and Bates 2023, section 3.2)."""
    rng = np.random.default_rng([int(rate * 100), len(law)])
    draw = {
        "normal": lambda n: rng.normal(size=n),
        "lognormal": lambda n: rng.lognormal(size=n),
        "heavy": lambda n: rng.standard_t(2, size=n),
    }[law]
    n, draws, fresh = 199, 40, 1000
    k = int(rate * (n + 1) + 1e-9)
    beta = stats.beta(k, n + 1 - k)
    observed = []
    for _ in range(draws):
        calibration = Calibration(draw(n), rate)
        assert calibration.promised
        observed.append(np.mean([d == "anomaly" for d in calibration.decide(draw(fresh))]))
    spread = np.sqrt((beta.var() + rate * (1 - rate) / fresh) / draws)
    assert np.mean(observed) <= rate + 3 * spread
    assert np.mean(observed) >= rate - 3 * spread
    # The number of alarms among the fresh clips is Beta-binomial: compare whole distributions, randomised for ties.
    counts = np.round(np.array(observed) * fresh).astype(int)
    law_of_counts = stats.betabinom(fresh, k, n + 1 - k)
    uniform = law_of_counts.cdf(counts - 1) + rng.uniform(size=draws) * law_of_counts.pmf(counts)
    assert stats.kstest(uniform, "uniform").pvalue > 0.001


def test_less_than_can_be_promised_is_called_extrapolated() -> None:
    scores = np.random.default_rng(0).gamma(5, size=50)
    calibration = Calibration(scores, 0.01)
    assert not calibration.promised
    assert "extrapolated" in calibration.promise
    assert "0.0196" in calibration.promise
    assert calibration.threshold is not None
    assert calibration.threshold >= scores.max()
    shape, _, scale = stats.gamma.fit(scores, floc=0)
    assert calibration.threshold == pytest.approx(max(scores.max(), stats.gamma.isf(0.01, shape, scale=scale)))


@pytest.mark.parametrize("scores", [[], [1.0], [2.0, 2.0, 2.0], [-3.0, -1.0, -2.0], [0.0, 0.0, 1.0]])
def test_few_or_strange_scores_give_a_finite_threshold_or_none(scores: list[float]) -> None:
    calibration = Calibration(np.array(scores), 0.001)
    assert not calibration.promised
    threshold = calibration.threshold
    assert (threshold is None) == (not scores)
    assert threshold is None or np.isfinite(threshold)
    assert calibration.decide(np.array([-1e9])) == ["normal" if scores else ""]


def test_nothing_is_promised_for_clips_that_were_learnt_from() -> None:
    calibration = Calibration(np.arange(1.0, 500.0), 0.1, held_out=False)
    assert not calibration.promised
    assert "no false-alarm rate can be promised" in calibration.promise
    assert np.isnan(calibration.p_values(np.array([3.0]))).all()
    assert calibration.decide(np.array([1e9, -1e9])) == ["anomaly", "normal"]


def test_one_clip_far_above_all_others_is_a_doubt() -> None:
    usual = np.arange(26) / 10
    assert Calibration(np.append(usual, 9.0), 0.01).doubt.startswith(
        "one of these 27 clips decides the threshold: it scores 9, the next 2.5 — "
    )
    assert not Calibration(np.append(usual, 3.0), 0.01).doubt
    # At one in ten the two highest may raise an alarm: neither decides.
    assert not Calibration(np.append(usual, 9.0), 0.1).doubt
    assert not Calibration(np.append(usual, 9.0), 0.01, held_out=False).doubt
    assert not Calibration(np.append(usual[:10], 9.0), 0.01).doubt
    assert not Calibration(np.ones(27), 0.01).doubt
    by_chance = [bool(Calibration(draw, 0.05).doubt) for draw in np.random.default_rng(0).exponential(size=(2000, 20))]
    assert np.mean(by_chance) < 0.03


def test_clips_without_a_score_have_no_p_value_and_no_decision() -> None:
    calibration = Calibration(np.arange(100.0), 0.05)
    assert np.isnan(calibration.p_values(np.array([np.nan])))[0]
    assert calibration.decide(np.array([np.nan, 1000.0])) == ["", "anomaly"]


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_rates_that_are_none(rate: float) -> None:
    with pytest.raises(AuscultError, match="false-alarm rate"):
        Calibration(np.arange(10.0), rate)


def test_another_rate_for_the_same_clips() -> None:
    calibration = Calibration(np.arange(1.0, 200.0), 0.01)
    assert calibration.threshold == 198.0
    assert calibration.at_rate(0.1).threshold == 180.0
