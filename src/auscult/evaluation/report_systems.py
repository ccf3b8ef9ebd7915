"""What a report tells of one detector: its runs, figures, charts, clips and models."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from auscult.evaluation.charts import Chart
from auscult.evaluation.report_clips import Card
from auscult.evaluation.report_runs import Run
from auscult.evaluation.results import Evaluation
from auscult.evaluation.words import sentence

if TYPE_CHECKING:
    import pandas as pd

    from auscult.model import Model


@dataclass
class Gallery:
    """The most anomalous clips of one machine type in one run."""

    title: str
    cards: list[Card]


@dataclass
class ModelFacts:
    """What the page tells of a model."""

    run: str
    file: str
    detector: str
    promise: str
    rate: float | None
    details: list[tuple[str, str]]


@dataclass
class System:
    """All runs of one detector: what is judged as one."""

    name: str
    runs: list[Run]
    table: pd.DataFrame
    evaluation: Evaluation
    rocs: list[Chart] = field(default_factory=list)
    histograms: list[Chart] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    models: list[ModelFacts] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def n_judged(self) -> int:
        """Clips with a score."""
        return int(self.table["score"].notna().sum())

    @property
    def n_alarms(self) -> int | None:
        """Clips called anomalous; None where no decision was taken."""
        decisions = self.table["decision"]
        return int((decisions == "anomaly").sum()) if (decisions != "").any() else None

    @property
    def unjudged(self) -> list[tuple[str, str]]:
        """Each clip without a score, and the reason."""
        silent = self.table[self.table["score"].isna()]
        return [(p, e or "no reason is given") for p, e in zip(silent["path"], silent["error"], strict=True)]

    @property
    def promises(self) -> list[str]:
        """What its models promise; which of them, where they differ."""
        said = {model.run: sentence(model.promise) for model in self.models}
        if len(set(said.values())) == 1:
            return [next(iter(said.values()))]
        return [f"{run}: {promise}" for run, promise in said.items()]

    @property
    def promised_rate(self) -> float | None:
        """The false-alarm rate that all of its models promise; None where there is no such rate."""
        rates = {model.rate for model in self.models}
        return rates.pop() if len(rates) == 1 and len(self.models) == len(self.runs) else None

    @property
    def comparison(self) -> str:
        """How the false alarms counted compare with those promised; empty where either is missing."""
        promised, counted = self.promised_rate, self.evaluation.overall.false_alarms
        if promised is None or counted is None:
            return ""
        low, high = counted.interval
        span = f"{_percent(counted.value)} of the normal clips (95 % interval {_percent(low)} to {_percent(high)})"
        if low > promised:
            return (
                f"More false alarms than promised: {span}, where {100 * promised:.3g} % was promised. These clips "
                "do not sound like those of the calibration: another machine, place, load or microphone?"
            )
        return f"False alarms are in keeping with the {100 * promised:.3g} % promised: {span}."


def model_facts(run: Run, model: Model) -> ModelFacts:
    """Gather what is told of the model of a run."""
    front = model.detector.front_end
    calibration = model.calibration
    details = [
        ("Threshold", "none" if calibration.threshold is None else f"{calibration.threshold:.6g}"),
        (
            "Front end",
            f"{front.n_mels} mel bands, {front.fmin:g}–{front.fmax:g} Hz, at {front.sample_rate} Hz; "
            f"frames of {front.n_fft} samples every {front.hop_length}",
        ),
        *((str(key).replace("_", " "), _plain(value)) for key, value in model.provenance.items()),
    ]
    file = run.model_file.name if run.model_file else ""
    rate = calibration.false_alarm_rate if calibration.promised else None
    return ModelFacts(run.name, file, model.detector.name, calibration.promise, rate, details)


def _plain(value: object) -> str:
    """What was recorded, readable; of a long list the beginning."""
    if isinstance(value, list) and len(value) > 6:
        return ", ".join(_plain(item) for item in value[:5]) + f", … ({len(value)} in all)"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 1000 else f"{text[:1000]} …"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
