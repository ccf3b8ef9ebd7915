"""Progress of a whole plan: a bar on a terminal, elsewhere a line now and then, for a log to be read next morning."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from auscult.benchmark.costs import in_words

Ended = Callable[[float | None, str, bool], None]
"""`ended(estimate, name, broke)`: one more run has ended, estimated to take so many seconds."""

PAUSE = 60.0
"""Seconds between two lines of a log, at least."""


@contextmanager
def watch(estimates: list[float | None], workers: int) -> Iterator[Ended]:
    """Show how far a plan is while the block runs; time left is by what runs took beside what was estimated."""
    course = _Course(estimates, workers)
    with (_bar if sys.stderr.isatty() else _lines)(course) as show:

        def ended(estimate: float | None, name: str, broke: bool) -> None:
            course.go_on(estimate, broke)
            show(name)

        yield ended


class _Course:
    """How far a plan is."""

    def __init__(self, estimates: list[float | None], workers: int) -> None:
        known = [e for e in estimates if e is not None]
        self.usual = sum(known) / len(known) if known else 1.0
        self.whole = sum(self.usual if e is None else e for e in estimates)
        self.total, self.count, self.broken, self.past = len(estimates), 0, 0, 0.0
        self.began, self.left = time.monotonic(), self.whole / max(workers, 1)

    def go_on(self, estimate: float | None, broke: bool) -> None:
        """One more run has ended."""
        self.count, self.broken = self.count + 1, self.broken + broke
        self.past += self.usual if estimate is None else estimate
        self.left = (time.monotonic() - self.began) * (self.whole - self.past) / max(self.past, 1e-9)

    def __str__(self) -> str:
        failed = f", {self.broken} broke" if self.broken else ""
        return f"{self.count}/{self.total} runs{failed}, about {in_words(self.left)} left"


@contextmanager
def _bar(course: _Course) -> Iterator[Callable[[str], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("Benchmark"), BarColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        job = bar.add_task("", total=course.whole, note=str(course))
        yield lambda name: bar.update(job, completed=course.past, note=f"{course} · {name}")


@contextmanager
def _lines(course: _Course) -> Iterator[Callable[[str], None]]:
    last = time.monotonic()

    def show(name: str) -> None:
        nonlocal last
        if time.monotonic() - last >= PAUSE and course.count < course.total:
            last = time.monotonic()
            print(f"{course} · {name}", file=sys.stderr, flush=True)

    yield show
