"""Jobs on a Ray cluster: one that runs already, or one started on this machine for the purpose."""

from __future__ import annotations

import importlib.util
import logging
import socket
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from auscult.engines.base import ATTEMPTS, ONE_THREAD, Outcome, Work, attempt
from auscult.errors import AuscultError
from auscult.parallel import available_cores

_PATIENCE = 10.0
"""Seconds that the address of a cluster has to answer."""

_AHEAD = 2
"""Jobs handed to the cluster for each that can run: workers never wait, and the list to watch stays short."""


class RayEngine:
    """A Ray cluster, one core and one torch thread a job.

    A job whose worker or node dies is begun again by Ray, elsewhere. Files are shared: every node must see the
    folders that jobs read and write under the same names.

    Parameters
    ----------
    address : str, optional
        Of a cluster that runs already ("auto": the one of this machine), which is left running. Default: a
        cluster of this machine alone, ended by `close`.
    workers : int, optional
        Jobs at once; default: as many as the cluster has cores.
    gpus : float
        What each job asks for.
    attempts : int
        So often a job is begun whose worker dies.

    Raises
    ------
    AuscultError
        If Ray is not installed, or the cluster does not answer.
    """

    def __init__(
        self, address: str | None = None, workers: int | None = None, gpus: float = 0.0, attempts: int = ATTEMPTS
    ) -> None:
        if importlib.util.find_spec("ray") is None:
            raise AuscultError("the engine ray needs Ray", "pip install 'auscult[ray]', or say --engine local")
        if address is not None:
            _check_somebody_answers(address)
        self.workers, self.gpus, self.attempts = workers, gpus, attempts
        self._connect(address)

    def run(self, work: Work, jobs: Sequence[Any]) -> Iterator[Outcome]:
        """Yield one outcome for each job, as they end; see `Engine`."""
        import ray

        task = ray.remote(
            num_cpus=1,
            num_gpus=self.gpus,
            max_retries=self.attempts - 1,
            runtime_env={"env_vars": ONE_THREAD},
        )(attempt)
        remaining = iter(jobs)
        pending: dict[Any, Any] = {}
        try:
            while True:
                room = self._room() - len(pending)
                pending |= {task.remote(work, job): job for job in islice(remaining, max(room, 0))}
                if not pending:
                    return
                done, _ = ray.wait(list(pending), num_returns=1)
                for reference in done:
                    yield _outcome(pending.pop(reference), reference)
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        import ray

        if self._ours:
            ray.shutdown()

    def _connect(self, address: str | None) -> None:
        import ray

        self._ours = not ray.is_initialized()
        if not self._ours:
            return
        here: dict[str, Any] = {}
        if address is None:
            here = {"num_cpus": self.workers or available_cores(), "include_dashboard": False}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ray.init(
                    address=address or "local",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **here,
                )
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise _no_answer(address or "of this machine", error) from error

    def _room(self) -> int:
        """How many jobs may be with the cluster; it may grow and shrink meanwhile."""
        import ray

        if self.workers:
            return self.workers
        cores = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
        return max(1, _AHEAD * int(cores))


def _check_somebody_answers(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself would try for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not (colon and port.isdigit()):
        return  # "auto", or what Ray alone can read
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE):
            pass
    except OSError as error:
        raise _no_answer(address, error) from error


def _no_answer(address: str, error: Exception) -> AuscultError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return AuscultError(
        f"the Ray cluster {address} does not answer: {reason}",
        "see `ray status`; a cluster that wants a token wants it here too, in RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH",
    )


def _outcome(job: Any, reference: Any) -> Outcome:
    import ray

    try:
        result, error, details = ray.get(reference)
    except ray.exceptions.RayError as failure:
        lines = str(failure).strip().splitlines() or [type(failure).__name__]
        return Outcome(job, error=f"its worker died again and again: {lines[0]}", details="\n".join(lines))
    return Outcome(job, result, error, details)
