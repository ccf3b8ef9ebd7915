"""What detectors share that classify segments of normal clips, and score a clip by the confidence in its own class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from auscult.corpus.clip import Clip
from auscult.detectors.base import DetectorConfig, require_fitted
from auscult.detectors.learner import Learner, learner_loss
from auscult.detectors.machines import MachineDetector
from auscult.detectors.segments import LabelledSegments, Segmentation
from auscult.nn.attribution import integrated_gradients
from auscult.nn.centre_loss import CentreLoss
from auscult.nn.classifiers import CLASSIFIERS, Heard
from auscult.nn.confidence import log_odds_against
from auscult.nn.standardise import band_statistics
from auscult.training import Plan, Run, TrainingLog, train

_SEGMENTS_AT_ONCE = 32
"""Bounds the memory of a long clip; a ten-second one is one batch."""

_STEPS_ON_THE_LINE = 8
"""Points of integrated gradients: the pieces between kinks of a map's bins average out over the bins. Ours."""

_FEWEST_STEPS_BETWEEN = 20
"""Steps between two looks at the clips kept aside, where an epoch is shorter than that. Ours."""


class ClassifierConfig(DetectorConfig):
    """Settings of a detector with a classifier.

    Attributes
    ----------
    model : {"pvmilk20", "inouet18"}
        Which of the paper's networks.
    frames, hop : int
        Frames in a segment, and between the starts of two: 3.072 and 1.536 s.
    cover_end : bool
        Also judge a segment at the end of a clip; the paper leaves a rest (0.8 s of ten) unheard.
    centre_weight : float
        Of the centre loss.
    epochs, batch_size, learning_rate, max_steps : training
    """

    model: Literal["pvmilk20", "inouet18"] = Field(default="pvmilk20", description="the network")
    frames: PositiveInt = Field(default=96, description="frames in a segment")
    hop: PositiveInt = Field(default=48, description="frames between the starts of two segments")
    cover_end: bool = Field(default=False, description="judge a segment at the end of the clip too")
    centre_weight: float = Field(default=0.1, ge=0, description="weight of the centre loss")
    epochs: PositiveInt = Field(default=100, description="passes over the training segments")
    batch_size: int = Field(default=384, ge=2, description="segments in a training step")
    learning_rate: PositiveFloat = Field(default=1e-3, description="of Adam")
    max_steps: PositiveInt | None = Field(default=None, description="end after so many steps")


