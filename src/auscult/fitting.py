"""From healthy recordings to a model: choose clips, hold some out, learn, calibrate."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from auscult import model as models
from auscult.calibration import Calibration, check_rate, n_held_out
from auscult.corpus import Clip, Manifest, open_data
from auscult.detectors import registry
from auscult.detectors.base import Detector, Needs
from auscult.errors import AuscultError
from auscult.model import Model
from auscult.parallel import map_in_order
from auscult.store import Broken, Store, clip_key, require_clips
from auscult.training import Run, choose_device

DEFAULT_DETECTOR = "bank"

_MAPS_FOR_USUAL = 64
"""Healthy clips whose maps are averaged to know each band's usual level: enough for a mean."""


def fit(
    data: models.Data,
    detector: str = DEFAULT_DETECTOR,
    *,
    preset: str = "quick",
    settings: Mapping[str, Any] | None = None,
    machine_type: str | None = None,
    machine_id: str | None = None,
    outliers: models.Data | None = None,
    false_alarm_rate: float = 0.01,
    seed: int = 0,
    budget: float | None = None,
    device: str = "auto",
    threads: int = 1,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    store: Store | None = None,
    layout: str = "auto",
) -> Model:
    """Learn what a healthy machine sounds like.

    Parameters
    ----------
    data : folder, manifest, paths or clips
        The normal clips of the train split are learnt from where splits are known, else all normal clips; if
        nothing says which clips are healthy, all of them.
    detector : str
        Name of a detector (see `auscult.detectors`).
    preset : {"quick", "paper"}
    settings : mapping, optional
        Settings of the detector that differ from the preset.
    machine_type, machine_id : str, optional
        Use only the clips of this machine.
    outliers : folder, manifest, paths or clips, optional
        Recordings of something else, for detectors that learn from them. Default, for a detector that cannot do
        without: the training clips of the other machine IDs of the same type in `data`.
    false_alarm_rate : float
        The share of healthy clips that may be called anomalous.
    seed : int
        Decides which clips are held out and everything random in training.
    budget : float, optional
        Seconds of training.
    device : {"auto", "cpu", "cuda"}
    threads : int
        Torch threads in training.
    checkpoint : path-like, optional
        Where the state of an unfinished training is kept.
    resume : bool
        Go on from the checkpoint if it is there.
    store : Store, optional
        Where log-mels are kept; default: the user's cache folder.
    layout : str
        How a folder is laid out (see `auscult index`).

    Returns
    -------
    Model

    Raises
    ------
    AuscultError
        If there is no healthy clip, the detector or a setting is unknown, or the training fails.
    TrainingInterrupted
        If it was stopped; the checkpoint is there.
    """
    system = check_request(detector, preset, settings, false_alarm_rate, budget, device)
    clips = training_clips(data, machine_type=machine_type, machine_id=machine_id, layout=layout)
    others = _outliers(system, outliers, data, clips, layout)
    store = store or Store()
    usable, broken = _usable(system, clips, store)
    learnt, held_out = _hold_out(usable, seed)
    identity = run_identity(system, learnt, held_out, seed, others or ())
    run = Run(device, threads, Path(checkpoint) if checkpoint else None, resume, identity)
    log = system.fit(learnt, outliers=others, store=store, budget=budget, seed=seed, run=run)
    scores = system.score(held_out) if held_out else system.score_learnt(learnt)
    provenance = {
        "identity": identity,
        "n_training_clips": len(learnt),
        "n_calibration_clips": len(held_out),
        "clip_seconds": _usual_seconds(system, usable, store),
        "training_clips": [c.path for c in learnt],
        # The strangest last.
        "calibration_clips": [held_out[k].path for k in scores.argsort(kind="stable")] if held_out else [],
        "machines": sorted({f"{c.machine_type} {c.machine_id}" for c in usable}),
        "manifest_hash": _manifest_hash(usable),
        "notes": _notes(usable),
        "preset": preset,
        "seed": seed,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "training": asdict(log) | {"losses": list(log.losses)},
    }
    calibration = Calibration(scores, false_alarm_rate, held_out=bool(held_out))
    return Model(system, calibration, provenance, usual_map(system, held_out or learnt), broken)


