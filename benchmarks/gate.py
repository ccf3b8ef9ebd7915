"""Which detector is the best on six types of synthetic machines: without labels, and with them.

python benchmarks/gate.py --workers 2
python benchmarks/gate.py --labelled --budget 10 --test 10 --workers 2

Three plants (seeds), two machines of each type and plant: 60 clips of each machine to learn from, 20 healthy ones
(or --test) and at each of three severities 20 faulty ones to judge. Quick presets; a budget is the seconds of training
for each machine type, of which a model for one machine has its share, and one for all types the sum. A type's AUC is
the mean over its machines and the plants.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", AUSCULT_THREADS="1")

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from auscult.corpus import Clip, open_data
from auscult.corpus.synthetic import MACHINE_TYPES, write_plant
from auscult.detectors.registry import create
from auscult.parallel import available_cores
from auscult.store import Store

SEVERITIES = (0.5, 1.0, 2.0)
SEEDS = (31, 32, 33)
N_MACHINES, N_TRAIN = 2, 60


@dataclass(frozen=True)
class Rival:
    """A detector, what one model of it learns from (a type, one machine, all), and whose clips it has besides."""

    name: str
    scope: str = "type"
    outliers: str = ""
    settings: dict[str, Any] = field(default_factory=dict, hash=False)


UNLABELLED = [Rival("bank"), Rival("knn"), Rival("ae"), Rival("idnn")]
# As in the experiment `synthetic`. The longest first, so that no worker is left waiting for one at the end. Without
# augmentation-classifier: to make the variants of a type's clips takes longer than any budget that is of use here.
LABELLED = [
    Rival("multires", "all"),
    Rival("stgram", "all"),
    Rival("geco"),
    Rival("auddsr-annot", "type", "all-types", {"outlier_types": "all"}),
    Rival("proxy-outlier", "id", "same-type"),
    Rival("glow-aff", "id", "same-type"),
    Rival("mobilenetv2"),
    Rival("id-classifier"),
]


@dataclass
class Found:
    """AUCs in percent by machine type and severity, and the seconds that learning took for each type."""

    areas: dict[tuple[str, float], float]
    seconds: float


def make(home: Path, n_test: int) -> None:
    """Write the plants: healthy clips with the first severity, and the faulty ones of each."""
    for seed in SEEDS:
        for severity in SEVERITIES:
            first = severity == SEVERITIES[0]
            write_plant(
                home / str(seed) / f"{severity:g}",
                ids=N_MACHINES,
                train=N_TRAIN if first else 1,
                test_normal=n_test if first else 1,
                test_anomaly=n_test,
                severity=severity,
                seed=seed,
                workers=available_cores(),
            )


def clips(home: Path, seed: int, severity: float, split: str, condition: str) -> list[Clip]:
    """Those of a plant."""
    every = open_data(home / str(seed) / f"{severity:g}").clips()
    return [clip for clip in every if (clip.split, clip.condition) == (split, condition)]


def of(some: list[Clip], machine_type: str, machine_id: str = "") -> list[Clip]:
    """Those of a type, or of one of its machines."""
    return [c for c in some if c.machine_type == machine_type and machine_id in ("", c.machine_id)]


def found(home: Path, rival: Rival, seed: int, machine_types: tuple[str, ...], budget: float | None) -> Found:
    """Learn from some machine types of a plant, and judge them."""
    torch.set_num_threads(1)
    train = clips(home, seed, SEVERITIES[0], "train", "normal")
    healthy = clips(home, seed, SEVERITIES[0], "test", "normal")
    faulty = {severity: clips(home, seed, severity, "test", "anomaly") for severity in SEVERITIES}
    machines = sorted({(c.machine_type, c.machine_id) for c in train if c.machine_type in machine_types})
    parts: dict[str, list[list[tuple[str, str]]]] = {
        "all": [machines],
        "type": [[one for one in machines if one[0] == kind] for kind in machine_types],
        "id": [[one] for one in machines],
    }
    areas, seconds = defaultdict(list), 0.0
    for part in parts[rival.scope]:
        learnt = [clip for one in part for clip in of(train, *one)]
        others = [clip for clip in train if clip not in learnt]
        if rival.outliers == "same-type":
            others = of(others, part[0][0])
        detector = create(rival.name, "quick", rival.settings)
        store = Store(home / "store")
        store.collect([*learnt, *others], detector.front_end)
        began = time.perf_counter()
        detector.fit(
            learnt,
            outliers=others if rival.outliers else None,
            store=store,
            budget=budget and budget * len(part) / N_MACHINES,
            seed=seed,
        )
        seconds += time.perf_counter() - began
        for one in part:
            normal = detector.score(of(healthy, *one), workers=1)
            for severity in SEVERITIES:
                scores = np.concatenate([normal, detector.score(of(faulty[severity], *one), workers=1)])
                truth = np.repeat([0, 1], [len(normal), len(scores) - len(normal)])
                areas[one[0], severity].append(100 * float(roc_auc_score(truth, scores)))
    means = {key: float(np.mean(some)) for key, some in areas.items()}
    return Found(means, seconds / len(machine_types))


def main() -> None:
    """Run all, and print a table for each severity and one of their means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labelled", action="store_true", help="those that need IDs, or other machines' clips")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="of training; default: the preset's steps")
    parser.add_argument("--test", type=int, default=20, metavar="N", help="clips to judge, of each kind and machine")
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    rivals = LABELLED if asked.labelled else UNLABELLED
    areas: dict[tuple[str, str, float], list[float]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(asked.workers, mp_context=get_context("spawn")) as pool,
    ):
        home = Path(folder)
        make(home, asked.test)
        running = {}
        for rival in rivals:
            for seed in SEEDS:
                for kinds in [MACHINE_TYPES] if rival.scope == "all" else [(kind,) for kind in MACHINE_TYPES]:
                    running[pool.submit(found, home, rival, seed, kinds, asked.budget)] = rival.name, seed, kinds
        for one in as_completed(running):
            name, seed, kinds = running[one]
            result = one.result()
            seconds[name].append(result.seconds)
            for (kind, severity), area in result.areas.items():
                areas[name, kind, severity].append(area)
            told = " ".join(f"{area:.1f}" for area in result.areas.values())
            print(f"{name} {seed} {'+'.join(kinds)}: {told}", file=sys.stderr, flush=True)
    for severities in [*((one,) for one in SEVERITIES), SEVERITIES]:
        title = f"severity {severities[0]:g}" if len(severities) == 1 else "mean"
        print(f"\n| {title} | {' | '.join(MACHINE_TYPES)} | mean | fit, s a type |")
        print(f"|{'---|' * (len(MACHINE_TYPES) + 3)}")
        for rival in rivals:
            row = [np.mean([areas[rival.name, kind, one] for one in severities]) for kind in MACHINE_TYPES]
            cells = [f"{one:.1f}" for one in (*row, np.mean(row))]
            print(f"| {rival.name} | {' | '.join(cells)} | {np.mean(seconds[rival.name]):.0f} |")


if __name__ == "__main__":
    main()
