"""How well scores rank clips, by one curve or by several that are averaged; or why that cannot be said."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auscult.evaluation import metrics
from auscult.evaluation.results import DomainFigures, Line

if TYPE_CHECKING:
    import pandas as pd

ROUGH = 10
"""With fewer clips of a class than this, an interval by resampling is only a rough guide."""


@dataclass(frozen=True)
class Ranking:
    """How well one line's scores rank its clips, or why that cannot be said.

    Attributes
    ----------
    auc, pauc : Figure or None
    why : str
        Why they are missing; else empty.
    notes : tuple of str
    official : Figure or None
        The mean of AUC and pAUC that a challenge ranks by, in years that have one.
    domains : tuple of DomainFigures
        What a domain's clips alone come to, in years that part them.
    """

    auc: metrics.Figure | None = None
    pauc: metrics.Figure | None = None
    why: str = ""
    notes: tuple[str, ...] = ()
    official: metrics.Figure | None = None
    domains: tuple[DomainFigures, ...] = ()


def own_curve(clips: pd.DataFrame, resamples: int, seed: int, *name: str) -> Ranking:
    """Rank the clips by one ROC curve of their own."""
    judged = clips[clips["score"].notna()]
    known = judged[judged["condition"] != "unknown"]
    anomalous = (known["condition"] == "anomaly").to_numpy()
    n_anomaly, n_normal = int(anomalous.sum()), int((~anomalous).sum())
    if not (n_normal and n_anomaly):
        return Ranking(why=missing(n_normal, n_anomaly, len(judged) - len(known)))
    own = own_seed(seed, *name)
    auc, pauc = metrics.figures(anomalous, known["score"].to_numpy(), resamples=resamples, seed=own)
    return Ranking(auc, pauc, notes=doubts(auc, n_normal, n_anomaly))


def average(lines: Sequence[Line], what: str, mean: metrics.Mean) -> Ranking:
    """Average the figures of lines; those that have none are left out, and named."""
    usable = [(line.auc, line.pauc) for line in lines if line.auc and line.pauc]
    if not usable:
        return Ranking(why=none_has_a_figure(lines, what))
    return Ranking(
        metrics.Figure.averaged([auc for auc, _ in usable], mean),
        metrics.Figure.averaged([pauc for _, pauc in usable], mean),
        notes=left_out(lines),
    )


def none_has_a_figure(lines: Sequence[Line], what: str) -> str:
    """Why there is no mean."""
    return lines[0].why if len(lines) == 1 else f"none of the {len(lines)} {what}s has a figure"


def left_out(lines: Sequence[Line]) -> tuple[str, ...]:
    """Which lines are missing from a mean, and why."""
    return tuple(f"{line.name} is left out of the mean: {line.why}" for line in lines if not line.auc)


def own_seed(seed: int, *name: str) -> tuple[int, int]:
    """A seed for the machine of that name.

    Machines averaged with one another must not share their draws; and a machine's interval should not depend on
    which others are in the table.
    """
    return seed, zlib.crc32("\0".join(name).encode("utf-8", "surrogatepass"))


def missing(n_normal: int, n_anomaly: int, n_unknown: int) -> str:
    """Why clips without one of the conditions have no curve."""
    if n_normal:
        what = "no anomalous clip"
    elif n_anomaly:
        what = "no normal clip"
    else:
        what = "no clip of known condition"
    return f"{what} among those with a score" + (f" ({n_unknown} unknown)" if n_unknown else "")


def doubts(auc: metrics.Figure, n_normal: int, n_anomaly: int) -> tuple[str, ...]:
    """What the interval of one ROC curve does not tell."""
    told = []
    for n, word in ((n_normal, "normal"), (n_anomaly, "anomalous")):
        if n == 1:
            told.append(f"one {word} clip: no resampling can tell how it would vary")
        elif n < ROUGH:
            told.append(f"only {n} {word} clips: the interval is rough")
    low, high = auc.interval()
    if low == high:
        told.append("every resample gives the same AUC: the true uncertainty is wider than the interval")
    return tuple(told)
