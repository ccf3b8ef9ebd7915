"""Engines by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from auscult.engines.base import Engine
from auscult.errors import AuscultError

ENGINES = ("local", "ray")


@contextmanager
def open_engine(
    name: str = "local", *, workers: int | None = None, address: str | None = None, gpus: float = 0.0
) -> Iterator[Engine]:
    """Make an engine, and let go of it when the block ends.

    Parameters
    ----------
    name : {"local", "ray"}
    workers : int, optional
        Jobs at once. Default: the cores there are, of this machine or of the cluster.
    address : str, optional
        Of a Ray cluster that runs already; without it, one is started on this machine and ended with the block.
    gpus : float
        What each job of a Ray cluster asks for.

    Raises
    ------
    AuscultError
        If there is no such engine, Ray is not installed, or the cluster does not answer.
    """
    engine = _make(name, workers, address, gpus)
    try:
        yield engine
    finally:
        engine.close()


def check_engine(name: str, address: str | None = None) -> None:
    """Refuse a request that no engine can serve.

    Raises
    ------
    AuscultError
    """
    if name not in ENGINES:
        raise AuscultError(f"there is no engine {name!r}", f"choose one of {', '.join(ENGINES)}")
    if address is not None and name != "ray":
        raise AuscultError("an address is of a Ray cluster", "say --engine ray too")


def _make(name: str, workers: int | None, address: str | None, gpus: float) -> Engine:
    check_engine(name, address)
    if name == "local":
        from auscult.engines.local import LocalEngine

        return LocalEngine(workers)
    from auscult.engines.cluster import RayEngine

    return RayEngine(address, workers, gpus)
