"""A list of true conditions, given apart from the scores, is laid over them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from auscult.corpus.section_truth import is_section_truth, read_sections, tell
from auscult.corpus.sections import spellings
from auscult.corpus.truth import look_up
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
        File names on the list, of machine types in the table, that have no row there.
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
    truth : mapping of (machine_type, path or file name) to condition
        From :func:`auscult.corpus.truth.read_truth`. Keys with an empty machine type hold for all types.

    Raises
    ------
    AuscultError
        If a condition is none of the allowed ones, or no clip of the table is named.
    """
    for key, condition in truth.items():
        if condition not in CONDITIONS:
            raise AuscultError(f"the ground truth calls {key[1]} {condition!r}", f"use one of {', '.join(CONDITIONS)}")
    types, paths = table["machine_type"].tolist(), table["path"].tolist()
    found = [look_up(truth, t, path) or "unknown" for t, path in zip(types, paths, strict=True)]
    before = table["condition"].tolist()
    after = [b if f == "unknown" else f for f, b in zip(found, before, strict=True)]
    # By file name, because a list may give one clip under several paths.
    listed = {(t, _name(name)) for (t, name), c in truth.items() if c != "unknown" and t in {"", *types}}
    scored = {(t, _name(path)) for kind, path in zip(types, paths, strict=True) for t in ("", kind)}
    match = TruthMatch(
        clips=len(table),
        matched=sum(f != "unknown" for f in found),
        contradicted=sum(f != b and "unknown" not in (f, b) for f, b in zip(found, before, strict=True)),
        unknown=after.count("unknown"),
        without_score=len(listed - scored),
    )
    if not match.matched:
        first = " ".join(next(iter(truth), ("", "nothing"))).strip()
        raise AuscultError(
            f"the ground truth names none of the clips: it lists {first}, the scores {types[0]} {paths[0]}",
            "give the list that belongs to these clips",
        )
    return table.assign(condition=after), match


def with_domains_of(table: pd.DataFrame, truth: str | os.PathLike[str]) -> pd.DataFrame:
    """Complete the domains of a table of scores from a ground truth of DCASE 2021 to 2025; others change nothing.

    Parameters
    ----------
    table : DataFrame
        With columns `path`, `machine_type`. Not changed.
    truth : path
        The file or folder.
    """
    if not is_section_truth(truth):
        return table
    tellings = read_sections(truth)
    known = table["domain"] if "domain" in table else [""] * len(table)
    domains = [
        tell(tellings, machine_type, path).domain or domain
        for machine_type, path, domain in zip(table["machine_type"], table["path"], known, strict=True)
    ]
    return table.assign(domain=domains) if any(domains) else table


def _name(path: str) -> str:
    """The file's name in the one spelling that all lists can be brought to."""
    return spellings(Path(path).name)[0]
