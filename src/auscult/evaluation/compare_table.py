"""A comparison of systems as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auscult.evaluation.compare import Comparison, Difference

if TYPE_CHECKING:
    from rich.table import Table

_WORDS = {"auc": "AUC %", "pauc": "pAUC %", "official_score": "official %"}


def to_rich(comparison: Comparison, everything: bool = False) -> Table:
    """A row for each figure and system; overall only, unless `everything` is asked for."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for k, title in enumerate(("machine", "figure", "system", "reference", "system's", "difference", "p", "p DeLong")):
        table.add_column(title, justify="left" if k < 3 else "right", overflow="fold", no_wrap=k > 2)
    for row in comparison.differences:
        if everything or row.machine_type is None:
            machine = " ".join(filter(None, (row.machine_type, row.machine_id))) or "overall"
            cells = [machine, _WORDS[row.figure], row.system, f"{100 * row.reference:.1f}", f"{100 * row.value:.1f}"]
            table.add_row(*map(Text, [*cells, _difference(row), _p(row.p_value), _p(row.p_delong)]))
    return table


def _difference(row: Difference) -> str:
    low, high = row.interval
    return f"{100 * row.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if value >= 0.0005 else "<0.001"
