"""A model and a manifest become a table of scores; a run that was cut short can go on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from auscult.corpus import Clip, Manifest
from auscult.corpus.clip import clip_key, tail
from auscult.errors import AudioError, AuscultError, reconstructs_nothing
from auscult.exported import ExportedDetector
from auscult.files import atomic, cannot_write
from auscult.parallel import map_in_order
from auscult.progress import progress

if TYPE_CHECKING:
    import pandas as pd

    from auscult.exported import ExportedModel
    from auscult.model import Model

_FLUSH_SECONDS = 1.0


@dataclass(frozen=True)
class Judged:
    """A clip's score, or why it has none; and its reconstruction error, where that was asked for."""

    score: float
    error: str = ""
    reconstruction_error: float = float("nan")


def open_model(path: Path, settings: Mapping[str, str]) -> Model | ExportedModel:
    """Load a model, perhaps to be scored another way; one that was exported to ONNX without importing torch.

    Raises
    ------
    AuscultError
        If it cannot be loaded, or a setting cannot be changed.
    """
    if path.suffix.lower() == ".onnx":
        from auscult.exported import load as load_exported

        if settings:
            raise AuscultError(f"{path}: an exported model scores one way", "change the model, and export it again")
        return load_exported(path)
    from auscult.model import load, unprepared

    if not settings:
        return load(path)
    fitted = unprepared(path).rescored(**settings)
    fitted.detector.make_ready()
    return fitted


def judge(
    model: Model | ExportedModel, clips: list[Clip], *, workers: int | None = None, reconstruction_error: bool = False
) -> Iterator[Judged]:
    """Score clips one by one, in order; a broken one does not stop the rest.

    Yields
    ------
    Judged
        One for each clip.
    """
    detector = model.detector

    def one(clip: Clip) -> Judged:
        try:
            score = detector.score_clip(clip)
            if not reconstruction_error or isinstance(detector, ExportedDetector):
                return Judged(score)
            return Judged(score, "", detector.reconstruction_error(clip))
        except AudioError as error:
            return Judged(float("nan"), str(error))

    return map_in_order(one, clips, workers)


def score_table(
    model: Model | ExportedModel,
    manifest: Manifest,
    *,
    partial: Path | None = None,
    identity: str = "",
    resume: bool = False,
    workers: int | None = None,
    reconstruction_error: bool = False,
) -> pd.DataFrame:
    """Score every clip of a manifest.

    Parameters
    ----------
    model : Model or ExportedModel
    manifest : Manifest
    partial : Path, optional
        Where scores are noted as they come, for a run that might be cut short.
    identity : str
        What the model is; a partial file of another is not taken up.
    resume : bool
        Go on from `partial` if it is there.
    workers : int, optional
        Clips judged at once; default: the cores there are.
    reconstruction_error : bool
        Also tell the mean squared error of the levels that the detector predicted.

    Returns
    -------
    DataFrame
        The columns of scores.csv, in the manifest's order. Where a clip's domain is known, there is a column `domain`;
        where one is of a machine that was not learnt from, a column `seen` says so of each.

    Raises
    ------
    AuscultError
        If the partial file belongs to another model or cannot be written, or a reconstruction error is asked of a
        detector that reconstructs nothing.
    """
    import pandas as pd

    if reconstruction_error and not model.detector.reconstructs:
        raise reconstructs_nothing(model.detector.name)
    clips = manifest.clips()
    with _Notes(partial, identity, resume) as notes:
        todo = [clip for clip in clips if notes.known(clip) is None]
        with progress("Judging clips", len(clips)) as advance:
            advance(len(clips) - len(todo))
            judged_clips = judge(model, todo, workers=workers, reconstruction_error=reconstruction_error)
            for clip, judged in zip(todo, judged_clips, strict=True):
                notes.add(clip, judged)
                advance()
        results = [notes.known(clip) or Judged(float("nan"), "was not judged") for clip in clips]
    scores = np.array([judged.score for judged in results])
    calibration = model.calibration
    table = pd.DataFrame(
        {
            "path": [c.path for c in clips],
            "machine_type": [c.machine_type for c in clips],
            "machine_id": [c.machine_id for c in clips],
            "condition": [c.condition for c in clips],
            "score": scores,
            "p_value": calibration.p_values(scores),
            "threshold": np.nan if calibration.threshold is None else calibration.threshold,
            "decision": calibration.decide(scores),
            "error": [judged.error for judged in results],
        }
    )
    if any(clip.domain for clip in clips):
        table["domain"] = [clip.domain for clip in clips]
    seen = [machine_of(clip) in model.provenance.get("machines", ()) for clip in clips]
    if not all(seen):
        table["seen"] = np.where(seen, "yes", "no")
    if reconstruction_error:
        table["reconstruction_error"] = [judged.reconstruction_error for judged in results]
    return table


