"""Jobs in processes of this machine, that end with their parent and are replaced when they die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from auscult.engines.base import ATTEMPTS, Outcome, Work, attempt, settle_in
from auscult.parallel import available_cores

# Spawned, not forked: torch's threads do not survive a fork.
_CONTEXT = multiprocessing.get_context("spawn")

_PATIENCE = 5.0
"""Seconds that a worker has to end of itself."""


@dataclass
class _Task:
    job: Any
    begun: int = 0


class _Worker:
    """One process, and the task that it is at."""

    def __init__(self, work: Work) -> None:
        self.connection, theirs = _CONTEXT.Pipe()
        self.process: SpawnProcess = _CONTEXT.Process(target=_serve, args=(theirs, work), daemon=True)
        self.process.start()
        # Nobody but the worker holds its end: when it dies, ours says so.
        theirs.close()
        self.task: _Task | None = None

    def begin(self, task: _Task) -> None:
        """Send a task; a worker that is already dead is noticed when its answer is asked for."""
        task.begun += 1
        self.task = task
        try:
            self.connection.send(task.job)
        except (BrokenPipeError, ConnectionResetError):
            return

    def dismiss(self) -> None:
        """End the process, if need be by force."""
        self.connection.close()
        if self.task is not None:
            self.process.terminate()
        self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class LocalEngine:
    """Processes of this machine, one torch thread each.

    Parameters
    ----------
    workers : int, optional
        Processes at once; default: the cores there are.
    attempts : int
        So often a job is begun whose worker dies.
    """

    def __init__(self, workers: int | None = None, attempts: int = ATTEMPTS) -> None:
        self.workers = workers or available_cores()
        self.attempts = attempts

    def run(self, work: Work, jobs: Sequence[Any]) -> Iterator[Outcome]:
        """Yield one outcome for each job, as they end; see `Engine`."""
        waiting = deque(_Task(job) for job in jobs)
        team: list[_Worker] = []
        try:
            while waiting or any(worker.task for worker in team):
                while waiting and len(team) < self.workers:
                    team.append(_Worker(work))
                for worker in team:
                    if worker.task is None and waiting:
                        worker.begin(waiting.popleft())
                busy = {worker.connection: worker for worker in team if worker.task}
                for connection in wait(list(busy)):
                    worker = busy[connection]  # type: ignore[index]
                    outcome = self._answer(worker)
                    if outcome is None:
                        team.remove(worker)
                        outcome = self._bury(worker, waiting)
                    if outcome is not None:
                        yield outcome
        finally:
            for worker in team:
                worker.dismiss()

    def close(self) -> None:
        """Nothing to let go of: workers live as long as a `run`."""

    def _answer(self, worker: _Worker) -> Outcome | None:
        """What a worker says of its task; None if it died over it."""
        try:
            result, error, details = worker.connection.recv()
        except (EOFError, OSError):
            return None
        task, worker.task = worker.task, None
        assert task is not None
        return Outcome(task.job, result, error, details)

    def _bury(self, worker: _Worker, waiting: deque[_Task]) -> Outcome | None:
        """Give a dead worker's task to another, or give it up."""
        task, worker.task = worker.task, None
        assert task is not None
        worker.dismiss()
        if task.begun < self.attempts:
            waiting.appendleft(task)
            return None
        how = _manner(worker.process.exitcode)
        return Outcome(task.job, error=f"its worker died {task.begun} times, the last time {how}")


def _manner(code: int | None) -> str:
    """How a process ended, in words."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"by {name}" + (" — is the memory full? use fewer --workers" if name == "SIGKILL" else "")
    return f"with status {code}"


def _serve(connection: Connection, work: Work) -> None:
    """What a worker does all its life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    settle_in()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        answer = attempt(work, job)
        try:
            connection.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return


def _end_with_parent() -> None:
    """End at once when the parent is gone, be it by `kill -9`: an orphan that goes on writing does harm."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
