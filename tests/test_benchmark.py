"""Experiments become runs, runs become tables: each clip, machine and seed where it belongs, and nothing done twice."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from auscult.benchmark.conducting import Request, Summary, conduct
from auscult.benchmark.corpus import EVAL_IDS, open_corpus
from auscult.benchmark.costs import COSTS, estimates, total
from auscult.benchmark.experiment import Experiment, Plant, experiment_names, read_experiment
from auscult.benchmark.plan import Plan, make_plan, with_every_detector
from auscult.benchmark.results import Cell, Estimate
from auscult.benchmark.running import Done, Job, run_one
from auscult.benchmark.selection import Selection
from auscult.benchmark.smoke import few, smoke, write_machine
from auscult.benchmark.tables import Table, shown
from auscult.detectors.base import Detector
from auscult.detectors.recipes import RECIPES
from auscult.detectors.registry import detectors
from auscult.engines import Outcome
from auscult.errors import AuscultError
from auscult.evaluation.scores import read_scores
from benchmark_cases import SMALL_AE, TINY, run_tiny
from conftest import Run


class Here:
    """An engine in this process: what is tested here is not the workers."""

    def __init__(self) -> None:
        self.ran: list[Job] = []

    def run(self, work: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Outcome]:
        for job in jobs:
            self.ran.append(job)
            try:
                yield Outcome(job, work(job))
            except AuscultError as error:
                yield Outcome(job, error=str(error))

    def close(self) -> None:
        pass


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    """Runs happen in this process and are written down."""
    from contextlib import contextmanager

    engine = Here()

    @contextmanager
    def opened(*_: object, **__: object) -> Iterator[Here]:
        yield engine

    monkeypatch.setattr("auscult.benchmark.conducting.open_engine", opened)
    return engine


def tiny(**changes: Any) -> Experiment:
    return Experiment.model_validate({**TINY, **changes})


def quietly(request: Request, **how: Any) -> Summary:
    return conduct(request, tell=lambda _: None, **how)


@pytest.fixture(scope="module")
def finished(made_once: Callable[..., Path], tiny_plant: Path) -> Path:
    """The tiny experiment, run in processes from the command line. Not to be changed."""
    return made_once("finished-tiny", partial(run_tiny, data=tiny_plant))


def lines(out: Path, name: str = "tiny") -> list[dict[str, str]]:
    with open(out / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


# Results --------------------------------------------------------------------------------------------------


def test_run_folders_are_as_promised(finished: Path) -> None:
    home = finished / "out" / "runs" / "tiny"
    runs = sorted(p.parent.relative_to(home).as_posix() for p in home.rglob("metrics.json"))
    units = {"knn": ["pump"], "knn-id": ["pump-id_00", "pump-id_02"], "ae": ["pump"], "ae-worst": ["pump"]}
    assert runs == sorted(f"{row}/{unit}/{seed}" for row, us in units.items() for unit in us for seed in (0, 1))
    for run in runs:
        there = {path.name for path in (home / run).iterdir()}
        assert there == {"model.auscult", "scores.csv", "table.md", "table.csv", "metrics.json"}


def test_figures_are_those_of_the_scores(finished: Path) -> None:
    """Against a computation from scores.csv alone."""
    out = finished / "out"
    found = {(r["row"], r["level"], r["machine_type"], r["machine_id"], r["measure"]): r for r in lines(out)}
    for row in ("knn", "knn-id", "ae", "ae-worst"):
        per_seed: dict[str, list[dict[str, float]]] = {"auc": [], "pauc": []}
        for seed in (0, 1):
            files = sorted((out / "runs" / "tiny" / row).glob(f"*/{seed}/scores.csv"))
            table = pd.concat([pd.read_csv(file) for file in files])
            assert len(table) == 12
            for measure, limit in (("auc", None), ("pauc", 0.1)):
                per_seed[measure].append(
                    {
                        str(i): 100 * roc_auc_score(t["condition"] == "anomaly", t["score"], max_fpr=limit)
                        for i, t in table.groupby("machine_id")
                    }
                )
        for measure, seeds in per_seed.items():
            for machine_id in ("id_00", "id_02"):
                cell = found[row, "id", "pump", machine_id, measure]
                assert float(cell["ours"]) == pytest.approx(np.mean([s[machine_id] for s in seeds]), abs=1e-9)
            mean = np.mean([np.mean(list(s.values())) for s in seeds])
            for level, machine_type in (("type", "pump"), ("mean", "")):
                cell = found[row, level, machine_type, "", measure]
                assert float(cell["ours"]) == pytest.approx(mean, abs=1e-9)
                assert float(cell["low"]) <= mean <= float(cell["high"])
                assert cell["seeds"] == "2"
        assert found[row, "type", "fan", "", "auc"]["why"] == "no clips of it"


def test_published_figures_stand_beside_ours(finished: Path) -> None:
    found = {(r["row"], r["machine_type"], r["machine_id"], r["measure"]): r for r in lines(finished / "out")}
    pump = found["ae", "pump", "", "auc"]
    assert (pump["published"], pump["published_in"]) == ("50.0", "a paper, Table 1")
    marks = {"above": "↑", "below": "↓", "": ""}
    expected = "above" if float(pump["low"]) > 50 else "below" if float(pump["high"]) < 50 else ""
    assert pump["ours_is"] == expected
    assert found["ae", "fan", "", "pauc"]["published"] == "60.0"
    assert found["ae", "pump", "id_00", "auc"]["published"] == "99.5"
    assert found["soon", "pump", "", "pauc"]["published"] == "60.25"
    assert "no detector not-there-yet" in found["soon", "pump", "", "auc"]["why"]
    # Ours is of the pump alone: beside a mean over both it would mislead.
    assert found["ae", "", "", "auc"]["published"] == ""
    page = (finished / "out" / "tiny.md").read_text()
    assert re.search(r"\| AE \| \d+\.\d \[\d+\.\d, \d+\.\d\] / 50" + marks[expected] + r" \| – / 80 \|", page)
    assert "| Soon | – / 70.5 | – | – |" in page
    assert "k-NN: a note" in page


def test_all_forms_of_the_tables_say_the_same(finished: Path) -> None:
    out = finished / "out"
    figure = re.compile(r"\d+\.\d \[\d+\.\d, \d+\.\d\]")
    markdown, latex, html = ((out / f"tiny.{form}").read_text() for form in ("md", "tex", "html"))
    figures = figure.findall(markdown.partition("**Leaderboard**")[0])
    assert len(figures) == 2 * 2 * 4  # two measures, pump and mean, four rows
    assert sorted(figure.findall(latex)) == sorted(figures)
    assert set(figures) <= set(figure.findall(html))
    assert latex.count(r"\begin{tabular}") == 4
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "")
    board = markdown.partition("**Leaderboard**")[2].partition("## By machine")[0]
    means = [
        float(cells.split("|")[3].split()[0]) for cells in board.splitlines() if cells.startswith(("| AE", "| k-NN"))
    ]
    assert len(means) == 4
    assert means == sorted(means, reverse=True)


def test_costs_are_told_apart_from_figures(finished: Path) -> None:
    with open(finished / "out" / "tiny-costs.csv", newline="") as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    assert (rows["ae"]["runs"], rows["ae"]["done"]) == ("2", "2")
    assert int(rows["ae"]["parameters_least"]) > 1000
    assert rows["knn"]["parameters_most"] == "0"
    assert float(rows["ae"]["fit_seconds"]) > 0.0 == float(rows["ae-worst"]["fit_seconds"])
    assert rows["soon"]["done"] == "0"


def test_report_knows_the_runs(finished: Path, auscult: Run, tmp_path: Path) -> None:
    outcome = auscult("report", finished / "out" / "runs", "-o", tmp_path / "r.html", "--top", "0")
    assert outcome.code == 0, outcome.err
    page = (tmp_path / "r.html").read_text()
    assert "k-NN each (one by one)" in page
    assert "AE, worst window" in page


# What is done again, and what is not ------------------------------------------------------------------------


def test_the_plan_is_told_first_and_finished_work_is_not_redone(finished: Path, tiny_plant: Path, here: Here) -> None:
    said: list[str] = []
    summary = conduct(Request(tiny(), finished / "out", tiny_plant), tell=said.append)
    assert not here.ran
    assert summary.results is not None
    assert "10 runs, 10 done, 0 to do: nothing left to do" in said[0]
    assert re.search(r"soon +not available: auscult has no detector not-there-yet yet", said[0])


def test_the_plan_says_what_a_row_lacks(
    tiny_plant: Path, tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    def depends_on(self: Detector) -> str:
        raise AuscultError("the nose is not installed", "pip install nose")

    monkeypatch.setattr(detectors()["knn"], "depends_on", depends_on)
    said: list[str] = []
    conduct(Request(tiny(), tmp_path / "out", tiny_plant, plan_only=True), tell=said.append)
    assert not here.ran
    assert re.search(
        r"knn +\d+ runs?, 0 done.*\n +will break here: the nose is not installed — pip install nose\n", said[0]
    )


@pytest.fixture
def some(tmp_path: Path, finished: Path) -> Path:
    """A copy of the finished experiment, that may be changed."""
    shutil.copytree(finished / "out", tmp_path / "out")
    return tmp_path / "out"


def ran(here: Here) -> list[str]:
    return [job.folder.relative_to(job.folder.parents[2]).as_posix() for job in here.ran]


def test_a_changed_setting_seed_or_clip_is_run_anew(some: Path, tiny_plant: Path, here: Here, tmp_path: Path) -> None:
    rows = [dict(row) for row in TINY["rows"]]
    rows[1] = {**rows[1], "settings": {"k": 2}}
    quietly(Request(tiny(rows=rows), some, tiny_plant))
    assert ran(here) == [f"knn-id/pump-id_0{i}/{seed}" for i in (0, 2) for seed in (0, 1)]
    here.ran.clear()
    quietly(Request(tiny(rows=rows, seeds=[1, 2]), some, tiny_plant, only=["knn"]))
    assert ran(here) == ["knn/pump/2"]
    here.ran.clear()
    moved = tmp_path / "data"
    shutil.copytree(tiny_plant, moved)
    quietly(Request(tiny(), some, moved, only=["knn"]))
    assert ran(here) == []  # the same clips elsewhere
    os.utime(next((moved / "pump" / "test").glob("anomaly_id_02*")), (0, 0))
    quietly(Request(tiny(), some, moved, only=["knn", "knn-id"]))
    assert ran(here) == [
        "knn/pump/0",
        "knn/pump/1",
        *(f"knn-id/pump-id_{i}/{s}" for i in ("00", "02") for s in (0, 1)),
    ][:2] + [f"knn-id/pump-id_{i}/{s}" for i in ("00", "02") for s in (0, 1)]


def test_seeds_and_rows_may_come_one_after_another(tiny_plant: Path, tmp_path: Path, here: Here, some: Path) -> None:
    """What is done stays in the tables, whatever is asked for next."""
    for row, seed in (("knn", 1), ("knn-id", 0), ("knn-id", 1), ("ae-worst", 0), ("ae-worst", 1)):
        quietly(Request(tiny(), tmp_path, tiny_plant, only=[row], seeds=[seed]))
    here.ran.clear()
    quietly(Request(tiny(), tmp_path, tiny_plant, only=["knn"], seeds=[0]))
    assert ran(here) == ["knn/pump/0"]
    quietly(Request(tiny(), some, tiny_plant))
    assert (tmp_path / "tiny.csv").read_bytes() == (some / "tiny.csv").read_bytes()
    with pytest.raises(AuscultError, match="tiny has no seed 7"):
        quietly(Request(tiny(), tmp_path, tiny_plant, seeds=[7]))


def test_what_a_killed_attempt_was_writing_is_swept_away(some: Path, tiny_plant: Path, here: Here) -> None:
    folder = some / "runs" / "tiny" / "knn" / "pump" / "1"
    facts = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").unlink()
    (folder / "run.json").write_text(json.dumps({"identity": facts["identity"]}))
    (folder / ".scores.csv.x1.tmp").write_text("half")
    (folder / "deeper").mkdir()
    (folder / "deeper" / ".a.png.x1.tmp").write_text("half")
    quietly(Request(tiny(), some, tiny_plant))
    (folder.parent / "0" / "run.json").write_text("{}")  # of a run that is done
    quietly(Request(tiny(), some, tiny_plant))
    assert not [*some.rglob("*.tmp"), *some.rglob("run.json")]


def test_a_run_without_its_metrics_is_not_done(some: Path, tiny_plant: Path, here: Here) -> None:
    folder = some / "runs" / "tiny" / "knn" / "pump" / "1"
    before = {p: p.stat().st_mtime_ns for p in (some / "runs").rglob("metrics.json") if p.parent != folder}
    scores = (folder / "scores.csv").read_bytes()
    (folder / "metrics.json").unlink()
    quietly(Request(tiny(), some, tiny_plant))
    assert ran(here) == ["knn/pump/1"]
    assert (folder / "scores.csv").read_bytes() == scores
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_what_another_experiment_left_is_not_taken_for_this_one(some: Path, tiny_plant: Path, here: Here) -> None:
    """A model and scores of other settings in the folder of a run, but no word of that run having begun."""
    home = some / "runs" / "tiny"
    folder = home / "ae" / "pump" / "0"
    expected = (folder / "scores.csv").read_bytes()
    (folder / "metrics.json").unlink()
    shutil.copy(home / "knn" / "pump" / "0" / "model.auscult", folder / "model.auscult")
    (folder / "scores.csv").write_text("nonsense")
    quietly(Request(tiny(), some, tiny_plant, only=["ae"]))
    assert ran(here) == ["ae/pump/0"]
    assert (folder / "scores.csv").read_bytes() == expected


def test_a_model_that_an_earlier_attempt_left_is_used(some: Path, tiny_plant: Path, here: Here) -> None:
    folder = some / "runs" / "tiny" / "ae" / "pump" / "0"
    facts = json.loads((folder / "metrics.json").read_text())
    model, expected = (folder / "model.auscult").read_bytes(), (folder / "scores.csv").read_bytes()
    (folder / "metrics.json").unlink()
    (folder / "run.json").write_text(json.dumps({"identity": facts["identity"]}))
    quietly(Request(tiny(), some, tiny_plant, only=["ae"]))
    assert (folder / "model.auscult").read_bytes() == model
    assert (folder / "scores.csv").read_bytes() == expected


def test_two_benchmarks_in_one_folder_are_refused(
    some: Path, tiny_plant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    monkeypatch.setattr("auscult.benchmark.conducting._PATIENCE", 0.1)
    with FileLock(some / ".benchmark.lock"), pytest.raises(AuscultError, match="another benchmark is at work"):
        quietly(Request(tiny(), some, tiny_plant))


# One broken run -----------------------------------------------------------------------------------------------


def broken_work(job: Job) -> Done:
    if job.folder.parts[-3:] == ("ae", "pump", "0"):
        raise AuscultError("the lathe is on fire", "put it out")
    return run_one(job)


def test_one_broken_run_does_not_stop_the_rest(tiny_plant: Path, here: Here, tmp_path: Path) -> None:
    summary = quietly(Request(tiny(), tmp_path, tiny_plant), work=broken_work)
    assert set(summary.broken) == {"ae, pump, seed 0", "ae-worst, pump, seed 0"}
    assert summary.broken["ae, pump, seed 0"] == "the lathe is on fire — put it out"
    assert "its model is missing" in summary.broken["ae-worst, pump, seed 0"]
    page = (tmp_path / "tiny.md").read_text()
    assert "- ae, pump, seed 0 broke: the lathe is on fire — put it out" in page
    assert "- AE: 1 of 2 runs are done" in page
    cell = next(r for r in lines(tmp_path) if (r["row"], r["level"], r["measure"]) == ("ae", "type", "auc"))
    assert cell["seeds"] == "1"
    here.ran.clear()
    assert not quietly(Request(tiny(), tmp_path, tiny_plant)).broken
    assert ran(here) == ["ae/pump/0", "ae-worst/pump/0"]


def test_the_command_tells_of_broken_runs_and_clips(auscult: Run, tmp_path: Path, tiny_plant: Path) -> None:
    """From the command line: exit statuses, and what is said."""
    data = tmp_path / "data"
    shutil.copytree(tiny_plant, data)
    next((data / "pump" / "test").glob("anomaly_id_00*")).write_bytes(b"RIFF")
    rows = [
        {"name": "knn", "system": "k-NN", "detector": "knn"},
        {"name": "flow", "system": "Flow", "detector": "glow-aff", "scope": "type"},
    ]
    (tmp_path / "e.yaml").write_text(yaml.safe_dump({**TINY, "rows": rows, "seeds": [0]}))
    outcome = auscult("benchmark", tmp_path / "e.yaml", "-o", tmp_path / "out", "--data", data, "--workers", "1")
    assert outcome.code == 1
    assert "flow, pump, seed 0 broke: glow-aff learns from recordings of something else too" in outcome.out
    assert outcome.notes == ["1 runs broke; the same command tries them again", "1 clips could not be judged"]
    assert "tiny.html" in outcome.out
    assert "could not be judged" in (tmp_path / "out" / "tiny.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["anp-tabel1", "-o", "x"], "did you mean 'anp-table1'?"),
        (["synthetic"], "name a folder with -o"),
        (["anp-table1", "-o", "x"], "name their folder with --data"),
        (["anp-table1", "-o", "x", "--data", "nowhere"], "no such file or folder"),
        (["real-shared", "-o", "x", "--data", "."], "machining/lathe: there is no such folder"),
        (["synthetic", "-o", "x", "--only", "nothing", "--smoke"], "has no row 'nothing'"),
        (["synthetic", "-o", "x", "--with", "tau"], "write it as --with name=folder"),
        (["synthetic", "-o", "x", "--with", "tau=."], "no use for recordings called 'tau'"),
        (["synthetic", "-o", "x", "--engine", "cloud"], "no engine 'cloud'"),
        (["synthetic", "-o", "x", "--address", "auto"], "say --engine ray too"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(
    auscult: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = auscult("benchmark", *arguments)
    assert outcome.code == 2
    assert len(outcome.notes) == 1
    assert words in outcome.notes[0]


def test_names_are_listed(auscult: Run) -> None:
    outcome = auscult("benchmark")
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.out.splitlines()] == experiment_names()


# Experiment files --------------------------------------------------------------------------------------------


def wrong(**changes: Any) -> str:
    rows = changes.pop("row", {})
    first = {**TINY["rows"][0], **rows}
    return yaml.safe_dump({**TINY, "rows": [first, *TINY["rows"][1:]], **changes})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a list", "describes no experiment"),
        ("a: [", "is no YAML"),
        (wrong(seeds=[]), "seeds: List should have at least 1 item"),
        (wrong(data={}), "data: data names one of layout, sets and plant"),
        (wrong(row={"settings": [1]}), "rows.0.settings"),
        (wrong(row={"name": "../up"}), "rows.0.name: a name names a folder"),
        (wrong(row={"colour": "red"}), "rows.0.colour: Extra inputs"),
        (wrong(row={"name": "ae"}), "two rows are called ae"),
        (wrong(row={"detector": ""}), "names no detector"),
        (wrong(row={"model_of": "ae"}), "no row above with its own"),
        (wrong(row={"machine_types": ["lathe"]}), "of lathe, which are no columns"),
        (wrong(row={"published": {"source": "x", "figures": {"pump": [1]}}}), "rows.0.published.figures.pump"),
    ],
)
def test_a_wrong_experiment_names_the_field(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "e.yaml").write_text(text)
    with pytest.raises(AuscultError, match=re.escape(words)):
        read_experiment(tmp_path / "e.yaml")


def test_wrong_settings_are_refused_before_anything_runs(tiny_plant: Path, tmp_path: Path, here: Here) -> None:
    rows = [{**TINY["rows"][0], "settings": {"kk": 2}}]
    with pytest.raises(AuscultError, match="knn has no setting 'kk'"):
        quietly(Request(tiny(rows=rows), tmp_path, tiny_plant))
    borrower = {**TINY["rows"][3], "settings": {**SMALL_AE, "width": 8}}
    with pytest.raises(AuscultError, match="ae-worst takes the models of ae, but differs in width"):
        quietly(Request(tiny(rows=[TINY["rows"][2], borrower]), tmp_path, tiny_plant))
    assert not here.ran


@pytest.mark.parametrize("name", experiment_names())
def test_shipped_experiments_are_sound(name: str) -> None:
    experiment = read_experiment(name)
    assert experiment.name == name
    assert (Path(__file__).parents[1] / "experiments" / f"{name}.yaml").is_file()
    for row in experiment.rows:
        if row.published:
            assert row.published.source
            assert set(row.published.figures) <= set(experiment.machine_types)
        if row.detector in detectors():
            for machine_type in experiment.machine_types:
                from auscult.detectors.registry import create

                create(row.detector, row.preset or experiment.preset, row.settings_for(machine_type))
    assert smoke(experiment).name == f"{name}-smoke"


def test_published_figures_agree_with_the_recipes() -> None:
    """The same table of the same paper, written down twice: once for the docs, once for the benchmark."""
    rows = [row for name in experiment_names() for row in read_experiment(name).rows]
    compared = 0
    for recipe in RECIPES:
        for row in rows:
            published = row.published
            same_system = row.detector == recipe.detector and row.system in (
                recipe.system,
                recipe.system.replace("_", ""),
            )
            if published is None or not published.figures or not same_system or "EVAL" in row.group:
                continue
            if not recipe.source.startswith(published.source):
                continue
            for machine_type, pair in recipe.published.items():
                figures = [float("nan") if figure is None else figure for figure in published.figures[machine_type]]
                assert figures == pytest.approx(pair, nan_ok=True), (recipe.system, machine_type)
                compared += 1
    assert compared >= 6 * 10


def test_published_means_are_over_what_they_say() -> None:
    """Means of the published figures, computed from them; the conventions of the table are mixed."""
    counts = {"ToyConveyor": 3}
    for row in read_experiment("auddsr-table1").rows:
        assert row.published
        assert row.published.mean
        for k in (0, 1):
            values = [(t, pair[k]) for t, pair in row.published.figures.items()]
            weights = [counts.get(t, 4) if row.published.mean_over == "ids" else 1 for t, _ in values]
            mean = np.average([v or 0.0 for _, v in values], weights=weights)
            assert mean == pytest.approx(row.published.mean[k], abs=0.06), row.name


# Plans -------------------------------------------------------------------------------------------------------


MACHINES = {
    "ToyCar": (("id_01", "id_02"), ("id_05",)),
    "fan": (("id_00", "id_02"), ("id_01",)),
    "ToyConveyor": (("id_01", "id_02"), ("id_04",)),
    "valve": (("id_00", "id_02"), ("id_01",)),
}
"""Of each type, machines of the development data and of the evaluation data."""


def write_challenge(folder: Path, machine_types: Sequence[str]) -> None:
    """DCASE 2020 scaled down."""
    plant, truth = Plant(train=4, test_normal=2, test_anomaly=2), []
    for machine_type in machine_types:
        dev, evaluation = MACHINES[machine_type]
        truth.append(machine_type)
        for machine_id in dev:
            write_machine(folder / "dev_data" / machine_type, machine_type, machine_id, plant)
        for machine_id in evaluation:
            truth += write_machine(folder / "eval_data" / machine_type, machine_type, machine_id, plant, named=False)
    (folder / "eval_data" / "eval_data_list.csv").write_text("\n".join(truth) + "\n")


@pytest.fixture(scope="module")
def challenge(made_once: Callable[..., Path]) -> Path:
    """Two of its types, recorded in two ways."""
    return made_once("challenge", partial(write_challenge, machine_types=["ToyCar", "fan"]))


@pytest.fixture(scope="module")
def larger_challenge(made_once: Callable[..., Path]) -> Path:
    """Two types of each way of recording."""
    return made_once("larger-challenge", partial(write_challenge, machine_types=list(MACHINES)))


def planned(experiment: Experiment, home: Path, data: Path | None, **how: Any) -> Plan:
    experiment = with_every_detector(experiment)
    corpus = open_corpus(experiment, home, data)
    corpus.manifest.write(home / "clips.parquet")
    return make_plan(experiment, corpus, home, home / "clips.parquet", **how)


def test_who_learns_from_what(challenge: Path, tmp_path: Path) -> None:
    plan = planned(read_experiment("classification-confidence-table3"), tmp_path, challenge)
    table = open_corpus(plan.experiment, tmp_path, challenge).table

    def machines(selection: Selection | None) -> set[str]:
        assert selection is not None
        rows = selection.rows(table)
        return {f"{t} {i}" for t, i in zip(rows["machine_type"], rows["machine_id"], strict=True)}

    jobs = {(run.row.name, run.unit): run.job for run in plan.runs}
    fan = {"fan id_00", "fan id_02", "fan id_01"}
    assert (
        machines(jobs["baseline-dev", "fan"].train) == machines(jobs["baseline-dev", "fan"].test) == fan - {"fan id_01"}
    )
    assert machines(jobs["baseline-eval", "fan"].train) == machines(jobs["baseline-eval", "fan"].test) == {"fan id_01"}
    assert machines(jobs["system-iii-dev", "fan"].train) == fan
    assert machines(jobs["system-iii-dev", "fan"].outliers) == set()  # of pump, slider, valve there are none here
    assert jobs["system-iii-dev", "ToyCar"].outliers == Selection(
        "train",
        ("dev", "eval"),
        ("ToyConveyor",),
        without=(("ToyCar", "id_01"), ("ToyCar", "id_02"), ("ToyCar", "id_05")),
    )
    assert jobs["system-iii-eval", "fan"].model_of == jobs["system-iii-dev", "fan"].folder
    assert jobs["system-iii-eval", "fan"].settings == {}
    for job in jobs.values():
        learnt = set(job.train.rows(table)["path"])
        assert not learnt & set(job.test.rows(table)["path"])
        assert set(job.train.rows(table)["condition"]) == {"normal"}
        if job.outliers:
            others = job.outliers.rows(table)
            assert not learnt & set(others["path"])
            assert set(others["split"]) <= {"train"}


def test_subsets_of_the_challenge(challenge: Path, tmp_path: Path) -> None:
    table = open_corpus(read_experiment("anp-table1"), tmp_path, challenge).table
    assert set(table["condition"]) == {"normal", "anomaly"}  # the list of ground truth was found
    for subset, ids in (("dev", {"id_00", "id_01", "id_02"}), ("eval", {"id_01", "id_05"})):
        assert set(table[table["subset"] == subset]["machine_id"]) == ids
    assert sum(len(ids) for ids in EVAL_IDS.values()) == 18


def test_outliers_of_proxy_rows(challenge: Path, tmp_path: Path) -> None:
    plan = planned(read_experiment("proxy-outliers-fig3"), tmp_path, challenge)
    assert "--with tau=FOLDER" in plan.left_out["proxy-e"]
    table = open_corpus(plan.experiment, tmp_path, challenge).table
    for run in plan.runs:
        if run.job.outliers:
            others = run.job.outliers.rows(table)
            own = set(zip(others["machine_type"], others["machine_id"], strict=True)) & set(run.machines)
            assert not own
    [same] = {
        frozenset(run.job.outliers.rows(table)["machine_id"])
        for run in plan.runs
        if (run.row.name, run.unit) == ("proxy-a", "fan-id_00") and run.job.outliers
    }
    assert same == {"id_01", "id_02"}


def test_additional_recordings_are_outliers(challenge: Path, tiny_plant: Path, tmp_path: Path) -> None:
    experiment = read_experiment("proxy-outliers-fig3")
    corpus = open_corpus(experiment, tmp_path, challenge, {"tau": tiny_plant})
    corpus.manifest.write(tmp_path / "clips.parquet")
    plan = make_plan(experiment, corpus, tmp_path, tmp_path / "clips.parquet", only=["proxy-e"])
    assert {run.row.name for run in plan.runs} == {"proxy-e"}
    outliers = plan.runs[0].job.outliers
    assert outliers is not None
    assert set(outliers.rows(corpus.table)["machine_type"]) == {"tau"}


def test_every_detector_has_a_row(tmp_path: Path) -> None:
    for name in ("synthetic", "real-shared"):
        rows = with_every_detector(read_experiment(name)).rows
        assert detectors().keys() <= {row.detector for row in rows}


def test_planning_is_linear_in_the_number_of_runs(
    tiny_plant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, not timed: clips are looked at once, a selection is digested once, whatever the number of seeds."""
    looked: list[object] = []
    rows = Selection.rows

    def counted(selection: Selection, table: pd.DataFrame) -> pd.DataFrame:
        looked.append(selection)
        return rows(selection, table)

    monkeypatch.setattr(Selection, "rows", counted)
    counts = []
    for n in (1, 50):
        looked.clear()
        plan = planned(tiny(seeds=list(range(n))), tmp_path, tiny_plant)
        assert len(plan.runs) == 5 * n
        counts.append(len(looked))
    assert counts[0] == counts[1]