def machine_of(clip: Clip) -> str:
    """The clip's machine as a model's provenance names it."""
    return f"{clip.machine_type} {clip.machine_id}"


def already_learnt(model: Model | ExportedModel, manifest: Manifest) -> int:
    """How many of the clips the model was fitted on: their scores flatter it."""
    learnt = {tail(path) for path in model.provenance.get("training_clips", [])}
    return sum(tail(path) in learnt for path in manifest.table["path"])


class _Notes:
    """Scores noted as they come: a line of JSON each, the first line saying of which model."""

    def __init__(self, path: Path | None, identity: str, resume: bool) -> None:
        self.path, self.identity, self.resume = path, identity, resume
        self.judged: dict[str, Judged] = {}
        self.file: TextIO | None = None
        self.flushed = time.monotonic()

    def __enter__(self) -> _Notes:
        if self.path is None:
            return self
        if self.resume and self.path.exists():
            self._take_up()
        # Whole or not at all: a run killed here must not lose what an earlier one noted.
        lines = [_line({"model": self.identity}), *(_note(key, judged) for key, judged in self.judged.items())]
        with atomic(self.path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
        self.file = open(self.path, "a", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        if self.file is None or self.path is None:
            return
        try:
            self.file.close()
        except OSError as error:
            if kind is None:  # else that failure is the one to tell of
                raise cannot_write(self.path, error) from error

    def known(self, clip: Clip) -> Judged | None:
        """The clip's result, if it is there already."""
        return self.judged.get(_clip_name(clip))

    def add(self, clip: Clip, judged: Judged) -> None:
        """Take note of a result."""
        key = _clip_name(clip)
        self.judged[key] = judged
        if self.file is None or self.path is None:
            return
        try:
            self.file.write(_note(key, judged))
            if time.monotonic() - self.flushed > _FLUSH_SECONDS:
                self.file.flush()
                self.flushed = time.monotonic()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _take_up(self) -> None:
        assert self.path is not None
        lines = list(_whole_lines(self.path))
        if lines and lines[0].get("model") != self.identity:
            raise AuscultError(
                f"{self.path} belongs to another model", "delete it, or score without --resume to begin anew"
            )
        for line in lines[1:]:
            score, squared = (float("nan") if line.get(k) is None else float(line[k]) for k in ("score", "squared"))
            self.judged[line["clip"]] = Judged(score, line["error"], squared)


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a partial file; the last may have been cut off in the middle."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                return
            if isinstance(line, dict) and (line.keys() >= {"clip", "score", "error"} or "model" in line):
                yield line


def _clip_name(clip: Clip) -> str:
    key = clip_key(clip.file) if clip.file is not None else None
    return key or f"{clip.path} (not there)"


def _note(key: str, judged: Judged) -> str:
    score, squared = (None if np.isnan(v) else v for v in (judged.score, judged.reconstruction_error))
    return _line({"clip": key, "score": score, "error": judged.error, "squared": squared})


def _line(facts: dict[str, Any]) -> str:
    return json.dumps(facts) + "\n"
