"""Every command does what it says, and says it in the words that others script against."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import (
    FIT_AE,
    PLANT,
    Outcome,
    Run,
    command,
    described,
    machine_sound,
    run_auscult,
    same_tensors,
    tensors,
    write_wav,
)

COLUMNS = ["path", "machine_type", "machine_id", "condition", "score", "p_value", "threshold", "decision", "error"]
N_TRAIN = sum(n for n, _ in PLANT.values())
N_TEST = 2 * sum(n for _, n in PLANT.values())
PNG = b"\x89PNG\r\n\x1a\n"


def done(outcome: Outcome) -> Outcome:
    """The outcome of a command that must have succeeded."""
    assert outcome.code == 0, outcome.err
    return outcome


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values={c: [""] for c in ("score", "p_value", "threshold")})


@pytest.fixture
def train(tiny_plant: Path, tmp_path: Path) -> Callable[[int], Path]:
    """`train(n)`: a folder of n healthy clips whose names say nothing."""

    def make(n: int) -> Path:
        folder = tmp_path / f"{n}_clips"
        folder.mkdir()
        for number, clip in enumerate(sorted((tiny_plant / "pump" / "train").iterdir())[:n]):
            shutil.copy(clip, folder / f"{number}.wav")
        return folder

    return make


# The program --------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    commands = ["demo", "detectors", "index", "fit", "score", "explain", "evaluate", "report", "cache"]
    snippet = f"""
import contextlib, io, sys
from auscult.cli import main
for words in [["--help"], ["--version"], []] + [[c, "--help"] for c in {commands}]:
    sys.argv = ["auscult", *words]
    try:
        with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(io.StringIO()):
            main()
    except SystemExit as end:
        assert end.code == (0 if words else 2), (words, end.code)
    assert words == ["--version"] or "Usage: auscult" in said.getvalue(), (words, said.getvalue())
