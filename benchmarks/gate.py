"""Whether the memory bank is the better detector: against ae, idnn and knn on six types of synthetic machines.

python benchmarks/gate.py --workers 2

Three severities, three plants (seeds), two machines of each type and plant: 60 clips of each machine to learn from,
20 healthy ones and at each severity 20 faulty ones to judge; one model for a type, quick presets at their full length.
A type's AUC is the mean over machines and plants.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", AUSCULT_THREADS="1")

import argparse
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from auscult.corpus import Clip
from auscult.corpus.synthetic import MACHINE_TYPES, RATE, faults_of, machine_ids, synthesise
from auscult.detectors.registry import create
from auscult.store import Store

DETECTORS = ("bank", "knn", "ae", "idnn")
SEVERITIES = (0.5, 1.0, 2.0)
SEEDS = (31, 32, 33)
N_MACHINES, N_TRAIN, N_TEST = 2, 60, 20

Areas = dict[tuple[str, float], float]
"""AUC in percent, by detector and severity."""


def clips(machine_type: str, machine: str, seed: int, split: str, count: int, severity: float | None) -> list[Clip]:
    """Clips of one machine: healthy, or with the faults of its type in turn."""
    faults = faults_of(machine_type)
    made = []
    for k in range(count):
        fault = None if severity is None else faults[k % len(faults)]
        sound = synthesise(
            machine_type, machine, fault=fault, severity=severity or 1.0, seed=seed, split=split, index=k
        )
        name = f"{machine_type} {machine} {split} {severity} {k}"
        made.append(Clip(name, None, machine_type, machine, samples=sound.samples, rate=RATE))
    return made


def areas(machine_type: str, seed: int) -> Areas:
    """What each detector has on one type of one plant, the mean over its machines."""
    torch.set_num_threads(1)
    machines = machine_ids(machine_type, N_MACHINES)
    train = [clip for machine in machines for clip in clips(machine_type, machine, seed, "train", N_TRAIN, None)]
    tested = [
        (
            clips(machine_type, machine, seed, "test", N_TEST, None),
            {severity: clips(machine_type, machine, seed, "test", N_TEST, severity) for severity in SEVERITIES},
        )
        for machine in machines
    ]
    found: dict[tuple[str, float], list[float]] = {}
    truth = np.repeat([0, 1], N_TEST)
    with tempfile.TemporaryDirectory() as folder:
        for name in DETECTORS:
            detector = create(name, "quick")
            detector.fit(train, store=Store(folder), seed=seed)
            for healthy, by_severity in tested:
                normal = detector.score(healthy, workers=1)
                for severity, faulty in by_severity.items():
                    scores = np.concatenate([normal, detector.score(faulty, workers=1)])
                    found.setdefault((name, severity), []).append(100 * float(roc_auc_score(truth, scores)))
    return {key: float(np.mean(some)) for key, some in found.items()}


def main() -> None:
    """Run all, and print a table for each severity."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    units = [(machine_type, seed) for machine_type in MACHINE_TYPES for seed in SEEDS]
    results: dict[tuple[str, int], Areas] = {}
    with ProcessPoolExecutor(asked.workers, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(areas, *unit): unit for unit in units}
        for one in as_completed(running):
            results[running[one]] = one.result()
            print(*running[one], {f"{n} {s:g}": round(area, 1) for (n, s), area in one.result().items()}, flush=True)
    for severity in SEVERITIES:
        print(
            f"\nseverity {severity:g}\n\n| | {' | '.join(MACHINE_TYPES)} | mean |\n|{'---|' * (len(MACHINE_TYPES) + 2)}"
        )
        for name in DETECTORS:
            row = [np.mean([results[kind, seed][name, severity] for seed in SEEDS]) for kind in MACHINE_TYPES]
            print(f"| {name} | {' | '.join(f'{one:.1f}' for one in row)} | {np.mean(row):.1f} |")


if __name__ == "__main__":
    main()