def test_estimates(tiny_plant: Path, tmp_path: Path) -> None:
    assert {name for name, _ in COSTS} <= detectors().keys()
    plan = planned(tiny(), tmp_path, tiny_plant)
    seconds = estimates(plan)
    assert set(seconds) == {run.name for run in plan.runs}
    assert all(s and s > 0 for s in seconds.values())
    assert total([4.0, 2.0, None, 2.0], 2) == (4.0, 1)
    assert total([9.0, 1.0], 2) == (9.0, 0)
    assert set(estimates(plan, "cuda").values()) == {None}


# Intervals ----------------------------------------------------------------------------------------------------


def test_an_interval_over_seeds_and_clips() -> None:
    parts = [Estimate(70.0, 3.0, 4.0), Estimate(72.0, 5.0, 4.0), Estimate(77.0, 4.0, 1.0)]
    both = Estimate.over_seeds(parts)
    assert both.value == pytest.approx(73.0)
    standard_error = np.std([70, 72, 77], ddof=1) / sqrt(3)
    assert both.down == pytest.approx(sqrt(4.0**2 + (4.302652729911275 * standard_error) ** 2))
    assert both.up == pytest.approx(sqrt(3.0**2 + (4.302652729911275 * standard_error) ** 2))
    assert Estimate.over_seeds(parts[:1]) == parts[0]
    mean = Estimate.mean(parts)
    assert mean.down == pytest.approx(sqrt(9 + 25 + 16) / 3)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=8), st.floats(0, 20))
