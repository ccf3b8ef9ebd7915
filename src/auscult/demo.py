"""A synthetic plant from end to end: make it, learn it, judge it, report on it."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from auscult.corpus import open_data
from auscult.corpus.synthetic import MACHINE_TYPES, write_plant
from auscult.evaluation.folder import write_folder
from auscult.evaluation.protocol import evaluate
from auscult.evaluation.report import write_report
from auscult.evaluation.results import Evaluation
from auscult.evaluation.scores import read_scores
from auscult.files import check_writable
from auscult.fitting import fit
from auscult.parallel import available_cores
from auscult.progress import progress
from auscult.scoring import score_table
from auscult.store import Store

CLIPS = {"ids": 2, "train": 60, "test_normal": 15, "test_anomaly": 15}
"""Of each machine ID: enough to learn from and to calibrate on, and two minutes' work."""

FALSE_ALARM_RATE = 0.05
"""Twenty clips calibrate each model, and can promise no less than one in twenty-one."""

DETECTOR = "bank"
"""What `auscult fit` takes where nobody says otherwise."""


def run_demo(out: str | os.PathLike[str], *, seed: int = 0) -> tuple[Path, Evaluation]:
    """Make, fit, score, evaluate and report; what is there already is not done again.

    Parameters
    ----------
    out : path-like
        A folder for the plant (`plant/`), the runs (`runs/`) and `report.html`.
    seed : int
        Of the plant and of training.

    Returns
    -------
    page : Path
    evaluation : Evaluation
        Over all machine types.

    Raises
    ------
    AuscultError
        If the folder cannot be written to, or holds a plant of another seed.
    """
    import pandas as pd

    home = Path(out)
    page = home / "report.html"
    check_writable(page)
    workers = min(available_cores(), len(MACHINE_TYPES))
    plant, runs = home / "plant", home / "runs" / "demo" / DETECTOR
    n_clips = len(MACHINE_TYPES) * CLIPS["ids"] * (CLIPS["train"] + CLIPS["test_normal"] + CLIPS["test_anomaly"])
    with progress("Making machines", n_clips) as advance:
        write_plant(
            plant,
            ids=CLIPS["ids"],
            train=CLIPS["train"],
            test_normal=CLIPS["test_normal"],
            test_anomaly=CLIPS["test_anomaly"],
            seed=seed,
            workers=workers,
            progress=advance,
        )
    _run_all(plant, runs, home / "cache", seed, workers)
    scores = pd.concat([read_scores(runs / t / str(seed) / "scores.csv") for t in MACHINE_TYPES])
    with progress("Writing the report", None):
        write_report(home / "runs", page, title="Synthetic plant", top=3)
    return page, evaluate(scores.reset_index(drop=True))


def _run_all(plant: Path, runs: Path, cache: Path, seed: int, workers: int) -> None:
    """One run a machine type, each in a process of its own with one torch thread."""
    todo = [t for t in MACHINE_TYPES if not (runs / t / str(seed) / "metrics.json").exists()]
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with progress("Learning and judging", len(todo)) as advance:
        if workers == 1:
            for machine_type in todo:
                _run(plant, runs, cache, machine_type, seed)
                advance(note=machine_type)
            return
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            jobs = {pool.submit(_run, plant, runs, cache, t, seed): t for t in todo}
            for job in as_completed(jobs):
                job.result()
                advance(note=jobs[job])


def _run(plant: Path, runs: Path, cache: Path, machine_type: str, seed: int) -> None:
    """Fit and score one machine type; metrics.json, written last, says that the run is whole."""
    folder = runs / machine_type / str(seed)
    manifest = open_data(plant).select(machine_type=machine_type)
    model = fit(
        manifest,
        DETECTOR,
        false_alarm_rate=FALSE_ALARM_RATE,
        seed=seed,
        device="cpu",
        store=Store(cache),
    )
    model.save(folder / "model.auscult")
    table = score_table(model, manifest.for_scoring(), workers=1)
    write_folder(folder, table, evaluate(table))
