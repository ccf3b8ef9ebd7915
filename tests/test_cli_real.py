"""The main job on real recordings: fit, score, evaluate, explain, by the commands a user types."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from conftest import Run, described, run_auscult

FIGURE = r"\d+\.\d \[\d+\.\d, \d+\.\d\]"

# Machine: clips to learn from, healthy and faulty test clips, machine IDs.
REAL = {
    "machining/lathe": (180, 100, 150, ["id_00"]),
    "mimii0dB/fan": (13, 7, 20, ["id_00"]),
    "dcase2020/pump": (50, 25, 1, ["id_00"]),
    "mimii8ch/pump": (1, 1, 1, ["id_06"]),
    "motors/bldc": (24, 16, 30, ["id_01"]),
}


def data(shared_data: Path, machine: str) -> Path:
    if not (shared_data / machine).is_dir():
        pytest.skip(f"no recordings of {machine} in {shared_data}")
    return shared_data / machine


def whole_job(run: Run, clips: Path, machine: str, how: tuple[str, ...], home: Path) -> dict[str, object]:
    """Fit, score, evaluate and explain; return the figures of `evaluate --json`."""
    n_train, n_normal, n_anomaly, ids = REAL[machine]
    model, scores = home / "m.auscult", home / "s.csv"

    outcome = run("fit", clips, *how, "-o", model)
    assert outcome.code == 0, outcome.err
    facts = described(model)["provenance"]
    assert facts["n_training_clips"] + facts["n_calibration_clips"] == n_train
    assert "promise" in outcome.out + outcome.err

    outcome = run("score", model, clips, "-o", scores)
    assert outcome.code == 0, outcome.err
    table = pd.read_csv(scores)
    assert table["condition"].value_counts().to_dict() == {"normal": n_normal, "anomaly": n_anomaly}
    assert sorted(set(table["machine_id"])) == ids
    assert table["score"].notna().all()
    assert set(table["decision"]) <= {"normal", "anomaly"}
    assert outcome.out.startswith(f"{n_normal + n_anomaly} clips judged, ")

    outcome = run("evaluate", scores)
    assert outcome.code == 0, outcome.err
    assert re.search(rf"overall.* {FIGURE} +{FIGURE} +{n_normal}\+{n_anomaly}", outcome.out), outcome.out

    strangest = table.loc[table["score"].idxmax(), "path"]
    outcome = run("explain", model, strangest, "-o", home / "p.png")
    assert outcome.code == 0, outcome.err
    assert (home / "p.png").read_bytes().startswith(b"\x89PNG")

    figures: dict[str, object] = json.loads(run("evaluate", scores, "--json").out)["overall"]
    return figures


@pytest.mark.parametrize("machine", REAL)
def test_nearest_neighbours(machine: str, auscult: Run, shared_data: Path, tmp_path: Path) -> None:
    figures = whole_job(auscult, data(shared_data, machine), machine, ("-d", "knn"), tmp_path)
    low, high = figures["auc_ci"]
    assert 0 <= low <= figures["auc"] <= high <= 1
    if machine == "motors/bldc":  # a broken propeller, told by its loudness alone
        assert figures["auc"] == 1


def test_the_lathe_from_the_shell(shared_data: Path, tmp_path: Path) -> None:
    """48 kHz FLAC, each command a process of its own, a network of few steps."""
    clips = data(shared_data, "machining/lathe")
    whole_job(run_auscult, clips, "machining/lathe", ("-d", "ae", "--set", "max_steps=40"), tmp_path)


@pytest.mark.parametrize("name", ["ae", "idnn"])
def test_eight_channels(name: str, auscult: Run, shared_data: Path, tmp_path: Path) -> None:
    """Any channel and their mean: each model hears its own, and remembers which."""
    clips, model = data(shared_data, "mimii8ch/pump"), tmp_path / "m.auscult"
    whole_job(auscult, clips, "mimii8ch/pump", ("-d", name, "--set", "max_steps=5"), tmp_path)
    seen = {tuple(pd.read_csv(tmp_path / "s.csv")["score"])}
    for channel in ("7", "mean"):
        how = ("-d", name, "--set", "max_steps=5", "--set", f"channel={channel}")
        assert auscult("fit", clips, *how, "-o", model).code == 0
        assert auscult("score", model, clips, "-o", tmp_path / "s.csv").code == 0
        seen.add(tuple(pd.read_csv(tmp_path / "s.csv")["score"]))
    assert len(seen) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ae", "idnn"])
@pytest.mark.parametrize("machine", REAL)
def test_networks_in_full(name: str, machine: str, shared_data: Path, tmp_path: Path) -> None:
    """With nothing set: the commands as they stand in the quick start."""
    figures = whole_job(run_auscult, data(shared_data, machine), machine, ("-d", name), tmp_path)
    assert figures["auc"] == 1 if machine == "motors/bldc" else 0 <= figures["auc"] <= 1
