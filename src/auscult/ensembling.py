"""Model files become one: fitted detectors are brought to one scale and calibrated together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from auscult import model as models
from auscult.calibration import Calibration
from auscult.corpus import Clip
from auscult.detectors.base import Detector
from auscult.detectors.ensemble import Ensemble, flat
from auscult.errors import AudioError, AuscultError
from auscult.fitting import training_clips, usual_map
from auscult.model import Model
from auscult.parallel import map_in_order
from auscult.progress import progress
from auscult.store import Broken


def combine(
    members: Sequence[Model],
    data: models.Data | None = None,
    *,
    scaling: str = "gamma",
    rule: str = "probability",
    scaled_by: str = "all",
    false_alarm_rate: float | None = None,
) -> Model:
    """Make one model of several.

    Parameters
    ----------
    members : sequence of Model
        Fitted detectors of any kind; an ensemble among them gives its members.
    data : folder, manifest, paths, clips or waveforms, optional
        Healthy clips, by which the members are brought to one scale and the threshold is set. Those that a member has
        learnt from are left out. Default: the clips that all members kept for calibration, if they are where they
        were.
    scaling, rule, scaled_by : str
        See `auscult.detectors.ensemble.EnsembleConfig`.
    false_alarm_rate : float, optional
        Default: the first member's.

    Returns
    -------
    Model
        It decides by healthy clips each judged on the scale that the others make.

    Raises
    ------
    AuscultError
        If there are fewer than two members, or no healthy clip that none has learnt from.
    """
    if len(members) < 2:
        raise AuscultError("an ensemble has at least two members", "name two model files or more")
    healthy = _kept_by_all(members) if data is None else _unknown_to_all(members, training_clips(data))
    detectors = flat([member.detector for member in members])
    clips, scores, broken = _judge(detectors, healthy)
    made = Ensemble.of(detectors, clips, scores, scaling=scaling, rule=rule, scaled_by=scaled_by)
    rate = members[0].calibration.false_alarm_rate if false_alarm_rate is None else false_alarm_rate
    joined = made.reference_scores()
    strangest_last = [clips[k] for k in joined.argsort(kind="stable")]
    return Model(made, Calibration(joined, rate), _provenance(members, strangest_last), usual_map(made, clips), broken)


def _kept_by_all(members: Sequence[Model]) -> list[Clip]:
    """The clips that every member kept for calibration."""
    kept = [{clip.path: clip for clip in member.kept_clips()} for member in members]
    common = [clip for path, clip in kept[0].items() if all(path in other for other in kept[1:])]
    if not common:
        raise AuscultError(
            "the models have kept no healthy clips in common for calibration, or these are not where they were",
            "name healthy recordings that none has learnt from (--data DATA), or fit all with the same clips and seed",
        )
    return common


def _unknown_to_all(members: Sequence[Model], clips: Sequence[Clip]) -> list[Clip]:
    unknown = [clip for clip in clips if not any(member.has_learnt(clip.path) for member in members)]
    if not unknown:
        raise AuscultError(
            f"each of the {len(clips)} healthy clips has been learnt from by one of the models",
            "name others, or leave --data away to use those kept for calibration",
        )
    return unknown


def _judge(detectors: Sequence[Detector], clips: Sequence[Clip]) -> tuple[list[Clip], np.ndarray, list[Broken]]:
    """The clips that every detector can judge, its scores of them, and why the others cannot be judged."""
    good, scores, broken = [], [], []

    def attempt(clip: Clip) -> list[float] | AudioError:
        try:
            return [detector.score_clip(clip) for detector in detectors]
        except AudioError as error:
            return error

    with progress("Judging healthy clips", len(clips)) as advance:
        for clip, found in zip(clips, map_in_order(attempt, clips), strict=True):
            advance()
            if isinstance(found, AudioError):
                broken.append(Broken(clip, found))
            else:
                good.append(clip)
                scores.append(found)
    if not good:
        raise AuscultError(f"none of {len(clips)} healthy clips can be judged: {broken[0].reason}")
    return good, np.array(scores).T, broken


def _provenance(members: Sequence[Model], clips: Sequence[Clip]) -> dict[str, object]:
    facts = [member.provenance for member in members]
    learnt = list(dict.fromkeys(path for one in facts for path in one.get("training_clips", [])))
    return {
        "n_training_clips": len(learnt),
        "n_calibration_clips": len(clips),
        "training_clips": learnt,
        "calibration_clips": [clip.path for clip in clips],
        "machines": sorted(set.intersection(*(set(one.get("machines", [])) for one in facts))),
        "notes": list(dict.fromkeys(note for one in facts for note in one.get("notes", []))),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "members": [
            {"detector": member.detector.name}
            | {key: value for key, value in one.items() if key not in ("training_clips", "calibration_clips")}
            for member, one in zip(members, facts, strict=True)
        ],
    }
