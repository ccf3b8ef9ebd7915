"""What the size of the memory bank costs and is worth: time to fit and to judge, and AUC with some of the clips kept.

python benchmarks/bank_size.py

Time: one thread's own, ten-second clips made of noise, described once and then varied; a clip judged from its
log-mel, the median of twenty rounds with what nine in ten of them lay between.
AUC: synthetic machines, 500 clips of each of two machines to learn from, 20 + 20 of each to judge, one model a type,
default severity; banks of fewer clips are drawn thrice.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", AUSCULT_THREADS="1")

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from auscult.corpus import Clip
from auscult.corpus.synthetic import machine_ids
from auscult.detectors.bank import Bank
from auscult.detectors.bank_settings import BankConfig
from auscult.evaluation.metrics import figures
from auscult.store import Store
from machines import clips

SEED = 21
SIZES = (500, 1000, 2000)
KEPT = (1000, 500, 250, 100, 50, 25)
N_TRAIN, N_TEST = 500, 20
ROUNDS = 20


def timed() -> None:
    """Print seconds to fit banks, and milliseconds to judge a clip."""
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)
    logmels = [3 * torch.randn(313, 128, generator=rng) - 40 for _ in range(40)]
    bank = Bank(BankConfig())
    described = [bank.describe(logmel) for logmel in logmels]
    begun = time.process_time()
    for logmel in logmels:
        bank.describe(logmel)
    print(f"describe a clip: {1e3 * (time.process_time() - begun) / len(logmels):.1f} ms")
    for size in (100, *SIZES):
        statistics = {
            name: torch.stack([described[k % len(described)][name] for k in range(size)]) for name in described[0]
        }
        statistics = {name: one + torch.randn(one.shape, generator=rng) / 2 for name, one in statistics.items()}
        begun = time.process_time()
        bank.learn(statistics)
        learnt = time.process_time() - begun
        rounds = []
        for _ in range(ROUNDS):
            begun = time.process_time()
            with torch.inference_mode():
                for logmel in logmels:
                    bank.score_logmel(logmel)
            rounds.append(1e3 * (time.process_time() - begun) / len(logmels))
        low, middle, high = np.quantile(rounds, [0.05, 0.5, 0.95])
        judged = f"a clip judged in {middle:.1f} ms ({low:.1f} to {high:.1f})"
        print(f"{size} clips: learnt in {learnt:.1f} s, {judged}", flush=True)


def area(bank: Bank, tested: list[tuple[list[Clip], ...]]) -> float:
    """Mean AUC over machines, in percent."""
    areas = []
    for healthy, faulty in tested:
        truth = np.repeat([False, True], [len(healthy), len(faulty)])
        scores = np.concatenate([bank.score(healthy), bank.score(faulty)])
        areas.append(figures(truth, scores, resamples=1, seed=0)[0].value)
    return 100 * float(np.mean(areas))


def kept() -> None:
    """Print AUC by how many clips are kept."""
    print(f"\n| type | {' | '.join(str(n) for n in KEPT)} |\n|{'---|' * (len(KEPT) + 1)}")
    for machine_type in ("fan", "slider", "valve"):
        machines = machine_ids(machine_type, 2)
        parts = [clips(machine_type, machine, "train", "normal", N_TRAIN, seed=SEED) for machine in machines]
        train = [clip for part in parts for clip in part]
        tested = [
            tuple(clips(machine_type, machine, "test", truth, N_TEST, seed=SEED) for truth in ("normal", "anomaly"))
            for machine in machines
        ]
        row = []
        with tempfile.TemporaryDirectory() as folder:
            for most in KEPT:
                found = []
                for seed in range(1 if most >= len(train) else 3):
                    bank = Bank(BankConfig(most_clips=most))
                    bank.fit(train, store=Store(Path(folder)), seed=seed)
                    found.append(area(bank, tested))
                row.append(f"{np.mean(found):.1f}")
        print(f"| {machine_type} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    timed()
    kept()
