"""STgram: tells machines apart by their log-mel and by a learnt image of the waveform; a doubtful one is strange."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from auscult.corpus.clip import Clip
from auscult.detectors.base import DetectorConfig, Needs, require_fitted
from auscult.detectors.machines import MachineDetector
from auscult.detectors.registry import register
from auscult.errors import AuscultError
from auscult.features import FrontEnd
from auscult.nn import tiles
from auscult.nn.arcface import ArcFace
from auscult.nn.attribution import integrated_gradients
from auscult.nn.schedules import Schedule
from auscult.nn.stgram import N_FEATURES, STgramNetwork
from auscult.store import LogMels, Store, require_clips
from auscult.training import Plan, Run, TrainingLog, train

_PAPERS_CLASSES = 41
"""Machine IDs in the development and additional training data of DCASE 2020."""

_WINDOWS_AT_ONCE = 8
"""Bounds the memory of a long clip."""

_MAP_STEPS = 8
"""Points of the integration behind a map: few, for speed. Shares sum only roughly to the difference they explain."""

_FLAT_EPOCHS, _LEAST_RATE = 20, 0.1
"""Epochs before the rate falls, and the share of it that it falls to."""


class STgramConfig(DetectorConfig):
    """Settings of STgram.

    Attributes
    ----------
    frames : int
        Frames in a window: 313, ten seconds, are all that the paper's front end leaves of a clip. Shorter ones, cut
        anywhere from a clip in training, are ours.
    hop : int or None
        Frames between two windows that a clip is scored by, the last one at its end; None for `frames`.
    form : {2022, 2023}
        MobileFaceNet as in the authors' program when the paper appeared, or after they rewrote it.
    head : {"arcface", "linear"}
        Cosines with a margin, or plain logits. The published headline figures are ArcFace's.
    margin, scale : float
        Of ArcFace.
    epochs, batch_size, learning_rate, max_steps : training
    """

    front_end: str = Field(default="stgram", description="how a waveform becomes a log-mel")
    frames: int = Field(default=313, ge=16, description="frames in a window")
    hop: PositiveInt | None = Field(default=None, description="frames between two windows of a clip; default: frames")
    form: Literal[2022, 2023] = Field(default=2022, description="year of the published program's network")
    head: Literal["arcface", "linear"] = Field(default="arcface", description="cosines with a margin, or plain logits")
    margin: float = Field(default=0.7, ge=0, lt=math.pi, description="radians that ArcFace handicaps the own class by")
    scale: PositiveFloat = Field(default=30.0, description="of ArcFace's cosines")
    epochs: PositiveInt = Field(default=300, description="passes over the training clips")
    batch_size: int = Field(default=128, ge=2, description="windows in a training step")
    learning_rate: PositiveFloat = Field(default=1e-4, description="of Adam")
    max_steps: PositiveInt | None = Field(default=None, description="end after so many steps")


@register
class STgram(MachineDetector):
    """Classifies clips by type and machine ID, hearing the waveform as well as the log-mel.

    One model for all machines, those of the outliers included if there are any. The first ten seconds of a clip:
    the log-mel (128 x 313) and what TgramNet makes of the waveform (as large) are the two channels of an image,
    MobileFaceNet its 128-number embedding, ArcFace (margin 0.7, scale 30) what tells the classes apart: 1 345 046
    parameters for 41 classes, 1 155 990 with `form=2023`. Cross-entropy, Adam 1e-4, batches of 128, 300 epochs,
    from the 20th on with a rate that falls along a cosine to a tenth.

    Score: -log of the softmax probability of the clip's own machine, averaged over windows where there are several,
    with the margin applied as in training: the authors' programs do so, and it changes what is certain more than
    the order of clips. Map: integrated gradients of the log-odds against the machine, where positive, over the log-mel
    alone, the waveform as it is; from the clip as it would be with its levels within the machine's usual ones.

    Waveforms are not stored: each batch reads its own again, which takes a hundredth of the time that the network
    does, so that memory holds no more than a batch.

    References
    ----------
    Liu, Guan, Zhu, Wang, "Anomalous sound detection using spectral-temporal information fusion", ICASSP 2022, and its
    authors' released programs, of which the schedule is that of 2023.

    Notes
    -----
    The published figures are of the epoch that was best on the test clips. Here the last epoch counts: expect less.
    """

    name = "stgram"
    family = "classification"
    paper = "Liu et al., ICASSP 2022"
    why_no_export = "it hears the waveform beside the log-mel, and the exported front end gives the log-mel alone"
    needs = frozenset({Needs.NORMALS, Needs.MACHINE_IDS})
    Config: ClassVar[type[DetectorConfig]] = STgramConfig
    config: STgramConfig
    scorings: ClassVar[frozenset[str]] = frozenset({"hop"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        # Ours: three minutes on one core. The same network on windows of two seconds, and ten times the rate, since
        # there are a hundred steps and not tens of thousands.
        "quick": {"frames": 63, "batch_size": 16, "learning_rate": 1e-3, "epochs": 1000, "max_steps": 120},
    }

    def build(self) -> nn.Module:
        """A new network, for as many machines as there are."""
        config, n_classes = self.config, len(self.machines) or _PAPERS_CLASSES
        head = (
            ArcFace(N_FEATURES, n_classes, config.margin, config.scale)
            if config.head == "arcface"
            else nn.Linear(N_FEATURES, n_classes)
        )
        return STgramNetwork(self.front_end, config.frames, config.form, head, n_classes)

    @property
    def min_frames(self) -> int:
        """One window."""
        return self.config.frames

    # Learning -----------------------------------------------------------------------------------

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
        """Train the network to tell the clips' machines, and the outliers', apart; see `Detector.fit`."""
        logmels = store.collect([*train, *(outliers or ())], self.front_end)
        require_clips(logmels)
        examples = self._examples(logmels)
        network = self.new_network(seed)
        assert isinstance(network, STgramNetwork)
        for number in range(len(self.machines)):
            own = [s for s, label in zip(examples.spectra, examples.labels, strict=True) if label == number]
            network.usual.learn(number, own)
        log = self._train(network, examples, budget, seed, run)
        self.network = network.cpu().eval()
        return log

    def _train(
        self, network: nn.Module, examples: _Labelled, budget: float | None, seed: int, run: Run | None
    ) -> TrainingLog:
        config = self.config
        optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)
        schedule = late_cosine(config.epochs, len(examples) // config.batch_size)
        plan = Plan(config.epochs, config.batch_size, config.max_steps, budget, schedule)
        return train(network, _loss, examples, optimizer, plan, seed=seed, run=run)

    def _examples(self, logmels: LogMels) -> _Labelled:
        """Clips with the numbers of their machines, which are found on the way."""
        long_enough = [k for k, spectrum in enumerate(logmels.spectra) if len(spectrum) >= self.config.frames]
        clips = [logmels.clips[k] for k in long_enough]
        self.machines = self.several_machines(clips)
        labels = [self.class_of(clip) for clip in clips]
        spectra = [logmels.spectra[k] for k in long_enough]
        return _Labelled(clips, spectra, labels, self.front_end, self.config.frames, self.config.batch_size)

    # Judging ------------------------------------------------------------------------------------

    def score_of(self, clip: Clip, logmel: torch.Tensor) -> float:
        """How little the clip sounds like its own machine."""
        own, network = self.class_of(clip), self._fitted()
        frames = self.config.frames
        starts = tiles.starts(len(logmel), frames, self.config.hop or frames)
        odds = []
        for first in range(0, len(starts), _WINDOWS_AT_ONCE):
            some = starts[first : first + _WINDOWS_AT_ONCE]
            waves = wave_windows(clip, self.front_end, some, frames)
            odds.append(network.against(own, waves, tiles.windows(logmel, some, frames)))
        return float(nn.functional.softplus(torch.cat(odds)).mean())

    def map_of(self, clip: Clip, logmel: torch.Tensor) -> torch.Tensor:
        """Each bin's share in what speaks against the clip's own machine."""
        own, network = self.class_of(clip), self._fitted()
        frames = self.config.frames
        starts = tiles.starts(len(logmel), frames, frames)
        shares = []
        for start in starts:
            # Read outside of inference mode, for gradients to pass by it.
            with torch.inference_mode(False):
                wave = wave_windows(clip, self.front_end, [start], frames)
            window = tiles.windows(logmel, [start], frames)
            unremarkable = network.usual(window, own)
            shares.append(integrated_gradients(partial(network.against, own, wave), window, unremarkable, _MAP_STEPS))
        return tiles.overlapped_mean(torch.cat(shares).clamp(min=0), starts, len(logmel))

    def score_logmel(self, logmel: torch.Tensor) -> float:  # noqa: ARG002
        """Refuse: there is no score without the waveform."""
        raise AuscultError("stgram hears the waveform too, not the log-mel alone", "score the clip")

    def map_logmel(self, logmel: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Refuse: there is no map without the waveform."""
        raise AuscultError("stgram hears the waveform too, not the log-mel alone", "ask for the map of the clip")

    def _fitted(self) -> STgramNetwork:
        require_fitted(self.network, self.name)
        assert isinstance(self.network, STgramNetwork)
        return self.network


