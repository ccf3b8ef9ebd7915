"""One fitted model, scored in several ways from the command line; zero-shot; masks of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import Run, run_auscult

SMALL = ["--set", "width=8", "--set", "heads=2", "--set", "feed_forward=8", "--set", "max_steps=30"]


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two valves of 24 + 12 short clips in the DCASE 2020 layout."""
    import soundfile

    home = tmp_path_factory.mktemp("plant")
    rng = np.random.default_rng(3)
    for machine in ("id_00", "id_02"):
        for split, condition, count in (("train", "normal", 24), ("test", "normal", 6), ("test", "anomaly", 6)):
            for k in range(count):
                wave = rng.standard_normal(16_000) * 0.1
                if condition == "anomaly":
                    wave[6000:9000] += np.sin(np.arange(3000) * 1.2) * 0.4
                path = home / "valve" / split / f"{condition}_{machine}_{k:08d}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, wave, 16_000)
    return home


@pytest.fixture(scope="module")
def model(plant: Path) -> Path:
    path = plant / "valve.auscult"
    done = run_auscult("fit", plant / "valve", "-d", "anp", "--machine-id", "id_00", *SMALL, "-o", path)
    assert done.code == 0, done.err
    return path


def scored(auscult: Run, plant: Path, model: Path, *options: str) -> pd.DataFrame:
    out = plant / "s.csv"
    done = auscult("score", model, plant / "valve", "-o", out, *options)
    assert done.code == 0, done.err
    return pd.read_csv(out)


def test_six_scorings_of_one_model_each_with_its_own_threshold(auscult: Run, plant: Path, model: Path) -> None:
    tables = {
        (masking, by): scored(auscult, plant, model, "--set", f"masking={masking}", "--set", f"score_by={by}")
        for masking in ("idnn", "rrc", "boot")
        for by in ("mse", "likelihood")
    }
    assert len({table["threshold"].iloc[0] for table in tables.values()}) == 6
    for table in tables.values():
        assert table["p_value"].notna().all()
        assert set(table["decision"]) <= {"normal", "anomaly"}
    by_surprise = scored(auscult, plant, model, "--set", "score_by=surprise")
    assert by_surprise["threshold"].iloc[0] not in {table["threshold"].iloc[0] for table in tables.values()}
    pd.testing.assert_frame_equal(by_surprise, scored(auscult, plant, model, "--set", "masking=idnn"))


def test_without_the_clips_kept_for_calibration_nothing_is_decided(
    auscult: Run, plant: Path, model: Path, tmp_path: Path
) -> None:
    import shutil

    away = tmp_path / "valve"
    shutil.copytree(plant / "valve" / "test", away / "test")
    moved = Path(shutil.copy(model, tmp_path / "m.auscult"))
    train = plant / "valve" / "train"
    hidden = train.rename(train.with_name("elsewhere"))
    try:
        done = auscult("score", moved, away, "--set", "masking=boot", "-o", tmp_path / "s.csv")
    finally:
        hidden.rename(train)
    assert done.code == 0
    assert "nothing decided" in done.err
    table = pd.read_csv(tmp_path / "s.csv")
    assert table["score"].notna().all()
    assert table["decision"].isna().all()
    assert table["p_value"].isna().all()


def test_what_learning_depends_on_cannot_change_afterwards(auscult: Run, plant: Path, model: Path) -> None:
    done = auscult("score", model, plant / "valve", "--set", "width=16")
    assert done.code == 2
    assert "depends on width" in done.err
    done = auscult("score", model, plant / "valve", "--set", "maskin=boot")
    assert done.code == 2
    assert "masking" in done.err


def test_zero_shot_ids_and_reconstruction_are_reported_apart(auscult: Run, plant: Path, model: Path) -> None:
    table = scored(auscult, plant, model, "--reconstruction-error")
    assert set(table.loc[table["machine_id"] == "id_00", "seen"]) == {"yes"}
    assert set(table.loc[table["machine_id"] == "id_02", "seen"]) == {"no"}
    said = json.loads(auscult("evaluate", plant / "s.csv", "--json").out)
    by_id = {line["machine_id"]: line for line in said["by_id"]}
    assert said["seen"]["auc"] == by_id["id_00"]["auc"]
    assert said["unseen"]["auc"] == by_id["id_02"]["auc"]
    normal = table.loc[table["condition"] == "normal", "reconstruction_error"]
    assert said["overall"]["reconstruction_error"]["mean"] == pytest.approx(normal.mean())
    assert said["overall"]["reconstruction_error"]["std"] == pytest.approx(normal.std(ddof=0))


def test_a_detector_that_reconstructs_nothing_says_so(auscult: Run, plant: Path) -> None:
    path = plant / "knn.auscult"
    assert auscult("fit", plant / "valve", "-d", "knn", "-o", path).code == 0
    done = auscult("score", path, plant / "valve", "--reconstruction-error")
    assert done.code == 2
    assert "knn reconstructs nothing" in done.err
    clip = next((plant / "valve" / "test").glob("anomaly*"))
    done = auscult("explain", path, clip, "--mask", "bands:3", "-o", plant / "x.png")
    assert done.code == 2
    assert "takes no mask" in done.err


def test_explain_with_a_mask_of_ones_own(auscult: Run, plant: Path, model: Path) -> None:
    clip = next((plant / "valve" / "test").glob("anomaly_id_00*"))
    picture = plant / "bands.png"
    done = auscult("explain", model, clip, "--mask", "bands:60-80", "-o", picture)
    assert done.code == 0, done.err
    assert picture.stat().st_size > 10_000
    done = auscult("explain", model, clip, "--mask", "bands:60-200", "-o", picture)
    assert done.code == 2
    assert "there are 128" in done.err


def test_explain_another_way_to_score(auscult: Run, plant: Path, model: Path) -> None:
    clip = next((plant / "valve" / "test").glob("anomaly_id_00*"))
    picture = plant / "boot.png"
    done = auscult("explain", model, clip, "--set", "masking=boot", "-o", picture)
    assert done.code == 0, done.err
    assert picture.stat().st_size > 10_000
    done = auscult("explain", model, clip, "--set", "width=4", "-o", picture)
    assert done.code == 2
    assert "what anp learns depends on width" in done.err


def test_an_exported_model_has_no_map(auscult: Run, plant: Path) -> None:
    clip = next((plant / "valve" / "test").glob("*.wav"))
    fitted, exported = plant / "knn.auscult", plant / "knn.onnx"
    assert auscult("fit", plant / "valve", "-d", "knn", "-o", fitted).code == 0
    done = auscult("export", fitted, "-o", exported, "--check", clip)
    assert done.code == 0, done.err
    done = auscult("explain", exported, clip, "-o", plant / "x.png")
    assert done.code == 2
    assert "an exported model has no map" in done.err
    assert done.err.count("\n") == 1
    assert not (plant / "x.png").exists()
