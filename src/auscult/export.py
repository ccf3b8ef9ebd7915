"""A fitted model becomes an ONNX file: waveform in; score, p-value and decision out."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from auscult.calibration import Calibration
from auscult.corpus import Clip
from auscult.errors import AudioError, AuscultError
from auscult.exported import FORMAT_VERSION, KEY, ExportedDetector, ExportedModel
from auscult.exported import load as load_exported
from auscult.features import FrontEnd
from auscult.files import atomic
from auscult.model import Model, read_clips
from auscult.nn.tracing import traced

TOLERANCE = 1e-4
"""How far scores of the file may be from the model's, relative to these."""

_LIFTED = TOLERANCE / 2
"""By which share of themselves healthy scores are higher in the file. A threshold is one of them: the clip it is of
would be above it or not by the last digit."""

_OPSET = 20
_LONGEST = 3600
_USUAL_SECONDS = 10.0
_MOST_CHECKED = 50

NORMAL, ANOMALY, UNDECIDED = 0, 1, -1


class Waveform(nn.Module):
    """The front end as a graph: a waveform, (n_samples,), to its log-mel, (n_frames, n_mels), in 64 bits until the end.

    Parameters
    ----------
    front : FrontEnd
    """

    window: torch.Tensor
    filters: torch.Tensor

    def __init__(self, front: FrontEnd) -> None:
        super().__init__()
        self.front = front
        self.register_buffer("window", torch.hann_window(front.n_fft, periodic=True, dtype=torch.float64))
        self.register_buffer("filters", torch.from_numpy(front.mel_matrix()).double().T.contiguous())

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        """Log-mel in dB, float32."""
        front = self.front
        exact = self._scaled(wave.double())
        mode = "reflect" if front.padding == "reflect" else "constant"
        padded = nn.functional.pad(exact[None, None], (front.n_fft // 2,) * 2, mode=mode)[0, 0]
        spectrum = torch.fft.rfft(padded.unfold(0, front.n_fft, front.hop_length) * self.window)
        power = (spectrum.real.square() + spectrum.imag.square()) @ self.filters
        power = power + front.floor if front.log == "add" else power.clamp(min=front.floor)
        levels = 10 * power.log10()
        if front.top_db is not None:
            levels = torch.maximum(levels, levels.flatten().amax(0) - front.top_db)
        logmel: torch.Tensor = levels.float()
        return logmel

    def _scaled(self, exact: torch.Tensor) -> torch.Tensor:
        if self.front.normalise == "none":
            return exact
        centred = exact - exact.mean()
        deviation = centred.square().mean().sqrt()
        wave = centred if self.front.normalise == "standard" else exact
        # Rounded as the model's own front end rounds it.
        return (wave / torch.where(deviation > 0, deviation, torch.ones_like(deviation))).float().double()


class Judge(nn.Module):
    """Front end, detector, calibration and threshold as one graph.

    Parameters
    ----------
    model : Model
    clip : Clip
        Whose machine the sound is of.
    """

    healthy: torch.Tensor

    def __init__(self, model: Model, clip: Clip) -> None:
        super().__init__()
        detector, calibration = model.detector, lifted(model.calibration)
        self.hear = Waveform(detector.front_end)
        self.network = getattr(detector, "network", None)
        self.detector, self.clip = (detector,), clip
        self.held_out = calibration.held_out and calibration.n > 0
        self.threshold = calibration.threshold
        self.register_buffer("healthy", torch.from_numpy(calibration.scores.copy()))

    def forward(self, wave: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Score and p-value, float64, and decision, int64, all of shape ()."""
        (detector,) = self.detector
        score: Any = detector.score_of(self.clip, self.hear(wave))
        score = score.double().reshape(())
        n = len(self.healthy)
        p_value = (1 + (self.healthy >= score).sum().double()) / (n + 1) if self.held_out else score * torch.nan
        if self.threshold is None:
            decision = torch.full((), UNDECIDED)
        else:
            decision = torch.where(score > self.threshold, ANOMALY, NORMAL)
        return score, p_value, decision


def export(
    model: Model,
    path: str | os.PathLike[str],
    clips: Sequence[Clip],
    *,
    clip: Clip | None = None,
    seconds: float | None = None,
) -> int:
    """Write a model as ONNX, if it judges these clips as the model does.

    Parameters
    ----------
    model : Model
    path : path-like
    clips : sequence of Clip
        Recordings on which both are compared; at most fifty of them are.
    clip : Clip, optional
        Whose machine type and ID every sound will be of, for detectors that tell machines apart. Default: that of
        the first of `clips`.
    seconds : float, optional
        Length of every clip, for detectors that export one length only. Default: that of the clips learnt from.

    Returns
    -------
    int
        How many clips were compared.

    Raises
    ------
    AuscultError
        If the detector cannot be exported, or no clip could be compared, or the two disagree. No file is written.
    """
    detector = model.detector
    if not detector.exports:
        raise AuscultError(f"{detector.name} cannot be exported: {detector.why_no_export}", "score with auscult itself")
    require_libraries()
    clip = clip or (clips[0] if clips else Clip(path="clip"))
    front = detector.front_end
    usual = seconds or float(model.provenance.get("clip_seconds") or _USUAL_SECONDS)
    any_length = detector.exports_any_length and seconds is None
    least = max(front.n_fft // 2 + 1, (detector.min_frames - 1) * front.hop_length)
    judge = Judge(model, clip).eval()
    with atomic(path) as target, tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model.onnx"
        _trace(judge, round(usual * front.sample_rate), least, any_length, made)
        exactly = _length_of(made)
        _describe(model, made, least, exactly, clip)
        compared = _compare(model, load_exported(made), clips, clip)
        target.write_bytes(made.read_bytes())
    return compared


def clips_to_compare(model: Model, data: str | None) -> list[Clip]:
    """The recordings named, or else those that `fit` kept for calibration, if they are where they were."""
    return model.kept_clips() if data is None else read_clips(data)


def lifted(calibration: Calibration) -> Calibration:
    """A calibration whose scores are a trifle higher, so that rounding does not decide."""
    scores = calibration.scores + _LIFTED * np.abs(calibration.scores)
    return Calibration(scores, calibration.false_alarm_rate, calibration.held_out)


def require_libraries() -> None:
    """Refuse to begin without what the export needs.

    Raises
    ------
    AuscultError
        If something is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise AuscultError(f"{error.name} is missing", 'install it: pip install "auscult[onnx]"') from error


def _trace(judge: Judge, n_samples: int, least: int, any_length: bool, made: Path) -> None:
    """Record what is computed from a waveform, and write it."""
    # Noise: a sample of silence would be a special case of its own.
    wave = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, n_samples).astype(np.float32))
    front = judge.hear.front
    length = torch.export.Dim("samples", min=least, max=_LONGEST * front.sample_rate)
    try:
        with traced(), torch.no_grad(), _quietly():
            program = torch.onnx.export(
                judge,
                (wave,),
                dynamo=True,
                opset_version=_OPSET,
                input_names=["waveform"],
                output_names=["score", "p_value", "decision"],
                dynamic_shapes=({0: length},) if any_length else None,
                verbose=False,
            )
            assert program is not None
            program.save(str(made))
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        (detector,) = judge.detector
        raise AuscultError(
            f"{detector.name} could not be exported: {lines[0]}", "please report it, with the settings of the model"
        ) from error


def _describe(model: Model, made: Path, least: int, exactly: int | None, clip: Clip) -> None:
    """Put the description of the model into the file's metadata."""
    import onnx

    calibration = lifted(model.calibration)
    header = {
        "format_version": FORMAT_VERSION,
        "detector": model.detector.name,
        "settings": model.detector.config.model_dump(mode="json"),
        "front_end": model.detector.front_end.model_dump(mode="json"),
        "least_samples": least,
        "exact_samples": exactly,
        "machine": f"{clip.machine_type} {clip.machine_id}",
        "calibration": {
            "scores": calibration.scores.tolist(),
            "false_alarm_rate": calibration.false_alarm_rate,
            "held_out": calibration.held_out,
            "threshold": calibration.threshold,
            "promise": calibration.promise,
        },
        "provenance": model.provenance,
    }
    graph = onnx.load(made)
    onnx.helper.set_model_props(graph, {KEY: json.dumps(header)})
    onnx.save(graph, made)


def _length_of(made: Path) -> int | None:
    """The only length that a graph takes, in samples; None if any."""
    import onnx

    (waveform,) = onnx.load(made).graph.input
    (length,) = waveform.type.tensor_type.shape.dim
    return int(length.dim_value) or None


def _compare(model: Model, exported: ExportedModel, clips: Sequence[Clip], clip: Clip) -> int:
    """Judge clips with both.

    Raises
    ------
    AuscultError
        If they disagree, or there is no clip.
    """
    # The graph knows one machine: both are asked about that.
    some = clips[:: max(1, len(clips) // _MOST_CHECKED)][:_MOST_CHECKED]
    chosen = [replace(one, machine_type=clip.machine_type, machine_id=clip.machine_id) for one in some]
    # A score may be 0, of a clip learnt from.
    least = float(np.median(np.abs(model.calibration.scores))) / 10 if model.calibration.n else 0.0
    compared, passed_over = 0, ""
    if exported.detector.exactly is None:
        chosen = [other for one in chosen for other in _of_other_lengths(one, exported.detector)]
    for one in chosen:
        try:
            ours = model.detector.score_clip(one)
            theirs = exported.detector.score_clip(one)
        except AudioError as error:
            passed_over = str(error)
            continue
        compared += 1
        judged = ((model.calibration, ours), (exported.calibration, theirs))
        decisions = [calibration.decide(np.array([score]))[0] for calibration, score in judged]
        if not abs(theirs - ours) <= TOLERANCE * max(abs(ours), least) or decisions[0] != decisions[1]:
            raise AuscultError(
                f"{one.path}: the exported {model.detector.name} scores {theirs:.6g} ({decisions[1]}), the model "
                f"{ours:.6g} ({decisions[0]}); nothing was written",
                "please report it, with the settings of the model",
            )
    if not compared:
        raise AuscultError(
            f"there is no clip to compare the two on{': ' if passed_over else ''}{passed_over}",
            f"name recordings of the machine{' of that length' * bool(exported.detector.exactly)}: --check DATA",
        )
    return compared


def _of_other_lengths(clip: Clip, detector: ExportedDetector) -> list[Clip]:
    """A clip, some of it, and more than it: a graph that takes any length must not have learnt one by heart."""
    rate = detector.rate
    try:
        wave = clip.waveform(rate, detector.channel)
    except AudioError:
        return [clip]
    lengths = (len(wave) * 2 // 3, len(wave) * 5 // 4)
    return [clip, *(replace(clip, samples=np.resize(wave, n), rate=rate) for n in lengths)]


@contextmanager
def _quietly() -> Iterator[None]:
    """The exporter tells of libraries that are not there and of its own plans; none of it is the user's business."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
