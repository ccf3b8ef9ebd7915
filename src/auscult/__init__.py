"""auscult hears when a machine is failing.

It learns from recordings of a healthy machine what that machine sounds like, and says of any new recording how
far it is from that, how sure it is, and where in time and frequency the difference lies.

>>> import auscult
>>> model = auscult.fit("recordings/", detector="ae")  # doctest: +SKIP
>>> model.decide(["monday.wav"])  # doctest: +SKIP
['normal']
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from auscult.errors import AudioError, AuscultError

if TYPE_CHECKING:
    from auscult.corpus import Clip, Manifest
    from auscult.detectors.registry import create as detector
    from auscult.fitting import fit
    from auscult.model import Model, load, read_clips

__version__ = "0.1.0"

__all__ = [
    "AudioError",
    "AuscultError",
    "Clip",
    "Manifest",
    "Model",
    "detector",
    "fit",
    "load",
    "read_clips",
]

_HOMES = {
    "Clip": ("auscult.corpus", "Clip"),
    "Manifest": ("auscult.corpus", "Manifest"),
    "Model": ("auscult.model", "Model"),
    "detector": ("auscult.detectors.registry", "create"),
    "fit": ("auscult.fitting", "fit"),
    "load": ("auscult.model", "load"),
    "read_clips": ("auscult.model", "read_clips"),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: `import auscult` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'auscult' has no attribute {name!r}")
    import importlib

    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
