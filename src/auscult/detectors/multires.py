"""Four resolutions of a waveform, learnt by telling machines apart; a clip far from all that is known is strange."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn.functional import normalize

from auscult.corpus.clip import Clip
from auscult.detectors.base import DetectorConfig, Needs, require_fitted
from auscult.detectors.machines import MachineDetector
from auscult.detectors.multires_bank import Banks, excess
from auscult.detectors.multires_judging import Known, chosen, held_back, logarithm
from auscult.detectors.multires_settings import MultiresConfig
from auscult.detectors.multires_training import Crops, Learner, loss_of
from auscult.detectors.registry import register
from auscult.errors import AuscultError
from auscult.nn.attribution import integrated_gradients
from auscult.nn.domains import Reference
from auscult.nn.multires import (
    MIDDLE,
    SAMPLE_RATE,
    WIDTH,
    Embedders,
    MultiResolution,
    crop_starts,
    middle_bins,
    repeated,
)
from auscult.nn.subclusters import SubClusters
from auscult.parallel import map_in_order
from auscult.store import Store, require_clips
from auscult.training import Plan, Run, TrainingLog, train

_HOP = 512
"""Of the middle spectrogram, and of the log-mel that maps are aligned with."""

_MAP_STEPS = 8
_LEAST = 1e-30
"""Of a map's mean, by which it is divided."""
_CROPS_AT_ONCE = 8
_FEWEST_FRAMES = 8


