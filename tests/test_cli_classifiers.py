"""Classifiers from the command line: machines that cannot be told apart, and one machine alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conftest import Run, write_wav

SMALL = ["--set", "frames=16", "--set", "hop=8", "--set", "batch_size=16", "--set", "max_steps=20"]


@pytest.fixture
def twins(tmp_path: Path) -> Path:
    """Two machine IDs that sound alike."""
    rng = np.random.default_rng(1)
    for machine in ("id_00", "id_02"):
        for k in range(24):
            path = tmp_path / "fan" / "train" / f"normal_{machine}_{k:08d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_wav(path, rng.standard_normal(16_000) * 0.1)
    return tmp_path


def test_machines_that_sound_alike_are_told_of(auscult: Run, twins: Path) -> None:
    done = auscult("fit", twins / "fan", "-d", "id-classifier", *SMALL, "-o", twins / "m.auscult")
    assert done.code == 0, done.err
    assert "the machines sound alike" in done.err
    assert "UserWarning" not in done.err


@pytest.mark.parametrize("detector", ["id-classifier", "mobilenetv2", "stgram"])
def test_one_machine_is_refused_and_what_would_work_is_named(auscult: Run, twins: Path, detector: str) -> None:
    how = ("--machine-id", "id_00", "--set", "frames=32", "-o", twins / "m.auscult")
    done = auscult("fit", twins / "fan", "-d", detector, *how)
    assert done.code == 2
    assert "knn" in done.err
    assert "Traceback" not in done.err
    assert not (twins / "m.auscult").exists()
