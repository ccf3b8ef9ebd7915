"""Detectors by name. Every module in this folder is looked at once; what registers itself is there."""

from __future__ import annotations

import difflib
import importlib
import json
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import ValidationError

import auscult.detectors
from auscult.detectors.base import Detector, DetectorConfig
from auscult.errors import AuscultError

_registered: dict[str, type[Detector]] = {}
D = TypeVar("D", bound=type[Detector])


def register(detector: D) -> D:
    """Class decorator: make a detector known by its name."""
    _registered[detector.name] = detector
    return detector


def detectors() -> dict[str, type[Detector]]:
    """Every detector by name, in alphabetical order."""
    _import_all()
    return dict(sorted(_registered.items()))


@cache
def _import_all() -> None:
    for module in pkgutil.iter_modules(auscult.detectors.__path__):
        importlib.import_module(f"auscult.detectors.{module.name}")


def get(name: str) -> type[Detector]:
    """Return the detector class of that name.

    Raises
    ------
    AuscultError
        If there is none; the message names the nearest.
    """
    known = detectors()
    if name not in known:
        nearest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
        everyone = "`auscult detectors` lists them all"
        hint = f"did you mean {nearest[0]!r}? {everyone}" if nearest else f"{everyone}: {', '.join(known)}"
        raise AuscultError(f"there is no detector {name!r}", hint)
    return known[name]


def create(name: str, preset: str = "paper", settings: Mapping[str, Any] | None = None) -> Detector:
    """Make a detector with the settings of a preset, some of them changed.

    Parameters
    ----------
    name : str
    preset : {"quick", "paper"}
    settings : mapping, optional
        Values as they are, or as text from the command line.

    Raises
    ------
    AuscultError
        If detector, preset or a setting is unknown, or a value is of the wrong type or out of range.
    """
    detector = get(name)
    if preset not in detector.presets:
        raise AuscultError(f"{name} has no preset {preset!r}", f"choose one of {', '.join(sorted(detector.presets))}")
    values = {**detector.presets[preset], **{k: _parse(v) for k, v in (settings or {}).items()}}
    return detector(validate(detector, values))


def rescored(detector: Detector, settings: Mapping[str, Any]) -> Detector:
    """Return a fitted detector that scores another way, with nothing learnt anew.

    Scores of two ways are not comparable, so a threshold or p-value does not carry over.

    Parameters
    ----------
    detector : Detector
        Fitted. It stays as it is.
    settings : mapping
        Values as they are, or as text from the command line, of `detector.scorings`.

    Raises
    ------
    AuscultError
        If learning depends on a setting, it is unknown, or its value is not possible.
    """
    kind = type(detector)
    for key in settings.keys() & kind.Config.model_fields.keys() - kind.scorings:
        may = ", ".join(sorted(kind.scorings)) or "nothing"
        raise AuscultError(
            f"what {detector.name} learns depends on {key}",
            f"fit again with --set {key}=VALUE; {may} may change afterwards",
        )
    values = {k: _parse(v) for k, v in settings.items()}
    other = kind(validate(kind, {**detector.config.model_dump(), **values}))
    other.front_end = detector.front_end
    other.restore(*detector.state())
    return other


def validate(detector: type[Detector], values: Mapping[str, Any]) -> DetectorConfig:
    """Check settings.

    Raises
    ------
    AuscultError
        Naming the setting that is unknown or wrong.
    """
    for key in values:
        fields = detector.Config.model_fields
        if key not in fields:
            nearest = difflib.get_close_matches(key, fields, n=1, cutoff=0.6)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(fields)}"
            raise AuscultError(f"{detector.name} has no setting {key!r}", hint)
    try:
        return detector.Config.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "settings"
        reason = first["msg"].removeprefix("Value error, ")
        raise AuscultError(
            f"{detector.name}: the setting {where}={first['input']!r} is wrong",
            reason[0].lower() + reason[1:],
        ) from error


def _parse(value: Any) -> Any:
    """Text from the command line as a value: JSON where it is JSON, else as it stands."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads({"none": "null", "None": "null", "True": "true", "False": "false"}.get(value, value))
    except ValueError:
        return value
