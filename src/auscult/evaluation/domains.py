"""Figures of the years with domain shift: sections, their source and target domains, and the official score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from auscult.corpus.sections import parse
from auscult.errors import AuscultError
from auscult.evaluation import metrics
from auscult.evaluation.cells import Curve, curves
from auscult.evaluation.conventions import LEAST, Convention
from auscult.evaluation.ranking import Ranking, doubts, left_out, missing, none_has_a_figure, own_seed
from auscult.evaluation.results import DomainFigures, Line

if TYPE_CHECKING:
    import pandas as pd

DOMAINS = ("source", "target")


@dataclass(frozen=True)
class Parts:
    """All AUCs and all pAUCs that enter a mean."""

    aucs: tuple[metrics.Figure, ...]
    paucs: tuple[metrics.Figure, ...]

    @staticmethod
    def joined(several: Sequence[Parts]) -> Parts:
        """The parts of several sections, or of several machine types, together."""
        return Parts(tuple(f for p in several for f in p.aucs), tuple(f for p in several for f in p.paucs))


def with_named_domains(table: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Take domains from the clips' names where the table does not tell them.

    Raises
    ------
    AuscultError
        If the domain of a clip that counts remains unknown.
    """
    told = table["domain"].tolist() if "domain" in table else [""] * len(table)
    domains = [d or _named(path) for d, path in zip(told, table["path"], strict=True)]
    table = table.assign(domain=domains)
    counts = (table["domain"] == "") & (table["condition"] != "unknown") & table["score"].notna()
    if counts.any():
        first = table["path"][counts].iloc[0]
        raise AuscultError(
            f"the protocol {protocol} needs the domain of every clip: that of {first} is unknown",
            "give the ground truth of the year with --truth, or a column `domain` with source or target",
        )
    return table


def rank_section(
    clips: pd.DataFrame, convention: Convention, resamples: int, seed: int, *name: str
) -> tuple[Ranking, Parts]:
    """Rank the clips of a section by the curves of its domains.

    Parameters
    ----------
    clips : DataFrame
        Of one section, with the column `domain`.
    """
    judged = clips[clips["score"].notna()]
    known = judged[judged["condition"] != "unknown"]
    cells = {
        (domain, condition): known["score"][(known["domain"] == domain) & (known["condition"] == condition)].to_numpy()
        for domain in DOMAINS
        for condition in ("normal", "anomaly")
    }
    sizes = {cell: len(scores) for cell, scores in cells.items()}
    found = curves(cells, domain_curves(convention), resamples=resamples, seed=own_seed(seed, *name))
    domains = tuple(_domain(domain, known, found, convention) for domain in DOMAINS)
    parts = Parts(
        tuple(found[domain][0] for domain in DOMAINS if domain in found),
        tuple(found[key][1] for key in (DOMAINS if convention.apart else ("all",)) if key in found),
    )
    if not parts.aucs or not parts.paucs:
        n_normal, n_anomaly = (sum(sizes[domain, c] for domain in DOMAINS) for c in ("normal", "anomaly"))
        why = missing(n_normal, n_anomaly, len(judged) - len(known))
        if n_normal and n_anomaly:
            why = "in neither domain are there both normal and anomalous clips"
        return Ranking(why=why, domains=domains), parts
    notes = [f"{d.domain}: left out of the mean: {d.why}" for d in domains if not d.auc]
    for domain in DOMAINS:
        if domain in found:
            n_anomaly = (
                sizes[domain, "anomaly"]
                if convention.apart
                else sizes["source", "anomaly"] + sizes["target", "anomaly"]
            )
            notes += [f"{domain}: {d}" for d in doubts(found[domain][0], sizes[domain, "normal"], n_anomaly)]
    return _ranking(parts, convention, domains, tuple(notes)), parts


def average_parts(
    lines: Sequence[Line], parts: Sequence[Parts], what: str, convention: Convention
) -> tuple[Ranking, Parts]:
    """Average everything that lines below are made of."""
    joined = Parts.joined([part for line, part in zip(lines, parts, strict=True) if line.auc])
    domains = tuple(_mean_domain(domain, lines, convention) for domain in DOMAINS)
    if not joined.aucs:
        return Ranking(why=none_has_a_figure(lines, what), domains=domains), joined
    return _ranking(joined, convention, domains, left_out(lines)), joined


def _ranking(
    parts: Parts, convention: Convention, domains: tuple[DomainFigures, ...], notes: tuple[str, ...]
) -> Ranking:
    return Ranking(
        metrics.Figure.averaged(parts.aucs, convention.mean),
        metrics.Figure.averaged(parts.paucs, convention.mean),
        notes=notes,
        official=metrics.Figure.averaged([*parts.aucs, *parts.paucs], convention.mean),
        domains=domains,
    )


def domain_curves(convention: Convention) -> dict[str, Curve]:
    """The curves of a section: of its domains, and of all its clips where pAUC is of those."""
    if convention.apart:
        return {domain: ([(domain, "normal")], [(domain, "anomaly")]) for domain in DOMAINS}
    anomalies = [(domain, "anomaly") for domain in DOMAINS]
    each: dict[str, Curve] = {domain: ([(domain, "normal")], anomalies) for domain in DOMAINS}
    return {**each, "all": ([(domain, "normal") for domain in DOMAINS], anomalies)}


def _domain(
    domain: str,
    known: pd.DataFrame,
    found: dict[str, tuple[metrics.Figure, metrics.Figure]],
    convention: Convention,
) -> DomainFigures:
    own = known[known["domain"] == domain]
    anomalous = (own["condition"] == "anomaly").to_numpy()
    n_anomaly, n_normal = int(anomalous.sum()), int((~anomalous).sum())
    figures = found.get(domain)
    return DomainFigures(
        domain,
        figures[0] if figures else None,
        figures[1] if figures and convention.apart else None,
        n_normal,
        n_anomaly,
        *_decisions(anomalous, own["decision"].to_numpy()),
        why="" if figures else missing(n_normal, 0 if n_normal else n_anomaly, 0),
    )


def _decisions(anomalous: np.ndarray, decisions: np.ndarray) -> tuple[float | None, float | None, float | None]:
    """Precision, recall and F1 as the challenge's scripts have them: 0 where nothing was called an anomaly."""
    if not len(decisions) or (decisions == "").any():
        return None, None, None
    alarms = decisions == "anomaly"
    hits = float((alarms & anomalous).sum())
    precision, recall = hits / max(alarms.sum(), LEAST), hits / max(anomalous.sum(), LEAST)
    return float(precision), float(recall), float(2 * precision * recall / max(precision + recall, LEAST))


def _mean_domain(domain: str, lines: Sequence[Line], convention: Convention) -> DomainFigures:
    """A domain's figures over sections, or over machine types weighted by their sections."""
    below = [own for line in lines for own in line.domain_parts if own.domain == domain]

    def figure(name: str) -> metrics.Figure | None:
        known = [value for own in below if (value := getattr(own, name)) is not None]
        return metrics.Figure.averaged(known, convention.mean) if known else None

    def number(name: str) -> float | None:
        known = [value for own in below if (value := getattr(own, name)) is not None]
        return float(convention.mean(np.array(known))) if known and len(known) == len(below) else None

    auc = figure("auc")
    return DomainFigures(
        domain,
        auc,
        figure("pauc"),
        sum(own.n_normal for own in below),
        sum(own.n_anomaly for own in below),
        number("precision"),
        number("recall"),
        number("f1"),
        why="" if auc else "no section has a figure",
    )


def _named(path: str) -> str:
    said = parse(Path(path).name)
    return said.domain if said else ""
