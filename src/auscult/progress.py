"""Progress with the time left, on standard error, and only when a person is watching."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[..., None]
"""`advance(steps=1, note="")`: so much more is done; `note` is shown beside the bar."""


def _no_bar(steps: float = 1, note: str = "") -> None:
    """Nobody is watching."""


@contextmanager
def progress(task: str, total: float | None) -> Iterator[Advance]:
    """Show a bar for `task` while the block runs; `total` is None where the end is not known."""
    if not sys.stderr.isatty():
        yield _no_bar
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        job = bar.add_task(task, total=total, note="")
        yield lambda steps=1, note="": bar.update(job, advance=steps, **({"note": note} if note else {}))


@contextmanager
def progress_bytes(task: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar for bytes, with their rate and the time left, while the block runs."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        job = bar.add_task(task, total=total)
        yield lambda count: bar.update(job, advance=count)
