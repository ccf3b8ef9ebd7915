"""A list of true conditions, given apart from the scores, is laid over them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auscult.errors import AuscultError
from auscult.evaluation.scores import CONDITIONS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TruthMatch:
    """How a list of true conditions and a table of scores fit together.

    Attributes
    ----------
    clips, matched : int
        The clips of the table, and how many of them the list names as normal or anomalous.
    contradicted : int
        Clips whose condition the table gave otherwise; the list has the last word.
    unknown : int
        Clips whose condition neither of the two tells.
    without_score : int
        Clips the list names, of machine types in the table, that have no row there.
    """

    clips: int
    matched: int
    contradicted: int
    unknown: int
    without_score: int

    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures should know."""
        notes = [f"the ground truth names {self.matched} of {self.clips} clips"]
        if self.unknown:
            notes.append(f"the condition of {self.unknown} of {self.clips} clips remains unknown")
        if self.contradicted:
            notes.append(
                f"the condition of {self.contradicted} of {self.clips} clips is taken from the ground truth, "
                "against what the scores say"
            )
        if self.without_score:
            notes.append(f"clips in the ground truth that have no row in the scores: {self.without_score}")
        return tuple(notes)


def with_truth(table: pd.DataFrame, truth: Mapping[tuple[str, str], str]) -> tuple[pd.DataFrame, TruthMatch]:
    """Complete and correct the conditions of a table of scores.

    Parameters
    ----------
    table : DataFrame
        With columns `path`, `machine_type`, `condition`. Not changed.
    truth : mapping of (machine_type, file name) to condition
        Keys with an empty machine type hold for all types.

    Raises
    ------
    AuscultError
        If a condition is none of the allowed ones, or no clip of the table is named.
    """
    for key, condition in truth.items():
        if condition not in CONDITIONS:
            raise AuscultError(
                f"the ground truth calls {key[1]} {condition!r}", f"use one of {', '.join(CONDITIONS)}"
            )
    names = [re.split(r"[/\\]", path)[-1] for path in table["path"]]
    types = table["machine_type"].tolist()
    keys = [(t, n) if (t, n) in truth else ("", n) for t, n in zip(types, names, strict=True)]
    found = [truth.get(key, "unknown") for key in keys]
    before = table["condition"].tolist()
    after = [b if f == "unknown" else f for f, b in zip(found, before, strict=True)]

    known = {key for key, condition in truth.items() if condition != "unknown"}
    expected = {key for key in known if key[0] in {"", *types}}
    match = TruthMatch(
        clips=len(table),
        matched=sum(f != "unknown" for f in found),
        contradicted=sum(f != b and "unknown" not in (f, b) for f, b in zip(found, before, strict=True)),
        unknown=after.count("unknown"),
        without_score=len(expected - set(keys)),
    )
    if not match.matched:
        listed = " ".join(next(iter(known), ("", "nothing"))).strip()
        raise AuscultError(
            f"the ground truth names none of the clips: it lists {listed}, the scores {types[0]} {names[0]}",
            "give the list that belongs to these clips",
        )
    return table.assign(condition=after), match
