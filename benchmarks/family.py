"""Detectors that train a network, against their arithmetic floor: windows a second, ratio to the floor, peak memory.

python benchmarks/family.py                      # every one that trains by epochs; see auddsr.py for the rest
python benchmarks/family.py --family density
python benchmarks/family.py anp pae              # some
python benchmarks/family.py --preset quick

The floor is the arithmetic that the network does (torch's own count of matrix products, convolutions and attention)
over the rate that torch's matrix product reaches in the same run, or for classifiers its convolution, in turns with
it: what no program on this machine could beat without fewer operations. Activations, norms and copies are not
counted, though they take time. One thread, and its own time alone counts, so that a busy machine disturbs little.
Training steps have the preset's batch, but at most 128 windows, of classifiers 32, so that the large networks fit the
patience of a benchmark.
"""

from __future__ import annotations

import os

# Before torch is imported: one thread, as in `auscult fit` and in the workers of `auscult score`.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from auscult.corpus import Clip
from auscult.detectors.base import Detector, Needs
from auscult.detectors.registry import create, detectors
from auscult.features import FrontEnd
from auscult.store import LogMels, Store

Shape = tuple[int, ...]
FAMILIES = ("reconstruction", "density", "classification")
FRAMES = 313
BATCH = {"classification": 32}
"""Windows in a step at most, where it is not 128."""

SOUND = (0.1 * np.random.default_rng(0).standard_normal(160_000)).astype(np.float32)


class Made(Store):
    """Log-mels of noise, whatever the clips are."""

    def collect(self, clips: Sequence[Clip], front_end: FrontEnd) -> LogMels:
        """One array for each clip."""
        rng = np.random.default_rng(0)
        noise = [(rng.standard_normal((FRAMES, front_end.n_mels)) * 6 - 40).astype(np.float32) for _ in clips]
        return LogMels(list(clips), noise)


def fitted(name: str, preset: str, steps: int, store: Store) -> tuple[Detector, float]:
    """A detector after so many steps, and the seconds of processor time that it took."""
    start = time.process_time()
    batch = batch_of(name, preset)
    made = create(name, preset, {"max_steps": steps, "epochs": 10**6, "batch_size": batch})
    clips = [noise(f"clip {k}", f"id_{k % 2:02d}") for k in range(20)]
    others = [noise(f"other {k}", "id_99") for k in range(20)] if Needs.OUTLIERS in made.needs else None
    made.fit(clips, outliers=others, store=store)
    return made, time.process_time() - start


def noise(name: str, machine_id: str) -> Clip:
    return Clip(name, machine_id=machine_id, samples=SOUND, rate=16_000)


def batch_of(name: str, preset: str) -> int:
    """Windows in a training step."""
    made = create(name, preset)
    return int(min(BATCH.get(made.family, 128), made.config.batch_size))  # type: ignore[attr-defined]


def product_rate() -> float:
    """FLOP/s of a matrix product large enough to reach the machine's rate and small enough to stay in its cache."""
    one, other, out = torch.randn(768, 768), torch.randn(768, 768), torch.empty(768, 768)
    return 2.0 * 768**3 / fastest(lambda: torch.mm(one, other, out=out))


def convolution_rate() -> float:
    """FLOP/s of a 3 x 3 convolution of 64 channels, channels last."""
    images = torch.randn(4, 64, 64, 64).contiguous(memory_format=torch.channels_last)
    kernels = torch.randn(64, 64, 3, 3).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return 2.0 * 4 * 64 * 64 * 64 * 64 * 9 / fastest(lambda: torch.conv2d(images, kernels, padding=1))


def fastest(job: Callable[[], object]) -> float:
    """Seconds of processor time, the least of twelve."""
    seconds = float("inf")
    for _ in range(12):
        start = time.process_time()
        job()
        seconds = min(seconds, time.process_time() - start)
    return seconds


def _attention(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(_: Shape, query: Shape, key: Shape, value: Shape, *__: object, **___: object) -> int:
    return 2 * int(sdpa_flop_count(query, key, value))


ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""What torch's counter does not know: the fused kernel of CPUs."""


def counted(job: object) -> float:
    """FLOPs of one call; without torch's fused transformer layers, which its counter does not look into."""
    torch.backends.mha.set_fastpath_enabled(False)
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        job()  # type: ignore[operator]
    torch.backends.mha.set_fastpath_enabled(True)
    return float(counter.get_total_flops())


def measure(name: str, preset: str) -> dict[str, float]:
    """Rates of one detector."""
    torch.set_num_threads(1)
    rate = convolution_rate if create(name).family == "classification" else product_rate
    with tempfile.TemporaryDirectory() as folder:
        store = Made(folder)
        one, two = (counted(lambda n=n: fitted(name, preset, n, store)) for n in (1, 2))
        rates = [rate()]
        made, begun = fitted(name, preset, 2, store)
        steps = int(np.clip(8 * 2 / begun, 4, 200))
        seconds = []
        for _ in range(3):
            # What is not a step (making the network, the noise) is in both.
            few, many = fitted(name, preset, 2, store)[1], fitted(name, preset, 2 + steps, store)[1]
            seconds.append((many - few) / steps)
            rates.append(rate())
        clip = noise("x", "id_00")
        logmel = torch.from_numpy(store.collect([clip], made.front_end).spectra[0].copy())
        with torch.inference_mode():
            flops = counted(lambda: made.score_of(clip, logmel))
            times = []
            for _ in range(4):
                start = time.process_time()
                made.score_of(clip, logmel)
                times.append(time.process_time() - start)
                rates.append(rate())
    best = max(rates)
    batch = batch_of(name, preset)
    return {
        "windows": batch / min(seconds),
        "step_gflop": (two - one) / batch / 1e9,
        "training": min(seconds) * best / (two - one),
        "clips": 1 / min(times),
        "clip_gflop": flops / 1e9,
        "scoring": min(times) * best / flops,
        "rate": best / 1e9,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    }


def main() -> None:
    """Print one row a detector, each measured in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detectors", nargs="*")
    parser.add_argument("--family", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--preset", default="paper", choices=["paper", "quick"])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.detectors[0], asked.preset)))
        return
    head = [
        "detector",
        "training, windows/s",
        "GFLOP a window",
        "times the floor",
        "scoring, clips/s",
        "GFLOP a clip",
        "times the floor",
        "peak memory, MiB",
    ]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    by_epochs = {name: kind for name, kind in detectors().items() if "epochs" in kind.Config.model_fields}
    for name in asked.detectors or [name for name, kind in by_epochs.items() if kind.family in asked.family]:
        command = [sys.executable, __file__, name, "--preset", asked.preset, "--one"]
        row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        print(
            f"| {name} | {row['windows']:,.0f} | {row['step_gflop']:.4f} | {row['training']:.1f} | {row['clips']:.1f} "
            f"| {row['clip_gflop']:.2f} | {row['scoring']:.1f} | {row['memory']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
