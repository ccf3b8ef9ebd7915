"""The conventions by which figures of clips, sections and machine types are averaged: one for each year."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

import numpy as np

from auscult.errors import AuscultError
from auscult.evaluation import metrics

LEAST = sys.float_info.epsilon
"""What a figure counts at least in a harmonic mean, as in the challenge's scripts."""


@dataclass(frozen=True)
class Convention:
    """A way to come from clips to the figures of a machine type and of all types.

    Attributes
    ----------
    name : str
        As asked for.
    sentence : str
        What a reader must know to compare the figures with others'.
    type_from : {"ids", "clips", "domains"}
        Whether a type's figure is the mean over its IDs, that of one ROC curve over all its clips, or the mean over
        its sections and their domains.
    mean : callable
        How figures are averaged, over the first axis.
    apart : bool
        Of domains: whether a domain's normal clips are compared with its own anomalies only (2021), or with those of
        both domains (2022 on), where pAUC is that of the whole section.
    """

    name: str
    sentence: str
    type_from: Literal["ids", "clips", "domains"]
    mean: metrics.Mean
    apart: bool = False


def arithmetic(figures: metrics.Floats) -> metrics.Floats:
    """The arithmetic mean over the first axis."""
    mean: metrics.Floats = np.mean(figures, axis=0)
    return mean


def harmonic(figures: metrics.Floats) -> metrics.Floats:
    """The harmonic mean over the first axis, of figures not below `LEAST`."""
    mean: metrics.Floats = 1 / np.mean(1 / np.maximum(figures, LEAST), axis=0)
    return mean


_AREAS = "pAUC: false-alarm rates up to 0.1, standardised after McClish, chance 0.5."
_DECISIONS = "Precision, recall and F1: of a domain's own clips."


def _later(year: int) -> Convention:
    return Convention(
        f"dcase{year}",
        f"DCASE {year} Task 2: of each section the AUC of the source domain (its normal clips against the anomalies of "
        "both domains), that of the target domain likewise, and pAUC over all its clips; a machine type and overall "
        "are harmonic means of these over sections and domains, the official score is the harmonic mean of all three. "
        f"{_AREAS} {_DECISIONS}",
        "domains",
        harmonic,
    )


CONVENTIONS = {
    c.name: c
    for c in (
        Convention(
            "dcase2020",
            "DCASE 2020 Task 2: AUC and pAUC of each machine ID; a machine type is the arithmetic mean over "
            f"its IDs, overall is the arithmetic mean over types. {_AREAS}",
            "ids",
            arithmetic,
        ),
        Convention(
            "dcase2021",
            "DCASE 2021 Task 2: AUC and pAUC of each section and domain, from its own clips; a machine type and "
            "overall are harmonic means over sections and domains, the official score is the harmonic mean of AUC and "
            f"pAUC over all of them. {_AREAS} {_DECISIONS}",
            "domains",
            harmonic,
            apart=True,
        ),
        *map(_later, range(2022, 2026)),
        Convention(
            "pooled",
            "Pooled: one ROC curve per machine type over the clips of all its IDs, as some papers report; "
            "overall is the arithmetic mean over types. Not comparable with figures averaged over IDs, such "
            f"as those of DCASE. {_AREAS}",
            "clips",
            arithmetic,
        ),
    )
}
"""The conventions known, by name."""


def convention_named(name: str) -> Convention:
    """Find a convention.

    Raises
    ------
    AuscultError
        If there is none of that name.
    """
    if name not in CONVENTIONS:
        raise AuscultError(f"there is no protocol {name!r}", f"use one of {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]