heavy = "torch pandas numpy scipy sklearn matplotlib soundfile lightning_fabric pydantic jinja2".split()
print([name for name in heavy if name in sys.modules and name != "pydantic"])
"""
    outcome = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, timeout=60)
    assert outcome.stdout == "[]\n", outcome.stderr


def test_version() -> None:
    import auscult

    assert run_auscult("--version") == Outcome(0, f"{auscult.__version__}\n", "")


def test_help_names_every_command() -> None:
    text = done(run_auscult("--help")).out
    for name in ("demo", "detectors", "index", "fit", "score", "explain", "evaluate", "report", "cache"):
        assert re.search(rf"\b{name}\b", text)


def test_a_closed_pipe_is_no_disaster(fitted: Path, tiny_plant: Path) -> None:
    words = command("score", fitted / "knn.auscult", tiny_plant)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 1
    assert "Traceback" not in said
    assert "rror" not in said


# detectors ----------------------------------------------------------------------------------------------


def test_detectors_json(auscult: Run) -> None:
    rows = {row["name"]: row for row in json.loads(done(auscult("detectors", "--json")).out)}
    assert {"ae", "idnn", "knn"} <= rows.keys()
    for row in rows.values():
        assert {"name", "family", "paper", "needs", "parameters", "anomaly_map", "exports"} <= row.keys()
        assert row["needs"]
        assert set(row["needs"]) <= {"normals", "machine_ids", "outliers"}
        assert isinstance(row["parameters"], int)
        assert isinstance(row["anomaly_map"], bool)
        assert isinstance(row["exports"], bool)
    assert rows["ae"]["parameters"] == 267_928
    assert rows["idnn"]["parameters"] == 185_496


def test_detectors_table(auscult: Run) -> None:
    text = done(auscult("detectors")).out
    assert "267 928" in text
    assert all(name in text for name in ("ae", "idnn", "knn", "Suefusa"))


# index --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.csv", "m.parquet"])
def test_index(name: str, auscult: Run, fitted: Path, tiny_plant: Path, tmp_path: Path) -> None:
    said = done(auscult("index", tiny_plant, "-o", tmp_path / name)).out
    assert f"{N_TRAIN + N_TEST} clips of 2 machines, 1 machine type" in said
    assert "2.00 s" in said
    assert "16000 Hz" in said
    table = pd.read_csv(tmp_path / name) if name.endswith("csv") else pd.read_parquet(tmp_path / name)
    assert list(table.columns[:5]) == ["path", "machine_type", "machine_id", "split", "condition"]
    counts = table.groupby(["machine_id", "split", "condition"]).size().to_dict()
    assert counts == {
        (machine, split, condition): n_train if split == "train" else n_test
        for machine, (n_train, n_test) in PLANT.items()
        for split, condition in (("train", "normal"), ("test", "normal"), ("test", "anomaly"))
    }
    # A manifest stands for the folder it was made from.
    for data, scores in ((tiny_plant, "a.csv"), (tmp_path / name, "b.csv")):
        done(auscult("score", fitted / "knn.auscult", data, "-o", tmp_path / scores))
    ours, theirs = read(tmp_path / "a.csv"), read(tmp_path / "b.csv")
    pd.testing.assert_frame_equal(ours.drop(columns="path"), theirs.drop(columns="path"))
    assert [Path(p).name for p in ours["path"]] == [Path(p).name for p in theirs["path"]]


def test_index_without_output(auscult: Run, tiny_plant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "54 clips" in done(auscult("index", tiny_plant)).out
    assert list(tmp_path.iterdir()) == []


# fit ----------------------------------------------------------------------------------------------------


def test_fit_says_what_it_did(fitted: Path) -> None:
    said = (fitted / "knn.out").read_text()
    assert f"knn learnt from {N_TRAIN - 20} clips: {fitted / 'knn.auscult'}" in said
    assert "False-alarm rate 0.05 promised by 20 healthy clips kept out of training" in said
    said = (fitted / "ae.out").read_text()
    assert "false-alarm rate 0.01 is extrapolated by a gamma law: 20 healthy clips" in said
    assert "no rate below 0.0476" in said


def test_model_file_describes_itself(fitted: Path, tiny_plant: Path) -> None:
    import auscult

    facts = described(fitted / "knn.auscult")
    assert facts["format_version"] == 1
    assert facts["auscult_version"] == auscult.__version__
    assert facts["detector"] == "knn"
    assert facts["settings"]["pooling"] == "mean+std"
    assert facts["front_end"]["sample_rate"] == 16_000
    assert facts["calibration"]["false_alarm_rate"] == 0.05
    origin = facts["provenance"]
    assert (origin["seed"], origin["n_training_clips"], origin["n_calibration_clips"]) == (0, N_TRAIN - 20, 20)
    assert re.fullmatch(r"[0-9a-f]{64}", origin["manifest_hash"])
    assert re.match(r"20\d\d-\d\d-\d\dT", origin["date"])
    used = origin["training_clips"] + origin["calibration_clips"]
    assert sorted(used) == sorted(str(p) for p in (tiny_plant / "pump" / "train").iterdir())
    steps = described(fitted / "ae.auscult")["provenance"]["training"]
    assert steps["steps"] == 40
    assert steps["stopped"] == "steps"
    assert described(fitted / "ae.auscult")["settings"]["batch_size"] == 128


def test_too_few_clips_to_promise(auscult: Run, train: Callable[[int], Path], tmp_path: Path) -> None:
    outcome = done(auscult("fit", train(19), "-d", "knn", "-o", tmp_path / "m.auscult"))
    assert "no false-alarm rate can be promised: with fewer than 20 healthy clips none were held out" in outcome.err
    assert "promised" not in outcome.out
    outcome = done(auscult("fit", train(20), "-d", "knn", "-o", tmp_path / "m.auscult"))
    assert "3 healthy clips kept out of training can promise no rate below 0.25" in outcome.err
    outcome = done(auscult("fit", train(21), "-d", "knn", "--false-alarm-rate", "0.3", "-o", tmp_path / "m.auscult"))
    assert "False-alarm rate 0.3 promised by 3 healthy clips" in outcome.out
    assert "rate" not in outcome.err


def test_a_clip_that_alone_decides_the_threshold_is_named(
    auscult: Run, train: Callable[[int], Path], tmp_path: Path
) -> None:
    folder, model = train(42), tmp_path / "m.auscult"
    assert "decides the" not in done(auscult("fit", folder, "-d", "knn", "-o", model)).err
    kept = described(model)["provenance"]["calibration_clips"]
    write_wav(Path(kept[0]), np.random.default_rng(0).uniform(-0.9, 0.9, 4 * 16_000))
    said = done(auscult("fit", folder, "-d", "knn", "-o", model)).err.splitlines()[-1]
    assert re.match(r"auscult: one of these 20 clips decides the threshold: it scores [\d.]+, the next [\d.]+ — ", said)
    assert said.endswith(f": {kept[0]}")


def test_the_train_split_is_learnt_from(auscult: Run, fitted: Path, tiny_plant: Path, tmp_path: Path) -> None:
    """Test clips change nothing, nor does the place of the clips."""
    shutil.copytree(tiny_plant / "pump" / "train", tmp_path / "pump" / "train")
    arguments = ("-d", "knn", "--false-alarm-rate", "0.05", "-o", tmp_path / "m.auscult")
    done(auscult("fit", tmp_path / "pump", *arguments))
    assert same_tensors(tmp_path / "m.auscult", fitted / "knn.auscult")


def test_unlabelled_clips_are_taken_for_healthy(auscult: Run, train: Callable[[int], Path], tmp_path: Path) -> None:
    outcome = done(auscult("fit", train(6), "-d", "knn", "-o", tmp_path / "m.auscult"))
    assert "nothing says whether 6 of the clips are healthy; they were taken to be" in outcome.err
    assert "knn learnt from 6 clips" in outcome.out


def test_anomalies_are_never_learnt_from(auscult: Run, tiny_plant: Path, tmp_path: Path) -> None:
    for clip in (tiny_plant / "pump" / "test").iterdir():
        shutil.copy(clip, tmp_path / f"{clip.stem.split('_')[0]}_{clip.name}")
    outcome = done(auscult("fit", tmp_path, "-d", "knn", "-o", tmp_path / "m.auscult"))
    assert "taken to be" not in outcome.err
    learnt = described(tmp_path / "m.auscult")["provenance"]["training_clips"]
    assert len(learnt) == N_TEST // 2
    assert all("normal" in path for path in learnt)


@pytest.mark.parametrize("spelling", ["02", "id_02", "2"])
def test_machine_id(spelling: str, auscult: Run, tiny_plant: Path, tmp_path: Path) -> None:
    arguments = ("--machine-id", spelling, "--machine-type", "pump")
    done(auscult("fit", tiny_plant, "-d", "knn", *arguments, "-o", tmp_path / "m.auscult"))
    assert described(tmp_path / "m.auscult")["provenance"]["machines"] == ["pump id_02"]
    done(auscult("score", tmp_path / "m.auscult", tiny_plant, *arguments, "-o", tmp_path / "s.csv"))
    assert read(tmp_path / "s.csv")["machine_id"].tolist() == ["id_02"] * 4


def test_settings(auscult: Run, train: Callable[[int], Path], tmp_path: Path) -> None:
    chosen = ["--set", "k=3", "--set", "pooling=max+p90", "--set", "distance = mahalanobis"]
    done(auscult("fit", train(8), "-d", "knn", *chosen, "-o", tmp_path / "m.auscult"))
    settings = described(tmp_path / "m.auscult")["settings"]
    assert (settings["k"], settings["pooling"], settings["distance"]) == (3, "max+p90", "mahalanobis")


def test_default_name_of_the_model(
    auscult: Run, train: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train(4)
    monkeypatch.chdir(folder.parent)
    assert "4_clips.auscult" in done(auscult("fit", folder.name, "-d", "knn")).out
    assert (folder.parent / "4_clips.auscult").is_file()


def test_same_seed_same_model(auscult: Run, fitted: Path, tiny_plant: Path, tmp_path: Path) -> None:
    """Another process, another store, other things done before: every bit the same."""
    done(auscult("fit", tiny_plant, *FIT_AE, "-o", tmp_path / "same.auscult"))
    assert same_tensors(tmp_path / "same.auscult", fitted / "ae.auscult")
    ours, theirs = (described(path) for path in (tmp_path / "same.auscult", fitted / "ae.auscult"))
    assert ours["calibration"] == theirs["calibration"]
    assert ours["provenance"]["manifest_hash"] == theirs["provenance"]["manifest_hash"]
    done(auscult("fit", tiny_plant, *FIT_AE, "--seed", 1, "-o", tmp_path / "other.auscult"))
    weights = tensors(tmp_path / "same.auscult").keys() - {"calibration.scores", "usual_map"}
    for name in weights:
        if name.endswith("0.weight"):
            assert not np.array_equal(
                tensors(tmp_path / "same.auscult")[name], tensors(tmp_path / "other.auscult")[name]
            )


def test_resume_of_a_finished_fit(auscult: Run, tiny_plant: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.auscult"
    arguments = ("fit", tiny_plant, "-d", "knn", "-o", model)
    done(auscult(*arguments))
    before = (model.read_bytes(), model.stat().st_mtime_ns)
    assert done(auscult(*arguments, "--resume")).out == f"Already done: {model}\n"
    assert (model.read_bytes(), model.stat().st_mtime_ns) == before
    # What would give another model is not done yet.
    for change in (["--seed", "1"], ["--set", "k=2"], ["--machine-id", "00"], ["--false-alarm-rate", "0.1"]):
        model.write_bytes(before[0])
        assert "Already done" not in done(auscult(*arguments, *change, "--resume")).out
        assert "Already done" in done(auscult(*arguments, *change, "--resume")).out
    assert described(model)["calibration"]["false_alarm_rate"] == 0.1
    model.write_bytes(before[0][:1000])
    assert "learnt from" in done(auscult(*arguments, "--resume")).out


# score --------------------------------------------------------------------------------------------------


def test_scores(auscult: Run, fitted: Path, tiny_plant: Path, tmp_path: Path) -> None:
    said = done(auscult("score", fitted / "knn.auscult", tiny_plant, "-o", tmp_path / "s.csv"))
    table = read(tmp_path / "s.csv")
    assert list(table.columns) == COLUMNS
    names = [Path(path).name for path in table["path"]]
    assert sorted(names) == sorted(path.name for path in (tiny_plant / "pump" / "test").iterdir())
    assert table["condition"].tolist() == [name.split("_")[0] for name in names]
    assert set(table["machine_type"]) == {"pump"}
    assert set(table["error"]) == {""}
    assert table["p_value"].between(1 / 21, 1).all()
    assert ((table["score"] > table["threshold"]) == (table["decision"] == "anomaly")).all()
    assert ((table["p_value"] <= 0.05) == (table["decision"] == "anomaly")).all()
    alarms = int((table["decision"] == "anomaly").sum())
    assert said.out == f"{N_TEST} clips judged, {alarms} alarms: {tmp_path / 's.csv'}\n"
    # These faults are loud: a nearest neighbour hears them all.
    normal, faulty = (table.loc[table["condition"] == c, "score"] for c in ("normal", "anomaly"))
    assert faulty.min() > normal.max()

    import auscult as package

    model = package.load(fitted / "knn.auscult")
    assert model.score(table["path"].tolist()).tolist() == table["score"].tolist()
    assert not (tmp_path / "s.csv.partial").exists()


def test_scores_on_standard_output_and_in_parquet(auscult: Run, fitted: Path, tiny_plant: Path, tmp_path: Path) -> None:
    """And from a process of its own."""
    model = fitted / "knn.auscult"
    for name in ("s.csv", "s.parquet"):
        done(auscult("score", model, tiny_plant, "-o", tmp_path / name))
    outcome = done(run_auscult("score", model, tiny_plant))
    assert outcome.out == (tmp_path / "s.csv").read_text()
    assert [note for note in outcome.notes if "read in the layout" not in note] == []
    binary, text = pd.read_parquet(tmp_path / "s.parquet"), read(tmp_path / "s.csv")
    assert list(binary.columns) == COLUMNS
    for column in ("score", "p_value", "threshold"):
        assert binary[column].tolist() == text[column].tolist()


@pytest.mark.parametrize(("split", "count"), [("train", N_TRAIN), ("test", N_TEST), ("all", N_TRAIN + N_TEST)])
def test_splits(split: str, count: int, auscult: Run, fitted: Path, tiny_plant: Path, tmp_path: Path) -> None:
    outcome = auscult("score", fitted / "knn.auscult", tiny_plant, "--split", split, "-o", tmp_path / "s.csv")
    assert len(read(tmp_path / "s.csv")) == count
    flattered = f"{N_TRAIN - 20} of these {count} clips were learnt from" in done(outcome).err
    assert flattered == (split != "test")


def test_everything_is_scored_where_no_splits_are_known(
    auscult: Run, fitted: Path, train: Callable[[int], Path], tmp_path: Path
) -> None:
    done(auscult("score", fitted / "knn.auscult", train(3), "-o", tmp_path / "s.csv"))
    table = read(tmp_path / "s.csv")
    assert [Path(path).name for path in table["path"]] == ["0.wav", "1.wav", "2.wav"]
    assert set(table["condition"]) == {"unknown"}


@pytest.mark.parametrize("name", ["knn", "ae"])
def test_a_score_depends_on_the_clip_alone(
    name: str, auscult: Run, fitted: Path, tiny_plant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not on neighbours, order, number of threads, or where the file lies."""
    model, whole = fitted / f"{name}.auscult", tmp_path / "whole.csv"
    done(auscult("score", model, tiny_plant, "-o", whole))
    table = read(whole)
    wanted = {Path(row.path).name: row.score for row in table.itertuples()}
    for threads in (2, 3):
        done(auscult("score", model, tiny_plant, "--threads", threads, "-o", tmp_path / "threads.csv"))
        assert (tmp_path / "threads.csv").read_bytes() == whole.read_bytes()
    monkeypatch.setenv("AUSCULT_THREADS", "4")
    done(auscult("score", model, tiny_plant, "-o", tmp_path / "threads.csv"))
    assert (tmp_path / "threads.csv").read_bytes() == whole.read_bytes()

    for path in table["path"][::4]:
        alone = shutil.copy(path, tmp_path / "alone.wav")
        done(auscult("score", model, alone, "-o", tmp_path / "alone.csv"))
        assert read(tmp_path / "alone.csv")["score"].tolist() == [wanted[Path(path).name]]

    table[["path", "machine_type", "machine_id", "condition"]].assign(split="test")[::-1].to_csv(
        tmp_path / "backwards.csv", index=False
    )
    done(auscult("score", model, tmp_path / "backwards.csv", "-o", tmp_path / "b.csv"))
    assert read(tmp_path / "b.csv")["score"].tolist() == table["score"].tolist()[::-1]


