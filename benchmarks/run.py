"""Speed and memory beside what users have now, as ratios taken in one run on one machine.

python benchmarks/run.py                # all
python benchmarks/run.py logmel ae      # some
python benchmarks/run.py --markdown     # for docs/benchmarks.md
"""

from __future__ import annotations

import os

# Before torch and numpy are imported: every measurement says how many threads it uses.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

RATE = 16_000
SECONDS = 10


def best(function: Callable[[], object], repeats: int = 15, number: int = 5) -> float:
    """Seconds a call, the best of several rounds: what the machine can do, whatever else it is doing."""
    function()
    rounds = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(number):
            function()
        rounds.append((time.perf_counter() - start) / number)
    return min(rounds)


def interleaved(functions: dict[str, Callable[[], object]], repeats: int = 15, number: int = 5) -> dict[str, float]:
    """`best` of several functions, taking turns so that all meet the same disturbances."""
    times = {name: float("inf") for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(number):
                function()
            times[name] = min(times[name], (time.perf_counter() - start) / number)
    return times


def sounds() -> dict[str, np.ndarray]:
    """Ten-second clips: white noise, and every synthetic machine."""
    from auscult.corpus.synthetic import MACHINE_TYPES, machine_ids, synthesise

    noise = np.random.default_rng(0).standard_normal(RATE * SECONDS).astype(np.float32) * 0.1
    made = {"white noise": noise}
    for machine_type in MACHINE_TYPES:
        clip = synthesise(machine_type, machine_ids(machine_type, 1)[0], seed=0, index=0)
        made[machine_type] = np.ascontiguousarray(clip.samples[: RATE * SECONDS], dtype=np.float32)
    return made


def logmel() -> list[tuple[str, str]]:
    """Log-mel extraction on one core, against the librosa route of the DCASE 2020 baseline."""
    import librosa
    import torch

    from auscult.features import FrontEnd

    torch.set_num_threads(1)

    def baseline(wave: np.ndarray) -> np.ndarray:
        mel = librosa.feature.melspectrogram(y=wave, sr=RATE, n_fft=1024, hop_length=512, n_mels=128, power=2.0)
        return 20.0 / 2.0 * np.log10(mel + sys.float_info.epsilon)

    rows = []
    fronts = {p: FrontEnd(precision=p) for p in ("auto", "float32", "float64")}  # type: ignore[arg-type]
    for name, wave in sounds().items():
        rates, ratios = {}, []
        for precision, front in fronts.items():
            # Fifty clips in a row, as when a folder is read.
            both = {"librosa": lambda w=wave: baseline(w), precision: lambda f=front, w=wave: f.logmel(w)}
            times = interleaved(both, repeats=10, number=50)
            ratios.append(f"{precision} {times['librosa'] / times[precision]:.1f}x")
            rates |= {route: 1 / seconds for route, seconds in times.items()}
        rows.append(
            (
                f"log-mel, {name}, one core",
                f"{rates['auto']:.0f} clips/s; librosa {rates['librosa']:.0f}; faster by: {', '.join(ratios)}",
            )
        )
    return rows


def training() -> list[tuple[str, str]]:
    """AE training steps, as a share of the rate torch's matrix product reaches at the same shapes."""
    import torch

    from auscult.detectors.registry import create
    from auscult.store import Windows
    from auscult.training import Plan, Run, train

    rows = []
    for name in ("ae", "idnn"):
        detector = create(name)
        network = detector.build()  # type: ignore[attr-defined]
        linear = [m for m in network if isinstance(m, torch.nn.Linear)]
        spectra = np.random.default_rng(0).standard_normal((400 * 313, 128)).astype(np.float32)
        windows = Windows([spectra[k * 313 : (k + 1) * 313] for k in range(400)], 5)
        batch = detector.config.batch_size  # type: ignore[attr-defined]
        for threads in dict.fromkeys((1, len(os.sched_getaffinity(0)))):
            torch.set_num_threads(threads)
            shapes = [(m.in_features, m.out_features) for m in linear]
            operands = [(torch.randn(batch, i), torch.randn(o, i), torch.randn(batch, o)) for i, o in shapes]

            def products(operands: list[tuple[torch.Tensor, ...]] = operands) -> None:
                for k, (x, w, g) in enumerate(operands):
                    _ = x @ w.T
                    _ = g.T @ x
                    if k:
                        _ = g @ w

            steps = 150
            optimizer = detector.optimizer(network)  # type: ignore[attr-defined]
            floors, rates = [], []
            for turn in range(5):
                floors.append(best(products, repeats=4, number=10))
                plan = Plan(10**6, batch, max_steps=steps)
                log = train(network, detector.loss, windows, optimizer, plan, seed=turn, run=Run(threads=threads))  # type: ignore[attr-defined]
                rates.append(log.seconds / steps)
            flops = sum(2 * batch * i * o * (3 if k else 2) for k, (i, o) in enumerate(shapes))
            floor, step = min(floors), min(rates)
            rows.append(
                (
                    f"{name} training, {threads} thread{'s' * (threads > 1)}",
                    f"{1 / step:.0f} steps/s of {batch}, {flops / step / 1e9:.0f} GFLOP/s; matrix products alone "
                    f"{flops / floor / 1e9:.0f}: {floor / step:.0%} of their rate",
                )
            )
    return rows


def scoring() -> list[tuple[str, str]]:
    """`auscult score` of 1 000 ten-second clips from files, start-up included; time and peak memory."""
    import soundfile

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        rng = np.random.default_rng(0)
        pool = list(sounds().values())
        for split, count in (("train", 60), ("test", 1000)):
            (home / "m" / split).mkdir(parents=True)
            for k in range(count):
                wave = np.roll(pool[k % len(pool)], int(rng.integers(RATE))) * 0.5
                name = f"normal_id_00_{k:08d}.wav"
                soundfile.write(home / "m" / split / name, wave, RATE, subtype="PCM_16")
        env = {**os.environ, "AUSCULT_CACHE": str(home / "cache")}
        for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            env.pop(key)
        for name in ("ae", "idnn", "knn"):
            model = home / f"{name}.auscult"
            auscult = [sys.executable, "-m", "auscult"]
            fit = [*auscult, "fit", str(home / "m"), "-d", name, "-o", str(model)]
            steps = ["--set", "max_steps=50"] if name != "knn" else []
            subprocess.run([*fit, *steps], check=True, capture_output=True, env=env)
            score = [*auscult, "score", str(model), str(home / "m"), "-o", str(home / "s.csv")]
            times = []
            for _ in range(3):
                start = time.perf_counter()
                subprocess.run(score, check=True, capture_output=True, env=env)
                times.append(time.perf_counter() - start)
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
            rows.append(
                (
                    f"score 1 000 clips of 10 s, {name}, start-up included",
                    f"{min(times):.2f} s: {1000 * SECONDS / min(times):,.0f} times real time; peak memory of any "
                    f"command so far {peak:.0f} MiB",
                )
            )
    return rows


def corpus() -> list[tuple[str, str]]:
    """Fitting on 20 000 ten-second clips: peak memory of the process that does it."""
    program = """
import resource, sys, tempfile, time
import numpy as np
from pathlib import Path
import torch
from auscult.detectors.registry import create
from auscult.store import LogMels, Store
from auscult.corpus import Clip
n, frames = 20_000, 313
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "frames"
    block = np.random.default_rng(0).standard_normal((100 * frames, 128)).astype(np.float32)
    with open(path, "wb") as file:
        for _ in range(n // 100):
            file.write(block.data)
    base = np.asarray(np.memmap(path, np.float32, "r", shape=(n * frames, 128)))
    spectra = [base[k * frames : (k + 1) * frames] for k in range(n)]
    class Made(Store):
        def collect(self, clips, front_end):
            return LogMels(list(clips), spectra)
    detector = create("ae", "quick", {"max_steps": 600})
    start = time.perf_counter()
    detector.fit([Clip(str(k)) for k in range(n)], store=Made(folder))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, time.perf_counter() - start)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    peak, seconds = map(float, done.stdout.split())
    return [
        (
            "fit ae on 20 000 clips of 10 s, 600 steps",
            f"peak memory {peak:.2f} GiB, the mapped log-mels included; {seconds:.0f} s",
        )
    ]


SUITES = {"logmel": logmel, "training": training, "scoring": scoring, "corpus": corpus}


def main() -> None:
    """Run the suites asked for and print a row for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", choices=[*SUITES, []], help="which; default all")
    parser.add_argument("--markdown", action="store_true", help="print a table")
    asked = parser.parse_args()
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    print(f"{cpu}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}\n", flush=True)
    if asked.markdown:
        print("| what | measured |\n|---|---|")
    for suite in asked.suites or SUITES:
        for what, measured in SUITES[suite]():
            print(f"| {what} | {measured} |" if asked.markdown else f"{what}\n    {measured}", flush=True)


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


if __name__ == "__main__":
    main()
