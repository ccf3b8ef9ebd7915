"""What an evaluation holds: lines of figures, each with its uncertainty and its doubts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from auscult.evaluation.metrics import Figure, Rate
from auscult.evaluation.truth import TruthMatch


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a figure over clips."""

    mean: float
    std: float
    n: int


@dataclass(frozen=True)
class DomainFigures:
    """The figures of one domain of a section, or their means over sections.

    Attributes
    ----------
    domain : {"source", "target"}
    auc : Figure or None
        None where it cannot be computed; `why` then says why.
    pauc : Figure or None
        Only in conventions that have a pAUC of a domain.
    n_normal, n_anomaly : int
        The domain's own clips with a score.
    precision, recall, f1 : float or None
        Of the recorded decisions on the domain's own clips; None where a decision is missing.
    why : str
    """

    domain: str
    auc: Figure | None
    pauc: Figure | None
    n_normal: int
    n_anomaly: int
    precision: float | None
    recall: float | None
    f1: float | None
    why: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON holds them."""
        told: dict[str, Any] = {"auc": None, "auc_ci": None}
        for name, figure in (("auc", self.auc), ("pauc", self.pauc)):
            if figure:
                told |= {name: figure.value, f"{name}_ci": list(figure.interval())}
        for name in ("n_normal", "n_anomaly", "precision", "recall", "f1"):
            told[name] = getattr(self, name)
        return told | ({"why": self.why} if self.why else {})


@dataclass(frozen=True)
class Line:
    """The figures of one machine ID, one machine type, or of everything.

    Attributes
    ----------
    machine_type, machine_id : str or None
        None where the line stands for all of them.
    auc, pauc : Figure or None
        None where they cannot be computed; `why` then says why.
    n_normal, n_anomaly, n_unknown : int
        Clips with a score, by condition.
    n_unjudged : int
        Clips without a score. They are in none of the figures.
    false_alarms, detections : Rate or None
        The shares of normal clips and of anomalies whose recorded decision is "anomaly".
    ranges : dict
        For each condition there is: the least, mean and greatest score.
    why : str
        Why AUC and pAUC are missing; else empty.
    notes : tuple of str
        What weakens the figures that are there.
    reconstruction : Spread or None
        Of the reconstruction errors of normal clips, dB squared, where the scores tell them.
    group : {"", "seen", "unseen"}
        Whether the line stands for the machine IDs that were learnt from alone, or for the others.
    official : Figure or None
        The mean of AUC and pAUC that a challenge ranks by, in conventions that have one.
    domains : tuple of DomainFigures
        Source and target, in conventions that part them.
    domain_parts : tuple of DomainFigures
        Those of each section that the line stands for.
    """

    machine_type: str | None
    machine_id: str | None
    auc: Figure | None
    pauc: Figure | None
    n_normal: int
    n_anomaly: int
    n_unknown: int
    n_unjudged: int
    false_alarms: Rate | None
    detections: Rate | None
    ranges: dict[str, dict[str, float]]
    why: str
    notes: tuple[str, ...]
    reconstruction: Spread | None = None
    group: str = ""
    official: Figure | None = None
    domains: tuple[DomainFigures, ...] = ()
    domain_parts: tuple[DomainFigures, ...] = ()

    @property
    def name(self) -> str:
        """What the line stands for, in words."""
        if self.group:
            return f"{self.group} IDs"
        return " ".join(part for part in (self.machine_type, self.machine_id) if part) or "overall"

    @property
    def why_no_rates(self) -> str:
        """Why a rate is missing although there are clips it could be of; else empty."""
        rates = ((self.false_alarms, self.n_normal, "normal"), (self.detections, self.n_anomaly, "anomalous"))
        words = [word for rate, n, word in rates if n and not rate]
        return f"no decision is recorded for {' or '.join(words)} clips" if words else ""

    def as_dict(self) -> dict[str, Any]:
        """The line as JSON holds it: a figure that cannot be computed is None, with a "why"."""
        line: dict[str, Any] = {}
        if self.machine_type is not None:
            line["machine_type"] = self.machine_type
        if self.machine_id is not None:
            line["machine_id"] = self.machine_id
        line |= {
            "auc": self.auc.value if self.auc else None,
            "pauc": self.pauc.value if self.pauc else None,
            "auc_ci": list(self.auc.interval()) if self.auc else None,
            "pauc_ci": list(self.pauc.interval()) if self.pauc else None,
            "n_normal": self.n_normal,
            "n_anomaly": self.n_anomaly,
            "n_unknown": self.n_unknown,
            "n_unjudged": self.n_unjudged,
            "false_alarm_rate": self.false_alarms.value if self.false_alarms else None,
            "false_alarm_rate_ci": list(self.false_alarms.interval) if self.false_alarms else None,
            "detection_rate": self.detections.value if self.detections else None,
            "detection_rate_ci": list(self.detections.interval) if self.detections else None,
            **({"reconstruction_error": asdict(self.reconstruction)} if self.reconstruction else {}),
            "scores": self.ranges,
            "notes": list(self.notes),
        }
        if self.domains:
            line["official_score"] = self.official.value if self.official else None
            line["official_score_ci"] = list(self.official.interval()) if self.official else None
            line["domains"] = {own.domain: own.as_dict() for own in self.domains}
        whys = [why for why in (self.why, self.why_no_rates) if why]
        if whys:
            line["why"] = "; ".join(whys)
        return line


@dataclass(frozen=True)
class Evaluation:
    """What a table of scores is worth.

    Attributes
    ----------
    overall : Line
    by_type, by_id : tuple of Line
        In the order of the table.
    by_group : tuple of Line
        The machine IDs that were learnt from, and those that were not, apart; empty where all were.
    convention : str
        Who was averaged with whom, and what the intervals are.
    protocol : str
        The convention's name.
    notes : tuple of str
        What holds for the table as a whole.
    seed, resamples : int
        Of the bootstrap.
    truth : TruthMatch or None
        How the ground truth fitted, where one was given.
    """

    overall: Line
    by_type: tuple[Line, ...]
    by_id: tuple[Line, ...]
    convention: str
    protocol: str
    notes: tuple[str, ...]
    seed: int
    resamples: int
    truth: TruthMatch | None
    by_group: tuple[Line, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The evaluation as JSON holds it."""
        truth = {"truth": asdict(self.truth)} if self.truth else {}
        return truth | {
            "overall": self.overall.as_dict(),
            "by_type": [line.as_dict() for line in self.by_type],
            "by_id": [line.as_dict() for line in self.by_id],
            **{line.group: line.as_dict() for line in self.by_group},
            "convention": self.convention,
            "protocol": self.protocol,
            "notes": list(self.notes),
            "seed": self.seed,
            "resamples": self.resamples,
        }

    def json(self) -> str:
        """The evaluation as JSON text."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)
