"""The attentive neural process against its arithmetic floor: speed of training and scoring, and peak memory.

python benchmarks/anp.py                 # every row, about two minutes
python benchmarks/anp.py --width 64      # another network

The floor is the arithmetic of a step over the rate that torch's matrix product reaches in the same run, in turns with
it: what no program on this machine could beat without fewer operations. Softmax, norms and residuals are not counted
as arithmetic, though they take time.
"""

from __future__ import annotations

import os

# Before torch is imported: one thread, as in `auscult score`'s workers.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import torch

from auscult.detectors.anp import ANP
from auscult.detectors.registry import create
from auscult.nn import masks
from auscult.nn.masks import Partition

POINTS = 640
SCORINGS = ("idnn", "rrc", "boot")


def forward_flops(n_context: int, n_targets: int, width: int, feed_forward: int, shared: bool) -> float:
    """Multiplications and additions of one window, all heads; shared weights are not computed for each."""
    dense = 2 * n_context * (3 * width + 2 * width**2)
    attention = 4 * n_context**2 * width
    layer = 2 * n_context * (4 * width**2 + 2 * width * feed_forward) + attention
    cross = 2 * n_context * width**2 + 2 * n_targets * n_context * width
    weights = 2 * n_targets * n_context * width + 2 * (n_context + n_targets) * width**2
    rest = 2 * n_targets * (width**2 + 2 * width * feed_forward)
    decoder = 2 * n_targets * ((width + 2) * width + width**2 + 2 * width)
    return dense + 2 * layer + cross + rest + decoder + (0 if shared else weights)


def in_turns(functions: Sequence[Callable[[], object]], repeats: int = 7) -> list[float]:
    """Seconds a call of each, the best of several rounds in which they take turns."""
    times = [float("inf")] * len(functions)
    for function in functions:
        function()
    for _ in range(repeats):
        for number, function in enumerate(functions):
            start = time.perf_counter()
            function()
            times[number] = min(times[number], time.perf_counter() - start)
    return times


def product() -> tuple[Callable[[], object], float]:
    """A matrix product large enough to reach the machine's rate and small enough to stay in its cache; its FLOPs."""
    one, other, out = torch.randn(768, 768), torch.randn(768, 768), torch.empty(768, 768)
    return (lambda: torch.mm(one, other, out=out)), 2.0 * 768**3


def row(what: str, n_windows: int, flops: float, job: Callable[[], object]) -> None:
    """Measure a job in turns with the product, and print windows a second and the ratio to the floor."""
    reference, reference_flops = product()
    taken, floor = in_turns([job, reference])
    rate = reference_flops / floor
    ratio = taken / (flops * n_windows / rate)
    print(
        f"{what}: {n_windows / taken:.0f} windows/s, {flops / 1e9:.2f} GFLOP each; "
        f"{ratio:.1f} times the floor at {rate / 1e9:.0f} GFLOP/s",
        flush=True,
    )


def detector(width: int, **settings: object) -> ANP:
    made = create("anp", "paper", {"width": width, "feed_forward": width, "heads": width // 16, **settings})
    assert isinstance(made, ANP)
    made.network = made.build().eval()
    return made


def training(width: int, n_windows: int = 32) -> None:
    """Forward, backward and Adam of one batch, under a mask of the usual size: one frame and one band."""
    made = detector(width)
    assert made.network is not None
    network = made.network.train()
    optimizer, windows = made.optimizer(network), torch.randn(n_windows, POINTS) * 6 - 40
    mask = masks.hide(5, 128, frames=[1], bands=[40])
    n_targets = int(mask.sum())
    flops = 3 * forward_flops(POINTS - n_targets, n_targets, width, width, shared=True)
    sides = Partition.of(mask)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        _, means, log_sigmas = network(windows, sides.context, sides.target)
        loss = (log_sigmas + (windows[:, sides.target, None] - means).square() / (2 * log_sigmas).exp()).mean()
        loss.backward()
        optimizer.step()

    row(f"training, width {width}, batches of {n_windows}", n_windows, flops, step)


def scoring(width: int, n_windows: int = 309) -> None:
    """The windows of a ten-second clip under each masking."""
    logmel = torch.randn(n_windows + 4, 128) * 6 - 40
    for masking in SCORINGS:
        made = detector(width, masking=masking, score_by="likelihood")
        if masking == "boot":
            passes = [(400, 240, True), (504, 136, False)]
        else:
            targets = [int(mask.sum()) for mask in made._fixed_masks()]
            passes = [(POINTS - n, n, True) for n in targets]
        flops = sum(forward_flops(c, t, width, width, shared) for c, t, shared in passes)
        with torch.inference_mode():
            row(f"scoring by {masking}, width {width}", n_windows, flops, lambda made=made: made.score_logmel(logmel))


def memory(width: int) -> None:
    """Peak memory of training and of scoring, each in a process of its own."""
    for job in ("training", "scoring"):
        done = subprocess.run(
            [sys.executable, __file__, "--width", str(width), "--only", job], capture_output=True, text=True, check=True
        )
        print(
            f"{job}, width {width}: peak memory {done.stdout.splitlines()[-1]} MiB, torch itself included", flush=True
        )


def main() -> None:
    """Print a row for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128, help="units of every layer, a multiple of 16")
    parser.add_argument("--only", choices=["training", "scoring"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    jobs = {"training": training, "scoring": scoring}
    for name, job in jobs.items():
        if asked.only in (None, name):
            job(asked.width)
    if asked.only is None:
        memory(asked.width)
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10)


if __name__ == "__main__":
    main()
