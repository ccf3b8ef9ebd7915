"""Attentive neural process: any hidden bins of a window from all the others, by attention."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from auscult.detectors.anp_base import NeuralProcess, NeuralProcessConfig
from auscult.detectors.anp_network import ANPNetwork
from auscult.detectors.base import DetectorConfig
from auscult.detectors.registry import register
from auscult.nn.masks import Partition


class ANPConfig(NeuralProcessConfig):
    """Settings of the attentive neural process; those of training and scoring are of `NeuralProcessConfig`.

    Attributes
    ----------
    width, heads, feed_forward : int
        Units of every layer, attention heads, units between a transformer layer's two dense ones. "All hidden
        layer dimensions 128" (3.2); a feed-forward of 512 would be the other reading, as in Vaswani et al.
    octaves : int
        Octaves of sines and cosines that positions are given by besides their coordinates, for all that sees
        positions; the longest period is twice the window's extent. 0 is the paper's. Ours (after Tancik et al.,
        "Fourier features let networks learn high frequency functions in low dimensional domains", NeurIPS 2020),
        so that a short training learns to tell a band from the next.
    context_share : float
        Share of the context kept in training, drawn by lot with the mask. 1 is the paper's. A set encoder takes
        any context, and attention to a fifth of the points costs a twenty-fifth: ours, for short trainings.
    """

    width: PositiveInt = Field(default=128, description="units of every layer")
    heads: PositiveInt = Field(default=8, description="attention heads")
    feed_forward: PositiveInt = Field(default=128, description="units inside a transformer layer")
    octaves: NonNegativeInt = Field(default=0, description="octaves of waves that stand for a position besides itself")
    context_share: float = Field(default=1.0, gt=0, le=1, description="share of the context kept in training")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} is no divisor of width={self.width}")
        return self


@register
class ANP(NeuralProcess):
    """Predicts hidden time-frequency bins from all the others; what it cannot predict is strange.

    A window of 5 frames of 128 bands is a set of 640 points (frame, band, dB). A set encoder (three dense
    layers, two transformer layers) reads those given, cross-attention asks them by position, and a decoder
    gives mean and standard deviation of every bin asked for: 382 722 parameters. Trained by likelihood, one or
    two frames and up to two bands hidden by lot, drawn once for each batch; Adam with its peak of 1e-3 at step
    4000, AutoClip, batches of 512 windows and 100 epochs (these two as of the baseline the paper follows).

    What is hidden may be chosen when a clip is judged: `masking` and `score_by` make six scores of one fitted
    detector (`rescored`), and `predict_hidden` takes any mask.

    Anomaly map: each frame of the clip once, predicted from the other four of the window about it (of the first
    or last window, for the two frames at either end); at each bin the negative log-likelihood less its least
    possible value, (y - mean)^2 / (2 sigma^2), whatever the score is made of.

    References
    ----------
    Wichern, Chakrabarty, Wang, Le Roux, "Anomalous sound detection using attentive neural processes", WASPAA 2021.
    """

    name = "anp"
    paper = "Wichern et al., 2021"
    why_no_export = "how many bins are hidden is known from the masks' values only, which a graph cannot branch on"
    Config: ClassVar[type[DetectorConfig]] = ANPConfig
    config: ANPConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        # Ours: two minutes on a laptop's core. A short training needs many steps more than it needs windows or
        # context, so batches and context are small; the rate is high, and falls from early on. Settled by squared
        # error and likelihood of the centre frame of healthy clips held out of training (synthetic valves id_04 and
        # id_06, seed 100); how they are scored, by synthetic valves and a slider, faulty ones too (seed 301).
        "quick": {
            "width": 64,
            "heads": 4,
            "feed_forward": 64,
            "standardise": True,
            "octaves": 7,
            "context_share": 0.2,
            "epochs": 20_000,
            "max_steps": 3500,
            "batch_size": 16,
            "learning_rate": 3e-3,
            "warm_up_steps": 300,
            "cool_down": 0.9,
            "score_hop": 2,
            "score_by": "surprise",
        },
    }

    def build(self) -> ANPNetwork:
        """The network: windows and a partition of their bins to a distribution at each target."""
        config = self.config
        size = (config.frames, self.front_end.n_mels)
        return ANPNetwork(*size, config.width, config.heads, config.feed_forward, config.mixture, config.octaves)

    def training_partition(self, n_windows: int) -> Partition:
        """One random mask for all windows, and of the context the share that is kept."""
        return super().training_partition(n_windows).thinned(self.config.context_share)
