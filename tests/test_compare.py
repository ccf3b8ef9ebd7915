"""Paired tests on the same clips: against slow references, under no difference, and when tables do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from sklearn.metrics import roc_auc_score

from auscult.errors import AuscultError
from auscult.evaluation.compare import compare
from auscult.evaluation.paired import delong, shared_curves
from auscult.evaluation.protocol import evaluate
from auscult.evaluation.scores import write_scores
from conftest import Run
from test_official import corpus

NORMAL, ANOMALY = ("", "normal"), ("", "anomaly")


def systems(year: int = 2020, gain: float = 0.0, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Two systems that hear much the same; the second separates better by `gain`."""
    rng = np.random.default_rng(seed)
    one = corpus(year, ties=False)
    other = one.copy()
    noise = rng.normal(scale=0.5, size=len(one))
    other["score"] = one["score"] + noise + gain * (one["condition"] == "anomaly")
    return {"one": one, "other": other.sample(frac=1, random_state=seed).reset_index(drop=True)}


# --- DeLong ---------------------------------------------------------------------------------------------------


def slow_delong(normal: np.ndarray, anomaly: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By the definition: every pair of clips is looked at."""
    wins = (anomaly[:, :, None] > normal[:, None, :]) + 0.5 * (anomaly[:, :, None] == normal[:, None, :])
    by_anomaly, by_normal = wins.mean(axis=2), wins.mean(axis=1)
    covariance = np.cov(by_anomaly) / anomaly.shape[1] + np.cov(by_normal) / normal.shape[1]
    return wins.mean(axis=(1, 2)), np.atleast_2d(covariance)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), st.integers(0, 10**6), st.booleans())
def test_delong_is_that_of_all_pairs(k: int, n: int, m: int, seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    normal, anomaly = rng.normal(size=(k, n)), rng.normal(0.5, size=(k, m))
    if ties:
        normal, anomaly = np.round(normal), np.round(anomaly)
    for fast, slow in zip(delong(normal, anomaly), slow_delong(normal, anomaly), strict=True):
        np.testing.assert_allclose(fast, slow, atol=1e-12)


def test_delong_and_bootstrap_agree_about_the_spread() -> None:
    rng = np.random.default_rng(0)
    cells = {NORMAL: rng.normal(size=(80, 1)) + rng.normal(size=(80, 2)), ANOMALY: rng.normal(1, 1, size=(70, 2))}
    _, law = delong(cells[NORMAL].T, cells[ANOMALY].T)
    found = shared_curves(cells, {"own": ([NORMAL], [ANOMALY])}, resamples=4000, seed=0)["own"]
    np.testing.assert_allclose(np.cov(found.aucs), law, rtol=0.15)
    assert np.corrcoef(found.aucs)[0, 1] == pytest.approx(law[0, 1] / np.sqrt(law[0, 0] * law[1, 1]), abs=0.08)


# --- shared draws ---------------------------------------------------------------------------------------------


def test_resamples_are_those_of_scikit_learn_on_the_same_draws() -> None:
    rng = np.random.default_rng(3)
    cells = {NORMAL: np.round(rng.normal(size=(9, 2)), 1), ANOMALY: np.round(rng.normal(size=(7, 2)), 1) + 0.4}
    found = shared_curves(cells, {"own": ([NORMAL], [ANOMALY])}, resamples=30, seed=5)["own"]
    seeds = dict(zip(sorted(cells), np.random.SeedSequence(5).spawn(2), strict=True))
    draws = {c: np.random.default_rng(seeds[c]).integers(len(cells[c]), size=(30, len(cells[c]))) for c in cells}
    labels = np.repeat([0, 1], [9, 7])
    for k in range(30):
        for system in range(2):
            values = np.concatenate([cells[c][draws[c][k], system] for c in (NORMAL, ANOMALY)])
            assert found.aucs[system, k] == pytest.approx(roc_auc_score(labels, values), abs=1e-12)
            assert found.paucs[system, k] == pytest.approx(roc_auc_score(labels, values, max_fpr=0.1), abs=1e-12)


# --- comparisons ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["dcase2020", "pooled", "dcase2021", "dcase2022", "dcase2025"])
def test_figures_are_those_of_evaluate(protocol: str) -> None:
    year = int(protocol[-4:]) if protocol.startswith("dcase") else 2020
    tables = systems(year)
    result = compare(tables, protocol=protocol, resamples=50)
    own = {name: evaluate(table, protocol=protocol, resamples=5).as_dict() for name, table in tables.items()}
    figures = ("auc", "pauc") if year == 2020 else ("auc", "pauc", "official_score")
    by_line = {(d.machine_type, d.machine_id, d.figure): d for d in result.differences}
    for k, line in enumerate([own["one"]["overall"], *own["one"]["by_type"], *own["one"]["by_id"]]):
        twin = [own["other"]["overall"], *own["other"]["by_type"], *own["other"]["by_id"]]
        key = line.get("machine_type"), line.get("machine_id")
        if key[1] and protocol == "pooled":
            continue
        match = next(t for t in twin if (t.get("machine_type"), t.get("machine_id")) == key)
        for figure in figures:
            found = by_line[(*key, figure)]
            assert found.reference == pytest.approx(line[figure], abs=1e-12), k
            assert found.value == pytest.approx(match[figure], abs=1e-12)
            assert found.interval[0] <= found.difference <= found.interval[1]
    assert (by_line[None, None, "auc"].p_delong is None) == (year > 2020)


def test_a_better_system_is_told_from_an_equal_one() -> None:
    better = compare(systems(gain=1.0), resamples=400).differences[0]
    assert (better.figure, better.machine_type) == ("auc", None)
    assert better.interval[0] > 0
    assert better.p_value < 0.01
    assert better.p_delong is not None
    assert better.p_delong < 1e-4
    same = compare({"a": corpus(2020), "b": corpus(2020)}, resamples=50).differences[0]
    assert (same.difference, same.interval, same.p_value, same.p_delong) == (0, (0, 0), 1, 1)


def test_p_values_are_even_where_there_is_no_difference() -> None:
    values = []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        common = rng.normal(size=80) + np.repeat([0.0, 1.0], 40)
        rows = [(f"{k:03}.wav", "fan", "id_00", "normal" if k < 40 else "anomaly") for k in range(80)]
        table = pd.DataFrame(rows, columns=["path", "machine_type", "machine_id", "condition"])
        tables = {name: table.assign(score=common + rng.normal(size=80)) for name in ("a", "b")}
        found = compare(tables, resamples=200, seed=seed).differences[0]
        values.append((found.p_value, found.p_delong))
    for p in np.array(values).T:
        assert kstest(p, "uniform").pvalue > 0.001
        assert np.mean(p < 0.05) < 0.13


def test_pairing_tells_more_than_two_intervals_would() -> None:
    tables = systems(gain=0.25)
    paired = compare(tables, resamples=400).differences[0]
    alone = [evaluate(table, resamples=400).overall.auc for table in tables.values()]
    assert all(alone)
    width = sum(a.interval()[1] - a.interval()[0] for a in alone if a) / 2
    assert paired.interval[1] - paired.interval[0] < 0.8 * width


def test_only_clips_that_both_judged_are_compared() -> None:
    tables = systems()
    tables["other"] = tables["other"].iloc[5:].copy()
    tables["one"].loc[tables["one"].index[:3], "score"] = np.nan
    result = compare(tables, resamples=20)
    n = len(tables["one"])
    assert result.notes[0].startswith("compared on the ")
    assert f"of {n} that all systems judged" in result.notes[0]
    assert int(result.notes[0].split()[3]) <= n - 5


def test_clips_are_known_by_name_where_paths_are_written_otherwise() -> None:
    tables = systems()
    moved = tables["other"].assign(path=["/elsewhere/" + p for p in tables["other"]["path"]])
    assert compare({"one": tables["one"], "other": moved}, resamples=20) == compare(tables, resamples=20)
    twice = moved.assign(path=["a/x.wav"] * len(moved))
    with pytest.raises(AuscultError, match="file names are not unique"):
        compare({"one": tables["one"], "other": twice}, resamples=20)


def test_conditions_may_come_from_either_table_and_must_agree() -> None:
    tables = systems()
    blind = {"one": tables["one"].assign(condition="unknown"), "other": tables["other"]}
    assert (
        compare(blind, resamples=20).differences[0].reference == compare(tables, resamples=20).differences[0].reference
    )
    odd = tables["other"].copy()
    odd.loc[0, "condition"] = "normal" if odd.loc[0, "condition"] == "anomaly" else "anomaly"
    with pytest.raises(AuscultError, match="disagree about the condition"):
        compare({"one": tables["one"], "other": odd})
    with pytest.raises(AuscultError, match="no machine has both"):
        compare({name: table.assign(condition="normal") for name, table in tables.items()})
    with pytest.raises(AuscultError, match="one system cannot be compared"):
        compare({"one": tables["one"]})


def test_the_order_of_the_rows_changes_nothing() -> None:
    tables = systems()
    shuffled = {name: table.sample(frac=1, random_state=9) for name, table in tables.items()}
    key = [(d.machine_type, d.machine_id, d.figure, d.interval) for d in compare(tables, resamples=50).differences]
    again = [(d.machine_type, d.machine_id, d.figure, d.interval) for d in compare(shuffled, resamples=50).differences]
    assert sorted(map(str, key)) == sorted(map(str, again))


def test_from_the_command_line(tmp_path: Path, auscult: Run) -> None:
    for name, table in systems(gain=1.0).items():
        write_scores(table, tmp_path / f"{name}.csv")
    files = (tmp_path / "one.csv", tmp_path / "other.csv")
    shown = auscult("compare", *files)
    assert shown.code == 0, shown.err
    assert "overall" in shown.out
    assert "Reference: " in shown.out
    assert "fan" not in shown.out
    assert "fan id_01" in auscult("compare", *files, "--all").out
    said = json.loads(auscult("compare", *files, "--json").out)
    assert said["reference"] == str(files[0])
    assert said["differences"][0]["difference"] > 0
    assert auscult("compare", files[0]).code == 2
    assert "named twice" in auscult("compare", files[0], files[0]).err
