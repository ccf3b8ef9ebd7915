"""What every engine does: jobs in, an outcome for each, in whatever order they end."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from auscult.errors import AuscultError

ATTEMPTS = 3
"""So often a job is begun whose worker dies before it is given up: a machine may run out of memory once."""

_LIBRARIES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
ONE_THREAD = dict.fromkeys((*_LIBRARIES, "AUSCULT_THREADS"), "1")
"""The environment of a worker: more threads than cores are ruinous, and results must not depend on their number."""

Work = Callable[[Any], Any]
"""A function that can be imported by name, of one argument that can be sent to another process; so is its result."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes
    ----------
    job : object
        As it was given.
    result : object
        What the work returned; None if it failed.
    error : str
        Why it failed, in one line; else empty.
    details : str
        The traceback of an error that nobody foresaw; else empty.
    """

    job: Any
    result: Any = None
    error: str = ""
    details: str = ""


class Engine(Protocol):
    """Does jobs beside one another. A job that fails, or whose worker dies, does not stop the others."""

    def run(self, work: Work, jobs: Sequence[Any]) -> Iterator[Outcome]:
        """Yield one outcome for each job, as they end."""
        ...

    def close(self) -> None:
        """Let go of workers and connections; what this engine did not start stays."""
        ...


def attempt(work: Work, job: Any) -> tuple[Any, str, str]:
    """Do one job: what it returned, and what went wrong if anything did, shortly and at length."""
    try:
        return work(job), "", ""
    except AuscultError as error:
        return None, str(error), ""
    except MemoryError:
        return None, "the memory is full — use fewer --workers", ""
    except Exception as error:
        what = f"{type(error).__name__}: {str(error).strip() or 'no reason is given'}"
        return None, what.splitlines()[0], traceback.format_exc()


def settle_in() -> None:
    """Make this process a worker: one thread, and silent, since the terminal is the parent's."""
    os.environ.update(ONE_THREAD)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (open as long as the process)