def test_seeds_only_widen(values: list[float], width: float) -> None:
    joined = Estimate.over_seeds([Estimate(v, width, width) for v in values])
    assert joined.down >= width * (1 - 1e-12)
    assert min(values) - 1e-9 <= joined.value <= max(values) + 1e-9


@pytest.mark.parametrize(
    ("published", "mark"), [(None, ""), (69.9, "↑"), (70.0, ""), (75.0, ""), (80.0, ""), (80.1, "↓")]
)
def test_marks(published: float | None, mark: str) -> None:
    cell = Cell(75.0, 70.0, 80.0, 3, published)
    assert shown(cell, "auc") == "75.0 [70.0, 80.0]" + (f" / {published:g}{mark}" if published else "")


def test_cells_survive_markdown_and_latex() -> None:
    table = Table("50 % of a_b & c", ["system", "x|y"], [["a|b", "1 ± 2 ↑"]])
    assert "a\\|b" in table.markdown()
    latex = table.latex()
    assert r"50 \% of a\_b \& c" in latex
    assert r"1 $\pm$ 2 $\uparrow$ \\" in latex


# Smoke forms ---------------------------------------------------------------------------------------------------


def test_smoke_keeps_what_it_must(challenge: Path, tmp_path: Path) -> None:
    experiment = smoke(read_experiment("anp-table1"))
    assert [row.name for row in experiment.rows] == [row.name for row in read_experiment("anp-table1").rows]
    anp = next(row for row in experiment.rows if row.name == "anp-boot-lik-dev-eval")
    assert (anp.settings["masking"], anp.settings["max_steps"], anp.preset) == ("boot", 2, "quick")
    corpus = few(open_corpus(experiment, tmp_path, challenge))
    assert corpus.table.groupby(["machine_type", "machine_id", "split", "condition"]).size().max() == 4