def check_request(
    detector: str,
    preset: str = "quick",
    settings: Mapping[str, Any] | None = None,
    false_alarm_rate: float = 0.01,
    budget: float | None = None,
    device: str = "auto",
) -> Detector:
    """Make the detector that `fit` would train, before a recording is looked at.

    Raises
    ------
    AuscultError
        If one of the arguments, which are those of `fit`, is not possible.
    """
    check_rate(false_alarm_rate)
    choose_device(device)
    if budget is not None and not budget >= 0:
        raise AuscultError(f"a budget of {budget} seconds is not possible", "choose 0 or more")
    system = registry.create(detector, preset, settings)
    system.depends_on()
    return system


def training_clips(
    data: models.Data, *, machine_type: str | None = None, machine_id: str | None = None, layout: str = "auto"
) -> list[Clip]:
    """The clips of `data` that `fit` learns from.

    Raises
    ------
    AuscultError
        If there is none.
    """
    if not isinstance(data, Manifest | str | os.PathLike):
        return [c for c in models.read_clips(data) if c.condition != "anomaly"]
    manifest = data if isinstance(data, Manifest) else open_data(data, layout=layout)
    chosen = manifest.select(machine_type=machine_type, machine_id=machine_id)
    normal = chosen.for_training()
    if len(normal):
        return normal.clips()
    candidates = chosen.select(split="train") if chosen.splits_known else chosen
    if len(candidates) and (candidates.table["condition"] == "unknown").all():
        # Nothing says which clips are healthy: a folder given for training is a folder of healthy clips.
        return candidates.clips()
    split = " in the train split" if chosen.splits_known else ""
    raise AuscultError(
        f"there is no normal clip{split} to learn from",
        "put healthy recordings in a folder named normal, or label them in a manifest (`auscult index`)",
    )


def is_done(
    path: str | os.PathLike[str],
    data: models.Data,
    detector: str,
    *,
    preset: str = "quick",
    settings: Mapping[str, Any] | None = None,
    machine_type: str | None = None,
    machine_id: str | None = None,
    outliers: models.Data | None = None,
    false_alarm_rate: float = 0.01,
    seed: int = 0,
    budget: float | None = None,
    store: Store | None = None,
    layout: str = "auto",
) -> bool:
    """Whether `path` holds the very model that `fit` with these arguments would give.

    One that a budget cut short is so only if there is no more time now.
    """
    if not Path(path).exists():
        return False
    try:
        there = models.load(path)
    except AuscultError:
        return False
    if there.calibration.false_alarm_rate != false_alarm_rate or _has_more_time(there, budget):
        return False
    system = registry.create(detector, preset, settings)
    clips = training_clips(data, machine_type=machine_type, machine_id=machine_id, layout=layout)
    others = _outliers(system, outliers, data, clips, layout)
    usable = _usable(system, clips, store or Store())[0]
    expected = run_identity(system, *_hold_out(usable, seed), seed, others or ())
    return bool(there.provenance.get("identity") == expected)


def _has_more_time(there: Model, budget: float | None) -> bool:
    """Whether a training that a budget ended would go on longer under another."""
    training = there.provenance.get("training", {})
    return training.get("stopped") == "budget" and (budget is None or budget > training["seconds"] + 1)


