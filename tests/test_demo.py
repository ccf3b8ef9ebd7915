"""The whole job on a small synthetic plant."""

from pathlib import Path

import pytest

from auscult import demo
from auscult.corpus.synthetic import MACHINE_TYPES
from auscult.evaluation.scores import read_scores


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "CLIPS", {"ids": 1, "train": 4, "test_normal": 2, "test_anomaly": 2})
    monkeypatch.setattr(demo, "MACHINE_TYPES", MACHINE_TYPES[:2])


def test_from_nothing_to_a_report_and_not_twice(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, evaluation = demo.run_demo(tmp_path / "demo")
    assert page.stat().st_size > 10_000
    assert [line.machine_type for line in evaluation.by_type] == list(MACHINE_TYPES[:2])
    runs = sorted((tmp_path / "demo" / "runs").rglob("metrics.json"))
    assert len(runs) == 2
    for run in runs:
        assert (run.parent / "model.auscult").exists()
        assert len(read_scores(run.parent / "scores.csv")) == 4
    before = {run: run.stat().st_mtime_ns for run in runs}
    runs[0].unlink()
    again = demo.run_demo(tmp_path / "demo")[1]
    assert again.overall.as_dict() == evaluation.overall.as_dict()
    assert runs[0].exists()
    assert runs[1].stat().st_mtime_ns == before[runs[1]]


@pytest.mark.slow
def test_the_ae_finds_the_faults_of_every_type_but_not_all(tmp_path: Path) -> None:
    """At the default severity and noise the AE lands between 0.6 and 0.95 AUC on every type (three IDs each)."""
    import os

    from auscult.corpus import open_data
    from auscult.corpus.synthetic import write_plant
    from auscult.evaluation.protocol import evaluate
    from auscult.fitting import fit
    from auscult.scoring import score_table
    from auscult.store import Store

    workers = len(os.sched_getaffinity(0))
    plant = tmp_path / "plant"
    write_plant(plant, ids=3, train=80, test_normal=50, test_anomaly=50, workers=workers)
    areas = {}
    for machine_type in MACHINE_TYPES:
        data = open_data(plant).select(machine_type=machine_type)
        model = fit(data, "ae", store=Store(tmp_path / "store"))
        result = evaluate(score_table(model, data.for_scoring())).overall.auc
        assert result is not None
        areas[machine_type] = round(result.value, 3)
    assert all(0.6 <= area <= 0.95 for area in areas.values()), areas
