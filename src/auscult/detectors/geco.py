"""GeCo: a classifier of machines that also knows their sounds from what an autoencoder makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from auscult.corpus.clip import Clip
from auscult.detectors import registry, stages
from auscult.detectors.base import Detector, DetectorConfig, Needs, require_fitted
from auscult.detectors.images import Images, laid
from auscult.detectors.machines import MachineDetector
from auscult.detectors.network import window_rows
from auscult.detectors.registry import register
from auscult.errors import AuscultError
from auscult.nn.geco import GeCoNetwork
from auscult.nn.schedules import cosine
from auscult.store import LogMels, Store, require_clips
from auscult.training import Plan, Run, TrainingLog, train

_PAPERS_CLASSES = 41
"""Machine IDs in the development and additional training data of DCASE 2020."""

_IMAGES_AT_ONCE = 8
_ROWS_AT_ONCE = 4096
"""Bound the memory of a long clip."""

_CLIPS_FOR_NOISE = 64
"""Training clips of a machine type that tell what its autoencoder leaves out: enough for a mean in each band."""

_LEAST_SPREAD = 1e-3
"""Of a part over a machine's training clips: certainties beyond a thousandth are not told apart. Ours."""


class GeCoConfig(DetectorConfig):
    """Settings of GeCo. The paper's were not at hand: all are ours unless its idea gives them.

    Attributes
    ----------
    frames : int
        Frames of an image, ten seconds; a shorter clip goes on as its mirror image, of a longer one training takes any
        place.
    form : {2022, 2023}
        Of the extractor, which is STgram's MobileFaceNet over the log-mel alone.
    pae_preset, pae_settings
        Of the predictive autoencoders.
    noise : float
        Reconstructions lack what cannot be predicted, and would be known by their smoothness at once; so much of
        that noise (its deviation in each band over training clips) is put back.
    temperature : float
        Of the contrastive loss.
    weights : (float, float, float)
        Of classification, contrast, and telling recordings from reconstructions.
    score_by : {"both", "classification", "reconstruction"}
        Sum of both parts, or one of them.
    epochs, batch_size, learning_rate, max_steps : training
        A batch has as many reconstructions besides. The rate falls along half a cosine.
    """

    frames: int = Field(default=313, ge=16, description="frames of an image")
    form: Literal[2022, 2023] = Field(default=2022, description="year of the extractor's published program")
    pae_preset: Literal["paper", "quick"] = Field(default="paper", description="of the predictive autoencoders")
    pae_settings: dict[str, Any] = Field(default_factory=dict, description="of them, where they differ")
    noise: float = Field(default=1.0, ge=0, description="share of what they leave out that is put back as noise")
    temperature: PositiveFloat = Field(default=0.1, description="of the contrastive loss")
    weights: tuple[float, float, float] = Field(
        default=(1.0, 1.0, 0.5), description="of classification, contrast, and real against reconstructed"
    )
    score_by: Literal["both", "classification", "reconstruction"] = Field(
        default="both", description="parts that count"
    )
    epochs: PositiveInt = Field(default=100, description="passes over the training clips")
    batch_size: int = Field(default=64, ge=2, description="clips in a training step")
    learning_rate: PositiveFloat = Field(default=1e-4, description="of Adam, at first")
    max_steps: PositiveInt | None = Field(default=None, description="end after so many steps")


