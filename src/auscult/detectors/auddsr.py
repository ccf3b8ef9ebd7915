"""AudDSR: learns to find codes that were put in the place of a healthy machine's, and finds faults by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt, field_validator
from torch import nn

from auscult.corpus.clip import Clip
from auscult.detectors import registry, stages
from auscult.detectors.base import DetectorConfig, require_fitted
from auscult.detectors.images import Images, image_frames, laid, put_together
from auscult.detectors.network import NetworkDetector
from auscult.detectors.registry import register
from auscult.errors import AuscultError
from auscult.nn.anomaly_shapes import anomaly_shapes
from auscult.nn.dsr import STRIDE, DualDecoder
from auscult.nn.focal import focal_loss
from auscult.nn.usual_map import UsualMap
from auscult.nn.vqvae import DiscreteAutoencoder
from auscult.parallel import map_in_order
from auscult.store import Store, require_clips
from auscult.training import Plan, Run, TrainingLog, train

_STAGE1 = "vqvae"

_IMAGES_AT_ONCE = 4
"""Bounds the memory of a long clip."""

_HEALTHY_CLIPS = 100
"""Training clips at most, chosen at random, by which is known what maps are usual. Ours."""

_USUAL = "usual_map."


class AudDSRConfig(DetectorConfig):
    """Settings of AudDSR. What the paper does not state is DSR's, or ours where so marked.

    Attributes
    ----------
    stage1 : str or None
        Model file of a fitted `vqvae`. None: one is fitted first, on the same clips.
    stage1_preset, stage1_settings
        Of the `vqvae` that is fitted first.
    frames : int
        Most frames of an image: 320 hold ten seconds. Of a longer clip, training takes a place drawn at random, and
        images laid end to end, the last one where the clip ends, are averaged when it is judged. Ours.
    width : int
        Channels of the detection module at full resolution.
    perlin_share : float
        Share of simulated anomalies shaped by Perlin noise; the others are bands. Ours.
    least_strength : float
        Replacements are drawn from the codes nearest to what they replace: from so large a share of the codebook up
        to all of it.
    reconstruction : float
        Weight of the object decoder's squared error beside the focal loss.
    score_by : {"mean", "excess"}
        The mean of the module's map; or, ours, what the clip has more of than training clips: in that map, and in
        the squared error of what the first stage's codes say of it. In each band the map's level and its changes over
        time count.
    max_steps, batch_size, learning_rate : training
    """

    stage1: str | None = Field(default=None, description="model file of a fitted vqvae; none: fit one first")
    stage1_preset: Literal["paper", "quick"] = Field(default="paper", description="of the vqvae fitted first")
    stage1_settings: dict[str, Any] = Field(default_factory=dict, description="of it, where they differ")
    frames: int = Field(default=320, ge=STRIDE, multiple_of=STRIDE, description="most frames of an image")
    width: PositiveInt = Field(default=64, description="channels of the detection module")
    perlin_share: float = Field(default=0.5, ge=0, le=1, description="share of anomalies shaped by Perlin noise")
    least_strength: float = Field(default=0.2, gt=0, le=1, description="least share of the codes drawn from")
    reconstruction: PositiveFloat = Field(default=10.0, description="weight of the object decoder's squared error")
    score_by: Literal["mean", "excess"] = Field(
        default="mean", description="mean of the map, or what it and the codes' error exceed healthy clips' by"
    )
    max_steps: PositiveInt = Field(default=10_000, description="of training the second stage")
    batch_size: int = Field(default=16, ge=4, multiple_of=4, description="images in a training step")
    learning_rate: PositiveFloat = Field(default=2e-4, description="of Adam")

    @field_validator("stage1", mode="before")
    @classmethod
    def _no_name_is_none(cls, path: Any) -> Any:
        return path or None


@register
class AudDSR(NetworkDetector):
    """Finds what does not belong: it was shown healthy sounds with foreign codes in them.

    Stage 1, `vqvae`, knows spectrograms as codes; it is fitted once on anything, needs no labels, and stays as it is.
    Stage 2 is fitted on one machine ID, or on a whole type: which ID a clip is of is not looked at. Under a mask (blots
    of Perlin noise, or one band at some times or always) codes are replaced by others drawn from the codebooks, at
    both levels or one. A decoder of its own (9 416 321 parameters) learns to make the healthy spectrogram of corrupted
    codes; the general one makes what the codes say; a U-Net (5 608 386) finds the mask from both. Half of each batch
    is corrupted. Focal loss (gamma 2), and ten times the decoder's mean squared error. Adam 2e-4, 10 000 batches of
    16.

    Map: the probability that a bin is anomalous, as the U-Net says. Score: its mean over the clip's own frames.

    The quick preset judges otherwise (`score_by="excess"`, ours). What a stage 1 of minutes cannot say in codes, such
    as a squeak in one band or a scrape of thirty milliseconds, never reaches the U-Net: the squared error of what the
    codes say is a second map. A clip's score is what both exceed those of healthy clips by, and its map joins them
    likewise.

    References
    ----------
    Zavrtanik, Marolt, Kristan, Skočaj, "Anomalous sound detection by feature-level anomaly simulation", ICASSP 2024;
    Zavrtanik, Kristan, Skočaj, "DSR: a dual subspace re-projection network for surface anomaly detection", ECCV 2022,
    and its authors' released program.

    Notes
    -----
    Of a replaced code the twentieth of the codebook that is nearest to the feature is never drawn. Where only coarse
    codes are replaced, the fine ones are computed anew from them, and the mask to be found is the coarse one. An empty
    mask leaves a clip healthy. DSR's subspace restriction networks are not in the paper and not here.
    """

    name = "auddsr"
    family = "simulated anomalies"
    paper = "Zavrtanik et al., ICASSP 2024"
    Config: ClassVar[type[DetectorConfig]] = AudDSRConfig
    config: AudDSRConfig
    scorings: ClassVar[frozenset[str]] = frozenset({"score_by"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        # Ours: some five minutes on one core, the first stage included. A quarter of the channels, five seconds at a
        # time, half the batch, and five times the rate, since there are hundreds of steps and not tens of thousands.
        "quick": {
            "stage1_preset": "quick",
            "frames": 160,
            "width": 16,
            "max_steps": 300,
            "batch_size": 8,
            "learning_rate": 1e-3,
            # After so few steps the map's level as a whole wavers from clip to clip, and the codes leave much unsaid.
            "score_by": "excess",
        },
    }

    def __init__(self, config: DetectorConfig | None = None) -> None:
        super().__init__(config)
        self.usual: UsualMap | None = None
        settings = self.config.stage1_settings
        shared = {"front_end": self.config.front_end, "channel": self.config.channel}
        self.stage1 = registry.create(_STAGE1, self.config.stage1_preset, {**settings, **shared})
        self.frames = self.config.frames

    def build(self) -> DualDecoder:
        """A new network, of the first stage's sizes."""
        assert isinstance(self.stage1, NetworkDetector)
        general = self.stage1.build()
        assert isinstance(general, DiscreteAutoencoder)
        return DualDecoder(general, self.config.width, self.config.least_strength)

    @property
    def min_frames(self) -> int:
        """A second: what an image's sides are multiples of."""
        return STRIDE

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
        """Fit the first stage unless its file is given, then the second; see `Detector.fit`."""
        others = self.chosen(train, outliers or ())
        self.stage1, first = self._first_stage(train, store, budget, seed, run)
        left = None if budget is None else max(0.0, budget - first.seconds)
        logmels = store.collect(train, self.front_end)
        require_clips(logmels)
        foreign = store.collect(others, self.front_end).spectra if others else []
        self.frames = image_frames(logmels.spectra, self.config.frames, STRIDE)
        network = self.new_network(seed)
        assert isinstance(network, DualDecoder)
        network.general.load_state_dict(_weights(self.stage1))
        second = self._train(network, logmels.spectra, foreign, left, seed, run)
        self.network = network.cpu().eval()
        self.usual = self._usual_map(logmels.spectra, seed)
        stages.forget(run, "stage1")
        return replace(
            second,
            steps=first.steps + second.steps,
            seconds=first.seconds + second.seconds,
            losses=first.losses + second.losses,
            stopped="budget" if "budget" in (first.stopped, second.stopped) else second.stopped,
            figures=first.figures,
        )

    def depends_on(self) -> str:
        """The first stage, where its file is named; see `Detector.depends_on`."""
        if self.config.stage1 is None:
            return ""
        return stages.content(stages.from_model_file(self.config.stage1, _STAGE1, self.front_end))

    def _first_stage(
        self, train: Sequence[Clip], store: Store, budget: float | None, seed: int, run: Run | None
    ) -> tuple[Any, TrainingLog]:
        """Stage 1 from its file, or fitted in at most half of the time."""
        if self.config.stage1 is not None:
            return stages.from_model_file(self.config.stage1, _STAGE1, self.front_end), TrainingLog()
        half = None if budget is None else budget / 2
        return stages.fitted_along(self.stage1, train, store, half, seed, run)

    def _train(
        self,
        network: DualDecoder,
        spectra: Sequence[np.ndarray],
        foreign: Sequence[np.ndarray],
        budget: float | None,
        seed: int,
        run: Run | None,
    ) -> TrainingLog:
        config = self.config
        n_foreign = self.outliers_in_a_batch() if foreign else 0
        n_own = config.batch_size - n_foreign
        n_simulated = n_own - config.batch_size // 2
        examples = _Examples(Images(spectra, self.frames, n_own), foreign, n_foreign, n_simulated, config.perlin_share)
        optimizer = torch.optim.Adam(network.trained(), lr=config.learning_rate, fused=True)
        epochs = -(-config.max_steps * n_own // len(examples))
        plan = Plan(epochs, n_own, config.max_steps, budget)
        # A checkpoint that goes on upon another first stage would be of neither.
        own = None if run is None else replace(run, identity=f"{run.identity} on {stages.content(self.stage1)}")
        return train(network, self._loss, examples, optimizer, plan, seed=seed, run=own)

    def _usual_map(self, spectra: Sequence[np.ndarray], seed: int) -> UsualMap:
        """Of the maps of some training clips."""
        some = [spectra[k] for k in np.random.default_rng(seed).permutation(len(spectra))[:_HEALTHY_CLIPS]]

        def judge(spectrum: np.ndarray) -> torch.Tensor:
            with torch.inference_mode():
                return self._maps(torch.tensor(spectrum))

        return UsualMap.of(map_in_order(judge, some))

    def outliers_in_a_batch(self) -> int:
        """How many."""
        return 0

    def chosen(self, train: Sequence[Clip], outliers: Sequence[Clip]) -> list[Clip]:  # noqa: ARG002
        """The outliers that are learnt from: none."""
        return []

    def _loss(self, network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        windows, masks, outliers = batch
        logits, truth, images, corrected = network(windows, masks, outliers)
        # What is healthy is learnt from the machine's own recordings alone.
        squared = nn.functional.mse_loss(corrected[~outliers], images[~outliers])
        return focal_loss(logits, truth) + self.config.reconstruction * squared

    # Judging ------------------------------------------------------------------------------------

    def score_logmel(self, logmel: torch.Tensor) -> float:
        """Mean of the map, or what both maps exceed the usual by."""
        maps = self._maps(logmel)
        return float(maps[0].double().mean()) if self.config.score_by == "mean" else self._known().excess(maps)

    def map_logmel(self, logmel: torch.Tensor) -> torch.Tensor:
        """Probability that a bin is anomalous, or what both maps exceed the usual by."""
        maps = self._maps(logmel)
        return maps[0] if self.config.score_by == "mean" else self._known().relative(maps)

    def _maps(self, logmel: torch.Tensor) -> torch.Tensor:
        """What the module finds, and the squared error of what the codes say, (2, n_frames, n_mels)."""
        require_fitted(self.network, self.name)
        assert isinstance(self.network, DualDecoder)
        windows, starts = laid(logmel, self.frames)
        judged = [self.network.maps(some) for some in torch.split(windows, _IMAGES_AT_ONCE)]
        return torch.stack([put_together(torch.cat(parts), starts, len(logmel)) for parts in zip(*judged, strict=True)])

    def _known(self) -> UsualMap:
        if self.usual is None:
            raise AuscultError("this model does not know what maps are usual, as it is too old", "fit it again")
        return self.usual

    # Keeping ------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Both stages' weights, what maps are usual, the first one's settings, and the length of images."""
        tensors = super().state()[0]
        if self.usual is not None:
            tensors |= {_USUAL + name: tensor for name, tensor in self.usual.tensors().items()}
        return tensors, {"frames": self.frames, "stage1": self.stage1.config.model_dump(mode="json")}

    def restore(self, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Load weights into a new network; see `NetworkDetector.restore`."""
        usual = {name.removeprefix(_USUAL): t for name, t in tensors.items() if name.startswith(_USUAL)}
        try:
            # Version 0.1 at first had none, and then that of one map.
            self.usual = UsualMap.from_tensors(usual) if usual and usual["mean"].dim() == 3 else None
            self.frames = int(facts["frames"])
            kind = registry.get(_STAGE1)
            self.stage1 = kind(registry.validate(kind, facts["stage1"]))
        except (KeyError, TypeError, ValueError) as error:
            raise AuscultError(f"the model's tensors do not fit {self.name}", "fit it again") from error
        super().restore({name: t for name, t in tensors.items() if not name.startswith(_USUAL)}, facts)


class _Examples:
    """Batches of a machine's clips, some of them with a mask for what is to be simulated, and of clips of others.

    Parameters
    ----------
    own : Images
    foreign : sequence of ndarray, each (n_frames, n_mels)
    n_foreign : int
        In a batch, drawn at random.
    n_simulated : int
        Of the machine's own, the last in a batch.
    perlin_share : float
    """

    def __init__(
        self, own: Images, foreign: Sequence[np.ndarray], n_foreign: int, n_simulated: int, perlin_share: float
    ) -> None:
        self.own, self.n_foreign, self.n_simulated, self.perlin_share = own, n_foreign, n_simulated, perlin_share
        self.foreign = Images(foreign, own.length, 1)

    def __len__(self) -> int:
        return len(self.own)

    def gather(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Windows in dB, (n, n_frames, n_mels), masks, (n, n_mels, n_frames), and which are of others, (n,)."""
        windows = self.own.gather(indices)
        n_own = len(windows)
        if self.n_foreign:
            windows = torch.cat([windows, self.foreign.gather(torch.randint(len(self.foreign), (self.n_foreign,)))])
        n, n_frames, n_mels = windows.shape
        masks = torch.zeros(n, n_mels, n_frames, dtype=torch.bool)
        corrupted = slice(n_own - self.n_simulated, n_own)
        masks[corrupted] = anomaly_shapes(self.n_simulated, n_mels, n_frames, self.perlin_share)
        return windows, masks, torch.arange(n) >= n_own


def _weights(stage1: Any) -> dict[str, torch.Tensor]:
    return dict(stage1.network.state_dict())
