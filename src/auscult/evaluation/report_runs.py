"""The runs that a report is made from: tables of scores, the models beside them, and what belongs together."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from auscult.errors import AuscultError
from auscult.evaluation.scores import read_scores
from auscult.evaluation.words import sentence

if TYPE_CHECKING:
    import pandas as pd

    from auscult.model import Model


@dataclass(frozen=True)
class Run:
    """One table of scores, and what lies beside it."""

    folder: Path
    name: str
    table: pd.DataFrame
    model_file: Path | None
    detector: str


def find_runs(root: Path, load: Callable[[Path], Model]) -> tuple[list[Run], list[str]]:
    """Read every table of scores below a folder.

    Parameters
    ----------
    root : Path
    load : callable
        Reads a model file, for the name of a detector that is recorded nowhere else.

    Returns
    -------
    runs : list of Run
        One at least.
    notes : list of str
        Which tables were left out, and why.

    Raises
    ------
    AuscultError
        If there is no readable table.
    """
    remedy = "name the folder that `auscult score … -o FOLDER/scores.csv` or `auscult benchmark` wrote to"
    if not root.is_dir():
        raise AuscultError(f"{root}: there is no such folder", remedy)
    tables = sorted(root.rglob("scores.csv"))
    if not tables:
        raise AuscultError(f"{root}: there is no scores.csv in this folder or below it", remedy)
    runs, failures = [], []
    for file in tables:
        try:
            runs.append(_run(root, file))
        except AuscultError as error:
            failures.append(error)
    if not runs:
        raise failures[0]
    named = [run if run.detector else replace(run, detector=_detector(run, load)) for run in runs]
    return named, [f"Left out: {sentence(str(error))}" for error in failures]


def _run(root: Path, scores: Path) -> Run:
    home = scores.parent
    models = sorted(home.glob("*.auscult"))
    plain = [model for model in models if model.name == "model.auscult"] or models
    return Run(
        folder=home,
        name=home.relative_to(root).as_posix() if home != root else root.absolute().name,
        table=read_scores(scores),
        model_file=plain[0] if len(plain) == 1 else None,
        detector=_recorded_detector(home / "metrics.json"),
    )


def _recorded_detector(metrics: Path) -> str:
    """The detector's name as a run of the benchmark records it; else empty."""
    try:
        facts = json.loads(metrics.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    name = facts.get("detector") if isinstance(facts, dict) else None
    return name if isinstance(name, str) else ""


def _detector(run: Run, load: Callable[[Path], Model]) -> str:
    model, _ = read_model(run, load)
    return model.detector.name if model else f"an unnamed detector ({run.name})"


def read_model(run: Run, load: Callable[[Path], Model]) -> tuple[Model | None, str]:
    """Read the model that lies beside the scores; where there is none, None and a sentence that says so."""
    if run.model_file is None:
        return None, (
            f"No model file lies beside the scores in {run.name}: its clips are shown without anomaly map. "
            "Put the model (*.auscult) that gave the scores into that folder to see where they are strange."
        )
    try:
        return load(run.model_file), ""
    except AuscultError as error:
        return (
            None,
            f"The model of {run.name} could not be read, its clips are shown without anomaly map: {error}",
        )


def by_detector(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Group runs by detector, under its name; runs that judge the same machine (seeds, settings) stay apart."""
    names: tuple[Callable[[Run], str], ...] = (
        lambda run: run.detector,
        lambda run: f"{run.detector}, {run.folder.name}",
        lambda run: f"{run.detector}, {run.name}",
    )
    for name in names:
        groups: dict[str, list[Run]] = {}
        for run in runs:
            groups.setdefault(name(run), []).append(run)
        if not any(_overlap(members) for members in groups.values()):
            break
    return groups


def _overlap(runs: Sequence[Run]) -> bool:
    machines = Counter(
        pair for run in runs for pair in set(zip(run.table["machine_type"], run.table["machine_id"], strict=True))
    )
    return any(count > 1 for count in machines.values())
