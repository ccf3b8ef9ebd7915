"""Detectors inside detectors: a first stage from its model file, or parts that are fitted along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from auscult import modelfile
from auscult.corpus.clip import Clip
from auscult.detectors import registry
from auscult.detectors.base import Detector
from auscult.errors import AuscultError
from auscult.features import FrontEnd
from auscult.store import Store
from auscult.training import Run, TrainingLog

_PREFIX = "detector."
"""Of a fitted detector's tensors in its model file."""


def from_model_file(path: str, name: str, front_end: FrontEnd) -> Detector:
    """A fitted detector from its model file, without calibration and provenance.

    Parameters
    ----------
    path : str
    name : str
        Which detector it must be.
    front_end : FrontEnd
        What it must hear, but for the channel.

    Raises
    ------
    AuscultError
        If the file is missing, damaged, or of another detector or front end.
    """
    header, tensors = modelfile.read(path)
    if header.get("detector") != name:
        raise AuscultError(f"{path}: is a model of {header.get('detector')}, not of {name}", f"fit one: -d {name}")
    try:
        heard = FrontEnd.model_validate(header["front_end"])
        own = {k.removeprefix(_PREFIX): v for k, v in tensors.items() if k.startswith(_PREFIX)}
        detector = restored(name, header["settings"], own, header["facts"])
    except (KeyError, TypeError, ValueError) as error:
        raise AuscultError(f"{path}: the model file is damaged: it lacks {error}", "fit it anew") from error
    if heard.model_copy(update={"channel": front_end.channel}) != front_end:
        raise AuscultError(
            f"{path}: was fitted on another front end ({detector.config.front_end})",
            f"use the same: --set front_end={detector.config.front_end}",
        )
    return detector


def restored(name: str, settings: Mapping[str, Any], tensors: dict[str, Any], facts: dict[str, Any]) -> Detector:
    """A fitted detector from what was kept of it.

    Raises
    ------
    AuscultError
        If that does not fit.
    """
    kind = registry.get(name)
    detector = kind(registry.validate(kind, settings))
    detector.restore(tensors, facts)
    return detector


def fitted_along(
    stage: Detector,
    train: Sequence[Clip],
    store: Store,
    budget: float | None,
    seed: int,
    run: Run | None,
    part: str = "stage1",
    outliers: Sequence[Clip] | None = None,
) -> tuple[Detector, TrainingLog]:
    """Fit a first stage, or take it as it was when an interrupted run had fitted it.

    What is fitted is kept beside the run's checkpoint, so that a run that goes on does not train it again.

    Parameters
    ----------
    stage : Detector
        Not fitted.
    train, store, budget, seed, run, outliers
        See `Detector.fit`.
    part : str
        What tells this stage from others of the run.

    Returns
    -------
    stage : Detector
        Fitted.
    log : TrainingLog
    """
    if run is None or run.checkpoint is None:
        return stage, stage.fit(train, outliers=outliers, store=store, budget=budget, seed=seed, run=run)
    unfinished, finished = _kept(run.checkpoint, part)
    identity = f"{run.identity} {part}"
    if run.resume and finished.exists():
        header, tensors = modelfile.read(finished)
        if header["identity"] == identity:
            log = header["log"]
            known = restored(stage.name, header["settings"], tensors, header["facts"])
            return known, TrainingLog(**{**log, "losses": tuple(log["losses"])})
    own = replace(run, checkpoint=unfinished, identity=identity)
    log = stage.fit(train, outliers=outliers, store=store, budget=budget, seed=seed, run=own)
    tensors, facts = stage.state()
    settings = stage.config.model_dump(mode="json")
    modelfile.write(finished, {"identity": identity, "settings": settings, "facts": facts, "log": asdict(log)}, tensors)
    unfinished.unlink(missing_ok=True)
    return stage, log


def forget(run: Run | None, *parts: str) -> None:
    """Delete what `fitted_along` has kept of these parts beside the run's checkpoint."""
    if run is not None and run.checkpoint is not None:
        for part in parts:
            for kept in _kept(run.checkpoint, part):
                kept.unlink(missing_ok=True)


def content(stage: Detector) -> str:
    """What tells one fitted detector from another, as a digest."""
    tensors, facts = stage.state()
    return modelfile.digest(facts, {name: tensor.contiguous() for name, tensor in tensors.items()})


def _kept(checkpoint: Path, part: str) -> tuple[Path, Path]:
    """Checkpoint of a first stage, and what it became."""
    return checkpoint.with_name(f"{checkpoint.name}.{part}"), checkpoint.with_name(f"{checkpoint.name}.{part}-done")