class ClassifierDetector(MachineDetector):
    """A classifier of segments; what it does not take for what it should be is strange.

    A subclass says what the classes are, and makes a clip's score of the logits of its segments.
    """

    family = "classification"
    Config: ClassVar[type[DetectorConfig]] = ClassifierConfig
    config: ClassifierConfig
    papers_classes: ClassVar[int]
    """How many classes are counted with before there are any data."""

    @property
    def classes_a_machine(self) -> int:
        """Classes that each machine has."""
        return 1

    @property
    def segmentation(self) -> Segmentation:
        """How a clip is cut."""
        return Segmentation(self.config.frames, self.config.hop, self.config.cover_end)

    @property
    def min_frames(self) -> int:
        """A sixth of a segment, and what the network needs; a clip shorter than a segment is repeated. Ours."""
        return max(CLASSIFIERS[self.config.model].min_frames, self.config.frames // 6)

    def build(self) -> Confident:
        """A new network for the machines there are, or for as many as the paper has before there are any data."""
        return self._build(len(self.machines) * self.classes_a_machine or self.papers_classes)

    # Learning -----------------------------------------------------------------------------------

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(network.parameters(), lr=self.config.learning_rate, fused=True)

    def learn(
        self,
        spectra: Sequence[np.ndarray],
        labels: np.ndarray,
        aside: np.ndarray,
        budget: float | None,
        seed: int,
        run: Run | None,
    ) -> tuple[TrainingLog, Learner]:
        """Train a new network.

        Parameters
        ----------
        spectra : sequence of ndarray, each (n_frames, n_mels)
        labels : ndarray of int, shape (n_clips,)
            The class of each clip, from 0; there is a clip of every class.
        aside : ndarray of bool, shape (n_clips,)
            Clips not to learn from, but to choose the best weights by. If there is none, it is the last ones.
        budget, seed, run
            See `Detector.fit`.
        """
        config, cut = self.config, self.segmentation
        n_classes = int(labels.max()) + 1
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            fitted = self._build(n_classes)
            centres = CentreLoss(n_classes)
        for number in range(n_classes):
            mean, std = band_statistics(s for s, label in zip(spectra, labels, strict=True) if label == number)
            fitted.lowest[number], fitted.highest[number] = torch.from_numpy(mean - std), torch.from_numpy(mean + std)
        examples = LabelledSegments(_where(spectra, ~aside), labels[~aside], cut)
        kept = LabelledSegments(_where(spectra, aside), labels[aside], cut) if aside.any() else None
        every = max(_FEWEST_STEPS_BETWEEN, len(examples) // config.batch_size)
        learner = Learner(fitted.classify, centres, config.centre_weight, kept, every)
        plan = Plan(config.epochs, config.batch_size, config.max_steps, budget)
        log = train(learner, learner_loss, examples, self.optimizer(fitted), plan, seed=seed, run=run)
        learner.cpu().finish()
        self.network = fitted.cpu().eval()
        return log, learner

    def _build(self, n_classes: int) -> Confident:
        return Confident(
            CLASSIFIERS[self.config.model](n_classes, self.front_end.n_mels), n_classes, self.front_end.n_mels
        )

    # Judging ------------------------------------------------------------------------------------

    def hear(self, logmel: torch.Tensor) -> Heard:
        """What the network makes of the segments of a clip: embeddings and logits, a row for each."""
        network = self._fitted()
        rows, starts = self.segmentation.of(logmel)
        heard = [network.classify(images) for _, images in self._images(rows, starts)]
        return torch.cat([embeddings for embeddings, _ in heard]), torch.cat([logits for _, logits in heard])

    def logits(self, logmel: torch.Tensor) -> torch.Tensor:
        """What the network says of the segments of a clip, shape (n_segments, n_classes)."""
        return self.hear(logmel)[1]

    def attribute(
        self, logmel: torch.Tensor, own: int, strangeness: Callable[[Heard], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """How much each bin adds to a clip's strangeness, where it does; shape (n_frames, n_mels).

        Integrated gradients, averaged over the segments that hold a bin, from the clip as it would be if no bin left
        the range that its band usually keeps to in that class: one deviation about the mean. A bin within the range
        has no share. Ours: the papers have no maps.

        Parameters
        ----------
        logmel : Tensor, shape (n_frames, n_mels)
        own : int
            The class.
        strangeness : callable, optional
            From embeddings and logits of segments to a number for each. Default: log-odds against the class.
        """
        network = self._fitted()

        def against(images: torch.Tensor) -> torch.Tensor:
            heard = network.classify(images)
            return log_odds_against(heard[1], own) if strangeness is None else strangeness(heard)

        lowest, highest = network.lowest[own][:, None], network.highest[own][:, None]
        rows, starts = self.segmentation.covering(logmel)
        total, count = torch.zeros_like(rows), torch.zeros(len(rows), 1)
        for some, images in self._images(rows, starts):
            shares = integrated_gradients(against, images, images.clamp(lowest, highest), _STEPS_ON_THE_LINE)
            for start, share in zip(some, shares.transpose(1, 2), strict=True):
                total[start : start + len(share)] += share
                count[start : start + len(share)] += 1
        folded = torch.zeros_like(logmel)
        folded.index_add_(0, torch.arange(len(rows)) % len(logmel), total / count.clamp(min=1))
        return folded.clamp(min=0)

    def class_of(self, clip: Clip) -> int:
        """The number of a clip's machine; if there is one only, that."""
        self._fitted()
        return 0 if len(self.machines) == 1 else super().class_of(clip)

    def _images(self, rows: torch.Tensor, starts: list[int]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Segments as images, (batch, n_mels, n_frames), some at a time, with where they begin."""
        length = self.segmentation.length(len(rows))
        for first in range(0, len(starts), _SEGMENTS_AT_ONCE):
            some = starts[first : first + _SEGMENTS_AT_ONCE]
            yield some, torch.stack([rows[start : start + length].T for start in some])

    def _fitted(self) -> Confident:
        require_fitted(self.network, self.name)
        assert isinstance(self.network, Confident)
        return self.network


class Confident(nn.Module):
    """A classifier with the range that each band usually keeps to in each of its classes.

    Parameters
    ----------
    classify : nn.Module
        From images, (batch, n_mels, n_frames), to embeddings and logits.
    n_classes, n_mels : int
    """

    lowest: torch.Tensor
    highest: torch.Tensor

    def __init__(self, classify: nn.Module, n_classes: int, n_mels: int) -> None:
        super().__init__()
        self.classify = classify
        self.register_buffer("lowest", torch.zeros(n_classes, n_mels))
        self.register_buffer("highest", torch.zeros(n_classes, n_mels))


def _where(spectra: Sequence[np.ndarray], chosen: np.ndarray) -> list[np.ndarray]:
    return [spectrum for spectrum, wanted in zip(spectra, chosen, strict=True) if wanted]