@register
class Multires(MachineDetector):
    """Embeds a clip at four resolutions, by what tells machines apart, and measures how far the nearest known clip is.

    The magnitudes of the whole clip's transform, and spectrograms of windows of 16, 64 and 256 ms, each through a
    network of its own; 5.0 million parameters for eleven seconds. Learnt by classifying machines (and their
    attributes) with sub-cluster AdaCos of 16 directions a class, half of the waveforms mixed with others; AdamW
    1e-3, batches of 64, 16 epochs, the last counts. No machine ID is needed to judge a clip.

    Score: cosine distance to the nearest training clip of the same machine type, averaged over crops and
    networks; where the training clips of that type are of several domains, the least over these, each in multiples of
    how far its own clips are from one another. Map (ours): what each bin of the middle spectrogram adds to that
    distance, by integrated gradients from the mean spectrum of the training clips, gathered into mel bands; where it
    adds something.

    The quick preset lets a memory bank of each machine type judge too (`bank`, ours): a network hears what tells
    machines apart, and many a fault does not sound like another machine. A tenth of the clips then teaches the network
    nothing, so that what distance is usual is known; what its logarithm and the bank each exceed the usual by is
    brought together as a root mean square. The map is the mean of both maps, the network's of the mean that its
    excess has when squared, the bank's as it is.

    References
    ----------
    Fujimura et al., "ASDKit", 2025 (arXiv 2507.10264), dis_multispec_scac_trainable. Wilkinghoff, "Self-supervised
    learning for anomalous sound detection", ICASSP 2024: feature exchange. Density: arXiv 2509.10951.

    Notes
    -----
    From descriptions of these systems. Where AdamW's decay is not told it is torch's, 0.01.
    """

    name = "multires"
    family = "classification"
    paper = "after Fujimura et al., 2025, and Wilkinghoff, 2023–2025"
    why_no_export = "it hears the waveform, not the log-mel that an export begins its judgement with"
    needs = frozenset({Needs.NORMALS, Needs.MACHINE_IDS})
    scorings: ClassVar[frozenset[str]] = frozenset({"density", "density_form", "domains"})
    Config: ClassVar[type[DetectorConfig]] = MultiresConfig
    config: MultiresConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"seeds": 10},
        # Ours: some minutes on one core. The same network on two seconds at a time, in smaller batches, and a bank.
        "quick": {"seconds": 2.0, "batch_size": 32, "epochs": 1000, "max_steps": 150, "bank": True},
    }

    def __init__(self, config: DetectorConfig | None = None) -> None:
        super().__init__(config)
        self.known: Known | None = None
        self.banks: Banks | None = None

    @property
    def n_samples(self) -> int:
        """Of a crop, in whole hops."""
        return round(self.config.seconds * SAMPLE_RATE / _HOP) * _HOP

    @property
    def min_frames(self) -> int:
        """A quarter of a second; a shorter clip than a crop is repeated. Ours."""
        return _FEWEST_FRAMES

    def build(self) -> Embedders:
        """New networks."""
        return Embedders(self.config.seeds, self.n_samples)

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
        """Train the networks to tell the clips' classes, and the outliers', apart; see `Detector.fit`."""
        logmels = store.collect([*train, *(outliers or ())], self.front_end)
        require_clips(logmels)
        clips = [c for c, s in zip(logmels.clips, logmels.spectra, strict=True) if len(s) >= self.min_frames]
        classes = self._classes(clips)
        self.machines = sorted({(clip.machine_type, clip.machine_id) for clip in clips})
        own = set(map(id, train))
        learnt = [clip for clip in clips if id(clip) in own]
        held = self._held_back(learnt, seed)
        taught = [clip for clip in clips if id(clip) not in set(map(id, held))]
        examples = Crops(
            taught,
            [classes.index(self._label(clip)) for clip in taught],
            self.wave,
            self.n_samples,
            self.config.batch_size,
        )
        networks = self.new_network(seed)
        assert isinstance(networks, Embedders)
        logs = []
        for number, network in enumerate(networks.networks):
            assert isinstance(network, MultiResolution)
            share = None if budget is None else budget / len(networks.networks)
            logs.append(self._train(network, examples, len(classes), share, seed + number, run and run.part(number)))
        if run is not None:
            run.forget_parts(len(logs))
        self.network = networks.cpu().eval()
        self._know(learnt, held, seed)
        self.banks = Banks.fitted(learnt, self.config, store, seed) if self.config.bank else None
        networks.usual.copy_(self._usual(clips))
        return replace(
            logs[-1],
            steps=sum(log.steps for log in logs),
            seconds=sum(log.seconds for log in logs),
            losses=tuple(loss for log in logs for loss in log.losses),
        )

    def _held_back(self, clips: Sequence[Clip], seed: int) -> list[Clip]:
        """Clips that teach nothing, where it must be known how far new ones are."""
        return [clips[k] for k in held_back([self._label(clip) for clip in clips], seed)] if self.config.bank else []

    def _label(self, clip: Clip) -> tuple[str, str, str]:
        return clip.machine_type, clip.machine_id, clip.attributes if self.config.labels == "attributes" else ""

    def _classes(self, clips: Sequence[Clip]) -> list[tuple[str, str, str]]:
        classes = sorted({self._label(clip) for clip in clips})
        if len(classes) < 2:
            raise AuscultError(
                f"{self.name} learns what tells machines or attributes apart, and all {len(clips)} clips are of one",
                "give clips of several (in a manifest, or with --outliers DATA), or use bank, which needs no labels",
            )
        return classes

    def _train(
        self,
        network: MultiResolution,
        examples: Crops,
        n_classes: int,
        budget: float | None,
        seed: int,
        run: Run | None,
    ) -> TrainingLog:
        config = self.config
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            width, n_directions = 4 * WIDTH, (3 if config.feature_exchange else 1) * n_classes
            head = SubClusters(
                width, n_directions, config.centres, projected=config.loss == "adaproj", trainable=config.trainable
            )
        learner = Learner(network, head, n_classes, config.mixup, config.feature_exchange)
        moving = [p for p in learner.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(moving, lr=config.learning_rate, fused=True)
        plan = Plan(config.epochs, config.batch_size, config.max_steps, budget)
        return train(learner, loss_of, examples, optimizer, plan, seed=seed, run=run)

    def _know(self, clips: Sequence[Clip], held: Sequence[Clip], seed: int) -> None:
        """Keep embeddings of training clips, of no more of each machine type than are needed."""
        some = chosen(clips, self.config.known_clips, seed)

        def embed(clip: Clip) -> torch.Tensor:
            # In each thread: the mode is a thread's own, and a graph kept for every clip would fill the memory.
            with torch.inference_mode():
                return self._embed(clip)

        self.known = Known.of(some, list(map_in_order(embed, some)), frozenset(clip.path for clip in held))

    def _usual(self, clips: Sequence[Clip]) -> torch.Tensor:
        """Mean magnitude of each bin of the middle spectrogram, (n_bins,)."""
        network = self._fitted().networks[0]
        assert isinstance(network, MultiResolution)
        some = clips[:: max(1, len(clips) // 50)]
        with torch.inference_mode():
            levels = [network.resolve(self._crops(clip)[0])[MIDDLE].mean(dim=(0, 2)) for clip in some]
        return torch.stack(levels).mean(0).clone()

    # Judging ------------------------------------------------------------------------------------

    def score_of(self, clip: Clip, logmel: torch.Tensor) -> float:
        """Distance to the nearest known clip of the same machine type, joined with the bank's judgement."""
        distance = self._distance(clip, learnt=False)
        return distance if self.banks is None else self._joined(clip, distance, self.banks.excess(clip, logmel))

    def score_learnt(self, clips: Sequence[Clip]) -> np.ndarray:
        """A training clip's own embeddings are left out."""

        def score(clip: Clip) -> float:
            with torch.inference_mode():
                distance = self._distance(clip, learnt=True)
                return distance if self.banks is None else self._joined(clip, distance, self.banks.excess_learnt(clip))

        return np.fromiter(map_in_order(score, clips), np.float64, len(clips))

    def _distance(self, clip: Clip, *, learnt: bool) -> float:
        distances = self._known().nearest(clip, self._embed(clip), self.config, learnt=learnt)
        return float(distances.double().mean())

    def _joined(self, clip: Clip, distance: float, by_bank: torch.Tensor) -> float:
        """Root mean square of what distance and bank exceed the usual by."""
        return float(torch.stack([self._excess(clip, distance), by_bank]).square().mean().sqrt())

    def _excess(self, clip: Clip, distance: float) -> torch.Tensor:
        usual = self._known().usual(clip.machine_type, self.config)
        return excess(logarithm(torch.tensor(distance, dtype=torch.float64)), usual)

    def findings(self, clip: Clip) -> tuple[str, ...]:
        """What the bank finds strange, in words; see `Detector.findings`."""
        return () if self.banks is None else self.banks.findings(clip)

    def map_of(self, clip: Clip, logmel: torch.Tensor) -> torch.Tensor:
        """What each bin adds to the distance, shape (n_frames, n_mels), joined with the bank's map."""
        own = self._own_map(clip, logmel)
        if self.banks is None:
            return own
        with torch.inference_mode():
            strange = float(self._excess(clip, self._distance(clip, learnt=False)).square())
        return (own * strange / own.mean().clamp(min=_LEAST) + self.banks.map(clip, logmel)) / 2

    def _own_map(self, clip: Clip, logmel: torch.Tensor) -> torch.Tensor:
        """What each bin adds to the distance, shape (n_frames, n_mels)."""
        networks, reference = self._fitted(), self._known().reference(clip.machine_type, self.config)
        with torch.inference_mode(False):
            waves, starts = self._crops(clip)
        total = torch.zeros_like(logmel)
        count = torch.zeros(len(logmel), 1)
        for wave, start in zip(waves, starts, strict=True):
            shares = torch.stack([self._shares(k, wave[None], reference) for k in range(len(networks.networks))]).mean(
                0
            )
            frames = (start // _HOP + torch.arange(len(shares))) % len(logmel)
            total.index_add_(0, frames, shares)
            count.index_add_(0, frames, torch.ones(len(shares), 1))
        return (total / count.clamp(min=1)).clamp(min=0)

    def _shares(self, number: int, wave: torch.Tensor, reference: Reference) -> torch.Tensor:
        """Share of each mel band and frame of a crop in one network's distance, (n_frames, n_mels)."""
        networks = self._fitted()
        network = networks.networks[number]
        assert isinstance(network, MultiResolution)
        with torch.inference_mode(False):
            resolutions = [one.clone() for one in network.resolve(wave)]
            known = reference[number]
            usual = networks.usual.clone()[None, :, None]

        def distance(middle: torch.Tensor) -> torch.Tensor:
            heard = [one.expand(len(middle), *one.shape[1:]) for one in resolutions]
            heard[MIDDLE] = middle
            return known.nearest(normalize(network.embed(heard), dim=1), lambda some, others: 1 - some @ others.T)

        shares = integrated_gradients(distance, resolutions[MIDDLE], usual, _MAP_STEPS)[0]
        return shares.T @ self._bands

    @property
    def _bands(self) -> torch.Tensor:
        """How each bin of the middle spectrogram is shared out among mel bands, (n_bins, n_mels)."""
        matrix = torch.from_numpy(np.asarray(self.front_end.mel_matrix(), dtype=np.float32))[:, middle_bins()]
        return (matrix / matrix.sum(dim=0).clamp(min=1e-12)).T

    def score_logmel(self, logmel: torch.Tensor) -> float:  # noqa: ARG002
        """Refuse: there is no score without the waveform."""
        raise AuscultError("multires hears the waveform, not the log-mel", "score the clip")

    def map_logmel(self, logmel: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Refuse: there is no map without the waveform."""
        raise AuscultError("multires hears the waveform, not the log-mel", "ask for the map of the clip")

    def _known(self) -> Known:
        require_fitted(self.known, self.name)
        assert self.known is not None
        return self.known

    def _embed(self, clip: Clip) -> torch.Tensor:
        """Directions of a clip's crops, (n_crops, n_networks, width)."""
        networks = self._fitted()
        waves, _ = self._crops(clip)
        return torch.cat([networks(some) for some in torch.split(waves, _CROPS_AT_ONCE)])

    def _crops(self, clip: Clip) -> tuple[torch.Tensor, list[int]]:
        wave = repeated(self.wave(clip), self.n_samples)
        starts = crop_starts(len(wave), self.n_samples, _HOP)
        return torch.stack([wave[start : start + self.n_samples] for start in starts]), starts

    def wave(self, clip: Clip) -> torch.Tensor:
        """The waveform of a clip, (n_samples,)."""
        return torch.from_numpy(clip.waveform(SAMPLE_RATE, self.front_end.channel))

    def _fitted(self) -> Embedders:
        require_fitted(self.network, self.name)
        assert isinstance(self.network, Embedders)
        return self.network

    # Keeping ------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The networks, the embeddings known, and the banks."""
        tensors, facts = super().state()
        known = self._known()
        banks = {} if self.banks is None else self.banks.tensors()
        return tensors | known.tensors() | banks, facts | known.facts()

    def restore(self, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Take over what `state` gave; see `NetworkDetector.restore`."""
        banks = {name: tensor for name, tensor in tensors.items() if Banks.are_among(name)}
        own = {name: t for name, t in tensors.items() if name not in banks and not name.startswith("known.")}
        super().restore(own, facts)
        try:
            self.known = Known.restored(tensors, facts)
        except (KeyError, TypeError, ValueError) as error:
            raise AuscultError(f"the model's tensors do not fit {self.name}", "fit it again") from error
        self.banks = Banks.restored(banks, self.known.types, self.config) if self.config.bank else None
