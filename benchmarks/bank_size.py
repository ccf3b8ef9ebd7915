"""What the size of the memory bank costs and is worth: time to fit and to judge, and AUC with some of the clips kept.

python benchmarks/bank_size.py

Time: one thread's own, ten-second clips made of noise, described once and then varied; a clip judged from its
log-mel, the median of twenty rounds with what nine in ten of them lay between.
From a store: recordings of noise in files, each its own; the log-mels are there already, and a fresh process learns.
AUC: synthetic machines, 500 clips of each of two machines to learn from, 20 + 20 of each to judge, one model a type,
default severity; banks of fewer clips are drawn thrice.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", AUSCULT_THREADS="1")

import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
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
FILES = (1000, 10_000)
SECONDS, RATE = 10, 16_000


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


def from_store() -> None:
    """Print what it takes to learn from a thousand recordings, and from ten thousand."""
    with tempfile.TemporaryDirectory() as folder:
        clips = [Clip(name, Path(folder) / name) for name in (f"{k}.wav" for k in range(max(FILES)))]
        noise = np.random.default_rng(SEED).standard_normal((SECONDS + 1) * RATE)
        for k, clip in enumerate(clips):
            assert clip.file is not None
            start = k * RATE // len(clips)
            own = (1 + k % 7 / 10) * np.roll(noise, k)[start : start + SECONDS * RATE]
            soundfile.write(clip.file, 0.05 * own, RATE)
        store = Store(Path(folder) / "store")
        store.collect(clips, Bank(BankConfig()).front_end)
        for size in FILES:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                before, peak, seconds = pool.apply(learnt_from, (clips[:size], store))
            print(f"{size} clips in a store: learnt in {seconds:.1f} s, {peak - before} MB above {before}", flush=True)


def learnt_from(clips: list[Clip], store: Store) -> tuple[int, int, float]:
    """Megabytes that this process had held at most before learning, and has now, and seconds of learning."""
    torch.set_num_threads(1)
    # What the libraries take is not the bank's.
    Bank(BankConfig()).fit(clips[:30], store=store)
    before = _peak()
    begun = time.perf_counter()
    Bank(BankConfig()).fit(clips, store=store)
    return before, _peak(), time.perf_counter() - begun


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


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
    from_store()
    kept()
