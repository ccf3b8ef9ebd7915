"""AUC, pAUC, their bootstrap, and rates: against scikit-learn, scipy and slow references."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score

from auscult.errors import AuscultError
from auscult.evaluation import metrics

# Ten normal and ten anomalous scores whose areas were worked out by hand.
NORMAL = [0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.9]
ANOMALY = [0.15, 0.42, 0.58, 0.7, 0.75, 0.8, 0.85, 0.88, 0.95, 0.97]
LABELS = [0] * 10 + [1] * 10


def sample(n_normal, n_anomaly, shift=1.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [n_normal, n_anomaly])
    return labels, rng.normal(size=len(labels)) + shift * labels


def test_the_published_vector():
    assert metrics.auc(LABELS, NORMAL + ANOMALY) == pytest.approx(0.79, abs=1e-12)
    assert metrics.pauc(LABELS, NORMAL + ANOMALY) == pytest.approx(0.578947368421, abs=1e-12)


def test_larger_is_more_anomalous():
    assert metrics.auc([0, 0, 1], [0.1, 0.2, 0.3]) == 1
    assert metrics.auc([0, 0, 1], [0.1, 0.2, 0.0]) == 0
    assert metrics.pauc([0, 0, 1], [0.1, 0.2, 0.3]) == 1


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], []])
def test_a_missing_class_is_refused(labels):
    for figure in (metrics.auc, metrics.pauc, metrics.bootstrap, metrics.figures):
        with pytest.raises(AuscultError, match="one of the two is missing"):
            figure(labels, np.arange(len(labels)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_refused(bad):
    for figure in (metrics.auc, metrics.pauc, metrics.bootstrap, metrics.figures):
        with pytest.raises(AuscultError, match="not a finite number"):
            figure([0, 1, 1], [0.0, 1.0, bad])


@pytest.mark.parametrize("max_fpr", [0, -0.1, 1.1, np.nan])
def test_a_false_alarm_rate_is_above_0_and_up_to_1(max_fpr):
    for figure in (metrics.pauc, lambda *a, max_fpr: metrics.bootstrap(*a, max_fpr=max_fpr)):
        with pytest.raises(AuscultError, match="max_fpr"):
            figure(LABELS, NORMAL + ANOMALY, max_fpr=max_fpr)


counts = st.integers(1, 12).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 4), min_size=n, max_size=n).filter(any)] * 2)
)


@settings(deadline=None, max_examples=150)
@given(counts=counts, max_fpr=st.sampled_from([0.01, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1.0]))
def test_weighted_areas_are_those_of_scikit_learn(counts, max_fpr):
    normal, anomaly = counts
    values = np.arange(len(normal), 0, -1.0)
    expected = [
        roc_auc_score(
            np.repeat([0, 1], len(values)),
            np.tile(values, 2),
            sample_weight=np.concatenate(counts),
            max_fpr=limit,
        )
        for limit in (None, max_fpr)
    ]
    whole, partial = metrics.roc_areas([normal], [anomaly], max_fpr)
    np.testing.assert_allclose([whole[0], partial[0]], expected, atol=1e-12)


def test_rows_do_not_touch_one_another():
    rng = np.random.default_rng(3)
    normal, anomaly = rng.integers(0, 3, size=(2, 40, 60))
    together = metrics.roc_areas(normal, anomaly)
    alone = [metrics.roc_areas(n[None], a[None]) for n, a in zip(normal, anomaly, strict=True)]
    np.testing.assert_allclose(together[0], [a[0] for a, _ in alone], rtol=1e-12)
    np.testing.assert_allclose(together[1], [p[0] for _, p in alone], rtol=1e-12)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=9),
    st.lists(st.integers(-3, 3), min_size=1, max_size=9),
    st.integers(0, 2**40),
)
def test_the_bootstrap_is_a_loop_over_scikit_learn(normal, anomaly, seed):
    labels = np.repeat([0, 1], [len(normal), len(anomaly)])
    wholes, partials = metrics.bootstrap(labels, normal + anomaly, resamples=12, seed=seed)

    rngs = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2)]
    for whole, partial in zip(wholes, partials, strict=True):
        drawn = [
            np.sort(own)[::-1][rng.integers(len(own), size=len(own))]
            for own, rng in zip((normal, anomaly), rngs, strict=True)
        ]
        assert whole == pytest.approx(roc_auc_score(labels, np.concatenate(drawn)), abs=1e-12)
        assert partial == pytest.approx(roc_auc_score(labels, np.concatenate(drawn), max_fpr=0.1), abs=1e-12)


def test_neither_order_nor_chunk_nor_scale_changes_the_bootstrap():
    labels, scores = sample(37, 23)
    scores = np.round(scores, 1)
    expected = metrics.bootstrap(labels, scores, resamples=100, seed=5)
    order = np.random.default_rng(1).permutation(len(labels))
    for other in (
        metrics.bootstrap(labels[order], scores[order], resamples=100, seed=5),
        metrics.bootstrap(labels, np.exp(scores), resamples=100, seed=5),
        *(metrics.bootstrap(labels, scores, resamples=100, seed=5, chunk=c) for c in (1, 7, 99, 500)),
    ):
        np.testing.assert_array_equal(other, expected)
    assert not np.array_equal(metrics.bootstrap(labels, scores, resamples=100, seed=6), expected)


def test_memory_is_bounded():
    labels, scores = sample(10_000, 10_000)
    metrics.bootstrap(labels, scores, resamples=1)
    tracemalloc.start()
    metrics.bootstrap(labels, scores, resamples=400)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6  # all 400 at once would take 500 MB


def test_the_interval_covers_what_it_says():
    true_auc = norm.cdf(1 / np.sqrt(2))
    covered = 0
    for trial in range(300):
        whole, _ = metrics.figures(*sample(60, 50, seed=trial), resamples=200, seed=trial)
        low, high = whole.interval()
        covered += low <= true_auc <= high
    assert 0.90 <= covered / 300 <= 0.99


def test_one_clip_of_a_class_leaves_the_interval_unbounded():
    for n_normal, n_anomaly in ((1, 30), (30, 1), (1, 1)):
        labels, scores = sample(n_normal, n_anomaly)
        whole, partial = metrics.figures(labels, scores)
        assert whole.value == metrics.auc(labels, scores)
        assert whole.interval() == partial.interval() == (0, 1)


def test_a_mean_is_averaged_as_its_resamples_are():
    figures = [metrics.figures(*sample(40, 40, seed=s), resamples=500, seed=s)[0] for s in range(4)]
    mean = metrics.Figure.averaged(figures, lambda values: np.mean(values, axis=0))
    assert mean.value == pytest.approx(np.mean([f.value for f in figures]))
    widths = [np.diff(f.interval())[0] for f in (*figures, mean)]
    # Independent IDs: the mean of four varies half as much as one.
    assert widths[-1] == pytest.approx(np.mean(widths[:4]) / 2, rel=0.2)


def test_an_unbounded_figure_leaves_its_share_of_the_mean_unbounded():
    known = metrics.Figure(0.8, np.full(10, 0.8), np.full(10, 0.8))
    unbounded = metrics.Figure(0.5, np.zeros(10), np.ones(10))
    mean = metrics.Figure.averaged([known, unbounded], lambda values: np.mean(values, axis=0))
    assert mean.value == pytest.approx(0.65)
    assert mean.interval() == pytest.approx((0.4, 0.9))


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_rates_have_the_exact_interval(case):
    rate = metrics.rate(*case)
    expected = binomtest(*case).proportion_ci(0.95, method="exact")
    assert rate.value == case[0] / case[1]
    np.testing.assert_allclose(rate.interval, (expected.low, expected.high), atol=1e-9)
