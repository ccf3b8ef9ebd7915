"""A fitted detector with its calibration and provenance: what `fit` returns and `load` brings back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from auscult import modelfile
from auscult.calibration import Calibration
from auscult.corpus import Clip, Manifest, open_data
from auscult.corpus.clip import DEFAULT_ID, tail
from auscult.detectors import registry
from auscult.detectors.base import Detector
from auscult.errors import AuscultError
from auscult.features import FrontEnd
from auscult.store import Broken

Data = str | os.PathLike[str] | Manifest | Sequence[Clip] | Sequence[str | os.PathLike[str]] | Sequence[np.ndarray]
"""What can be judged: a folder, a manifest, recordings by path, clips, or waveforms in memory."""

_SCORES = "calibration.scores"
_USUAL = "usual_map"
_OWN = (_SCORES, _USUAL)


class Model:
    """A fitted detector that judges clips.

    Parameters
    ----------
    detector : Detector
        Fitted.
    calibration : Calibration
    provenance : dict
        What it was learnt from: clips, hash of the manifest, seed, date, training log.
    usual : ndarray of float32, shape (n_mels,)
        Mean anomaly map of healthy clips in each band.
    unusable : sequence of Broken
        Training clips that could not be used; not kept in the file.
    """

    def __init__(
        self,
        detector: Detector,
        calibration: Calibration,
        provenance: dict[str, Any],
        usual: np.ndarray,
        unusable: Sequence[Broken] = (),
    ) -> None:
        self.detector = detector
        self.calibration = calibration
        self.provenance = provenance
        self.usual = usual
        self.unusable = tuple(unusable)

    def __repr__(self) -> str:
        return f"<Model {self.detector.name}, {self.provenance.get('n_training_clips', '?')} clips>"

    # Judging ----------------------------------------------------------------------------------------

    def score(self, data: Data, *, rate: int | None = None, workers: int | None = None) -> np.ndarray:
        """Anomaly score of each clip.

        Parameters
        ----------
        data : folder, manifest, paths, clips or waveforms
            Of a folder or manifest, every clip.
        rate : int, optional
            Sample rate of waveforms given as arrays, in Hz.
        workers : int, optional
            Clips judged at once; default: the cores there are.

        Returns
        -------
        ndarray of float64, shape (n_clips,)
            Larger is more anomalous.

        Raises
        ------
        AudioError
            If a clip cannot be judged.
        """
        return self.detector.score(read_clips(data, rate=rate), workers=workers)

    def p_values(self, data: Data, *, rate: int | None = None) -> np.ndarray:
        """Share of healthy clips that would score as high, shape (n_clips,); NaN if none were held out."""
        return self.calibration.p_values(self.score(data, rate=rate))

    def decide(self, data: Data, *, rate: int | None = None) -> list[str]:
        """Return "normal" or "anomaly" for each clip, at the model's false-alarm rate."""
        return self.calibration.decide(self.score(data, rate=rate))

    def decision_function(self, X: Data, *, rate: int | None = None) -> np.ndarray:
        """`score`, by the name that PyOD uses: larger is more anomalous."""
        return self.score(X, rate=rate)

    def predict(self, X: Data, *, rate: int | None = None) -> np.ndarray:
        """1 for an anomaly, 0 for a normal clip, as PyOD has it; shape (n_clips,), int."""
        return np.array([decision == "anomaly" for decision in self.decide(X, rate=rate)], dtype=int)

    # Showing where ----------------------------------------------------------------------------------

    def logmel(self, clip: Clip) -> np.ndarray:
        """What the detector hears, in dB, shape (n_mels, n_frames), float32."""
        return np.array(self.detector.logmel(clip).T)

    def anomaly_map(self, clip: Clip | str | os.PathLike[str], mask: str | np.ndarray = "") -> np.ndarray:
        """Anomaly score per mel band and frame, shape (n_mels, n_frames), float32, aligned with the log-mel.

        Parameters
        ----------
        clip : Clip or path
        mask : str or ndarray of bool, shape (n_mels, n_frames), optional
            Bins to hide and to predict from the rest, for a detector that takes any mask (`anp`, `convcnp`); the
            map is 0 elsewhere. In words, such as "bands:60-70" (see `auscult.nn.masks.parse_mask`).

        Raises
        ------
        AuscultError
            If the detector takes no mask, or the mask does not fit the clip.
        """
        clip = clip if isinstance(clip, Clip) else _one(clip)
        if isinstance(mask, str) and not mask:
            return self.detector.anomaly_map(clip)
        return self.detector.map_with_mask(clip, mask)

    def relative_map(self, clip: Clip | str | os.PathLike[str], mask: str | np.ndarray = "") -> np.ndarray:
        """The anomaly map over its usual level in each band: 1 is as healthy, 4 four times as strange.

        Some bands are harder to predict than others on any machine; dividing by what healthy clips show there
        leaves what is unusual.
        """
        return np.asarray(self.anomaly_map(clip, mask) / np.maximum(self.usual, 1e-12)[:, None])

    def machine(self, machine_type: str | None = None, machine_id: str | None = None) -> Clip:
        """A clip without sound, of the machine that is named, or else of the only one that was learnt from."""
        known = [str(machine).rpartition(" ")[::2] for machine in self.provenance.get("machines", [])]
        kind, number = known[0] if len(known) == 1 else ("machine", DEFAULT_ID)
        return Clip(path="now", machine_type=machine_type or kind, machine_id=machine_id or number)

    def kept_clips(self) -> list[Clip]:
        """The clips kept for calibration, if all are where they were."""
        paths = self.provenance.get("calibration_clips", [])
        there = bool(paths) and all(os.path.isfile(path) for path in paths)
        return open_data(paths).clips() if there else []

    def rescored(self, healthy: Data | None = None, **settings: Any) -> Model:
        """The same fitted detector, scored another way (`Detector.scorings`), and calibrated for it.

        Parameters
        ----------
        healthy : folder, manifest, paths, clips or waveforms, optional
            Healthy clips that were not learnt from. Default: those that `fit` kept for calibration, if all are
            where they were.
        **settings
            Such as `masking="boot"` and `score_by="likelihood"` of an attentive neural process.

        Returns
        -------
        Model
            Without such clips it scores and maps, but has no threshold and promises nothing. Where the settings say
            only where a file lies now (`Detector.whereabouts`), threshold and promise stay.

        Raises
        ------
        AuscultError
            If a setting is unknown or learning depends on it, or a healthy clip cannot be judged.
        """
        detector = registry.rescored(self.detector, settings)
        if healthy is None and settings.keys() <= detector.whereabouts:
            return Model(detector, self.calibration, self.provenance, self.usual, self.unusable)
        clips = self.kept_clips() if healthy is None else read_clips(healthy)
        calibration = Calibration(detector.score(clips), self.calibration.false_alarm_rate, held_out=bool(clips))
        return Model(detector, calibration, self.provenance, self.usual, self.unusable)

    def has_learnt(self, path: str) -> bool:
        """Whether the detector has learnt from this clip, wherever its folder lies now."""
        return tail(path) in self._learnt

    @cached_property
    def _learnt(self) -> set[tuple[str, ...]]:
        return {tail(path) for path in self.provenance.get("training_clips", [])}

    # Keeping ----------------------------------------------------------------------------------------

    def with_rate(self, false_alarm_rate: float) -> Model:
        """The same model, deciding at another false-alarm rate."""
        calibration = self.calibration.at_rate(false_alarm_rate)
        return Model(self.detector, calibration, self.provenance, self.usual, self.unusable)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file (`*.auscult`), whole or not at all.

        Raises
        ------
        AuscultError
            If it cannot be written.
        """
        tensors, facts = self.detector.state()
        header = {
            "auscult_version": _version(),
            "detector": self.detector.name,
            "settings": self.detector.config.model_dump(mode="json"),
            "front_end": self.detector.front_end.model_dump(mode="json"),
            "facts": facts,
            "calibration": {
                "false_alarm_rate": self.calibration.false_alarm_rate,
                "held_out": self.calibration.held_out,
                "threshold": self.calibration.threshold,
                "promise": self.calibration.promise,
            },
            "provenance": self.provenance,
        }
        own = {_SCORES: torch.from_numpy(self.calibration.scores), _USUAL: torch.from_numpy(self.usual)}
        modelfile.write(path, header, {f"detector.{k}": v for k, v in tensors.items()} | own)


def load(path: str | os.PathLike[str]) -> Model:
    """Load a model file. No code from the file is run.

    Raises
    ------
    AuscultError
        If the file is missing, damaged, of a later version, or of a detector this auscult does not have; or if what
        the detector needs beside it is not to be had.
    """
    model = unprepared(path)
    try:
        model.detector.make_ready()
    except AuscultError as error:
        raise AuscultError(f"{path}: {error.what}", error.remedy) from error
    return model


def unprepared(path: str | os.PathLike[str]) -> Model:
    """`load`, without asking whether what the detector needs beside the file is where it was.

    Raises
    ------
    AuscultError
        As `load`, but for that.
    """
    header, tensors = modelfile.read(path)
    try:
        kind = registry.get(header["detector"])
        detector = kind(registry.validate(kind, header["settings"]))
        front_end = FrontEnd.model_validate(header["front_end"])
        learnt = {k.removeprefix("detector."): v for k, v in tensors.items() if k not in _OWN}
        calibration = Calibration(
            tensors[_SCORES].numpy(),
            header["calibration"]["false_alarm_rate"],
            header["calibration"]["held_out"],
        )
        usual = tensors[_USUAL].numpy()
        provenance, facts = header["provenance"], header["facts"]
    except (KeyError, TypeError, ValueError) as error:
        raise AuscultError(f"{path}: the model file is damaged: it lacks {error}", "fit it anew") from error
    detector.front_end = front_end
    try:
        detector.restore(learnt, facts)
    except AuscultError as error:
        raise AuscultError(f"{path}: {error.what}", error.remedy) from error
    return Model(detector, calibration, provenance, usual)


def read_clips(data: Data, *, rate: int | None = None) -> list[Clip]:
    """Clips from whatever holds them.

    Parameters
    ----------
    data : folder, manifest, paths, clips or waveforms
    rate : int, optional
        Sample rate of waveforms given as arrays, in Hz.

    Raises
    ------
    AuscultError
        If there is nothing to read, or waveforms come without a rate.
    """
    if isinstance(data, Manifest):
        return data.clips()
    if isinstance(data, str | os.PathLike):
        return open_data(data).clips()
    items: list[Any] = list(data)
    if all(isinstance(item, Clip) for item in items):
        return items
    if all(isinstance(item, np.ndarray) for item in items):
        if rate is None:
            raise AuscultError("waveforms were given without a sample rate", "say rate=16000, or what it is")
        return [Clip(path=f"waveform {i}", samples=wave, rate=rate) for i, wave in enumerate(items)]
    return open_data(items).clips()


def _one(path: str | os.PathLike[str]) -> Clip:
    return open_data(path).clips()[0]


def _version() -> str:
    from auscult import __version__

    return __version__
