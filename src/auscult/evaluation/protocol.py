"""Who is averaged with whom: a table of scores becomes figures per machine ID, per type, and overall."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from auscult.errors import AuscultError
from auscult.evaluation import metrics, scores
from auscult.evaluation.results import Evaluation, Line, Spread
from auscult.evaluation.truth import TruthMatch, with_truth

if TYPE_CHECKING:
    import pandas as pd

ROUGH = 10
"""With fewer clips of a class than this, an interval by resampling is only a rough guide."""


@dataclass(frozen=True)
class Convention:
    """A way to come from clips to the figures of a machine type and of all types.

    Attributes
    ----------
    name : str
        As asked for.
    sentence : str
        What a reader must know to compare the figures with others'.
    type_from : {"ids", "clips"}
        Whether a type's figure is the mean over its IDs, or that of one ROC curve over all its clips.
    mean : callable
        How figures are averaged, over the first axis.
    """

    name: str
    sentence: str
    type_from: Literal["ids", "clips"]
    mean: metrics.Mean


def arithmetic(figures: metrics.Floats) -> metrics.Floats:
    """The arithmetic mean over the first axis."""
    mean: metrics.Floats = np.mean(figures, axis=0)
    return mean


_AREAS = "pAUC: false-alarm rates up to 0.1, standardised after McClish, chance 0.5."

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


def evaluate(
    table: pd.DataFrame,
    *,
    truth: Mapping[tuple[str, str], str] | None = None,
    protocol: str = "dcase2020",
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Compute AUC and pAUC with their intervals, and the rates of the recorded decisions.

    Clips without a score or of unknown condition are left out and counted. A machine ID that lacks
    normal or anomalous clips is left out of its type's mean, and the type's notes say so.

    Parameters
    ----------
    table : DataFrame
        Scores as :func:`auscult.evaluation.scores.read_scores` gives them; at least the columns
        `path, machine_type, machine_id, condition, score`.
    truth : mapping of (machine_type, file name) to condition, optional
        Completes and overrides the conditions of the table; see
        :func:`auscult.evaluation.truth.with_truth`.
    protocol : str
        A name in `CONVENTIONS`.
    resamples, seed : int
        Of the bootstrap.

    Raises
    ------
    AuscultError
        If the table or the truth holds what it must not, the truth names none of the clips, or a
        setting is none of the allowed ones.

    References
    ----------
    Y. Koizumi et al., "Description and discussion on DCASE2020 Challenge Task 2", DCASE Workshop 2020.
    """
    convention = _convention(protocol)
    if resamples < 1 or seed < 0:
        raise AuscultError(f"resamples is {resamples} and seed {seed}", "give at least 1, and at least 0")
    table = scores.checked("the table of scores", table)
    match = None
    if truth is not None:
        table, match = with_truth(table, truth)

    overall, by_type, by_id = _lines(table, convention, resamples, seed)
    return Evaluation(
        overall=overall,
        by_type=tuple(by_type),
        by_id=tuple(by_id),
        convention=f"{convention.sentence} {_about_intervals(convention, resamples, seed)}",
        protocol=convention.name,
        notes=_about_all(overall, match),
        seed=seed,
        resamples=resamples,
        truth=match,
        by_group=_groups(table, convention, resamples, seed),
    )


def _lines(
    table: pd.DataFrame, convention: Convention, resamples: int, seed: int
) -> tuple[Line, list[Line], list[Line]]:
    """The lines overall, of each type and of each ID."""
    by_id, by_type = [], []
    for machine_type, clips in table.groupby("machine_type", sort=False):
        ids = [
            _line(own, _own_curve(own, resamples, seed, str(machine_type), str(i)), str(machine_type), str(i))
            for i, own in clips.groupby("machine_id", sort=False)
        ]
        if convention.type_from == "ids":
            ranking = _average(ids, "machine ID", convention.mean)
        else:
            ranking = _own_curve(clips, resamples, seed, str(machine_type))
        by_id += ids
        by_type.append(_line(clips, ranking, str(machine_type)))
    return _line(table, _average(by_type, "machine type", convention.mean)), by_type, by_id


def _groups(table: pd.DataFrame, convention: Convention, resamples: int, seed: int) -> tuple[Line, ...]:
    """Machine IDs that were learnt from and those that were not, each averaged as the whole is."""
    if "seen" not in table or not (table["seen"] == "no").any():
        return ()
    parts = {group: table[table["seen"] == word] for group, word in (("seen", "yes"), ("unseen", "no"))}
    return tuple(
        replace(_lines(part, convention, resamples, seed)[0], group=group) for group, part in parts.items() if len(part)
    )


@dataclass(frozen=True)
class _Ranking:
    """How well one line's scores rank its clips, or why that cannot be said."""

    auc: metrics.Figure | None = None
    pauc: metrics.Figure | None = None
    why: str = ""
    notes: tuple[str, ...] = ()