def test_clips_of_any_length(auscult: Run, fitted: Path, tmp_path: Path) -> None:
    for seconds in (0.2, 1, 3.3, 40):
        write_wav(tmp_path / "clips" / f"{seconds}.wav", machine_sound(1, seconds=seconds))
    done(auscult("score", fitted / "ae.auscult", tmp_path / "clips", "-o", tmp_path / "s.csv"))
    assert read(tmp_path / "s.csv")["score"].notna().all()


# evaluate, explain, report, cache -----------------------------------------------------------------------


@pytest.fixture
def scores(auscult: Run, fitted: Path, tiny_plant: Path, tmp_path: Path) -> Path:
    """A run's folder with scores and model, as `report` wants it; the path of the scores."""
    (tmp_path / "run").mkdir()
    shutil.copy(fitted / "knn.auscult", tmp_path / "run" / "model.auscult")
    done(auscult("score", fitted / "knn.auscult", tiny_plant, "-o", tmp_path / "run" / "scores.csv"))
    return tmp_path / "run" / "scores.csv"


FIGURE = r"\d+\.\d \[\d+\.\d, \d+\.\d\]"


def test_evaluate(auscult: Run, scores: Path) -> None:
    text = done(auscult("evaluate", scores)).out
    for machine in ("id_00", "id_02", "overall"):
        assert re.search(rf"{machine}\b.*100\.0 \[\d+\.\d, 100\.0\].*{FIGURE}", text)
    assert "6+6" in text


