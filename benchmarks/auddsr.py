"""AudDSR's two stages at the paper's sizes: steps a second, and what they are spent on.

python benchmarks/auddsr.py                          # the paper's sizes, batches of 2
python benchmarks/auddsr.py --batch 16 --preset quick
python benchmarks/auddsr.py --batch 256 --device cuda --stage 1

*data*: batches of log-mels from memory, and masks of simulated anomalies; *quantiser*: nearest codes, and in stage 1
codes that follow; *network*: all the rest, backward pass and optimizer included. Shares hardly depend on the batch.
On a CPU one thread, and its own time alone counts, so that a busy machine disturbs little.
"""

from __future__ import annotations

import os

# Before torch is imported: one thread, as in `auscult fit`.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from auscult.detectors.auddsr import AudDSR, _Examples
from auscult.detectors.images import Images
from auscult.detectors.registry import create
from auscult.detectors.vqvae import VQVAE
from auscult.nn import dsr
from auscult.nn.quantiser import Quantiser

CLIPS = 64


class Clock:
    """Seconds spent on each part; of a part inside another one, only once, on the inner."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.inner = [0.0]

    def now(self) -> float:
        """Seconds of the processor's own time, or of a GPU that has finished."""
        if self.device == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside."""
        begun = self.now()
        self.inner.append(0.0)
        yield
        whole = self.now() - begun
        self.seconds[name] = self.seconds.get(name, 0.0) + whole - self.inner.pop()
        self.inner[-1] += whole

    def counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its time counted."""

        def timed(*arguments: Any, **more: Any) -> Any:
            with self.part(name):
                return function(*arguments, **more)

        return timed


def steps(stage: int, preset: str, batch: int, device: str, repeats: int) -> dict[str, float]:
    """Seconds a step of each part, the first step, in which codes begin, left out."""
    made = create("vqvae" if stage == 1 else "auddsr", preset)
    assert isinstance(made, VQVAE | AudDSR)
    rng = np.random.default_rng(0)
    spectra = [(rng.standard_normal((made.frames, 128)) * 6 - 40).astype(np.float32) for _ in range(CLIPS)]
    images = Images(spectra, made.frames, batch)
    examples: Any = images if isinstance(made, VQVAE) else _Examples(images, [], 0, batch // 2, 0.5)
    torch.manual_seed(0)
    network: Any = made.build().to(device).train()
    (network if stage == 1 else network.general).levels.learn(spectra)
    optimizer = torch.optim.Adam(network.parameters() if stage == 1 else network.trained(), lr=2e-4, fused=True)
    clock = Clock(device)
    for number in range(1 + repeats):
        with clock.part("data"):
            gathered = examples.gather(torch.arange(batch) % CLIPS)
            parts = gathered if isinstance(gathered, tuple) else (gathered,)
            moved = tuple(part.to(device) for part in parts)
        with clock.part("network"):
            optimizer.zero_grad(set_to_none=True)
            made._loss(network, moved if stage == 2 else moved[0]).backward()
            optimizer.step()
        if number == 0:
            for method in ("nearest", "_follow", "_restart"):
                setattr(Quantiser, method, clock.counted("quantiser", getattr(Quantiser, method)))
            dsr.drawn_codes = clock.counted("quantiser", dsr.drawn_codes)
            clock.seconds.clear()
    return {part: seconds / repeats for part, seconds in clock.seconds.items()}


def main() -> None:
    """Print one row a stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", type=int, choices=(1, 2), help="default: both")
    parser.add_argument("--preset", default="paper", choices=["paper", "quick"])
    parser.add_argument("--batch", type=int, default=2, help="images in a step; the paper has 256 and 16")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=2, help="steps to average over")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| stage | batch | steps/s | data, % | quantiser, % | network, % | seconds an image |\n" + "|---" * 7 + "|")
    for stage in (asked.stage,) if asked.stage else (1, 2):
        seconds = steps(stage, asked.preset, asked.batch, asked.device, asked.repeats)
        whole = sum(seconds.values())
        shares = " | ".join(f"{100 * seconds[part] / whole:.1f}" for part in ("data", "quantiser", "network"))
        print(f"| {stage} | {asked.batch} | {1 / whole:.3f} | {shares} | {whole / asked.batch:.3f} |", flush=True)
        if asked.device == "cuda":
            print(f"  peak memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
