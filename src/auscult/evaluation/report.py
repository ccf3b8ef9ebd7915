"""Scores, models and recordings become one page that needs nothing else: no network, no scripts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auscult.errors import AuscultError
from auscult.evaluation.charts import CHART, histogram, roc_charts
from auscult.evaluation.pages import render_page
from auscult.evaluation.protocol import evaluate
from auscult.evaluation.report_clips import Budget, make_card
from auscult.evaluation.report_runs import Run, by_detector, find_runs, read_model
from auscult.evaluation.report_systems import Gallery, System, model_facts
from auscult.evaluation.scales import MAP_COLOURS
from auscult.files import atomic, check_writable

if TYPE_CHECKING:
    from auscult.model import Model

MOST_CLIPS = 48
"""So many clips are shown on a page, as long as each machine can show one."""

MEDIA_BUDGET = 7_000_000
"""Bytes of pictures and sound on a page; a mail server takes it."""


def write_report(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    title: str | None = None,
    data: str | os.PathLike[str] | None = None,
    top: int = 8,
    load_model: Callable[[Path], Model] | None = None,
) -> None:
    """Write everything that is known of the scores below a folder as one self-contained page.

    Parameters
    ----------
    folder : path-like
        Holds, anywhere below it, one or more `scores.csv`; a `*.auscult` model and a `metrics.json` beside
        one are used where they are there.
    output : path-like
        The page, HTML.
    title : str, optional
        What the page is headed with; by default the folder's name.
    data : path-like, optional
        Folder, or manifest in the folder, from which the clips' paths start, where they start neither
        from the working directory nor from the scores.
    top : int
        How many of the most anomalous clips of each machine to show; fewer where there are many machines.
    load_model : callable, optional
        Reads a model file; by default `auscult.model.load`.

    Raises
    ------
    AuscultError
        If there are no readable scores below the folder, or the page cannot be written.
    """
    if top < 0:
        raise AuscultError(f"top is {top}", "give the number of clips to show, 0 or more")
    if data is not None and not Path(data).exists():
        raise AuscultError(f"{data}: there is no such folder or manifest", "name the folder that holds the clips")
    check_writable(output)
    root = Path(folder)
    load = load_model or _load_model
    runs, notes = find_runs(root, load)
    systems = _systems(runs)
    budget = Budget(MEDIA_BUDGET)
    n_groups = sum(run.table["machine_type"].nunique() for run in runs)
    each = min(top, max(1, MOST_CLIPS // n_groups))
    for system in systems:
        _fill(system, each, Path(data) if data else None, load, budget)
    if budget.exceeded:
        notes.append("To keep the page small, some of the clips below are listed without picture and sound.")
    page = _render(root.absolute().name if title is None else title, systems, notes)
    with atomic(output) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")


def _load_model(file: Path) -> Model:
    from auscult.model import load

    return load(file)


def _systems(runs: Sequence[Run]) -> list[System]:
    import pandas as pd

    systems = []
    for name, members in by_detector(runs).items():
        table = pd.concat([run.table for run in members], ignore_index=True)
        systems.append(System(name, members, table, evaluate(table)))
    return systems


def _fill(system: System, each: int, data: Path | None, load: Callable[[Path], Model], budget: Budget) -> None:
    system.rocs = list(roc_charts(system.table))
    types = Counter(t for run in system.runs for t in run.table["machine_type"].unique())
    for run in system.runs:
        model, note = read_model(run, load)
        if note:
            system.notes.append(note)
        if model is not None and run.model_file is not None:
            system.models.append(model_facts(run, model))
        for machine_type, clips in run.table.groupby("machine_type", sort=False):
            judged = clips[clips["score"].notna()]
            if judged.empty:
                continue
            title = str(machine_type) if types[machine_type] == 1 else f"{machine_type}, {run.name}"
            system.histograms.append(histogram(title, judged))
            chosen = judged.sort_values("score", ascending=False, kind="stable").head(each)
            rows: Any = chosen.to_dict("records")
            cards = [make_card(row, run.folder, model, data, budget) for row in rows]
            if cards:
                system.galleries.append(Gallery(title, cards))


def _render(title: str, systems: list[System], notes: list[str]) -> str:
    template = files("auscult.evaluation").joinpath("templates", "report.html.j2").read_text(encoding="utf-8")
    return render_page(
        template,
        title=title,
        systems=systems,
        notes=notes,
        chart=CHART,
        ramp=_ramp(),
    )


def _ramp() -> str:
    """The map's colours, from as healthy to strangest, for the key under it."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return ", ".join(to_hex(colour) for colour in colormaps[MAP_COLOURS](np.linspace(0, 1, 9)))