def test_evaluate_json(auscult: Run, scores: Path, tmp_path: Path) -> None:
    found = json.loads(done(auscult("evaluate", scores, "--json", "-o", tmp_path / "kept")).out)
    assert {"overall", "by_type", "by_id", "convention"} <= found.keys()
    for line in (found["overall"], *found["by_type"], *found["by_id"]):
        assert {"auc", "pauc", "auc_ci", "pauc_ci", "n_normal", "n_anomaly"} <= line.keys()
        assert line["auc"] == 1.0
        low, high = line["auc_ci"]
        assert low <= line["auc"] <= high
        assert "why" not in line
    assert (found["overall"]["n_normal"], found["overall"]["n_anomaly"]) == (6, 6)
    assert [line["machine_type"] for line in found["by_type"]] == ["pump"]
    assert [(line["machine_type"], line["machine_id"]) for line in found["by_id"]] == [
        ("pump", "id_00"),
        ("pump", "id_02"),
    ]
    assert found["convention"]
    assert json.loads((tmp_path / "kept" / "metrics.json").read_text()) == found
    assert (tmp_path / "kept" / "scores.csv").read_bytes() == scores.read_bytes()


@pytest.mark.parametrize("condition", ["normal", "anomaly", "unknown"])
def test_evaluate_one_class_only(condition: str, auscult: Run, scores: Path, tmp_path: Path) -> None:
    table = read(scores)
    some = table[table["condition"] == condition] if condition != "unknown" else table.assign(condition="unknown")
    some.to_csv(tmp_path / "some.csv", index=False)
    line = json.loads(done(auscult("evaluate", tmp_path / "some.csv", "--json")).out)["overall"]
    assert (line["auc"], line["pauc"], line["auc_ci"]) == (None, None, None)
    assert line["why"]
    text = done(auscult("evaluate", tmp_path / "some.csv")).out
    assert "no AUC" in text
    assert "pump" in text


