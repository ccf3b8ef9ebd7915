"""The Detector contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator

from auscult.corpus.clip import Clip
from auscult.errors import AudioError, AuscultError, reconstructs_nothing
from auscult.features import FRONT_ENDS, FrontEnd
from auscult.parallel import map_in_order
from auscult.store import Store, clip_logmel
from auscult.training import Run, TrainingLog
from auscult.wording import counted


class Needs(StrEnum):
    """What training data a detector cannot do without."""

    NORMALS = "normals"
    MACHINE_IDS = "machine_ids"
    OUTLIERS = "outliers"


class DetectorConfig(BaseModel):
    """Settings that every detector has; each detector adds its own.

    Attributes
    ----------
    front_end : str
        Name of the front end (see `auscult.features.FRONT_ENDS`).
    channel : int or "mean"
        Which channel of a recording is judged.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    front_end: str = Field(default="dcase2020", description="how a waveform becomes a log-mel")
    channel: int | str = Field(default=0, description='which channel is judged: a number, or "mean"')

    @field_validator("front_end")
    @classmethod
    def _front_end_exists(cls, name: str) -> str:
        if name not in FRONT_ENDS:
            raise ValueError(f"a front end is one of {', '.join(FRONT_ENDS)}")
        return name

    @field_validator("channel")
    @classmethod
    def _channel_exists(cls, channel: int | str) -> int | str:
        if isinstance(channel, str) and not channel.isdigit() and channel != "mean":
            raise ValueError('a channel is a number from 0, or "mean"')
        return channel if channel == "mean" else int(channel)


