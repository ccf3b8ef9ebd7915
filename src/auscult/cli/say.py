"""What commands print: results to standard output, remarks to standard error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

from auscult.wording import counted

if TYPE_CHECKING:
    from auscult.store import Broken

DONE_WITH_GAPS = 1
"""Exit status when some clips could not be judged and the rest were."""


def print_evaluation(evaluation: Any) -> None:
    """Print the table of an evaluation and its notes."""
    from auscult.evaluation import tables

    print_rich(tables.to_rich(evaluation))
    for note in tables.notes(evaluation):
        print(note)


def print_rich(renderable: Any) -> None:
    """Print a table, as wide as the terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 140
    Console(width=width).print(renderable)


def tell(*lines: str) -> None:
    """Write to standard error, one line each, whatever a file's name holds."""
    for line in lines:
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
        print(f"auscult: {shown}", file=sys.stderr)


def report_broken(broken: tuple[Broken, ...]) -> None:
    """Name the clips that could not be used, and end with the status that says so."""
    if broken:
        tell(*(str(b.reason) for b in broken), f"{counted(len(broken), 'clip')} could not be used")
        raise typer.Exit(DONE_WITH_GAPS)