def test_evaluate_with_truth(auscult: Run, scores: Path, tmp_path: Path) -> None:
    table = read(scores)
    table.assign(condition="unknown").to_csv(tmp_path / "blind.csv", index=False)
    table[["path", "condition"]].to_csv(tmp_path / "truth.csv", index=False)
    arguments = ("evaluate", tmp_path / "blind.csv", "--truth", tmp_path / "truth.csv", "--json")
    found, wanted = (json.loads(done(auscult(*a)).out) for a in (arguments, ("evaluate", scores, "--json")))
    assert found["by_id"] == wanted["by_id"]
    assert found["truth"]["matched"] == N_TEST


@pytest.mark.parametrize("name", ["knn", "ae"])
def test_explain(name: str, auscult: Run, fitted: Path, tiny_plant: Path, tmp_path: Path) -> None:
    clip = tiny_plant / "pump" / "test" / "anomaly_id_00_00000001.wav"
    outcome = done(auscult("explain", fitted / f"{name}.auscult", clip, "-o", tmp_path / "p.png"))
    assert outcome.out.endswith(f"Picture: {tmp_path / 'p.png'}\n")
    assert (tmp_path / "p.png").read_bytes().startswith(PNG)
    assert (tmp_path / "p.png").stat().st_size > 20_000


