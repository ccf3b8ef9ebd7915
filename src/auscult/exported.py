"""A model that was exported to ONNX judges clips, with onnxruntime alone: torch is not imported."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auscult.calibration import Calibration
from auscult.corpus.clip import Clip
from auscult.errors import AudioError, AuscultError

FORMAT_VERSION = 1
KEY = "auscult"


@dataclass(frozen=True)
class ExportedDetector:
    """What scores a clip.

    Attributes
    ----------
    name : str
    rate : int
        Hz.
    channel : int or "mean"
    least : int
        Samples that a clip has at least.
    exactly : int or None
        Samples that every clip has, where the graph is of one length.
    session : onnxruntime.InferenceSession
    """

    name: str
    rate: int
    channel: Any
    least: int
    exactly: int | None
    session: Any
    reconstructs: bool = False

    def score_clip(self, clip: Clip) -> float:
        """Anomaly score of one clip.

        Raises
        ------
        AudioError
            If it cannot be judged; the message names it.
        """
        wave = clip.waveform(self.rate, self.channel)
        if self.exactly is not None and len(wave) != self.exactly:
            raise AudioError(
                f"{clip.path}: lasts {len(wave) / self.rate:.3g} s, this file takes {self.exactly / self.rate:.6g} s",
                "export again for another length (--seconds), or score with the model it was made of",
            )
        if len(wave) < self.least:
            raise AudioError(f"{clip.path}: the clip is too short", f"{self.name} needs {self.least / self.rate:.2f} s")
        score = float(self.session.run(["score"], {"waveform": wave})[0])
        if not np.isfinite(score):
            raise AudioError(f"{clip.path}: its score is {score}", "listen to it; it is unlike any recording")
        return score


@dataclass(frozen=True)
class ExportedModel:
    """An exported detector with its calibration: enough of a `Model` to score clips."""

    detector: ExportedDetector
    calibration: Calibration
    provenance: dict[str, Any]


def load(path: str | os.PathLike[str], threads: int = 1) -> ExportedModel:
    """Load a file that `auscult export` wrote.

    Raises
    ------
    AuscultError
        If it is missing, damaged, no model of auscult or of a later one, or onnxruntime is not installed.
    """
    source = Path(path)
    if not source.is_file():
        raise AuscultError(f"{source}: there is no such model file", "make one: auscult export MODEL -o model.onnx")
    try:
        import onnxruntime
    except ImportError as error:
        raise AuscultError("onnxruntime is missing", 'install it: pip install "auscult[onnx]"') from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map
    except Exception as error:  # onnxruntime has a class for every status, without a common one of its own
        raise AuscultError(f"{source}: is damaged, or no ONNX file", "export it again") from error
    if KEY not in metadata:
        raise AuscultError(f"{source}: is an ONNX file, but no model of auscult", "make one with auscult export")
    try:
        header = json.loads(metadata[KEY])
        if header["format_version"] > FORMAT_VERSION:
            raise AuscultError(f"{source}: was written by a later auscult", "upgrade: pip install --upgrade auscult")
        held = header["calibration"]
        calibration = Calibration(np.array(held["scores"]), held["false_alarm_rate"], held["held_out"])
        detector = ExportedDetector(
            header["detector"],
            int(header["front_end"]["sample_rate"]),
            header["front_end"]["channel"],
            int(header["least_samples"]),
            header["exact_samples"],
            session,
        )
        return ExportedModel(detector, calibration, header["provenance"])
    except (KeyError, TypeError, ValueError) as error:
        raise AuscultError(f"{source}: its description lacks {error}", "export it again") from error