@register
class GeCo(MachineDetector):
    """Classifies machines, knows recordings from reconstructions, and adds what could not be reconstructed.

    Published is the idea: predictive autoencoders, one for a machine type, are fitted first and stay as they are;
    what they make of healthy clips are negative examples for a feature extractor that learns to tell machine IDs apart
    (cross-entropy), to keep recordings and reconstructions of each ID apart (contrastive loss), and to know one from
    the other; the score joins the autoencoder's error and the classifier's doubt. The rest is ours: `pae`;
    MobileFaceNet over standardised log-mels of 128 bands and 313 frames, 128 numbers; supervised contrastive loss over
    twice as many classes as machines; the weights; Adam 1e-4 along a cosine, 100 epochs, 64 clips and their
    reconstructions.

    Score: -log of the probability of the clip's own machine, and the autoencoder's mean squared error, each in
    deviations from its mean over that machine's training clips, summed; `parts` gives both, `findings` says them.
    Map: the autoencoder's squared error; the classifier has no part in it. A training log tells how well recordings are
    told from reconstructions: at 1 from the first steps on, that task teaches nothing, and `noise` should be raised.

    References
    ----------
    Zeng, Song, Zhuo, Zhou, Li, Xue, Dai, McLoughlin, "Joint generative-contrastive representation learning for
    anomalous sound detection", ICASSP 2023, of which abstract, introduction and a figure's caption were at hand.
    """

    name = "geco"
    family = "joint"
    paper = "after the idea of Zeng et al., ICASSP 2023"
    needs = frozenset({Needs.NORMALS, Needs.MACHINE_IDS})
    Config: ClassVar[type[DetectorConfig]] = GeCoConfig
    config: GeCoConfig
    scorings: ClassVar[frozenset[str]] = frozenset({"score_by"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        # Ours: minutes on one core. The same extractor on two seconds, ten times the rate, and autoencoders of five
        # frames, since there are some hundred steps and not tens of thousands.
        "quick": {
            "pae_preset": "quick",
            "pae_settings": {"frames": 5, "max_steps": 600, "warm_up_steps": 60},
            "frames": 63,
            "batch_size": 16,
            "learning_rate": 1e-3,
            "epochs": 1000,
            "max_steps": 100,
        },
    }

    def __init__(self, config: DetectorConfig | None = None) -> None:
        super().__init__(config)
        shared = {"front_end": self.config.front_end, "channel": self.config.channel}
        self.pae: Any = registry.create("pae", self.config.pae_preset, {**self.config.pae_settings, **shared})

    def build(self) -> GeCoNetwork:
        """A new network, for as many machines and types as there are."""
        kinds = self.kinds()
        autoencoders = [self.pae.build() for _ in kinds]
        types = [kinds.index(kind) for kind, _ in self.machines] or [0] * _PAPERS_CLASSES
        shape = (self.front_end.n_mels, self.config.frames)
        return GeCoNetwork(autoencoders, self.pae.config.frames, shape, types, self.config.form)

    def kinds(self) -> list[str]:
        """The machine types there are."""
        return sorted({kind for kind, _ in self.machines}) or [""]

    @property
    def min_frames(self) -> int:
        """An autoencoder's window."""
        return int(self.pae.min_frames)

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
        """Fit an autoencoder for each type, then the extractor on the clips' and outliers' machines; see `Detector`."""
        logmels = store.collect([*train, *(outliers or ())], self.front_end)
        require_clips(logmels)
        self.machines = self.several_machines(logmels.clips)
        paes, first = self._autoencoders(train, outliers or (), store, budget, seed, run)
        left = None if budget is None else max(0.0, budget - first.seconds)
        network = self.new_network(seed)
        assert isinstance(network, GeCoNetwork)
        for number, pae in enumerate(paes):
            network.autoencoders[number].load_state_dict(pae.network.state_dict())
        self._learn_noise(network, logmels)
        # A checkpoint that goes on upon other autoencoders would be of neither.
        upon = " ".join(stages.content(pae) for pae in paes)
        own = None if run is None else replace(run, identity=f"{run.identity} on {upon}")
        second = self._train(network, logmels, left, seed, own)
        self.network = network.cpu().eval()
        self._learn_statistics(network, logmels)
        stages.forget(run, *(f"pae-{number}" for number in range(len(paes))))
        return replace(
            second,
            steps=first.steps + second.steps,
            seconds=first.seconds + second.seconds,
            losses=first.losses + second.losses,
            stopped="budget" if "budget" in (first.stopped, second.stopped) else second.stopped,
            figures={"told from reconstructions": round(float(network.told), 4)},
        )

    def _autoencoders(
        self,
        train: Sequence[Clip],
        outliers: Sequence[Clip],
        store: Store,
        budget: float | None,
        seed: int,
        run: Run | None,
    ) -> tuple[list[Any], TrainingLog]:
        """One for each type, of the outliers' clips only where there are no others; in half of the time together."""
        fitted: list[Detector] = []
        whole, kinds = TrainingLog(), self.kinds()
        for number, kind in enumerate(kinds):
            own = [c for c in train if c.machine_type == kind] or [c for c in outliers if c.machine_type == kind]
            share = None if budget is None else budget / 2 / len(kinds)
            stage = type(self.pae)(self.pae.config)
            stage, log = stages.fitted_along(stage, own, store, share, seed, run, f"pae-{number}")
            fitted.append(stage)
            whole = TrainingLog(
                whole.steps + log.steps,
                whole.seconds + log.seconds,
                whole.losses + log.losses,
                "budget" if "budget" in (whole.stopped, log.stopped) else log.stopped,
            )
        return fitted, whole

    def _train(
        self, network: GeCoNetwork, logmels: LogMels, budget: float | None, seed: int, run: Run | None
    ) -> TrainingLog:
        config = self.config
        examples = _Labelled(
            Images(logmels.spectra, config.frames, config.batch_size), [self.class_of(clip) for clip in logmels.clips]
        )
        optimizer = torch.optim.Adam(network.trained(), lr=config.learning_rate, fused=True)
        steps = config.epochs * (len(examples) // config.batch_size)
        schedule = cosine(min(steps, config.max_steps or steps))
        plan = Plan(
            config.epochs,
            config.batch_size,
            config.max_steps,
            budget,
            schedule,
            note=lambda: f"told from reconstructions {float(network.told):.2f}",
        )
        return train(network, self._loss, examples, optimizer, plan, seed=seed, run=run)

    def _loss(self, network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        losses = network(*batch, self.config.noise, self.config.temperature)
        weighted = [weight * loss for weight, loss in zip(self.config.weights, losses, strict=True)]
        return torch.stack(weighted).sum()

    @torch.no_grad()
    def _learn_noise(self, network: GeCoNetwork, logmels: LogMels) -> None:
        """Take the deviation, in each band, of what the autoencoders do not predict."""
        network.eval()
        for number, kind in enumerate(self.kinds()):
            own = [s for c, s in zip(logmels.clips, logmels.spectra, strict=True) if c.machine_type == kind]
            own = [s for s in own if len(s) >= self.min_frames]
            some = own[:: max(1, len(own) // _CLIPS_FOR_NOISE)][:_CLIPS_FOR_NOISE]
            squares = [self._errors(network, torch.from_numpy(np.array(s)), number).mean(0) for s in some]
            network.residual[number] = torch.stack(squares).mean(0).sqrt()

    @torch.no_grad()
    def _learn_statistics(self, network: GeCoNetwork, logmels: LogMels) -> None:
        """Take mean and deviation of both parts over each machine's training clips."""
        heard: dict[int, list[tuple[float, float]]] = {number: [] for number in range(len(self.machines))}
        for clip, spectrum in zip(logmels.clips, logmels.spectra, strict=True):
            if len(spectrum) >= self.min_frames:
                own = self.class_of(clip)
                heard[own].append(self._raw(network, torch.from_numpy(np.array(spectrum)), own))
        for own, parts in heard.items():
            values = np.array(parts, dtype=np.float64)
            statistics = np.stack([values.mean(0), np.maximum(values.std(0), _LEAST_SPREAD)], axis=1)
            network.statistics[own] = torch.from_numpy(statistics)

    # Judging ------------------------------------------------------------------------------------

    def score_of(self, clip: Clip, logmel: torch.Tensor) -> float:
        """Both parts summed, or the one asked for."""
        doubt, error = self.parts_of(clip, logmel)
        return {"both": doubt + error, "classification": doubt, "reconstruction": error}[self.config.score_by]

    def parts_of(self, clip: Clip, logmel: torch.Tensor) -> tuple[float, float]:
        """The classifier's doubt and the autoencoder's error, in deviations from what the machine's clips have."""
        own, network = self.class_of(clip), self._fitted()
        means, spreads = network.statistics[own].double().T.tolist()
        raw = self._raw(network, logmel, own)
        doubt, error = ((part - mean) / spread for part, mean, spread in zip(raw, means, spreads, strict=True))
        return doubt, error

    def parts(self, clip: Clip) -> tuple[float, float]:
        """`parts_of` a clip.

        Raises
        ------
        AudioError
            If it cannot be judged.
        """
        with torch.inference_mode():
            return self.parts_of(clip, self.logmel(clip))

    def findings(self, clip: Clip) -> tuple[str, ...]:
        """Both parts in words, the stranger first."""
        doubt, error = self.parts(clip)
        said = (
            (
                doubt,
                f"as a {' '.join(self.machines[self.class_of(clip)])}, {doubt:+.1f} deviations less certain than usual",
            ),
            (error, f"predicted from moment to moment {error:+.1f} deviations worse than usual"),
        )
        return tuple(words for _, words in sorted(said, reverse=True))

    def map_of(self, clip: Clip, logmel: torch.Tensor) -> torch.Tensor:
        """The autoencoder's squared error, edge frames copied."""
        own, network = self.class_of(clip), self._fitted()
        errors = self._errors(network, logmel, int(network.types[own]))
        edge = self.pae.config.frames // 2
        return torch.cat([errors[:1].expand(edge, -1), errors, errors[-1:].expand(edge, -1)])

    def score_logmel(self, logmel: torch.Tensor) -> float:  # noqa: ARG002
        """Refuse: the score depends on whose the clip is."""
        raise AuscultError("geco must know of which machine a log-mel is", "score the clip")

    def map_logmel(self, logmel: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Refuse: the map depends on whose the clip is."""
        raise AuscultError("geco must know of which machine a log-mel is", "ask for the map of the clip")

    def _raw(self, network: GeCoNetwork, logmel: torch.Tensor, own: int) -> tuple[float, float]:
        """-log probability of its own machine, and mean squared error, of a clip."""
        windows, _ = laid(logmel, self.config.frames)
        surprise = torch.cat([network.surprise(some, own) for some in torch.split(windows, _IMAGES_AT_ONCE)])
        errors = self._errors(network, logmel, int(network.types[own]))
        return float(surprise.double().mean()), float(errors.double().mean())

    def _errors(self, network: GeCoNetwork, logmel: torch.Tensor, kind: int) -> torch.Tensor:
        """Squared error of each frame predicted, standardised, shape (n_frames - frames + 1, n_mels)."""
        rows = window_rows(logmel, self.pae.config.frames)
        pairs = [network.autoencoders[kind](some) for some in torch.split(rows, _ROWS_AT_ONCE)]
        return torch.cat([(predicted - true).square() for predicted, true in pairs])

    def _fitted(self) -> GeCoNetwork:
        require_fitted(self.network, self.name)
        assert isinstance(self.network, GeCoNetwork)
        return self.network


class _Labelled:
    """Images of clips with the numbers of their machines."""

    def __init__(self, images: Images, labels: Sequence[int]) -> None:
        self.images, self.labels = images, torch.tensor(labels)

    def __len__(self) -> int:
        return len(self.images)

    def gather(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows in dB, (n, frames, n_mels), and labels, (n,)."""
        return self.images.gather(indices), self.labels[indices % len(self.labels)]
