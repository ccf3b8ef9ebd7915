"""What `auscult benchmark` adds to each run: planning, fanning out, looking again, and the tables.

    python benchmarks/plans.py [--runs 1000] [--workers 2]

The work of a run is to copy what a finished run left. Milliseconds a run are the slope between two sizes of plan, so
that starting workers counts in neither; that start is told beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", AUSCULT_THREADS="1")

from auscult.benchmark.conducting import Request, conduct, describe
from auscult.benchmark.corpus import open_corpus
from auscult.benchmark.experiment import Experiment
from auscult.benchmark.plan import make_plan
from auscult.benchmark.running import METRICS, Done, Job
from auscult.corpus.synthetic import write_plant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_plant(home / "data", machine_types=["fan"], ids=1, train=6, test_normal=3, test_anomaly=3)
        conduct(Request(of(1), home / "real", home / "data", workers=1), _quiet)
        [done] = (home / "real").rglob(METRICS)
        few, many = (took(home, done.parent, n, asked.workers) for n in (asked.runs // 10, asked.runs))
        each = (many - few) / (asked.runs - asked.runs // 10)
        once = few - each * asked.runs / 10
        print(f"{asked.runs} runs, {asked.workers} workers: {1000 * each:.2f} ms a run, {once:.2f} s once")
        for n in (asked.runs, 2 * asked.runs, 4 * asked.runs):
            print(f"  planning {n} runs: {1000 * planning(home, n) / n:.3f} ms a run")


def of(n_runs: int) -> Experiment:
    """An experiment of so many runs."""
    row = {"name": "knn", "system": "knn", "detector": "knn"}
    facts = {"name": f"plan-{n_runs}", "title": "Runs", "data": {"layout": "dcase2020"}, "machine_types": ["fan"]}
    return Experiment.model_validate({**facts, "preset": "quick", "seeds": list(range(n_runs)), "rows": [row]})


def took(home: Path, like: Path, n_runs: int, workers: int) -> float:
    """Seconds of a whole benchmark of runs that cost nothing."""
    start = time.perf_counter()
    summary = conduct(Request(of(n_runs), home / "out", home / "data", workers=workers), _quiet, partial(copy, like))
    seconds = time.perf_counter() - start
    assert summary.results is not None
    assert not summary.broken
    return seconds


def copy(like: Path, job: Job) -> Done:
    """Leave what a finished run leaves."""
    shutil.copytree(like, job.folder, ignore=shutil.ignore_patterns("*.auscult", METRICS))
    facts = json.loads((like / METRICS).read_text())
    (job.folder / METRICS).write_text(json.dumps({**facts, **job.facts, "identity": job.identity}))
    return Done(0.0)


def planning(home: Path, n_runs: int) -> float:
    """Seconds to plan and to describe the plan."""
    experiment = of(n_runs)
    corpus = open_corpus(experiment, home, home / "data")
    clips = home / "clips.parquet"
    corpus.manifest.write(clips)
    start = time.perf_counter()
    plan = make_plan(experiment, corpus, home / "none", clips)
    describe(plan, {run.name: 1.0 for run in plan.runs}, 2)
    return time.perf_counter() - start


def _quiet(_: str) -> None:
    pass


if __name__ == "__main__":
    main()