CHEAP = {"anp-table2": ["ae-dev-dev", "ae-dev-eval"], "auddsr-table1": ["idnn", "glow-aff"]}


@pytest.mark.parametrize("name", CHEAP)
def test_smoke_forms_run(name: str, challenge: Path, tmp_path: Path, here: Here) -> None:
    """Some rows of some experiments: learnt on one subset and judged on another, errors, one model for each ID."""
    summary = quietly(Request(read_experiment(name), tmp_path, challenge, smoke=True, only=CHEAP[name]))
    assert not summary.broken
    results = summary.results
    assert results is not None
    for result in results.rows:
        if result.row.name in CHEAP[name]:
            cell = result.cell(results.measures[0], "fan")
            assert cell.value is not None
            assert cell.published is not None
    if name == "anp-table2":
        [row] = [row for row in results.rows if row.row.name == "ae-dev-eval"]
        run = tmp_path / "runs" / "anp-table2-smoke" / "ae-dev-eval" / "fan" / "0"
        table = read_scores(run / "scores.csv")
        assert set(table["seen"]) == {"no"}
        normal = table[table["condition"] == "normal"]
        expected = pd.to_numeric(normal["reconstruction_error"]).mean()
        assert row.cell("reconstruction", "fan").value == pytest.approx(expected)


