"""One run: learn, judge, evaluate, and leave a folder in which metrics.json, written last, says that it is whole."""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auscult.benchmark.selection import Selection, read_clips_of
from auscult.errors import AuscultError
from auscult.files import atomic, sweep

if TYPE_CHECKING:
    from auscult.corpus import Manifest
    from auscult.model import Model

METRICS = "metrics.json"
MODEL = "model.auscult"
_BEGUN = "run.json"
_FAILURE = "failure.txt"
_PARTIAL = "scores.csv.partial"


@dataclass(frozen=True)
class Job:
    """All that a worker must know of a run.

    Attributes
    ----------
    folder : Path
        Of the run.
    clips : Path
        The manifest of the experiment, and when it was changed.
    identity : str
        A digest of everything that determines the result.
    model_of : Path or None
        The folder of the run whose model is judged by; `settings` are then what it is scored with instead.
    facts : mapping
        What metrics.json says of the run besides.
    """

    folder: Path
    clips: Path
    clips_changed_ns: int
    identity: str
    detector: str
    preset: str
    settings: dict[str, Any]
    seed: int
    train: Selection
    test: Selection
    outliers: Selection | None = None
    model_of: Path | None = None
    reconstruction_error: bool = False
    device: str = "auto"
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """What a worker tells of a finished run."""

    seconds: float
    unjudged: int = 0
    unusable: int = 0


def is_done(folder: Path, identity: str) -> bool:
    """Whether a folder holds the finished run of this identity."""
    return str(read_metrics(folder).get("identity")) == identity


def read_metrics(folder: Path) -> dict[str, Any]:
    """What a finished run says of itself; empty if it is not finished."""
    try:
        facts = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def run_one(job: Job) -> Done:
    """Do a run, or what is left of it.

    Raises
    ------
    AuscultError
        If the detector refuses the data, or something cannot be read or written.
    """
    from auscult.evaluation.folder import write_folder
    from auscult.evaluation.protocol import evaluate
    from auscult.files import digest
    from auscult.scoring import score_table

    began = time.perf_counter()
    _take_over(job)
    clips = read_clips_of(job.clips, job.clips_changed_ns)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        model, unusable = _model(job, clips)
    fitted = time.perf_counter()
    partial = job.folder / _PARTIAL
    table = score_table(
        model,
        job.test.of(clips),
        partial=partial,
        identity=digest(job.folder / MODEL),
        resume=True,
        workers=1,
        reconstruction_error=job.reconstruction_error,
    )
    evaluation = evaluate(table)
    said = [str(one.message) for one in warned if one.category is UserWarning]
    facts = {
        **job.facts,
        "identity": job.identity,
        "parameters": model.detector.n_parameters(),
        "training_clips": model.provenance["n_training_clips"],
        "unusable_clips": unusable,
        "steps": model.provenance["training"]["steps"],
        "fit_seconds": 0.0 if job.model_of else max(fitted - began, model.provenance["training"]["seconds"]),
        "score_seconds": time.perf_counter() - fitted,
        "scored_clips": len(table),
        "said": list(dict.fromkeys([*model.provenance["notes"], *said])),
    }
    write_folder(job.folder, table, evaluation, facts)
    tidy(job.folder)
    return Done(time.perf_counter() - began, int(table["score"].isna().sum()), unusable)


def tidy(folder: Path) -> None:
    """Drop what a finished run needed only on its way; a kill may have come between its last file and this."""
    for left in (_PARTIAL, f"{MODEL}.checkpoint", _BEGUN):
        (folder / left).unlink(missing_ok=True)


def note_failure(folder: Path, error: str, details: str) -> None:
    """Leave word of why a run broke; it does not make it count as done."""
    if folder.is_dir():
        with atomic(folder / _FAILURE) as temporary:
            temporary.write_text(f"{error}\n\n{details}".rstrip() + "\n", encoding="utf-8")


def _take_over(job: Job) -> None:
    """Go on in a folder that an earlier attempt at this very run left; clear it of anything else."""
    begun = job.folder / _BEGUN
    try:
        same = json.loads(begun.read_text(encoding="utf-8")).get("identity") == job.identity
    except (OSError, ValueError, AttributeError):
        same = False
    if not same:
        # First of all what says that the folder is whole.
        (job.folder / METRICS).unlink(missing_ok=True)
        shutil.rmtree(job.folder, ignore_errors=True)
        with atomic(begun) as temporary:
            temporary.write_text(json.dumps({"identity": job.identity, **job.facts}, indent=2), encoding="utf-8")
    (job.folder / _FAILURE).unlink(missing_ok=True)
    sweep(job.folder, "**/*")


def _model(job: Job, clips: Manifest) -> tuple[Model, int]:
    """The run's model, made unless an earlier attempt left it; and how many clips could not be learnt from."""
    from auscult import model as models
    from auscult.fitting import fit

    file = job.folder / MODEL
    if file.exists():
        model = models.load(file)
        return model, int(model.provenance.get("n_unusable_clips", 0))
    if job.model_of is not None:
        model = _borrowed(job, job.model_of / MODEL, clips)
    else:
        outliers = job.outliers.of(clips).clips() if job.outliers else None
        model = fit(
            job.train.of(clips).clips(),
            job.detector,
            preset=job.preset,
            settings=job.settings,
            outliers=outliers,
            seed=job.seed,
            device=job.device,
            checkpoint=job.folder / f"{MODEL}.checkpoint",
            resume=True,
        )
        model.provenance["n_unusable_clips"] = len(model.unusable)
    model.save(file)
    return models.load(file), int(model.provenance.get("n_unusable_clips", 0))


def _borrowed(job: Job, file: Path, clips: Manifest) -> Model:
    """Another run's model, scored with other settings if there are any."""
    from auscult import model as models

    if not file.exists():
        raise AuscultError(f"its model is missing: {os.path.relpath(file, job.folder)}", "the run that makes it broke")
    model = models.load(file)
    if not job.settings:
        return model
    kept = set(model.provenance.get("calibration_clips", ()))
    healthy = [clip for clip in job.train.of(clips).clips() if clip.path in kept]
    return model.rescored(healthy, **job.settings)
