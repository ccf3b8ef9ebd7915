"""Results as one self-contained page: leaderboard, tables, machines, times."""

from __future__ import annotations

from importlib.resources import files

from auscult.benchmark import tables
from auscult.benchmark.results import Results
from auscult.evaluation.pages import render_page


def to_html(results: Results) -> str:
    """The page, HTML; it fetches nothing."""
    template = files("auscult.benchmark").joinpath("templates", "benchmark.html.j2").read_text(encoding="utf-8")
    return render_page(
        template,
        experiment=results.experiment,
        leaderboard=tables.leaderboard(results),
        figures=tables.figures(results),
        machines=tables.by_machine(results),
        costs=tables.costs(results),
        remarks=tables.remarks(results),
        how_to_read=tables.how_to_read(results),
    )