ALIKE = {"synthetic-noise", "auddsr-table1", "anp-table2", "proxy-outliers-fig4"}
"""Experiments of rows that others have too, and of half a minute to a minute each."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else [])
        for name in experiment_names()
        if name != "real-shared"
    ],
)
def test_every_smoke_form_runs(name: str, request: pytest.FixtureRequest, tmp_path: Path, auscult: Run) -> None:
    """Outliers of another type that was recorded the same way want two types of each way."""
    data = request.getfixturevalue("larger_challenge" if name == "proxy-outliers-fig3" else "challenge")
    outcome = auscult("benchmark", name, "-o", tmp_path, "--smoke", "--data", data, "--workers", "1")
    assert outcome.code == 0, outcome.out + outcome.err
    assert (tmp_path / f"{name}-smoke.html").exists()


def test_the_smoke_form_of_the_real_sets_runs(tmp_path: Path, auscult: Run) -> None:
    for k, folder in enumerate(("machining/lathe", "mimii0dB/fan", "dcase2020/pump", "motors/bldc")):
        plant = Plant(train=4, test_normal=2, test_anomaly=2, seed=k)
        write_machine(tmp_path / "data" / folder, "fan", "id_00", plant)
    words = ("--smoke", "--data", tmp_path / "data", "--workers", "1")
    outcome = auscult("benchmark", "real-shared", "-o", tmp_path / "out", *words)
    assert outcome.code == 0, outcome.out + outcome.err
