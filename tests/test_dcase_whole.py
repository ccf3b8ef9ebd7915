"""The whole way with one of the later years: download, index, fit, score, evaluate, files for the evaluator."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

from archive_server import Site
from auscult.corpus.download_catalogue import BASELINE
from conftest import Run, machine_sound, write_wav
from test_download import site  # noqa: F401  (a fixture)
from test_official import official_2022

MACHINE = "bandsaw"


def archive(folder: Path, clips: dict[str, tuple[int, bool]]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        for name, (seed, faulty) in clips.items():
            sound = machine_sound(seed, seconds=1, faulty=faulty, pitch=180 if "source" in name or seed % 2 else 200)
            packed.write(write_wav(folder / "clip.wav", sound), name)
    return stream.getvalue()


@pytest.fixture
def bandsaw(site: Site, tmp_path: Path) -> Site:  # noqa: F811
    """A year's evaluation machine, scaled down: 24 + 4 clips to learn from, 24 to judge."""
    train = {
        f"{MACHINE}/train/section_00_{domain}_train_normal_{k:04}_vel_{k % 3}.wav": (k, False)
        for k, domain in enumerate(["source"] * 24 + ["target"] * 4)
    }
    truth = [(k, "source" if k % 2 else "target", "anomaly" if k % 3 == 0 else "normal") for k in range(24)]
    test = {f"{MACHINE}/test/section_00_{k:04}.wav": (100 + k, c == "anomaly") for k, _, c in truth}
    lines = [f"section_00_{k:04}.wav,section_00_{d}_test_{c}_{k:04}_vel_1.wav" for k, d, c in truth]
    site.records["7830345"] = {f"eval_data_{MACHINE}_train.zip": archive(tmp_path / "made", train)}
    site.records["7860847"] = {f"eval_data_{MACHINE}_test.zip": archive(tmp_path / "made", test)}
    site.repositories[f"{BASELINE}/datasets"] = {"eval_data_list_2023.csv": "\n".join([MACHINE, *lines, ""]).encode()}
    evaluator = tmp_path / "evaluator"
    for kind, column, word in (("data", 2, "anomaly"), ("domain", 1, "target")):
        file = evaluator / f"ground_truth_{kind}" / f"ground_truth_{MACHINE}_section_00_test.csv"
        file.parent.mkdir(parents=True)
        file.write_text("".join(f"section_00_{row[0]:04}.wav,{int(row[column] == word)}\n" for row in truth))
    return site


def test_from_the_archive_to_the_evaluator(
    bandsaw: Site, tmp_path: Path, auscult: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The published sums are those of the true archives.
    monkeypatch.setattr("auscult.corpus.download_catalogue.CORPORA", _without_sums())
    data = tmp_path / "data" / "dcase2023"
    for words in (
        ("download", "dcase2023", "--machine-type", MACHINE, "-o", tmp_path / "data"),
        ("index", data, "-o", tmp_path / "manifest.csv"),
        ("fit", data, "-d", "knn", "--false-alarm-rate", "0.2", "-o", tmp_path / "m.auscult"),
        ("score", tmp_path / "m.auscult", data, "-o", tmp_path / "scores.csv"),
    ):
        done = auscult(*words)
        assert done.code == 0, done.err
    done = auscult(
        *("evaluate", tmp_path / "scores.csv", "--protocol", "dcase2023", "--json", "--submission", tmp_path / "team")
    )
    assert done.code == 0, done.err
    said = json.loads(done.out)["overall"]
    theirs = official_2022(tmp_path / "team", tmp_path / "evaluator")
    assert said["official_score"] == pytest.approx(theirs["official"], abs=1e-9)
    for domain in ("source", "target"):
        expected = theirs["domains"][MACHINE, "section_00", domain]
        own = said["domains"][domain]
        assert [own[n] for n in ("auc", "precision", "recall", "f1")] == pytest.approx(list(expected), abs=1e-9)
    assert (said["n_normal"], said["n_anomaly"]) == (16, 8)
    assert said["auc"] > 0.8


def _without_sums() -> dict[str, object]:
    from dataclasses import replace

    from auscult.corpus.download_catalogue import CORPORA

    return {name: replace(corpus, md5={}) for name, corpus in CORPORA.items()}