def run_identity(
    system: Detector, learnt: Sequence[Clip], held_out: Sequence[Clip], seed: int, outliers: Sequence[Clip] = ()
) -> str:
    """What a training run is: detector, settings, what else it depends on, clips and seed, as a digest."""
    parts = [system.name, system.config.model_dump_json(), system.front_end.model_dump_json(), str(seed)]
    parts += [told] if (told := system.depends_on()) else []
    for group in (learnt, held_out, outliers) if outliers else (learnt, held_out):
        parts += [f"{len(group)}", *(clip_key(c.file) or c.path if c.file else c.path for c in group)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _usable(system: Detector, clips: Sequence[Clip], store: Store) -> tuple[list[Clip], list[Broken]]:
    """The clips that can be learnt from, and those that cannot; their log-mels are in the store afterwards."""
    logmels = store.collect(clips, system.front_end)
    require_clips(logmels)
    broken = list(logmels.broken)
    usable = []
    for clip, spectrum in zip(logmels.clips, logmels.spectra, strict=True):
        if len(spectrum) >= system.min_frames:
            usable.append(clip)
        else:
            broken.append(Broken(clip, system.too_short(clip, len(spectrum))))
    if not usable:
        raise AuscultError(f"none of {len(clips)} clips can be learnt from: {broken[0].reason}")
    return usable, broken


def _notes(clips: Sequence[Clip]) -> list[str]:
    """What the user should know of the training clips."""
    n_unlabelled = sum(clip.condition == "unknown" for clip in clips)
    if not n_unlabelled:
        return []
    return [f"nothing says whether {n_unlabelled} of the clips are healthy; they were taken to be"]


def _outliers(
    system: Detector, outliers: models.Data | None, data: models.Data, clips: Sequence[Clip], layout: str
) -> list[Clip] | None:
    """The outliers that were named, else the other machines in `data` if the detector needs any."""
    if isinstance(outliers, str | os.PathLike):
        return open_data(outliers, layout=layout).clips()
    if outliers is not None:
        return models.read_clips(outliers)
    if Needs.OUTLIERS not in system.needs:
        return None
    others = _other_machines(data, clips, layout, of_all_types=system.outliers_of_all_types)
    if not others:
        raise AuscultError(
            f"{system.name} learns from recordings of something else too, and there are none",
            "name them (--outliers DATA), or one of several machine IDs (--machine-id); the others serve as outliers. "
            "ae and knn need none",
        )
    return others


def _other_machines(data: models.Data, clips: Sequence[Clip], layout: str, *, of_all_types: bool) -> list[Clip]:
    """Training clips in `data` of other machines than `clips`, of the same machine types or of all."""
    machines = {(clip.machine_type, clip.machine_id) for clip in clips}
    types = {clip.machine_type for clip in clips}
    everything = training_clips(data, layout=layout)
    others = [c for c in everything if (c.machine_type, c.machine_id) not in machines]
    return others if of_all_types else [c for c in others if c.machine_type in types]


def _hold_out(clips: Sequence[Clip], seed: int) -> tuple[list[Clip], list[Clip]]:
    """Split into clips to learn from and clips to calibrate on, at random: exchangeability is the promise."""
    n = n_held_out(len(clips))
    chosen = set(np.random.default_rng(seed).permutation(len(clips))[:n].tolist())
    learnt = [c for i, c in enumerate(clips) if i not in chosen]
    return learnt, [c for i, c in enumerate(clips) if i in chosen]


def _manifest_hash(clips: Sequence[Clip]) -> str:
    rows = [[c.path, c.machine_type, c.machine_id, c.split, c.condition] for c in clips]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _usual_seconds(system: Detector, clips: Sequence[Clip], store: Store) -> float:
    """Median length of the clips: what a watch judges at once."""
    front = system.front_end
    n_frames = round(
        float(np.median([len(spectrum) for spectrum in store.collect(clips[:_MAPS_FOR_USUAL], front).spectra]))
    )
    least = (n_frames - 1) * front.hop_length / front.sample_rate
    # Frames do not tell 9.984 s from ten: a round number with as many frames is what was meant.
    plain = round(least + 0.05, 1)
    return plain if front.n_frames(round(plain * front.sample_rate)) == n_frames else round(least, 3)


def usual_map(system: Detector, clips: Sequence[Clip]) -> np.ndarray:
    """Mean anomaly map of healthy clips in each band, shape (n_mels,)."""
    some = clips[:: max(1, len(clips) // _MAPS_FOR_USUAL)][:_MAPS_FOR_USUAL]
    levels = map_in_order(lambda clip: system.anomaly_map(clip).mean(axis=1), some)
    return np.asarray(np.mean(list(levels), axis=0, dtype=np.float64), dtype=np.float32)
