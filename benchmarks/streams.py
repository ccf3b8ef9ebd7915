"""How many live streams one core keeps up with, how late the judgements are, and whether the memory stays flat.

    python benchmarks/streams.py [--detector ae] [--window 10] [--hop 1] [--seconds 20] [--hours 1]

Each stream is a watch of its own (ring, frames, rules), all share one model and one thread, as they would in a program
that watches a plant. Sound comes a hop at a time, the streams evenly spread over the hop.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", AUSCULT_THREADS="1")

import numpy as np
import psutil

import auscult
from auscult.corpus import Clip
from auscult.model import Model
from auscult.monitor.events import Event, Judged
from auscult.monitor.sinks import Calls
from auscult.monitor.source import Chunk
from auscult.monitor.watch import Watch, WatchSettings
from auscult.parallel import torch_threads

RATE = 16_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", default="ae")
    parser.add_argument("--window", type=float, default=10.0, help="seconds judged at once")
    parser.add_argument("--hop", type=float, default=1.0, help="seconds between two judgements")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the run in real time")
    parser.add_argument("--hours", type=float, default=1.0, help="of one stream, for its memory")
    how = parser.parse_args()
    model = fitted(how.detector)
    settings = WatchSettings(window=how.window, hop=how.hop, show=False)
    with torch_threads(1):
        each = seconds_a_hop(model, settings)
        most = int(how.hop / each)
        print(f"{how.detector}, windows of {how.window:g} s every {how.hop:g} s, one core:")
        print(f"  {1000 * each:.2f} ms of computing a hop and stream: at most {most} streams")
        for n_streams in (100, 200, most // 2, most * 3 // 4):
            late = latencies(model, settings, n_streams, how.seconds)
            middle, worst = np.percentile(late, [50, 99])
            kept = "keeps up" if worst < how.hop else "falls behind"
            print(f"  {n_streams:5d} streams: latency p50 {1000 * middle:.1f} ms, p99 {1000 * worst:.1f} ms: {kept}")
        grown, factor = memory(model, settings, how.hours)
    print(f"  {how.hours:g} h of one stream: memory grew by {grown:.1f} MiB, real-time factor {factor:.5f}")


def fitted(detector: str) -> Model:
    """A model of noise: what it has learnt does not change how long it takes."""
    random = np.random.default_rng(0)
    clips = [
        Clip(f"{k}", samples=random.normal(0, 0.05, 10 * RATE).astype(np.float32), rate=RATE, condition="normal")
        for k in range(40)
    ]
    settings = {"max_steps": 20} if detector in ("ae", "idnn", "pae", "group-made") else {}
    return auscult.fit(clips, detector, settings=settings)


def sounds(seconds: float) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.normal(0, 0.05, (round(seconds * RATE), 1)).astype(np.float32) for _ in range(64)]


def seconds_a_hop(model: Model, settings: WatchSettings, n_streams: int = 20, n_hops: int = 30) -> float:
    """Computing for a hop of one of several streams, which share caches; its own time, whatever else is running."""
    watches = [Watch(model, settings) for _ in range(n_streams)]
    pool = sounds(settings.hop)
    warm_up = round((settings.window or 10.0) / settings.hop) + 2
    for hop in range(warm_up + n_hops):
        if hop == warm_up:
            began = time.process_time()
        for number, watch in enumerate(watches):
            watch.hear(Chunk(pool[(hop + number) % len(pool)], RATE))
    return (time.process_time() - began) / (n_hops * n_streams)


def latencies(model: Model, settings: WatchSettings, n_streams: int, seconds: float) -> list[float]:
    """Seconds from the arrival of sound to the judgement, in real time."""
    late: list[float] = []
    arrived = 0.0

    def note(event: Event) -> None:
        if isinstance(event, Judged):
            late.append(time.monotonic() - arrived)

    watches = [Watch(model, settings, sinks=[Calls(note)]) for _ in range(max(1, n_streams))]
    pool = sounds(settings.hop)
    for watch in watches:  # full windows from the beginning
        watch.hear(Chunk(np.concatenate(pool[: round((settings.window or 10.0) / settings.hop) + 1]), RATE))
    late.clear()
    began = time.monotonic()
    for tick in range(round(seconds / settings.hop * len(watches))):
        arrived = began + tick * settings.hop / len(watches)
        time.sleep(max(0.0, arrived - time.monotonic()))
        watches[tick % len(watches)].hear(Chunk(pool[tick % len(pool)], RATE))
    return late


def memory(model: Model, settings: WatchSettings, hours: float) -> tuple[float, float]:
    """By how many MiB a stream grows, from its fifth minute on; and its real-time factor."""
    watch, pool, process = Watch(model, settings), sounds(settings.hop), psutil.Process()
    n_hops, settled = round(hours * 3600 / settings.hop), round(300 / settings.hop)
    began = time.perf_counter()
    before = 0
    for hop in range(n_hops):
        watch.hear(Chunk(pool[hop % len(pool)], RATE))
        if hop == min(settled, n_hops // 2):
            before = process.memory_info().rss
    return (process.memory_info().rss - before) / 2**20, (time.perf_counter() - began) / (hours * 3600)


if __name__ == "__main__":
    main()
