"""Ensembles: the gamma law far out, the rules against their plain forms, model files put together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from auscult.corpus import Clip
from auscult.detectors.ae import AE
from auscult.detectors.ensemble import Ensemble
from auscult.detectors.knn import KNN
from auscult.detectors.recipes import RECIPES
from auscult.detectors.registry import create
from auscult.ensembling import combine
from auscult.errors import AudioError, AuscultError, TrainingInterrupted
from auscult.fitting import fit
from auscult.model import Model, load
from auscult.nn.fusion import RULES, SCALINGS, Fusion, Ranks
from auscult.nn.gamma import GammaLaw
from auscult.store import Store
from auscult.training import Run as TrainingRun
from conftest import Run, machine_sound, write_wav

RATE = 16_000
REFERENCE = stats.gamma.rvs(3.0, scale=2.0, size=200, random_state=0)


# The gamma law -------------------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.integers(2, 30), st.floats(-12, 3), st.floats(-8, 8), st.sampled_from([-1, 1]))
def test_any_scores_have_a_law(seed: int, n: int, spread: float, size: float, sign: int) -> None:
    """Much alike or far apart, of either sign."""
    scores = sign * 10**size + 10**spread * np.random.default_rng(seed).standard_normal(n)
    law = GammaLaw.fit(scores)
    assert np.isfinite(law.exceeded_by(0.01))
    assert law.exceeded_by(0.01) >= law.exceeded_by(0.5)


def test_the_law_is_scipys_where_scipy_can_follow() -> None:
    law = GammaLaw.fit(REFERENCE)
    shape, _, scale = stats.gamma.fit(REFERENCE, floc=0)
    assert (law.start, law.shape, law.scale) == (0.0, pytest.approx(shape), pytest.approx(scale))
    x = np.r_[1e-3, np.linspace(0.1, 900, 400)]
    np.testing.assert_allclose(law.log_survival(x), stats.gamma.logsf(x, shape, scale=scale), rtol=1e-10, atol=1e-14)
    log_cdf = stats.gamma.logcdf(x, shape, scale=scale)
    near_one = log_cdf > -1e-9  # there scipy's 1 - survival has lost its digits
    np.testing.assert_allclose(law.log_log_cdf(x)[~near_one], np.log(-log_cdf[~near_one]), rtol=1e-6)
    np.testing.assert_allclose(law.log_log_cdf(x)[near_one], law.log_survival(x)[near_one], rtol=1e-8)
    assert law.exceeded_by(0.01) == pytest.approx(stats.gamma.isf(0.01, shape, scale=scale))


def test_far_out_the_law_is_that_of_many_digits() -> None:
    mpmath = pytest.importorskip("mpmath")
    law = GammaLaw(0.0, 3.25, 2.0)
    for score in (1500.0, 2500.0, 1e5):
        with mpmath.workdps(40):
            exact = mpmath.log(mpmath.gammainc(law.shape, score / law.scale, mpmath.inf, regularized=True))
        assert law.log_survival(np.array([score]))[0] == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize("scores", [REFERENCE, REFERENCE - 20, np.full(4, 3.0), np.zeros(3), np.array([2.5])])
def test_no_two_scores_tie_however_far_out(scores: np.ndarray) -> None:
    law, ranks = GammaLaw.fit(scores), Ranks(scores)
    low, high, spread = scores.min(), scores.max(), max(np.ptp(scores), 1e-3)
    x = np.linspace(max(low - spread, -1e9), high + 1000 * spread, 20_001)
    for one in (law, ranks):
        assert (np.diff(one.log_survival(x)) < 0).all()
        assert (np.diff(one.log_log_cdf(x)) < 0).all()


# The rules -----------------------------------------------------------------------------------------------


def plain(f: np.ndarray, rule: str) -> np.ndarray:
    forms = {"probability": lambda: 1 - np.prod(1 - f, 0), "mean": lambda: f.mean(0)}
    forms |= {"product": lambda: f.prod(0), "max": lambda: f.max(0)}
    return np.asarray(forms[rule]())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_rule_is_the_plain_form_where_that_can_be_written(scaling: str, rule: str) -> None:
    rng = np.random.default_rng(1)
    reference = np.stack([REFERENCE, 5 * REFERENCE[::-1] ** 0.7])
    scores = np.stack([rng.uniform(0.5, 20, 50), rng.uniform(2, 60, 50)])
    if scaling == "raw":
        scores = scores / 20
        f = -np.expm1(-scores)
    elif scaling == "gamma":
        laws = [stats.gamma.fit(r, floc=0) for r in reference]
        f = np.stack([stats.gamma.cdf(s, a, scale=b) for s, (a, _, b) in zip(scores, laws, strict=True)])
    else:
        f = np.stack([-np.expm1(Ranks(r).log_survival(s)) for r, s in zip(reference, scores, strict=True)])
    combined = Fusion(reference, scaling, rule)(scores)
    of_plain = plain(f, rule)
    expected = -np.log(-np.log(of_plain)) if rule == "product" else -np.log1p(-of_plain)
    np.testing.assert_allclose(combined, expected, rtol=1e-6)


def test_a_rank_is_the_share_of_healthy_clips_below() -> None:
    ranks = Ranks(np.array([1.0, 2.0, 3.0]))
    f = -np.expm1(ranks.log_survival(np.array([0.5, 1.0, 2.0, 2.5, 3.0, 30.0])))
    assert f[1:5] == pytest.approx([0.25, 0.5, 0.625, 0.75])
    assert 0 < f[0] < 0.25
    assert 0.75 < f[5] < 1


@given(
    st.sampled_from(SCALINGS),
    st.sampled_from(RULES),
    st.lists(st.floats(0.01, 1e6), min_size=2, max_size=2),
    st.integers(0, 1),
)
def test_a_member_that_finds_a_clip_stranger_never_makes_it_less_strange(
    scaling: str, rule: str, scores: list[float], which: int
) -> None:
    fusion = Fusion([REFERENCE, REFERENCE * 3], scaling, rule)
    lower = np.array(scores)[:, None]
    higher = lower.copy()
    higher[which] *= 1.5
    assert fusion(higher) >= fusion(lower)
    both = lower * 1.5
    assert fusion(both) > fusion(lower)


# The detector --------------------------------------------------------------------------------------------


def clip(seed: int, machine_id: str = "id_00", faulty: bool = False) -> Clip:
    sound = machine_sound(seed, faulty=faulty).astype(np.float32)
    return Clip(f"clip {seed} {machine_id} {faulty}", samples=sound, rate=RATE, machine_id=machine_id)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    made = create("ensemble", "quick", {"members": "knn,bank"})
    made.fit([clip(k, f"id_0{k % 2}") for k in range(12)], store=Store(tmp_path_factory.mktemp("store")))
    assert isinstance(made, Ensemble)
    return made


def test_its_score_is_that_of_its_members_together(fitted: Ensemble) -> None:
    other = clip(900, faulty=True)
    own = [float(member.score([other])[0]) for member in fitted.members]
    assert fitted.reference is not None
    surprises = [-GammaLaw.fit(r).log_survival(np.array([s]))[0] for r, s in zip(fitted.reference, own, strict=True)]
    assert fitted.score([other])[0] == pytest.approx(sum(surprises), rel=1e-12)


def test_healthy_clips_are_learnt_from_as_if_they_were_new(fitted: Ensemble) -> None:
    """Nearest neighbours find a training clip at distance 0: the reference must not."""
    assert fitted.reference is not None
    assert (fitted.reference > 0).all()


def test_a_threshold_is_set_by_clips_on_the_scale_of_the_others(fitted: Ensemble) -> None:
    reference = fitted.reference
    assert reference is not None
    scores = fitted.reference_scores()
    for k in (0, 5):
        others = np.delete(reference, k, axis=1)
        assert scores[k] == Fusion(list(others), "gamma", "probability")(reference[:, [k]])[0]


def test_the_rule_may_change_afterwards(fitted: Ensemble) -> None:
    from auscult.detectors.registry import rescored

    other = clip(900, faulty=True)
    assert rescored(fitted, {"rule": "max"}).score([other])[0] < fitted.score([other])[0]
    with pytest.raises(AuscultError, match="depends on members"):
        rescored(fitted, {"members": "knn"})


def test_a_machine_without_a_scale_is_refused_by_name(fitted: Ensemble) -> None:
    from auscult.detectors.registry import rescored

    of_each = rescored(fitted, {"scaled_by": "machine"})
    assert np.isfinite(of_each.score([clip(900, "id_00")])[0])
    with pytest.raises(AudioError, match="no scale for"):
        of_each.score([clip(900, "id_09")])


def test_it_needs_what_its_members_need() -> None:
    assert create("ensemble", "quick", {"members": "id-classifier,knn"}).needs == {"normals", "machine_ids"}
    with pytest.raises(AuscultError, match="no ensembles inside"):
        create("ensemble", "quick", {"members": "knn,ensemble"})
    with pytest.raises(AuscultError, match="no detector 'nkk'"):
        create("ensemble", "quick", {"members": "nkk"})


def test_every_ensemble_of_the_paper_can_be_made() -> None:
    rows = [recipe for recipe in RECIPES if recipe.detector == "ensemble" and recipe.published]
    for recipe in rows:
        create("ensemble", "paper", recipe.settings)
    for name, mean in (("i", 93.17), ("ii", 93.08)):
        own = [auc for row in rows if f"({name})" in row.system for auc, _ in row.published.values()]
        assert len(own) == 6
        assert np.mean(own) == pytest.approx(mean, abs=0.005)


# Model files ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plant")
    for k in range(45):
        write_wav(root / "train" / "normal" / f"{k:03}.wav", machine_sound(k))
    for k in range(6):
        write_wav(root / "test" / "normal" / f"{k:03}.wav", machine_sound(500 + k))
        write_wav(root / "test" / "anomaly" / f"{k:03}.wav", machine_sound(600 + k, faulty=True))
    return root


@pytest.fixture(scope="module")
def members(plant: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    made = []
    for name in ("knn", "bank"):
        made.append(folder / f"{name}.auscult")
        fit(plant, name, store=Store(folder / "store"), false_alarm_rate=0.1).save(made[-1])
    return made


def test_models_become_one_that_is_calibrated_by_clips_none_has_learnt(plant: Path, members: list[Path]) -> None:
    models = [load(path) for path in members]
    made = combine(models)
    assert made.calibration.promised
    assert made.calibration.n == 20
    assert made.calibration.false_alarm_rate == 0.1
    assert sorted(made.provenance["calibration_clips"]) == sorted(models[0].provenance["calibration_clips"])
    assert made.score(made.provenance["calibration_clips"]).argmax() == 19
    assert not set(made.provenance["calibration_clips"]) & set(made.provenance["training_clips"])
    assert [one["detector"] for one in made.provenance["members"]] == ["knn", "bank"]


def test_clips_that_a_member_has_learnt_from_are_left_out(plant: Path, members: list[Path]) -> None:
    models = [load(path) for path in members]
    made = combine(models, plant)
    assert sorted(made.provenance["calibration_clips"]) == sorted(models[0].provenance["calibration_clips"])
    with pytest.raises(AuscultError, match="has been learnt from"):
        combine(models, models[0].provenance["training_clips"])


def test_an_ensemble_among_them_gives_its_members(members: list[Path]) -> None:
    models = [load(path) for path in members]
    again = combine([combine(models), models[0]])
    assert isinstance(again.detector, Ensemble)
    assert [member.name for member in again.detector.members] == ["knn", "bank", "knn"]


def test_one_model_is_no_ensemble(members: list[Path]) -> None:
    with pytest.raises(AuscultError, match="at least two"):
        combine([load(members[0])])


def test_models_without_clips_in_common_are_refused(members: list[Path]) -> None:
    one = load(members[0])
    stranger = Model(one.detector, one.calibration, one.provenance | {"calibration_clips": []}, one.usual)
    with pytest.raises(AuscultError, match="no healthy clips in common"):
        combine([one, stranger])


def test_from_the_command_line(plant: Path, members: list[Path], tmp_path: Path, auscult: Run) -> None:
    made = tmp_path / "all.auscult"
    done = auscult("ensemble", *members, "-o", made, "--rule", "mean", "--false-alarm-rate", "0.2")
    assert done.code == 0, done.err
    assert "ensemble of knn, bank" in done.out
    scored = auscult("score", made, plant, "-o", tmp_path / "scores.csv")
    assert scored.code == 0, scored.err
    figures = json.loads(auscult("evaluate", tmp_path / "scores.csv", "--json").out)
    assert figures["overall"]["auc"] > 0.9
    explained = auscult("explain", made, plant / "test" / "anomaly" / "000.wav", "-o", tmp_path / "picture.png")
    assert explained.code == 0, explained.err
    assert "bank:" in explained.out
    refused = auscult("ensemble", members[0], "-o", tmp_path / "one.auscult")
    assert refused.code == 2
    assert "at least two" in refused.err
    wrong = auscult("ensemble", *members, "-o", made, "--rule", "median")
    assert wrong.code == 2
    assert "rule" in wrong.err


def test_a_member_that_was_fitted_before_a_stop_is_not_fitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, checkpoint = Store(tmp_path / "store"), tmp_path / "model.checkpoint"
    clips = [clip(k) for k in range(12)]
    settings = {"members": ["knn", {"detector": "ae", "settings": {"max_steps": 20, "batch_size": 64}}]}
    whole = create("ensemble", "quick", settings)
    whole.fit(clips, store=store, seed=3)

    def stop(*_: object, **__: object) -> None:
        raise TrainingInterrupted("stopped")

    run = TrainingRun(checkpoint=checkpoint, resume=True, identity="a run")
    with monkeypatch.context() as patch:
        patch.setattr(AE, "fit", stop)
        with pytest.raises(TrainingInterrupted):
            create("ensemble", "quick", settings).fit(clips, store=store, seed=3, run=run)
    again = create("ensemble", "quick", settings)
    with monkeypatch.context() as patch:
        patch.setattr(KNN, "fit", stop)
        again.fit(clips, store=store, seed=3, run=run)
    assert not list(tmp_path.glob("model.checkpoint*"))
    other = clip(900, faulty=True)
    assert again.score([other])[0] == whole.score([other])[0]
