"""What people said of alarms makes a new threshold."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from auscult.calibration import FEWEST, Calibration
from auscult.errors import AuscultError
from auscult.model import Model
from auscult.monitor.history import CONFIRMED, FALSE_ALARM, History


@dataclass(frozen=True)
class Lessons:
    """What a history says about a model's healthy scores.

    Attributes
    ----------
    false_alarms : ndarray of float64
        The highest score of each alarm that was labelled false.
    ordinary : ndarray of float64
        Scores of windows that do not overlap, from times without alarm.
    n_confirmed : int
        Alarms that were confirmed; nothing of them is healthy.
    """

    false_alarms: np.ndarray
    ordinary: np.ndarray
    n_confirmed: int


def lessons(history: History, model: Model, machine: str | None = None) -> Lessons:
    """Read the labels, and the quiet times, of the streams that this model judged.

    Parameters
    ----------
    history : History
    model : Model
    machine : str, optional
        Only the stream of this name.

    Raises
    ------
    AuscultError
        If the model judged none of the streams.
    """
    identity = str(model.provenance.get("identity", ""))
    streams = [s for s in history.streams() if s["identity"] == identity and machine in (None, s["name"])]
    if not streams:
        whose = f"of {machine}" if machine else "of this model"
        raise AuscultError(f"{history.path}: holds nothing {whose}", "name the model that `auscult monitor` ran with")
    alarms = [alarm for stream in streams for alarm in history.alarms(stream["id"], at_most=10**7)]
    ordinary = [score for stream in streams for score in _ordinary(history, stream)]
    return Lessons(
        np.array([a["score"] for a in alarms if a["label"] == FALSE_ALARM], dtype=np.float64),
        np.array(ordinary, dtype=np.float64),
        sum(a["label"] == CONFIRMED for a in alarms),
    )


def _ordinary(history: History, stream: dict[str, Any]) -> list[float]:
    """Scores of one window after the other, none overlapping, and none overlapping an alarm not known to be false."""
    window = float(stream["facts"]["window"])
    busy = [
        (alarm["raised"] - 2 * window, (alarm["ended"] or np.inf) + window)
        for alarm in history.alarms(stream["id"], at_most=10**7)
        if alarm["label"] != FALSE_ALARM
    ]
    kept, last = [], -np.inf
    for row in history.scores(stream["id"], at_most=10**8):
        when = row["time"]
        if when - last >= window * (1 - 1e-9) and not any(begin <= when <= end for begin, end in busy):
            kept.append(float(row["score"]))
            last = when
    return kept


def recalibrate(model: Model, found: Lessons, *, ordinary: bool = False, rate: float | None = None) -> Model:
    """The same detector, with a threshold that knows of the false alarms.

    The highest score of each false alarm joins the healthy scores. Since only high scores are added, the threshold
    rises and the promise is kept with something to spare. With `ordinary`, the scores of quiet times join too, which
    are of the machine, microphone and hall as they are now.

    Parameters
    ----------
    model : Model
    found : Lessons
    ordinary : bool
    rate : float, optional
        Another false-alarm rate.

    Raises
    ------
    AuscultError
        If the history teaches nothing.
    """
    added = np.concatenate([found.false_alarms, found.ordinary]) if ordinary else found.false_alarms
    if not len(added):
        raise AuscultError(
            "no alarm of this model is labelled a false alarm",
            "label some on the dashboard (`auscult serve`), or take the quiet times too (--ordinary)",
        )
    old = model.calibration
    enough = ordinary and len(added) >= FEWEST
    # Scores of clips that were learnt from flatter: where there are others now, they go.
    kept = old.scores if old.held_out or not enough else np.empty(0)
    calibration = Calibration(
        np.concatenate([kept, added]), old.false_alarm_rate if rate is None else rate, old.held_out or enough
    )
    note = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "false_alarms": len(found.false_alarms),
        "ordinary": len(found.ordinary) if ordinary else 0,
        "confirmed": found.n_confirmed,
        "threshold_before": old.threshold,
    }
    provenance = {**model.provenance, "recalibrations": [*model.provenance.get("recalibrations", []), note]}
    return Model(model.detector, calibration, provenance, model.usual)