def _own_curve(clips: pd.DataFrame, resamples: int, seed: int, *name: str) -> _Ranking:
    """Rank the clips by one ROC curve of their own."""
    judged = clips[clips["score"].notna()]
    known = judged[judged["condition"] != "unknown"]
    anomalous = (known["condition"] == "anomaly").to_numpy()
    n_anomaly, n_normal = int(anomalous.sum()), int((~anomalous).sum())
    if not (n_normal and n_anomaly):
        return _Ranking(why=_missing(n_normal, n_anomaly, len(judged) - len(known)))
    # Machines averaged with one another must not share their draws; and a machine's interval should
    # not depend on which others are in the table.
    own_seed = (seed, zlib.crc32("\0".join(name).encode("utf-8", "surrogatepass")))
    auc, pauc = metrics.figures(anomalous, known["score"].to_numpy(), resamples=resamples, seed=own_seed)
    return _Ranking(auc, pauc, notes=_doubts(auc, n_normal, n_anomaly))


def _average(lines: Sequence[Line], what: str, mean: metrics.Mean) -> _Ranking:
    usable = [(line.auc, line.pauc) for line in lines if line.auc and line.pauc]
    if not usable:
        alone = len(lines) == 1
        return _Ranking(why=lines[0].why if alone else f"none of the {len(lines)} {what}s has a figure")
    left_out = [line for line in lines if not line.auc]
    return _Ranking(
        metrics.Figure.averaged([auc for auc, _ in usable], mean),
        metrics.Figure.averaged([pauc for _, pauc in usable], mean),
        notes=tuple(f"{line.name} is left out of the mean: {line.why}" for line in left_out),
    )


def _line(
    clips: pd.DataFrame, ranking: _Ranking, machine_type: str | None = None, machine_id: str | None = None
) -> Line:
    judged = clips[clips["score"].notna()]
    by_condition = {c: judged[judged["condition"] == c] for c in scores.CONDITIONS}
    return Line(
        machine_type,
        machine_id,
        ranking.auc,
        ranking.pauc,
        n_normal=len(by_condition["normal"]),
        n_anomaly=len(by_condition["anomaly"]),
        n_unknown=len(by_condition["unknown"]),
        n_unjudged=len(clips) - len(judged),
        false_alarms=_alarms(by_condition["normal"]),
        detections=_alarms(by_condition["anomaly"]),
        ranges={
            condition: {
                "min": float(rows["score"].min()),
                "mean": float(rows["score"].mean()),
                "max": float(rows["score"].max()),
            }
            for condition, rows in by_condition.items()
            if len(rows)
        },
        why=ranking.why,
        notes=ranking.notes,
        reconstruction=_spread(by_condition["normal"]),
    )


def _spread(normal: pd.DataFrame) -> Spread | None:
    """Mean and standard deviation of the reconstruction errors of normal clips, where they are told."""
    if "reconstruction_error" not in normal:
        return None
    errors = normal["reconstruction_error"].dropna().to_numpy()
    return Spread(float(errors.mean()), float(errors.std()), len(errors)) if len(errors) else None


def _alarms(clips: pd.DataFrame) -> metrics.Rate | None:
    """How often the recorded decision is "anomaly", among the clips that have one."""
    decisions = clips["decision"][clips["decision"] != ""]
    return metrics.rate(int((decisions == "anomaly").sum()), len(decisions)) if len(decisions) else None


def _missing(n_normal: int, n_anomaly: int, n_unknown: int) -> str:
    if n_normal:
        what = "no anomalous clip"
    elif n_anomaly:
        what = "no normal clip"
    else:
        what = "no clip of known condition"
    return f"{what} among those with a score" + (f" ({n_unknown} unknown)" if n_unknown else "")


def _doubts(auc: metrics.Figure, n_normal: int, n_anomaly: int) -> tuple[str, ...]:
    """What the interval of one ROC curve does not tell."""
    doubts = []
    for n, word in ((n_normal, "normal"), (n_anomaly, "anomalous")):
        if n == 1:
            doubts.append(f"one {word} clip: no resampling can tell how it would vary")
        elif n < ROUGH:
            doubts.append(f"only {n} {word} clips: the interval is rough")
    low, high = auc.interval()
    if low == high:
        doubts.append("every resample gives the same AUC: the true uncertainty is wider than the interval")
    return tuple(doubts)


def _about_intervals(convention: Convention, resamples: int, seed: int) -> str:
    cell = "machine ID" if convention.type_from == "ids" else "machine type"
    return (
        f"Intervals: 95 %, percentiles of {resamples} resamples of the clips within each {cell} and "
        f"condition (seed {seed}); they do not tell how another training run would vary. False-alarm and "
        "detection rates: of the recorded decisions, over clips, with Clopper-Pearson intervals."
    )


def _about_all(overall: Line, match: TruthMatch | None) -> tuple[str, ...]:
    notes = list(match.notes()) if match else []
    judged = overall.n_normal + overall.n_anomaly + overall.n_unknown
    n_clips = judged + overall.n_unjudged
    if overall.n_unjudged:
        notes.append(f"{overall.n_unjudged} of {n_clips} clips could not be judged and are left out of every figure")
    if overall.n_unknown and not match:
        notes.append(f"the condition of {overall.n_unknown} of {n_clips} clips is unknown: left out of AUC and pAUC")
    return tuple(notes)


def _convention(protocol: str) -> Convention:
    if protocol not in CONVENTIONS:
        raise AuscultError(f"there is no protocol {protocol!r}", f"use one of {', '.join(CONVENTIONS)}")
    return CONVENTIONS[protocol]
