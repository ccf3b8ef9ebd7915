"""MobileNetV2 that tells a type's machine IDs apart: a clip it does not take for its own machine is strange."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt, field_validator
from torch import nn

from auscult.corpus.clip import Clip
from auscult.detectors.base import DetectorConfig, Needs, require_fitted
from auscult.detectors.machines import MachineDetector, machine_of
from auscult.detectors.registry import register
from auscult.nn import tiles
from auscult.nn.aggregation import aggregate, check_aggregation
from auscult.nn.attribution import integrated_gradients
from auscult.nn.confidence import log_odds_against
from auscult.nn.mobilenet import MobileNetV2
from auscult.nn.tracing import softplus
from auscult.nn.usual import UsualLevels
from auscult.store import LogMels, Store, Windows, require_clips
from auscult.training import Plan, Run, TrainingLog, train

_PAPERS_CLASSES = 4
"""Machine IDs of most types in the development data of DCASE 2020; what is counted before there are any data."""

_WINDOWS_AT_ONCE = 64
"""Bounds the memory of a long clip."""

_MAP_STEPS = 8
"""Points of the integration behind a map: few, for speed. Shares sum only roughly to the difference they explain."""


class MobileNetV2Config(DetectorConfig):
    """Settings of the MobileNetV2 classifier.

    Attributes
    ----------
    frames : int
        Frames in a window.
    hop, train_hop : int
        Frames between two windows: when a clip is scored (the last one ends with it), and in training.
    width : float
        Factor on the network's channels.
    score_by : {"log-odds", "improbability"}
        log((1 - p) / p) or -log p, with p the probability of the clip's own machine.
    epochs, batch_size, learning_rate, momentum, max_steps : training
        `momentum` is that of the running statistics. Keras has 0.001, by which twenty epochs leave statistics that
        still remember the initial ones; 0.01 is ours.
    """

    frames: int = Field(default=64, ge=32, description="frames in a window")
    hop: PositiveInt = Field(default=1, description="frames between two windows of a clip that is scored")
    train_hop: PositiveInt = Field(default=8, description="frames between two windows in training")
    aggregation: str = Field(default="mean", description="from window scores to the clip's score")
    width: PositiveFloat = Field(default=0.5, description="factor on the network's channels")
    score_by: Literal["log-odds", "improbability"] = Field(
        default="log-odds", description="log-odds against the clip's own machine, or -log of its probability"
    )
    epochs: PositiveInt = Field(default=20, description="passes over the training windows")
    batch_size: int = Field(default=32, ge=2, description="windows in a training step")
    learning_rate: PositiveFloat = Field(default=1e-5, description="of Adam")
    momentum: float = Field(default=0.01, gt=0, le=1, description="of the running statistics")
    max_steps: PositiveInt | None = Field(default=None, description="end after so many steps")

    _aggregation = field_validator("aggregation")(check_aggregation)


@register
class MobileNetV2Detector(MachineDetector):
    """Classifies windows by the machine ID they were recorded of.

    One model for the IDs of a machine type, and for those of the outliers if there are any. Images of 64 frames by
    128 bands in dB, thrice as three colours, 8 frames apart; MobileNetV2 of half width (692 804 parameters for 4
    IDs); cross-entropy, Adam 1e-5, batches of 32, 20 epochs; no augmentation.

    Score: log-odds against the clip's own machine, averaged over windows one frame apart (250 in ten seconds).
    Map: integrated gradients of the windows' log-odds, where positive, from the clip as it would be with its levels
    within the machine's usual ones: what made it sound like another machine.

    References
    ----------
    Giri, Tenneti, Helwani, Cheng, Isik, Krishnaswamy, "Self-supervised classification for detecting anomalous
    sounds", DCASE 2020 workshop, which was not at hand. Sizes and training are those of the DCASE 2021 Task 2
    baseline, which is built on its idea.

    Notes
    -----
    That baseline's program averages log(1 - p - log p), which one bracket misplaced makes of the log-odds it says it
    computes; here it is the log-odds. It sets a tenth of the windows aside for validation; here all are learnt from.
    """

    name = "mobilenetv2"
    family = "classification"
    paper = "after the idea of Giri et al., DCASE 2020 workshop; the DCASE 2021 baseline"
    exports = True
    needs = frozenset({Needs.NORMALS, Needs.MACHINE_IDS})
    Config: ClassVar[type[DetectorConfig]] = MobileNetV2Config
    config: MobileNetV2Config
    scorings: ClassVar[frozenset[str]] = frozenset({"hop", "aggregation", "score_by"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        # Ours: two minutes on one core. A hundred times the rate, since there are some hundred steps and not tens
        # of thousands, and statistics that keep up with it.
        "quick": {"hop": 16, "learning_rate": 1e-3, "momentum": 0.1, "epochs": 1000, "max_steps": 250},
    }

    def build(self) -> Judge:
        """A new network, for as many machines as there are."""
        config, n_classes = self.config, len(self.machines) or _PAPERS_CLASSES
        network = MobileNetV2(n_classes, config.width, config.momentum)
        return Judge(network, UsualLevels(n_classes, self.front_end.n_mels))

    @property
    def min_frames(self) -> int:
        """One window."""
        return self.config.frames

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
        assert isinstance(network, Judge)
        owners = [machine_of(clip) for clip in logmels.clips]
        for number, machine in enumerate(self.machines):
            own = [s for s, owner in zip(logmels.spectra, owners, strict=True) if owner == machine]
            network.usual.learn(number, own)
        log = self._train(network, examples, budget, seed, run)
        self.network = network.cpu().eval()
        return log

    def _train(
        self, network: nn.Module, examples: _Labelled, budget: float | None, seed: int, run: Run | None
    ) -> TrainingLog:
        config = self.config
        optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)
        plan = Plan(config.epochs, config.batch_size, config.max_steps, budget)
        return train(network, _loss, examples, optimizer, plan, seed=seed, run=run)

    def _examples(self, logmels: LogMels) -> _Labelled:
        """Windows with the numbers of their machines, which are found on the way."""
        long_enough = [k for k, spectrum in enumerate(logmels.spectra) if len(spectrum) >= self.config.frames]
        clips = [logmels.clips[k] for k in long_enough]
        self.machines = self.several_machines(clips)
        labels = [self.class_of(clip) for clip in clips]
        spectra = [logmels.spectra[k] for k in long_enough]
        hop, frames = self.config.train_hop, self.config.frames
        counts = [(len(spectrum) - frames) // hop + 1 for spectrum in spectra]
        numbers = torch.tensor(labels).repeat_interleave(torch.tensor(counts))
        return _Labelled(Windows(spectra, frames, hop), numbers)

    def score_of(self, clip: Clip, logmel: torch.Tensor) -> float:
        """How little the clip sounds like its own machine."""
        return self._score(logmel, self.class_of(clip))

    def score_logmel(self, logmel: torch.Tensor) -> float:
        """Of a clip of which the machine is not known: how little it sounds like the likeliest."""
        return self._score(logmel, self._likeliest(logmel))

    def map_of(self, clip: Clip, logmel: torch.Tensor) -> torch.Tensor:
        """Each bin's share in what speaks against the clip's own machine."""
        return self._map(logmel, self.class_of(clip))

    def map_logmel(self, logmel: torch.Tensor) -> torch.Tensor:
        """Each bin's share in what speaks against the likeliest machine."""
        return self._map(logmel, self._likeliest(logmel))

    def _score(self, logmel: torch.Tensor, own: int) -> float:
        odds = torch.cat([log_odds_against(logits, own) for logits in self._logits(logmel)])
        scores = odds if self.config.score_by == "log-odds" else softplus(odds)
        return aggregate(scores, self.config.aggregation)

    def _likeliest(self, logmel: torch.Tensor) -> int:
        """The machine of the largest probability, averaged over windows."""
        return int(torch.cat(list(self._logits(logmel))).double().softmax(1).mean(0).argmax())

    def _logits(self, logmel: torch.Tensor) -> Iterator[torch.Tensor]:
        """Logits of the windows of a clip, some at a time."""
        network = self._fitted()
        starts = tiles.starts(len(logmel), self.config.frames, self.config.hop)
        for first in range(0, len(starts), _WINDOWS_AT_ONCE):
            some = starts[first : first + _WINDOWS_AT_ONCE]
            yield network(tiles.windows(logmel, some, self.config.frames))

    def _map(self, logmel: torch.Tensor, own: int) -> torch.Tensor:
        network, frames = self._fitted(), self.config.frames
        starts = tiles.starts(len(logmel), frames, frames)
        shares = []
        for start in starts:
            window = tiles.windows(logmel, [start], frames)
            unremarkable = network.usual(window, own)
            shares.append(integrated_gradients(partial(network.against, own), window, unremarkable, _MAP_STEPS))
        return tiles.overlapped_mean(torch.cat(shares).clamp(min=0), starts, len(logmel))

    def _fitted(self) -> Judge:
        require_fitted(self.network, self.name)
        assert isinstance(self.network, Judge)
        return self.network


class Judge(nn.Module):
    """The network, and the levels that the machines usually have.

    Parameters
    ----------
    network : MobileNetV2
    usual : UsualLevels
    """

    def __init__(self, network: MobileNetV2, usual: UsualLevels) -> None:
        super().__init__()
        self.network, self.usual = network, usual

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits, (batch, n_machines), of windows, (batch, frames, n_mels), in dB."""
        logits: torch.Tensor = self.network(windows)
        return logits

    def against(self, own: int, windows: torch.Tensor) -> torch.Tensor:
        """Log-odds against a machine, shape (batch,)."""
        return log_odds_against(self(windows), own)


class _Labelled:
    """Windows with the machine they were recorded of."""

    def __init__(self, windows: Windows, labels: torch.Tensor) -> None:
        self.windows, self.labels = windows, labels

    def __len__(self) -> int:
        return len(self.windows)

    def gather(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows, shape (len(indices), frames, n_mels), and their machines."""
        rows = self.windows.gather(indices)
        return rows.view(len(rows), self.windows.length, -1), self.labels[indices]


def _loss(network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    windows, machines = batch
    return nn.functional.cross_entropy(network(windows), machines)