class _Labelled:
    """A window from anywhere in each clip: waveform, log-mel, and the number of its machine.

    Some clips come twice in an epoch, so that its last batch is whole.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        spectra: Sequence[np.ndarray],
        labels: Sequence[int],
        front_end: FrontEnd,
        n_frames: int,
        batch_size: int,
    ) -> None:
        self.clips, self.spectra, self.labels = clips, spectra, labels
        self.front_end, self.n_frames = front_end, n_frames
        self.n_examples = -(-len(clips) // batch_size) * batch_size

    def __len__(self) -> int:
        return self.n_examples

    def gather(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Waveforms, (n, n_samples), windows, (n, n_frames, n_mels), and machines, (n,), of n examples."""
        waves, windows, labels = [], [], []
        for number in (indices % len(self.clips)).tolist():
            spectrum = self.spectra[number]
            start = int(torch.randint(len(spectrum) - self.n_frames + 1, ()))
            windows.append(spectrum[start : start + self.n_frames])
            waves.append(wave_windows(self.clips[number], self.front_end, [start], self.n_frames))
            labels.append(self.labels[number])
        return torch.cat(waves), torch.from_numpy(np.array(windows)), torch.tensor(labels)


def wave_windows(clip: Clip, front_end: FrontEnd, starts: Sequence[int], n_frames: int) -> torch.Tensor:
    """Read the waveform under some windows of a clip's log-mel.

    Parameters
    ----------
    clip : Clip
    front_end : FrontEnd
    starts : sequence of int
        First frames of the windows.
    n_frames : int
        Frames in a window.

    Returns
    -------
    Tensor, shape (len(starts), n_samples)
        From the centre of a window's first frame on: 160 000 samples for 313 frames. Zeros where the clip has ended.

    Raises
    ------
    AudioError
        If the clip cannot be read.
    """
    hop = front_end.hop_length
    wave = torch.from_numpy(clip.waveform(front_end.sample_rate, front_end.channel))
    if front_end.first_seconds is not None:
        wave = wave[: round(front_end.first_seconds * front_end.sample_rate)]
    waves = torch.zeros(len(starts), n_frames * hop - hop // 2)
    for row, start in zip(waves, starts, strict=True):
        part = wave[start * hop : start * hop + len(row)]
        row[: len(part)] = part
    return waves


def late_cosine(epochs: int, epoch_steps: int) -> Schedule:
    """A rate that stays for 20 epochs, then falls along a cosine that would reach a tenth after `epochs` more."""

    def factor(step: int) -> float:
        since = max(0, (step - 1) // epoch_steps - _FLAT_EPOCHS)
        return _LEAST_RATE + (1 - _LEAST_RATE) * (1 + math.cos(math.pi * since / epochs)) / 2

    return factor


def _loss(network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    waves, windows, machines = batch
    return nn.functional.cross_entropy(network(waves, windows, machines), machines)
