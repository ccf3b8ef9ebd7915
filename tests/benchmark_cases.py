"""A tiny experiment that several files of tests run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from conftest import run_auscult

SMALL_AE = {"max_steps": 20, "batch_size": 128, "width": 16}

TINY: dict[str, Any] = {
    "name": "tiny",
    "title": "A tiny experiment",
    "data": {"layout": "dcase2020"},
    "machine_types": ["pump", "fan"],
    "preset": "quick",
    "seeds": [0, 1],
    "rows": [
        {"name": "knn", "system": "k-NN", "detector": "knn", "note": "a note"},
        {"name": "knn-id", "system": "k-NN each", "detector": "knn", "scope": "id", "group": "one by one"},
        {
            "name": "ae",
            "system": "AE",
            "detector": "ae",
            "settings": SMALL_AE,
            "published": {
                "source": "a paper, Table 1",
                "figures": {"pump": [50.0, None], "fan": [80.0, 60.0]},
                "mean": [41.5, None],
                "by_id": {"pump": {"id_00": [99.5, 99.0]}},
            },
        },
        {
            "name": "ae-worst",
            "system": "AE, worst window",
            "detector": "ae",
            "settings": {**SMALL_AE, "aggregation": "max"},
            "model_of": "ae",
        },
        {
            "name": "soon",
            "system": "Soon",
            "detector": "not-there-yet",
            "published": {"source": "a paper, Table 1", "figures": {"pump": [70.5, 60.25]}},
        },
    ],
}


def run_tiny(folder: Path, data: Path) -> None:
    """Run the tiny experiment from the command line, undisturbed; its tables and runs are in `out`."""
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    done = run_auscult("benchmark", folder / "tiny.yaml", "-o", folder / "out", "--data", data, "--workers", 1)
    assert done.code == 0, done.err