def test_explain_names_the_picture_after_the_clip(
    auscult: Run, fitted: Path, tiny_plant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done(auscult("explain", fitted / "knn.auscult", tiny_plant / "pump" / "test" / "normal_id_00_00000000.wav"))
    assert [path.name for path in tmp_path.iterdir()] == ["normal_id_00_00000000.png"]


def test_report(auscult: Run, scores: Path) -> None:
    page = scores.parent / "report.html"
    assert done(auscult("report", scores.parent)).out == f"Report: {page}\n"
    text = page.read_text()
    assert "<html" in text
    assert "pump" in text
    assert "<audio" in text
    assert not re.search(r"""(src|href)=["']https?://""", text)


def test_cache(auscult: Run, tiny_plant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUSCULT_CACHE", str(tmp_path / "cache"))
    empty = rf"0\.0 MiB, 0 clips in 0 packs of at most 20 GiB: {re.escape(str(tmp_path / 'cache'))}\n"
    assert re.fullmatch(empty, done(auscult("cache")).out)
    done(auscult("fit", tiny_plant, "-d", "knn", "-o", tmp_path / "m.auscult"))
    assert f"{N_TRAIN} clips in 1 packs" in done(auscult("cache")).out
    done(auscult("fit", tiny_plant, "-d", "knn", "--set", "k=2", "-o", tmp_path / "m.auscult"))
    assert f"{N_TRAIN} clips in 1 packs" in done(auscult("cache")).out
    done(auscult("fit", tiny_plant, "-d", "knn", "--set", "channel=mean", "-o", tmp_path / "m.auscult"))
    assert f"{2 * N_TRAIN} clips in 2 packs" in done(auscult("cache")).out
    assert done(auscult("cache", "clear")).out.startswith("Cleared ")
    assert re.fullmatch(empty, done(auscult("cache")).out)


def test_nothing_is_printed_but_results(fitted: Path, tiny_plant: Path, tmp_path: Path) -> None:
    """No progress bar and no library's chatter where nobody is watching."""
    outcome = done(run_auscult("fit", tiny_plant, "-d", "knn", "-o", tmp_path / "m.auscult"))
    assert outcome.err.splitlines() == [
        f"auscult: {tiny_plant}: read in the layout dcase2020",
        "auscult: false-alarm rate 0.01 is extrapolated by a gamma law: 20 healthy clips kept out of training can "
        "promise no rate below 0.0476",
    ]
    assert outcome.out == f"knn learnt from {N_TRAIN - 20} clips: {tmp_path / 'm.auscult'}\n"
    assert same_tensors(tmp_path / "m.auscult", fitted / "knn.auscult")