class Detector(ABC):
    """Learns what healthy sounds like; says how far a clip is from it.

    A subclass gives its name, family, paper and settings as class attributes, and implements `fit`,
    `score_logmel`, `map_logmel`, `state` and `restore`. Nothing else is needed for it to appear in
    `auscult detectors`, the conformance tests, the benchmark, the docs and the service.

    Parameters
    ----------
    config : DetectorConfig, optional
        Validated settings; the paper's where none are given.
    """

    name: ClassVar[str]
    family: ClassVar[str]
    paper: ClassVar[str]
    needs: frozenset[Needs] = frozenset({Needs.NORMALS})
    exports: bool = False
    """Whether `auscult export` can write it as ONNX: its score is a graph of tensors from the log-mel on."""
    why_no_export: str = "its score has not been written as one graph"
    """Why it cannot, for people."""
    Config: ClassVar[type[DetectorConfig]] = DetectorConfig
    scorings: ClassVar[frozenset[str]] = frozenset()
    """Settings that what is learnt does not depend on: a fitted detector may be scored with others."""
    whereabouts: ClassVar[frozenset[str]] = frozenset()
    """Those of `scorings` that say only where a file lies: scores are the same, so a threshold stays."""
    reconstructs: ClassVar[bool] = False
    """Whether it predicts levels in dB, so that `reconstruction_error` can be told."""
    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {}, "quick": {}}
    """Settings by preset. "paper" is what the paper says; "quick" trains in minutes on a laptop."""

    def __init__(self, config: DetectorConfig | None = None) -> None:
        self.config = config or self.Config()
        self.front_end: FrontEnd = FRONT_ENDS[self.config.front_end].model_copy(update={"channel": self.config.channel})

    # What a detector implements -----------------------------------------------------------------

    @abstractmethod
    def fit(
        self,
        train: Sequence[Clip],
        *,
        outliers: Sequence[Clip] | None = None,
        store: Store,
        budget: float | None = None,
        seed: int = 0,
        run: Run | None = None,
    ) -> TrainingLog:
        """Learn from healthy clips.

        Parameters
        ----------
        train : sequence of Clip
            Recordings of the healthy machine.
        outliers : sequence of Clip, optional
            Recordings of something else, for detectors that need them.
        store : Store
            Where log-mels are kept.
        budget : float, optional
            Seconds after which training ends.
        seed : int
        run : Run, optional
            Device, threads, checkpoint.

        Returns
        -------
        TrainingLog

        Raises
        ------
        AuscultError
            If the data lack what `needs` names, or the training fails.
        """

    @abstractmethod
    def score_logmel(self, logmel: torch.Tensor) -> float:
        """Anomaly score of a clip from its log-mel, shape (n_frames, n_mels); larger is more anomalous."""

    @abstractmethod
    def map_logmel(self, logmel: torch.Tensor) -> torch.Tensor:
        """Anomaly map of a clip from its log-mel: both of shape (n_frames, n_mels)."""

    @abstractmethod
    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """What was learnt: tensors, and facts that JSON can hold."""

    @abstractmethod
    def restore(self, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Take over what `state` of a fitted detector with the same settings returned."""

    @property
    @abstractmethod
    def min_frames(self) -> int:
        """The shortest clip that can be judged, in frames."""

    @property
    def outliers_of_all_types(self) -> bool:
        """Whether outliers that nobody names are clips of other machine types too, not of the same types alone."""
        return False

    def score_of(self, clip: Clip, logmel: torch.Tensor) -> float:  # noqa: ARG002
        """`score_logmel`, for a detector that must know whose log-mel it is (of which machine)."""
        return self.score_logmel(logmel)

    def map_of(self, clip: Clip, logmel: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """`map_logmel`, likewise."""
        return self.map_logmel(logmel)

    @property
    def exports_any_length(self) -> bool:
        """Whether an export takes clips of any length, as far as its settings allow; else of one only."""
        return False

    def depends_on(self) -> str:
        """Look for what learning needs beside recordings, so that a refusal comes before any work.

        Returns
        -------
        str
            What tells its content from another: part of a training's identity. Empty: nothing is needed.

        Raises
        ------
        AuscultError
            If it is not to be had.
        """
        return ""

    def make_ready(self) -> None:  # noqa: B027  (most need nothing)
        """Look for what judging needs beside the model file, so that a refusal comes before any work.

        Raises
        ------
        AuscultError
            If it is not to be had.
        """

    def n_parameters(self) -> int:
        """How many trainable parameters the system has; 0 for one that keeps examples instead."""
        return 0

    # What follows from it -----------------------------------------------------------------------

    def score(self, clips: Sequence[Clip], *, workers: int | None = None) -> np.ndarray:
        """Anomaly score of each clip; a clip's score does not depend on the others.

        Parameters
        ----------
        clips : sequence of Clip
        workers : int, optional
            Clips judged at once; default: the cores there are.

        Returns
        -------
        ndarray of float64, shape (n_clips,)
            Larger is more anomalous.

        Raises
        ------
        AudioError
            If a clip cannot be judged; the message names it.
        """
        return np.fromiter(map_in_order(self.score_clip, clips, workers), np.float64, len(clips))

    def score_learnt(self, clips: Sequence[Clip]) -> np.ndarray:
        """Score of clips that were learnt from, as far as possible as if they had not been.

        Returns
        -------
        ndarray of float64, shape (n_clips,)
        """
        return self.score(clips)

    def score_clip(self, clip: Clip) -> float:
        """Anomaly score of one clip.

        Raises
        ------
        AudioError
            If it cannot be judged; the message names it.
        """
        with torch.inference_mode():
            score = self.score_of(clip, self.logmel(clip))
        if not np.isfinite(score):
            raise AudioError(f"{clip.path}: its score is {score}", "listen to it; it is unlike any recording")
        return score

    def findings(self, clip: Clip) -> tuple[str, ...]:  # noqa: ARG002
        """What is strange about a clip in words, the strangest first, for a detector that can say more than where.

        Raises
        ------
        AudioError
            If the clip cannot be judged.
        """
        return ()

    def reconstruction_error(self, clip: Clip) -> float:
        """Mean squared error of the levels predicted, in dB squared, over a clip.

        Raises
        ------
        AuscultError
            If the detector predicts no levels, or the clip cannot be judged.

        References
        ----------
        Wichern et al., WASPAA 2021, Table 2.
        """
        if not self.reconstructs:
            raise reconstructs_nothing(self.name)
        with torch.inference_mode():
            return self.squared_error(self.logmel(clip))

    def squared_error(self, logmel: torch.Tensor) -> float:  # noqa: ARG002
        """Mean squared error in dB squared over a log-mel, shape (n_frames, n_mels); see `reconstruction_error`."""
        raise reconstructs_nothing(self.name)

    def anomaly_map(self, clip: Clip) -> np.ndarray:
        """Anomaly score per mel band and frame.

        Returns
        -------
        ndarray of float32, shape (n_mels, n_frames)
            Aligned with the clip's log-mel; larger is more anomalous.

        Raises
        ------
        AudioError
            If the clip cannot be judged.
        """
        with torch.inference_mode():
            return self.map_of(clip, self.logmel(clip)).float().T.contiguous().numpy()

    def map_with_mask(self, clip: Clip, mask: str | np.ndarray) -> np.ndarray:  # noqa: ARG002
        """Anomaly map of the bins that a mask hides, predicted from all others, for a detector that can.

        Returns
        -------
        ndarray of float32, shape (n_mels, n_frames)
            0 where nothing is hidden.

        Raises
        ------
        AuscultError
            If it cannot.
        """
        raise AuscultError(f"{self.name} takes no mask", "anp and convcnp predict any hidden bins from the others")

    def logmel(self, clip: Clip) -> torch.Tensor:
        """The log-mel that the detector hears, shape (n_frames, n_mels).

        Raises
        ------
        AudioError
            If the clip cannot be read or is shorter than one window.
        """
        logmel = clip_logmel(clip, self.front_end)
        if len(logmel) < self.min_frames:
            raise self.too_short(clip, len(logmel))
        return logmel

    def too_short(self, clip: Clip, n_frames: int) -> AudioError:
        """The refusal of a clip of fewer frames than one window."""
        front = self.front_end
        shortest = (self.min_frames - 1) * front.hop_length / front.sample_rate
        return AudioError(
            f"{clip.path}: the clip is too short: {counted(n_frames, 'frame')}",
            f"{self.name} needs {self.min_frames}, {shortest:.2f} s",
        )


def require_fitted(fitted: object, name: str) -> None:
    """Refuse to judge before anything was learnt.

    Raises
    ------
    AuscultError
        If `fitted` is None.
    """
    if fitted is None:
        raise AuscultError(f"this {name} has not been fitted", "call fit first, or load a model")
