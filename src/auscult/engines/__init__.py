"""Many independent jobs at once: on this machine, or on a Ray cluster, with the same results."""

from auscult.engines.base import Engine, Outcome
from auscult.engines.choice import ENGINES, open_engine

__all__ = ["ENGINES", "Engine", "Outcome", "open_engine"]
