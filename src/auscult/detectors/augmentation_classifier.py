"""A classifier of pitch and tempo: of a machine it knows, it hears whether a recording was shifted or stretched."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt, field_validator
from torch import nn

from auscult.corpus.clip import Clip
from auscult.detectors.base import DetectorConfig
from auscult.detectors.classifier import ClassifierConfig, ClassifierDetector
from auscult.detectors.machines import machine_of
from auscult.detectors.registry import register
from auscult.detectors.variants import VariantFrontEnd, require_stretching
from auscult.errors import AuscultError
from auscult.features import FrontEnd
from auscult.nn.confidence import log_odds_against, surprise
from auscult.store import Store, require_clips
from auscult.training import Run, TrainingLog


class AugmentationClassifierConfig(ClassifierConfig):
    """Settings of the classifier of augmentations.

    Attributes
    ----------
    semitones, tempi : tuple of float
        Pitch shifts and tempi; every combination is a class of each machine. No shift and no stretch are among them.
    weight_decay : float
        Of AdamW.
    max_clips : int or None
        Learn from no more clips than that, chosen at random. Ours: every clip takes half a second to shift and
        stretch, once.
    """

    model: Literal["pvmilk20", "inouet18"] = Field(default="inouet18", description="the network")
    centre_weight: float = Field(default=0.005, ge=0, description="weight of the centre loss")
    batch_size: int = Field(default=300, ge=2, description="segments in a training step")
    weight_decay: float = Field(default=1e-3, ge=0, description="of AdamW")
    semitones: tuple[float, ...] = Field(default=(-0.1, 0.0, 0.1), description="pitch shifts")
    tempi: tuple[float, ...] = Field(default=(0.9, 1.0, 1.1), description="time stretches: above 1 is faster")
    max_clips: PositiveInt | None = Field(default=None, description="clips learnt from at most")

    @field_validator("semitones")
    @classmethod
    def _holds_no_shift(cls, semitones: tuple[float, ...]) -> tuple[float, ...]:
        if 0 not in semitones or len(set(semitones)) < len(semitones) or not all(abs(s) <= 12 for s in semitones):
            raise ValueError("the shifts differ, lie within an octave, and 0 is among them")
        return semitones

    @field_validator("tempi")
    @classmethod
    def _holds_no_stretch(cls, tempi: tuple[float, ...]) -> tuple[float, ...]:
        if 1 not in tempi or len(set(tempi)) < len(tempi) or not all(0.5 <= t <= 2 for t in tempi):
            raise ValueError("the tempi differ, lie between 0.5 and 2, and 1 is among them")
        return tempi


@register
class AugmentationClassifier(ClassifierDetector):
    """A classifier of what was done to a normal clip, scored by how little it recognises what was done to a clip.

    Every training clip is heard in nine variants: pitch shifted by -0.1, 0 or 0.1 semitones, tempo 0.9, 1 or 1.1. A
    class is a machine ID with a variant: 63 for seven IDs. One machine will do. Segments of 96 frames,
    48 apart; `inouet18` (403 263 parameters for 63 classes); cross-entropy and centre loss; AdamW 1e-3, weight decay
    1e-3, batches of 300, 100 epochs.

    Score: a clip is made into its nine variants; -log of the probability of its own machine and the variant it is,
    averaged over the segments of a variant and then over variants. The paper's score, one minus that probability,
    puts clips in the same order; but probabilities that 32 bits round to 1 would tie. Map (ours): what each bin of the
    variant that is neither shifted nor stretched adds to the log-odds against its class, by integrated gradients from
    that variant with every bin brought back into its band's usual range.

    It needs python-stretch (`pip install 'auscult[augmentation]'`), and time: half a second a clip for its variants, in
    training (once: their log-mels are kept) and in judging. The clip as it is takes the same way as the others, through
    the stretch and the resampler, whose traces would tell it from them.

    References
    ----------
    Inoue, Vinayavekhin, Morikuni, Wang, Trong, Wood, Tatsubori, Tachibana, "Detection of anomalous sounds for machine
    condition monitoring using classification confidence", DCASE 2020 workshop, system (iv): sections 2.2 and 4.1.4.

    Notes
    -----
    The paper names neither the program that shifts and stretches nor the front end's logarithm. On noise, a stretched
    clip is 0.5 to 0.7 dB weaker than one that is not: part of what is recognised is the stretch's own trace.
    """

    name = "augmentation-classifier"
    paper = "Inoue et al., DCASE 2020 workshop, system (iv)"
    why_no_export = "it hears each clip at other pitches and tempos too, which a library computes outside of torch"
    scorings = frozenset({"cover_end"})
    Config: ClassVar[type[DetectorConfig]] = AugmentationClassifierConfig
    config: AugmentationClassifierConfig
    papers_classes = 63
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        # Ours: some minutes on one core, whatever the number of clips.
        "quick": {
            "model": "pvmilk20",
            "batch_size": 32,
            "epochs": 2000,
            "max_steps": 500,
            "max_clips": 150,
            "cover_end": True,
        },
    }

    @property
    def classes_a_machine(self) -> int:
        """The variants."""
        return len(self.config.semitones) * len(self.config.tempi)

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """AdamW."""
        config = self.config
        return torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )

    def depends_on(self) -> str:
        """The library that shifts and stretches; see `Detector.depends_on`."""
        require_stretching()
        return ""

    def make_ready(self) -> None:
        """Look for the same library; see `Detector.make_ready`."""
        require_stretching()

    def fit(
        self,
        train: Sequence[Clip],
        *,
        outliers: Sequence[Clip] | None = None,  # noqa: ARG002
        store: Store,
        budget: float | None = None,
        seed: int = 0,
        run: Run | None = None,
    ) -> TrainingLog:
        """Learn to tell the variants of the clips apart; see `Detector.fit`."""
        require_stretching()
        some = _some(train, self.config.max_clips, seed)
        heard = [store.collect(some, variant) for variant in self._variants()]
        require_clips(heard[0])
        machines = sorted({machine_of(clip) for clip in heard[0].clips})
        classes = [
            machines.index(machine_of(clip)) * len(heard) + variant
            for variant, logmels in enumerate(heard)
            for clip in logmels.clips
        ]
        spectra = [spectrum for logmels in heard for spectrum in logmels.spectra]
        log, _ = self.learn(spectra, np.array(classes), np.zeros(len(classes), dtype=bool), budget, seed, run)
        self.machines = machines
        return log

    def score_of(self, clip: Clip, logmel: torch.Tensor) -> float:  # noqa: ARG002
        """How little the variants of a clip are taken for what they are."""
        variants = self._variants()
        first = self.class_of(clip) * len(variants)
        wave = clip.waveform(self.front_end.sample_rate, self.front_end.channel)
        odds = [
            log_odds_against(self.logits(variant.logmel(wave)), first + number)
            for number, variant in enumerate(variants)
        ]
        weights = [torch.full_like(some, 1 / (len(odds) * len(some))) for some in odds]
        return surprise(torch.cat(odds), torch.cat(weights))

    def map_of(self, clip: Clip, logmel: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """What speaks against the clip's being what it is, in the variant that is neither shifted nor stretched."""
        variants = self._variants()
        number = next(k for k, v in enumerate(variants) if (v.semitones, v.tempo) == (0, 1))
        own = self.class_of(clip) * len(variants) + number
        wave = clip.waveform(self.front_end.sample_rate, self.front_end.channel)
        return self.attribute(variants[number].logmel(wave), own)

    def score_logmel(self, logmel: torch.Tensor) -> float:  # noqa: ARG002
        """Refuse: a log-mel can be neither shifted nor stretched."""
        raise _must_hear(self.name)

    def map_logmel(self, logmel: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Refuse, likewise."""
        raise _must_hear(self.name)

    def _variants(self) -> tuple[VariantFrontEnd, ...]:
        """A front end for each variant, in the order of a machine's classes."""
        return _variants(self.front_end, self.config.semitones, self.config.tempi)


@cache
def _variants(front: FrontEnd, semitones: tuple[float, ...], tempi: tuple[float, ...]) -> tuple[VariantFrontEnd, ...]:
    """Made once: a front end keeps what it has computed of its filters."""
    settings = front.model_dump()
    return tuple(VariantFrontEnd(**settings, semitones=s, tempo=t) for s, t in product(semitones, tempi))


def _some(clips: Sequence[Clip], most: int | None, seed: int) -> list[Clip]:
    """At most so many clips, chosen at random, in their order."""
    if most is None or len(clips) <= most:
        return list(clips)
    chosen = np.random.default_rng(seed).permutation(len(clips))[:most]
    return [clips[k] for k in sorted(chosen)]


def _must_hear(name: str) -> AuscultError:
    return AuscultError(f"{name} must hear a clip: a log-mel can be neither shifted nor stretched", "give the clip")
