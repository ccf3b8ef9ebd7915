"""The challenge's evaluators, written anew from the formats of their files, read ours and come to our figures.

Each `official_…` below reads nothing but files: score and decision CSVs as we write them, and ground-truth CSVs as
each year publishes them. They sort both by name and match by position, as the evaluators do.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import hmean
from sklearn.metrics import roc_auc_score

from auscult.errors import AuscultError
from auscult.evaluation.cells import curves
from auscult.evaluation.dcase_files import write_submission
from auscult.evaluation.protocol import evaluate
from auscult.evaluation.scores import write_scores
from conftest import Run

EPSILON = sys.float_info.epsilon
EXACT = 1e-9
TYPES = ("fan", "ToyCar", "3DPrinter")
DOMAINS = ("source", "target")


def corpus(year: int, *, sections: int = 2, seed: int = 0, ties: bool = True) -> pd.DataFrame:
    """Scores of evaluation clips under the names of a year, in no order."""
    rng = np.random.default_rng([year, seed])
    rows = []
    for machine_type in TYPES:
        for k in range(1 if year >= 2023 else sections):
            shift = rng.uniform(-0.3, 1.5)
            where = [("", 60)] if year == 2020 else [("source", 34), ("target", 26)]
            clips = [
                (d, c) for d, n in where for c in rng.permutation(["normal"] * (n // 2) + ["anomaly"] * (n - n // 2))
            ]
            if year > 2021:
                clips = [clips[i] for i in rng.permutation(len(clips))]
            counts: dict[str, int] = {}
            for domain, condition in clips:
                group = domain if year == 2021 else ""
                number = counts[group] = counts.get(group, -1) + 1
                score = rng.normal() + shift * (condition == "anomaly") + 0.5 * (domain == "target")
                name = {
                    2020: f"id_{k + 1:02}_{number:08}.wav",
                    2021: f"section_{k + 3:02}_{domain}_test_{number:04}.wav",
                    2022: f"section_{k + 3:02}_{number:04}.wav",
                }.get(year, f"section_00_{number:04}.wav")
                machine_id = f"id_{k + 1:02}" if year == 2020 else name[:10]
                score = round(score, 1) if ties else score
                rows.append(
                    (f"eval_data/{machine_type}/test/{name}", machine_type, machine_id, condition, score, domain)
                )
    table = pd.DataFrame(rows, columns=["path", "machine_type", "machine_id", "condition", "score", "domain"])
    table["decision"] = np.where(table["score"] > 0.7, "anomaly", "normal")
    table["p_value"], table["threshold"], table["error"] = np.nan, 0.7, ""
    return table.sample(frac=1, random_state=seed).reset_index(drop=True)


# --- ground truth as published --------------------------------------------------------------------------------


def publish_truth(table: pd.DataFrame, year: int, home: Path) -> None:
    truth = table.assign(name=[Path(p).name for p in table["path"]]).sort_values("name")
    for (machine_type, machine_id), clips in truth.groupby(["machine_type", "machine_id"]):
        files = [(f"{machine_type}_{machine_id}_test", clips)]
        if year == 2021:
            files = [(f"{machine_type}_{machine_id}_{d}_test", clips[clips["domain"] == d]) for d in DOMAINS]
        for name, own in files:
            put(home / "ground_truth_data" / f"ground_truth_{name}.csv", own["name"], own["condition"] == "anomaly")
            if year > 2021:
                put(home / "ground_truth_domain" / f"ground_truth_{name}.csv", own["name"], own["domain"] == "target")


def put(path: Path, names: pd.Series, values: pd.Series) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{n},{int(v)}\n" for n, v in zip(names, values, strict=True)))


def list_of_2020(table: pd.DataFrame) -> str:
    """`eval_data_list.csv`: machine types, each followed by its clips."""
    lines = []
    for machine_type, clips in table.groupby("machine_type", sort=False):
        lines.append(str(machine_type))
        for path, condition in sorted(zip(clips["path"], clips["condition"], strict=True)):
            name = Path(path).name
            lines.append(f"{name},{condition}_{name},{int(condition == 'anomaly')}")
    return "\n".join(lines) + "\n"


# --- the evaluators -------------------------------------------------------------------------------------------


def column(path: Path) -> np.ndarray:
    with open(path, newline="") as file:
        return np.array([float(row[1]) for row in sorted(csv.reader(file))])


def of_decisions(truth: np.ndarray, decisions: np.ndarray) -> tuple[float, float, float]:
    hits = float(((truth == 1) & (decisions == 1)).sum())
    precision = hits / np.maximum((decisions == 1).sum(), EPSILON)
    recall = hits / np.maximum((truth == 1).sum(), EPSILON)
    return precision, recall, 2 * precision * recall / np.maximum(precision + recall, EPSILON)


def official_2020(team: Path, truth_list: Path) -> dict[str, Any]:
    """AUC and pAUC of each ID; arithmetic mean over the IDs of a type."""
    with open(truth_list, newline="") as file:
        rows = list(csv.reader(file))
    types: dict[str, dict[str, int]] = {}
    for row in rows:
        if len(row) == 1:
            own = types.setdefault(row[0], {})
        else:
            own[row[0]] = int(row[2])
    found: dict[str, Any] = {"ids": {}, "types": {}}
    for machine_type, clips in types.items():
        figures = []
        for machine_id in sorted({name[:5] for name in clips}):
            truth = [label for name, label in sorted(clips.items()) if name.startswith(machine_id)]
            scores = column(team / f"anomaly_score_{machine_type}_{machine_id}.csv")
            assert len(scores) == len(truth)
            figures.append((roc_auc_score(truth, scores), roc_auc_score(truth, scores, max_fpr=0.1)))
            found["ids"][machine_type, machine_id] = figures[-1]
        found["types"][machine_type] = np.mean(figures, axis=0)
    found["overall"] = np.mean(list(found["types"].values()), axis=0)
    return found


def official_2021(team: Path, home: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"domains": {}}
    for path in sorted((home / "ground_truth_data").glob("*.csv")):
        name = path.stem.removeprefix("ground_truth_")
        truth = column(path)
        scores, decisions = (column(team / f"{kind}_{name}.csv") for kind in ("anomaly_score", "decision_result"))
        assert len(truth) == len(scores) == len(decisions)
        areas = roc_auc_score(truth, scores), roc_auc_score(truth, scores, max_fpr=0.1)
        machine_type, _, section, domain, _ = name.split("_")
        found["domains"][machine_type, f"section_{section}", domain] = (*areas, *of_decisions(truth, decisions))
    rows = np.array(list(found["domains"].values()))
    found["overall"] = hmean(np.maximum(rows, EPSILON), axis=0)
    found["official"] = hmean(np.maximum(rows[:, :2], EPSILON), axis=None)
    return found


def official_2022(team: Path, home: Path) -> dict[str, Any]:
    """The script of 2022, which those of 2023 to 2025 repeat."""
    found: dict[str, Any] = {"domains": {}, "paucs": {}}
    for path in sorted((home / "ground_truth_data").glob("*.csv")):
        name = path.stem.removeprefix("ground_truth_")
        truth, where = column(path), column(home / "ground_truth_domain" / path.name)
        scores, decisions = (column(team / f"{kind}_{name}.csv") for kind in ("anomaly_score", "decision_result"))
        assert len(truth) == len(where) == len(scores) == len(decisions)
        machine_type, _, section, _ = name.split("_")
        found["paucs"][machine_type, f"section_{section}"] = roc_auc_score(truth, scores, max_fpr=0.1)
        for index, domain in enumerate(DOMAINS):
            counted, own = (where == index) | (truth != 0), where == index
            auc = roc_auc_score(truth[counted], scores[counted])
            figures = (auc, *of_decisions(truth[own], decisions[own]))
            found["domains"][machine_type, f"section_{section}", domain] = figures
    rows, paucs = np.array(list(found["domains"].values())), list(found["paucs"].values())
    found["means"] = hmean(np.maximum(rows, EPSILON), axis=0)
    found["official"] = hmean(np.maximum([*rows[:, 0], *paucs], EPSILON))
    found["pauc"] = hmean(np.maximum(paucs, EPSILON))
    return found


def means(found: dict[str, Any], wanted: str, column_: int = 0) -> float:
    return float(hmean([max(v[column_], EPSILON) for k, v in found["domains"].items() if wanted in k]))


# --- acceptance -----------------------------------------------------------------------------------------------


def near(value: Any) -> Any:
    return pytest.approx(value, abs=EXACT, rel=0)


@pytest.mark.parametrize("ties", [True, False])
def test_2020(tmp_path: Path, ties: bool) -> None:
    table = corpus(2020, ties=ties)
    (tmp_path / "eval_data_list.csv").write_text(list_of_2020(table))
    write_submission(tmp_path / "team", table, "dcase2020")
    theirs = official_2020(tmp_path / "team", tmp_path / "eval_data_list.csv")
    ours = evaluate(table, protocol="dcase2020", resamples=20).as_dict()
    for line in ours["by_id"]:
        assert [line["auc"], line["pauc"]] == near(theirs["ids"][line["machine_type"], line["machine_id"]])
    for line in ours["by_type"]:
        assert [line["auc"], line["pauc"]] == near(list(theirs["types"][line["machine_type"]]))
    assert [ours["overall"]["auc"], ours["overall"]["pauc"]] == near(list(theirs["overall"]))


@pytest.mark.parametrize("ties", [True, False])
def test_2021(tmp_path: Path, ties: bool) -> None:
    table = corpus(2021, ties=ties)
    publish_truth(table, 2021, tmp_path)
    write_submission(tmp_path / "team", table, "dcase2021")
    theirs = official_2021(tmp_path / "team", tmp_path)
    ours = evaluate(table, protocol="dcase2021", resamples=20).as_dict()
    names = ("auc", "pauc", "precision", "recall", "f1")
    for line in ours["by_id"]:
        for domain, said in line["domains"].items():
            expected = theirs["domains"][line["machine_type"], line["machine_id"], domain]
            assert [said[name] for name in names] == near(list(expected))
    overall = ours["overall"]
    assert [overall["auc"], overall["pauc"]] == near(list(theirs["overall"][:2]))
    assert overall["official_score"] == near(theirs["official"])
    for domain in DOMAINS:
        assert [overall["domains"][domain][n] for n in names] == near([means(theirs, domain, k) for k in range(5)])
    for line in ours["by_type"]:
        assert line["auc"] == near(means(theirs, line["machine_type"], 0))
        assert line["pauc"] == near(means(theirs, line["machine_type"], 1))


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("year", [2022, 2023, 2024, 2025])
def test_2022_to_2025(tmp_path: Path, year: int, ties: bool) -> None:
    table = corpus(year, ties=ties)
    publish_truth(table, year, tmp_path)
    write_submission(tmp_path / "team", table, f"dcase{year}")
    theirs = official_2022(tmp_path / "team", tmp_path)
    ours = evaluate(table, protocol=f"dcase{year}", resamples=20).as_dict()
    names = ("auc", "precision", "recall", "f1")
    for line in ours["by_id"]:
        assert line["pauc"] == near(theirs["paucs"][line["machine_type"], line["machine_id"]])
        for domain, said in line["domains"].items():
            expected = theirs["domains"][line["machine_type"], line["machine_id"], domain]
            assert [said[name] for name in names] == near(list(expected))
    overall = ours["overall"]
    assert overall["auc"] == near(theirs["means"][0])
    assert overall["pauc"] == near(theirs["pauc"])
    assert overall["official_score"] == near(theirs["official"])
    for domain in DOMAINS:
        assert [overall["domains"][domain][n] for n in names] == near([means(theirs, domain, k) for k in range(4)])
    for line in ours["by_type"]:
        assert line["auc"] == near(means(theirs, line["machine_type"]))
    assert f"DCASE {year}" in ours["convention"]


def test_a_worthless_system_counts_epsilon_as_in_the_scripts(tmp_path: Path) -> None:
    table = corpus(2023)
    table["score"] = np.where(table["condition"] == "anomaly", 0.0, 1.0) + np.arange(len(table)) * 1e-6
    table["decision"] = "normal"
    publish_truth(table, 2023, tmp_path)
    write_submission(tmp_path / "team", table, "dcase2023")
    theirs = official_2022(tmp_path / "team", tmp_path)
    ours = evaluate(table, protocol="dcase2023", resamples=20).as_dict()["overall"]
    assert ours["official_score"] == near(theirs["official"])
    assert ours["domains"]["source"]["f1"] == near(theirs["means"][3])
    assert ours["auc"] < 1e-9


@pytest.mark.parametrize("year", [2021, 2022, 2023])
def test_from_the_command_line_with_the_truth_given_apart(tmp_path: Path, auscult: Run, year: int) -> None:
    table = corpus(year)
    publish_truth(table, year, tmp_path)
    blind = table.assign(condition="unknown").drop(columns="domain")
    write_scores(blind, tmp_path / "scores.csv")
    done = auscult(
        *("evaluate", tmp_path / "scores.csv", "--truth", tmp_path, "--protocol", f"dcase{year}", "--json"),
        *("--submission", tmp_path / "team", "-o", tmp_path / "out"),
    )
    assert done.code == 0, done.err
    said = json.loads(done.out)
    official = official_2021 if year == 2021 else official_2022
    assert said["overall"]["official_score"] == near(official(tmp_path / "team", tmp_path)["official"])
    assert said["truth"]["matched"] == len(table)
    assert said["truth"]["without_score"] == 0
    kept = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert kept == said
    assert set(pd.read_csv(tmp_path / "out" / "scores.csv")["domain"]) == {"source", "target"}
    figures = pd.read_csv(tmp_path / "out" / "table.csv").iloc[-1]
    assert figures["official_score"] == said["overall"]["official_score"]
    assert figures["target_f1"] == said["overall"]["domains"]["target"]["f1"]
    assert (figures["official_score_low"], figures["official_score_high"]) == tuple(
        said["overall"]["official_score_ci"]
    )
    shown = auscult("evaluate", tmp_path / "out" / "scores.csv", "--protocol", f"dcase{year}")
    assert "source" in shown.out
    assert "official" in shown.out


# --- files ----------------------------------------------------------------------------------------------------


def test_files_to_the_byte(tmp_path: Path) -> None:
    rows = [
        ("b/section_03_source_test_0001.wav", 0.1 + 0.2, "anomaly", "source"),
        ("a/section_03_source_test_0000.wav", 1.0, "normal", "source"),
        ("a/section_03_target_test_0000.wav", 1e-17, "normal", "target"),
    ]
    table = pd.DataFrame(rows, columns=["path", "score", "decision", "domain"])
    table = table.assign(machine_type="fan", machine_id="section_03", condition="unknown")
    written = write_submission(tmp_path / "2021", table, "dcase2021")
    assert {path.name: path.read_bytes() for path in written} == {
        "anomaly_score_fan_section_03_source_test.csv": (
            b"section_03_source_test_0000.wav,1.0\nsection_03_source_test_0001.wav,0.30000000000000004\n"
        ),
        "decision_result_fan_section_03_source_test.csv": (
            b"section_03_source_test_0000.wav,0\nsection_03_source_test_0001.wav,1\n"
        ),
        "anomaly_score_fan_section_03_target_test.csv": b"section_03_target_test_0000.wav,1e-17\n",
        "decision_result_fan_section_03_target_test.csv": b"section_03_target_test_0000.wav,0\n",
    }
    one = table.assign(machine_id="id_03").iloc[:1]
    assert [path.name for path in write_submission(tmp_path / "2020", one, "dcase2020")] == [
        "anomaly_score_fan_id_03.csv"
    ]
    assert len(write_submission(tmp_path / "2023", one.assign(machine_id="section_00", decision=""), "dcase2023")) == 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"score": np.nan}, "has no score"),
        ({"machine_type": "../fan"}, "cannot be part of a file's name"),
        ({"machine_id": "id_00"}, "is no section of dcase2023"),
        ({"path": "a/one,two.wav"}, "signs that the evaluators cannot read"),
    ],
)
def test_what_an_evaluator_would_stumble_over_is_refused(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    table = corpus(2023).iloc[:1].assign(**change)
    with pytest.raises(AuscultError, match=complaint):
        write_submission(tmp_path / "team", table, "dcase2023")
    assert not (tmp_path / "team").exists()


def test_clips_of_one_name_and_missing_decisions_are_refused(tmp_path: Path) -> None:
    table = corpus(2023)
    twice = table.assign(path=["x/" + Path(p).name for p in table["path"]])
    with pytest.raises(AuscultError, match="share their name"):
        write_submission(tmp_path, pd.concat([table, twice], ignore_index=True), "dcase2023")
    some = table.copy()
    some.loc[3, "decision"] = ""
    with pytest.raises(AuscultError, match="has no decision, others have"):
        write_submission(tmp_path, some, "dcase2023")
    with pytest.raises(AuscultError, match="no challenge reads"):
        write_submission(tmp_path, table, "pooled")


# --- uncertainty and gaps -------------------------------------------------------------------------------------


def test_curves_that_share_clips_share_their_draws() -> None:
    rng = np.random.default_rng(0)
    cells = {
        (d, c): np.round(rng.normal(size=n) + (c == "anomaly"), 1)
        for d, c, n in (
            ("source", "normal", 20),
            ("source", "anomaly", 15),
            ("target", "normal", 9),
            ("target", "anomaly", 7),
        )
    }
    both = [("source", "anomaly"), ("target", "anomaly")]
    normals = [("source", "normal"), ("target", "normal")]
    wanted = {"source": ([normals[0]], both), "target": ([normals[1]], both), "all": (normals, both)}
    found = curves(cells, wanted, resamples=400, seed=3)
    # Over all clips a normal one is of the source with probability 20/29: an identity that holds draw by draw.
    mixed = (20 * found["source"][0].low + 9 * found["target"][0].low) / 29
    np.testing.assert_allclose(found["all"][0].low, mixed, atol=1e-12)
    spread = np.std(found["source"][0].low)
    assert 0.03 < spread < 0.2
    alone = curves({("source", "normal"): np.zeros(3)}, wanted, resamples=10, seed=0)
    assert alone == {}


def test_bootstrap_of_a_section_is_that_of_a_slow_one() -> None:
    rng = np.random.default_rng(1)
    cells = {("source", "normal"): rng.normal(size=12), ("source", "anomaly"): rng.normal(size=11) + 0.7}
    wanted = {"source": ([("source", "normal")], [("source", "anomaly")])}
    fast = curves(cells, wanted, resamples=3000, seed=0)["source"][0].low
    slow = []
    for _ in range(1500):
        sides = [rng.choice(cells["source", c], len(cells["source", c])) for c in ("normal", "anomaly")]
        slow.append(roc_auc_score(np.repeat([0, 1], [12, 11]), np.concatenate(sides)))
    np.testing.assert_allclose(np.quantile(fast, [0.05, 0.5, 0.95]), np.quantile(slow, [0.05, 0.5, 0.95]), atol=0.03)


def test_a_domain_without_normal_clips_is_left_out_and_named() -> None:
    table = corpus(2022)
    gone = (table["machine_type"] == "fan") & (table["machine_id"] == "section_03") & (table["domain"] == "target")
    partly = evaluate(table[~(gone & (table["condition"] == "normal"))], protocol="dcase2022", resamples=20).as_dict()
    line = next(e for e in partly["by_id"] if (e["machine_type"], e["machine_id"]) == ("fan", "section_03"))
    assert line["domains"]["target"]["auc"] is None
    assert line["domains"]["target"]["why"] == "no normal clip among those with a score"
    assert line["auc"] == near(line["domains"]["source"]["auc"])
    assert any("target: left out of the mean" in note for note in line["notes"])
    normals = table[table["condition"] == "normal"]
    nothing = evaluate(normals, protocol="dcase2022", resamples=20).as_dict()
    assert nothing["overall"]["official_score"] is None
    assert "none of the 3 machine types has a figure" in nothing["overall"]["why"]


def test_the_domain_of_every_clip_that_counts_must_be_known() -> None:
    table = corpus(2023).drop(columns="domain")
    with pytest.raises(AuscultError, match="needs the domain of every clip") as caught:
        evaluate(table, protocol="dcase2023")
    assert "--truth" in str(caught.value.remedy)
    # Names that tell it will do.
    named = [f"section_00_source_test_{c}_{k:04}.wav" for k, c in enumerate(table["condition"])]
    assert evaluate(table.assign(path=named), protocol="dcase2023", resamples=10).overall.domains[0].n_normal > 0


def test_intervals_hold_their_value_and_depend_on_the_machine_alone() -> None:
    table = corpus(2022)
    full = evaluate(table, protocol="dcase2022", resamples=200).as_dict()
    for line in (full["overall"], *full["by_type"], *full["by_id"]):
        low, high = line["official_score_ci"]
        assert low <= line["official_score"] <= high
    fans = evaluate(table[table["machine_type"] == "fan"], protocol="dcase2022", resamples=200).as_dict()
    assert fans["by_type"][0] == next(e for e in full["by_type"] if e["machine_type"] == "fan")


def test_a_protocol_that_mixes_domains_says_so() -> None:
    table = corpus(2022)
    assert any("two domains" in note for note in evaluate(table, resamples=10).notes)
    one = table[table["domain"] == "source"]
    assert not any("domain" in note for note in evaluate(one, resamples=10).notes)
    assert not any("two domains" in note for note in evaluate(table, protocol="dcase2022", resamples=10).notes)


def test_without_decisions_there_is_no_f1() -> None:
    table = corpus(2023)
    table.loc[0, "decision"] = ""
    result = evaluate(table, protocol="dcase2023", resamples=10).as_dict()
    assert result["overall"]["domains"][table.loc[0, "domain"]]["f1"] is None
    assert result["overall"]["official_score"] is not None
