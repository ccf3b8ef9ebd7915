"""Progress of a whole plan, on the terminal and only there."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from auscult.benchmark.costs import in_words

Ended = Callable[[float | None, str, bool], None]
"""`ended(estimate, name, broke)`: one more run has ended, estimated to take so many seconds."""


@contextmanager
def watch(estimates: list[float | None], workers: int) -> Iterator[Ended]:
    """Show how far a plan is while the block runs; time left is by what runs took beside what was estimated."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    known = [e for e in estimates if e is not None]
    usual = sum(known) / len(known) if known else 1.0
    whole = sum(usual if e is None else e for e in estimates)
    count, broken, past, began = 0, 0, 0.0, time.monotonic()
    columns = (TextColumn("Benchmark"), BarColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        first = f"0/{len(estimates)} runs, about {in_words(whole / max(workers, 1))} left"
        job = bar.add_task("", total=whole, note=first)

        def ended(estimate: float | None, name: str, broke: bool) -> None:
            nonlocal count, broken, past
            count, broken = count + 1, broken + broke
            past += usual if estimate is None else estimate
            left = (time.monotonic() - began) * (whole - past) / max(past, 1e-9)
            failed = f", {broken} broke" if broken else ""
            note = f"{count}/{len(estimates)} runs{failed}, about {in_words(left)} left · {name}"
            bar.update(job, completed=past, note=note)

        yield ended
