"""Who is averaged with whom: a table of scores becomes figures per machine ID, per type, and overall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from auscult.errors import AuscultError
from auscult.evaluation import metrics, scores
from auscult.evaluation.conventions import CONVENTIONS, Convention, convention_named
from auscult.evaluation.domains import Parts, average_parts, rank_section, with_named_domains
from auscult.evaluation.ranking import Ranking, average, own_curve
from auscult.evaluation.results import Evaluation, Line, Spread
from auscult.evaluation.truth import TruthMatch, with_truth

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CONVENTIONS", "Convention", "evaluate"]


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
    convention = convention_named(protocol)
    if resamples < 1 or seed < 0:
        raise AuscultError(f"resamples is {resamples} and seed {seed}", "give at least 1, and at least 0")
    table = scores.checked("the table of scores", table)
    match = None
    if truth is not None:
        table, match = with_truth(table, truth)

    if convention.type_from == "domains":
        table = with_named_domains(table, protocol)
    overall, by_type, by_id = _lines(table, convention, resamples, seed)
    return Evaluation(
        overall=overall,
        by_type=tuple(by_type),
        by_id=tuple(by_id),
        convention=f"{convention.sentence} {_about_intervals(convention, resamples, seed)}",
        protocol=convention.name,
        notes=(*_about_all(overall, match), *_about_domains(table, convention)),
        seed=seed,
        resamples=resamples,
        truth=match,
        by_group=_groups(table, convention, resamples, seed),
    )


def _lines(
    table: pd.DataFrame, convention: Convention, resamples: int, seed: int
) -> tuple[Line, list[Line], list[Line]]:
    """The lines overall, of each type and of each ID."""
    if convention.type_from == "domains":
        return _lines_of_domains(table, convention, resamples, seed)
    by_id, by_type = [], []
    for machine_type, clips in table.groupby("machine_type", sort=False):
        ids = [
            _line(own, own_curve(own, resamples, seed, str(machine_type), str(i)), str(machine_type), str(i))
            for i, own in clips.groupby("machine_id", sort=False)
        ]
        if convention.type_from == "ids":
            ranking = average(ids, "machine ID", convention.mean)
        else:
            ranking = own_curve(clips, resamples, seed, str(machine_type))
        by_id += ids
        by_type.append(_line(clips, ranking, str(machine_type)))
    return _line(table, average(by_type, "machine type", convention.mean)), by_type, by_id


def _lines_of_domains(
    table: pd.DataFrame, convention: Convention, resamples: int, seed: int
) -> tuple[Line, list[Line], list[Line]]:
    """The same where each section has a source and a target domain."""
    by_id: list[Line] = []
    by_type: list[Line] = []
    type_parts: list[Parts] = []
    for machine_type, clips in table.groupby("machine_type", sort=False):
        lines, parts = [], []
        for section, own in clips.groupby("machine_id", sort=False):
            ranking, part = rank_section(own, convention, resamples, seed, str(machine_type), str(section))
            line = _line(own, ranking, str(machine_type), str(section))
            lines.append(replace(line, domain_parts=line.domains))
            parts.append(part)
        ranking, part = average_parts(lines, parts, "section", convention)
        by_id += lines
        by_type.append(_joined(_line(clips, ranking, str(machine_type)), lines))
        type_parts.append(part)
    ranking, _ = average_parts(by_type, type_parts, "machine type", convention)
    return _joined(_line(table, ranking), by_type), by_type, by_id


def _joined(line: Line, below: Sequence[Line]) -> Line:
    return replace(line, domain_parts=tuple(own for under in below for own in under.domain_parts))


def _groups(table: pd.DataFrame, convention: Convention, resamples: int, seed: int) -> tuple[Line, ...]:
    """Machine IDs that were learnt from and those that were not, each averaged as the whole is."""
    if "seen" not in table or not (table["seen"] == "no").any():
        return ()
    parts = {group: table[table["seen"] == word] for group, word in (("seen", "yes"), ("unseen", "no"))}
    return tuple(
        replace(_lines(part, convention, resamples, seed)[0], group=group) for group, part in parts.items() if len(part)
    )


def _line(
    clips: pd.DataFrame, ranking: Ranking, machine_type: str | None = None, machine_id: str | None = None
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
        official=ranking.official,
        domains=ranking.domains,
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


def _about_intervals(convention: Convention, resamples: int, seed: int) -> str:
    cell = {"ids": "machine ID", "clips": "machine type", "domains": "section, domain"}[convention.type_from]
    return (
        f"Intervals: 95 %, percentiles of {resamples} resamples of the clips within each {cell} and "
        f"condition (seed {seed}); they do not tell how another training run would vary. False-alarm and "
        "detection rates: of the recorded decisions, over clips, with Clopper-Pearson intervals."
    )


def _about_domains(table: pd.DataFrame, convention: Convention) -> tuple[str, ...]:
    if convention.type_from == "domains" or "domain" not in table or not {"source", "target"} <= set(table["domain"]):
        return ()
    return ("the clips are of two domains, which this protocol does not part: --protocol dcase2021 to dcase2025 do",)


def _about_all(overall: Line, match: TruthMatch | None) -> tuple[str, ...]:
    notes = list(match.notes()) if match else []
    judged = overall.n_normal + overall.n_anomaly + overall.n_unknown
    n_clips = judged + overall.n_unjudged
    if overall.n_unjudged:
        notes.append(f"{overall.n_unjudged} of {n_clips} clips could not be judged and are left out of every figure")
    if overall.n_unknown and not match:
        notes.append(f"the condition of {overall.n_unknown} of {n_clips} clips is unknown: left out of AUC and pAUC")
    return tuple(notes)
