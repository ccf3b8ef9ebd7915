"""What a recipe is: a system of a paper, and how to fit it here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Figures = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Recipe:
    """One system of one paper.

    Attributes
    ----------
    detector : str
        Name in the registry.
    system : str
        What the paper calls it.
    source : str
        Where the figures stand.
    settings : mapping
        What differs from `--preset paper`.
    scope : {"type", "id", "all"}
        What one model is fitted on.
    others : tuple of str
        Machine types whose training clips are to be given as outliers (`--outliers`), besides the type's own.
    published : mapping of str to (float, float)
        AUC and pAUC in percent on the DCASE 2020 development test set, by machine type.
    note : str
    """

    detector: str
    system: str
    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    scope: str = "type"
    others: tuple[str, ...] = ()
    published: Figures = field(default_factory=dict)
    note: str = ""
