"""A network that tells the machine from other sounds: what it takes for another sound is strange."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator
from torch import nn

from auscult.corpus.clip import Clip
from auscult.detectors.base import DetectorConfig, Needs, require_fitted
from auscult.detectors.network import NetworkDetector
from auscult.detectors.registry import register
from auscult.errors import AuscultError
from auscult.nn import tiles
from auscult.nn.aggregation import aggregate, check_aggregation
from auscult.nn.attribution import integrated_gradients
from auscult.nn.resnet import MIN_SIDE, STRIDE, ResNet
from auscult.nn.schedules import Schedule
from auscult.nn.usual import UsualLevels
from auscult.store import Store, require_clips
from auscult.training import Plan, Run, TrainingLog, train

_WINDOWS_AT_ONCE = 16
"""Bounds the memory of a long clip."""

_MAP_STEPS = 8
"""Points of the integration behind a map: few, for speed. Shares sum only roughly to the difference they explain."""

_BLOCKS = {"4/1/2": (4, 1, 2), "4/4/4": (4, 4, 4)}


class ProxyOutlierConfig(DetectorConfig):
    """Settings of the proxy-outlier classifier.

    Attributes
    ----------
    frames : int
        Frames in a window.
    hop : int
        Frames between two windows that a clip is scored by; the last one ends with the clip.
    shared : bool
        Whether overlapping windows share their convolutions: one pass over the clip, an approximation. Ours.
    blocks : {"4/1/2", "4/4/4"}
        Residual blocks of the three stages: those of the authors' program, or of their text.
    width : int
        Channels of the first stage.
    receptive_field : {87, 103}
        Bands and frames that one place hears.
    outliers : {"given", "same-type", "different-types", "all-types", "other-corpus"}
        Which of the outliers that training is given it uses; see `choose`.
    n_outliers : int or None
        So many outlier clips, drawn at random; None for all (Figure 4 of the paper: 4 to 16 392).
    epochs, batch_size, learning_rate, beta2, decay, max_steps : training
        An epoch passes over the normal clips; half of a batch is outliers; `decay` is the factor on the rate at
        each epoch. The texts have a beta2 of 0.99, the authors' programs 0.999.
    """

    front_end: str = Field(default="proxy-outlier", description="how a waveform becomes a log-mel")
    frames: int = Field(default=256, ge=MIN_SIDE, description="frames in a window")
    hop: PositiveInt = Field(default=1, description="frames between two windows of a clip")
    aggregation: str = Field(default="mean", description="from window scores to the clip's score")
    shared: bool = Field(default=False, description="one pass over the clip in place of overlapping windows")
    blocks: Literal["4/1/2", "4/4/4"] = Field(default="4/1/2", description="residual blocks of the three stages")
    width: PositiveInt = Field(default=64, description="channels of the first stage")
    receptive_field: Literal[87, 103] = Field(default=87, description="bands and frames that one place hears")
    outliers: Literal["given", "same-type", "different-types", "all-types", "other-corpus"] = Field(
        default="given", description="which of the outliers given are used"
    )
    n_outliers: PositiveInt | None = Field(default=None, description="use so many outlier clips, drawn at random")
    epochs: PositiveInt = Field(default=100, description="passes over the normal clips")
    batch_size: int = Field(default=64, ge=4, multiple_of=2, description="windows in a step, half of them outliers")
    learning_rate: PositiveFloat = Field(default=1e-4, description="of Adam")
    beta2: float = Field(default=0.999, gt=0, lt=1, description="of Adam")
    decay: float = Field(default=0.99, gt=0, le=1, description="factor on the learning rate at each epoch")
    max_steps: PositiveInt | None = Field(default=None, description="end after so many steps")

    _aggregation = field_validator("aggregation")(check_aggregation)

    @model_validator(mode="after")
    def _one_pass_is_a_mean(self) -> Self:
        if self.shared and self.aggregation != "mean":
            raise ValueError("shared=true has no scores of windows to aggregate; leave aggregation at mean")
        return self


@register
class ProxyOutlier(NetworkDetector):
    """Tells a machine's recordings from other recordings, which stand in for the faults nobody has recorded.

    One model for a machine ID. A residual network whose places hear at most 87 bands and frames
    (`auscult.nn.resnet`; 530 626 parameters, 894 658 with `blocks="4/4/4"`) over windows of 128 bands and 256
    frames, cut anywhere from the clips. Binary cross-entropy; batches of 32 windows of the machine and 32 of
    outliers drawn at random from all outlier clips; Adam 1e-4, its rate times 0.99 an epoch, 100 passes over the
    normal clips. No augmentation, no validation; the last epoch counts.

    Score: the logit (log-odds of being an outlier), averaged over all windows, one frame apart: 58 in ten seconds,
    89 in eleven. Map: integrated gradients of the windows' logits, where they are positive, from the clip as it would
    be with its levels within the machine's usual ones: what made it sound like something else.

    The paper's outlier sets. (a) other IDs of the same type: what `fit` takes from DATA by itself. (b), (c), (d):
    give all there is as `--outliers`, and choose with `--set outliers=different-types`, `all-types` or
    `other-corpus`. (e) TAU Urban Acoustic Scenes, (f) AudioSet, or any other collection: `--outliers FOLDER`.

    References
    ----------
    Primus, Haunschmid, Praher, Widmer, "Anomalous sound detection as a simple binary classification problem with
    careful selection of proxy outlier examples", DCASE 2020 workshop.

    Notes
    -----
    Outlier clips shorter than a window go on as their mirror image, which is ours; so is the map. The paper's
    front end divides by the clip's standard deviation: what is merely louder or softer goes unheard.

    Overlapping windows cannot share their convolutions exactly: the zeros beyond a window's edges reach five of the
    fifteen columns of its last map, and places a frame apart fall on different strides. Two approximations, on a
    synthetic valve and a fan (`quick`, 16 clips each, one core), against windows of 64 or 256 frames a frame apart,
    0.9 to 1.4 s a clip: `hop=16`, the network's stride, takes a thirteenth of the time, and changes scores by 3 to 7 %
    of their spread (root mean square); `shared=true`, one pass over the clip, takes a fortieth to a sixtieth, and
    changes them by 7 to 8 %.
    """

    name = "proxy-outlier"
    family = "classification"
    paper = "Primus et al., DCASE 2020 workshop"
    exports = True
    needs = frozenset({Needs.NORMALS, Needs.OUTLIERS})
    Config: ClassVar[type[DetectorConfig]] = ProxyOutlierConfig
    config: ProxyOutlierConfig
    scorings: ClassVar[frozenset[str]] = frozenset({"hop", "aggregation", "shared"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        # Ours: two minutes on one core. The same network on shorter windows and smaller batches, and ten
        # times the rate, since there are some hundred steps and not tens of thousands.
        "quick": {
            "frames": 64,
            "hop": 16,
            "batch_size": 32,
            "learning_rate": 1e-3,
            "epochs": 1000,
            "max_steps": 200,
        },
    }

    def build(self) -> Judge:
        """A new network."""
        config = self.config
        return Judge(ResNet(_BLOCKS[config.blocks], config.width, config.receptive_field), self.front_end.n_mels)

    @property
    def outliers_of_all_types(self) -> bool:
        """The paper's sets (b) to (d) are made of other types."""
        return self.config.outliers not in ("given", "same-type")

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
        """Train the network to tell windows of the clips from windows of the outliers; see `Detector.fit`."""
        others = self._chosen(train, outliers or (), seed)
        targets, proxies = store.collect(train, self.front_end), store.collect(others, self.front_end)
        require_clips(targets)
        require_clips(proxies)
        half = self.config.batch_size // 2
        pairs = _Pairs(targets.spectra, proxies.spectra, self.config.frames, half)
        network = self.new_network(seed)
        assert isinstance(network, Judge)
        network.usual.learn(0, targets.spectra)
        log = self._train(network, pairs, half, budget, seed, run)
        self.network = network.cpu().eval()
        return log

    def _train(
        self, network: Judge, pairs: _Pairs, half: int, budget: float | None, seed: int, run: Run | None
    ) -> TrainingLog:
        config = self.config
        betas = (0.9, config.beta2)
        optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, betas=betas, fused=True)
        schedule = _falling(config.decay, len(pairs) // half)
        plan = Plan(config.epochs, half, config.max_steps, budget, schedule)
        return train(network, _loss, pairs, optimizer, plan, seed=seed, run=run)

    def _chosen(self, train: Sequence[Clip], outliers: Sequence[Clip], seed: int) -> list[Clip]:
        """The outlier clips to learn from."""
        chosen = choose(train, outliers, self.config.outliers)
        if not chosen:
            passed_over = (
                f": of {len(outliers)} clips given none is left (outliers={self.config.outliers}; test clips and the "
                "machine's own are passed over)"
                if outliers
                else ", and there are none"
            )
            raise AuscultError(
                f"proxy-outlier learns from recordings of something else too{passed_over}",
                "give some (--outliers DATA), or use knn, ae or pae, which need none",
            )
        n = self.config.n_outliers
        if n is None or n >= len(chosen):
            return chosen
        return [chosen[k] for k in sorted(np.random.default_rng(seed).permutation(len(chosen))[:n])]

    def score_logmel(self, logmel: torch.Tensor) -> float:
        """Logits of the windows, aggregated over the clip."""
        network = self._fitted()
        if self.config.shared:
            places = network.network.places(logmel.T[None])[0].mean(0)
            shares = tiles.shares_of_places(len(logmel), self.config.frames, self.config.hop, STRIDE, len(places))
            return float((places.double() * shares).sum())
        starts = tiles.starts(len(logmel), self.config.frames, self.config.hop)
        logits = [
            network(tiles.windows(logmel, starts[first : first + _WINDOWS_AT_ONCE], self.config.frames))
            for first in range(0, len(starts), _WINDOWS_AT_ONCE)
        ]
        return aggregate(torch.cat(logits), self.config.aggregation)

    def map_logmel(self, logmel: torch.Tensor) -> torch.Tensor:
        """Each bin's share in its window's logit, where it raised it; windows end to end."""
        network, frames = self._fitted(), self.config.frames
        starts = tiles.starts(len(logmel), frames, frames)
        shares = []
        for start in starts:
            window = tiles.windows(logmel, [start], frames)
            shares.append(integrated_gradients(network, window, network.usual(window), _MAP_STEPS))
        return tiles.overlapped_mean(torch.cat(shares).clamp(min=0), starts, len(logmel))

    def _fitted(self) -> Judge:
        require_fitted(self.network, self.name)
        assert isinstance(self.network, Judge)
        return self.network


def choose(targets: Sequence[Clip], outliers: Sequence[Clip], which: str) -> list[Clip]:
    """The clips of a set of outliers that the paper's section 3.2 would use.

    Parameters
    ----------
    targets : sequence of Clip
        Recordings of the machine to be judged.
    outliers : sequence of Clip
        Candidates. Test clips are always passed over, and normal ones of the targets' own machine IDs.
    which : {"given", "same-type", "different-types", "all-types", "other-corpus"}
        All of these, anomalies too, if one has any; or of training clips of other machines those of other IDs of the
        targets' types (the paper's a); of other types recorded the same way (b); both (c); of types recorded another
        way (d). Types whose names begin with "Toy" are of ToyADMOS; all others, as those of MIMII, are taken to share
        their way of recording.

    Returns
    -------
    list of Clip
        In the order of `outliers`.
    """
    machines = {(clip.machine_type, clip.machine_id) for clip in targets}
    types = {clip.machine_type for clip in targets}
    corpora = {_of_toys(kind) for kind in types}

    def fits(clip: Clip) -> bool:
        own, same_type = (clip.machine_type, clip.machine_id) in machines, clip.machine_type in types
        if clip.split == "test" or (own and clip.condition == "normal"):
            return False
        if which == "given":
            return True
        same_corpus = _of_toys(clip.machine_type) in corpora
        rules = {
            "same-type": same_type,
            "different-types": same_corpus and not same_type,
            "all-types": same_corpus,
            "other-corpus": not same_corpus,
        }
        return rules[which] and not own and clip.condition != "anomaly"

    return [clip for clip in outliers if fits(clip)]


def _of_toys(machine_type: str) -> bool:
    return machine_type.startswith("Toy")


def _falling(decay: float, epoch_steps: int) -> Schedule:
    """A rate that falls by a factor at each epoch."""
    return lambda step: decay ** ((step - 1) // epoch_steps)


def _loss(network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of pairs, shape (batch, 2, frames, n_mels): the machine is 0, the outlier 1."""
    of_machine, of_outliers = network(batch.transpose(0, 1).flatten(0, 1)).chunk(2)
    softplus = nn.functional.softplus
    return (softplus(of_machine).mean() + softplus(-of_outliers).mean()) / 2


class Judge(nn.Module):
    """The network, and the levels that the machine usually has.

    Parameters
    ----------
    network : ResNet
    n_mels : int
    """

    def __init__(self, network: ResNet, n_mels: int) -> None:
        super().__init__()
        self.network = network
        self.usual = UsualLevels(1, n_mels)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Log-odds that windows, shape (batch, frames, n_mels) in dB, are of something else, shape (batch,)."""
        logits: torch.Tensor = self.network(windows.transpose(1, 2))
        return logits


class _Pairs:
    """A window of each normal clip with a window of some outlier; both chosen anew each time.

    Some normal clips come twice in an epoch, so that its last batch is whole.
    """

    def __init__(
        self, targets: Sequence[np.ndarray], outliers: Sequence[np.ndarray], length: int, batch_size: int
    ) -> None:
        self.targets = [spectrum for spectrum in targets if len(spectrum) >= length]
        if not self.targets:
            raise AuscultError(f"no clip has the {length} frames of a window", "give longer clips")
        self.outliers, self.length = outliers, length
        self.n_pairs = -(-len(self.targets) // batch_size) * batch_size

    def __len__(self) -> int:
        return self.n_pairs

    def gather(self, indices: torch.Tensor) -> torch.Tensor:
        """Draw pairs, shape (len(indices), 2, length, n_mels)."""
        chosen = torch.randint(len(self.outliers), indices.shape)
        pairs = [
            (self._cut(self.targets[i % len(self.targets)]), self._cut(self.outliers[k]))
            for i, k in zip(indices.tolist(), chosen.tolist(), strict=True)
        ]
        return torch.from_numpy(np.array(pairs))

    def _cut(self, spectrum: np.ndarray) -> np.ndarray:
        spare = len(spectrum) - self.length
        place = int(torch.randint(max(spare, 0) + 1, ()))
        if spare < 0:
            return np.pad(spectrum, ((0, -spare), (0, 0)), mode="symmetric")
        return spectrum[place : place + self.length]
