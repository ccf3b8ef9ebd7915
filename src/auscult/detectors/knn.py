"""Nearest neighbours on pooled log-mel statistics: the bar that every network must clear."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import accumulate, pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from auscult.corpus.clip import Clip
from auscult.detectors.base import Detector, DetectorConfig, require_fitted
from auscult.detectors.registry import register
from auscult.errors import AuscultError
from auscult.nn.balancing import balance
from auscult.nn.density import Form, local_distances, normalised, related
from auscult.nn.domains import groups_of, usual_distances
from auscult.nn.tracing import number
from auscult.parallel import map_in_order
from auscult.store import Store, require_clips
from auscult.training import Run, TrainingLog


class KNNConfig(DetectorConfig):
    """Settings of the nearest-neighbour detector. All defaults are ours.

    Attributes
    ----------
    pooling : str
        Statistics over time of each band, joined by "+": mean, std, max, and percentiles such as p50 or p95.
    k : int
        Neighbours whose mean distance is the score. One: in a bank of healthy clips a single close one is enough.
    distance : {"euclidean", "mahalanobis"}
        Between z-scored statistics; or after whitening by their (Ledoit-Wolf) covariance.
    domains : {"auto", "off"}
        Whether the training clips' domains, where they have several, are judged each by its own usual distance, and
        small ones are given clips in between (SMOTE).
    density : int
        A distance is judged by the mean distance of the known clip to so many of its own neighbours instead; 0 for no.
    density_form : {"ratio", "difference"}
        Whether what is usual divides a distance or is taken off it.
    """

    pooling: str = Field(default="mean+std", description="statistics over time, joined by +")
    k: PositiveInt = Field(default=1, description="neighbours averaged")
    distance: Literal["euclidean", "mahalanobis"] = Field(
        default="euclidean", description="how far apart two clips' statistics are"
    )
    domains: Literal["auto", "off"] = Field(
        default="auto",
        description="judge each domain of the training clips by its own distances, where there are several",
    )
    density: NonNegativeInt = Field(
        default=0, description="neighbours of a known clip by whose distance one to it is judged; 0: none"
    )
    density_form: Form = Field(default="ratio", description="whether that distance divides or is taken off")

    @field_validator("pooling")
    @classmethod
    def _poolings_exist(cls, pooling: str) -> str:
        for name in pooling.split("+"):
            percentile = name[1:] if name.startswith("p") else ""
            if name not in ("mean", "std", "max") and not (percentile.isdigit() and int(percentile) <= 100):
                raise ValueError("a pooling is mean, std, max or a percentile like p90, joined by +")
        return pooling


@register
class KNN(Detector):
    """Distance of a clip's pooled log-mel statistics to the nearest healthy clips'.

    Statistics of each band over time (mean and standard deviation by default) are z-scored on the training
    clips; the score is the root mean square distance to the k nearest of them. No training loop; a second's
    work. Where training clips are of several domains the score is the least over these, each in multiples of how far
    its own clips are from one another.

    The anomaly map says how far each bin lies from the mean level of its band in the nearest healthy clip, in
    squared units of the band's healthy spread.
    """

    name = "knn"
    family = "neighbours"
    paper = "ours: the bar that every network must clear"
    exports = True
    Config: ClassVar[type[DetectorConfig]] = KNNConfig
    config: KNNConfig
    min_frames = 1

    def __init__(self, config: DetectorConfig | None = None) -> None:
        super().__init__(config)
        self.tensors: dict[str, torch.Tensor] | None = None
        self.sizes: list[int] | None = None

    def fit(
        self,
        train: Sequence[Clip],
        *,
        outliers: Sequence[Clip] | None = None,  # noqa: ARG002
        store: Store,
        budget: float | None = None,  # noqa: ARG002
        seed: int = 0,
        run: Run | None = None,  # noqa: ARG002
    ) -> TrainingLog:
        """Keep the statistics of the training clips; see `Detector.fit`."""
        logmels = store.collect(train, self.front_end)
        require_clips(logmels)
        pooled = list(map_in_order(self._describe, logmels.spectra))
        statistics = torch.stack([statistic for statistic, _, _ in pooled])
        means = torch.stack([mean for _, mean, _ in pooled])
        spread = torch.stack([variance for _, _, variance in pooled]).mean(0).sqrt()
        centre, scale = statistics.mean(0), _floored(statistics.std(0, correction=0))
        bank = (statistics - centre) / scale
        self.tensors = {"centre": centre, "scale": scale, "means": means, "spread": _floored(spread)}
        if self.config.distance == "mahalanobis":
            self.tensors["whitening"] = _whitening(bank)
            bank = bank @ self.tensors["whitening"]
        self.tensors["bank"] = bank
        groups = groups_of([clip.domain for clip in logmels.clips]) if self.config.domains == "auto" else None
        self.sizes = None
        if groups is not None or self.config.density:
            self._learn_usual(statistics, groups, seed)
        return TrainingLog()

    def _learn_usual(self, statistics: torch.Tensor, groups: torch.Tensor | None, seed: int) -> None:
        """Balance the domains, put the bank in their order, and keep what distance is usual where."""
        assert self.tensors is not None
        bank, means = self.tensors["bank"], self.tensors["means"]
        parts, domains = _of_themselves(len(bank)), torch.zeros(len(bank), dtype=torch.int64)
        if groups is not None:
            between = balance(bank, parts, groups, _apart, keys=statistics, seed=seed)
            bank, means = between.grown(bank), between.grown(means)
            parts, domains = between.grown_parts(parts, groups)
        usual = usual_distances(
            bank, parts, None if groups is None else domains, _apart, k=self.config.k, density=self.config.density
        )
        assert usual is not None
        order = domains.argsort(stable=True)
        self.tensors |= {"bank": bank[order], "means": means[order], "usual": usual[order], "parts": parts[order]}
        self.sizes = domains.bincount().tolist()

    def score_logmel(self, logmel: torch.Tensor) -> float:
        """Mean distance to the k nearest training clips, per root of the number of statistics."""
        distances = self._distances(logmel)
        return number(self._mean_of_nearest(self._judged(distances, self._usual), self.sizes))

    @property
    def exports_any_length(self) -> bool:
        """Where no percentile is asked for, which interpolates between frames of a known number."""
        return set(self.config.pooling.split("+")) <= {"mean", "std", "max"}

    def score_learnt(self, clips: Sequence[Clip]) -> np.ndarray:
        """Leave-one-out: a training clip is not its own neighbour; 0 for one that has no other."""
        with torch.inference_mode():
            return np.array([self._score_left_out(self._distances(self.logmel(clip))) for clip in clips])

    def _score_left_out(self, distances: torch.Tensor) -> float:
        """Judge a clip by its distances to the bank, the clip nearest to it, which is itself, left out."""
        assert self.tensors is not None
        parts = self.tensors.get("parts", _of_themselves(len(distances)))
        others = ~related(parts[distances.argmin()][None], parts)[0]
        if not others.any():
            return 0.0
        usual = self.tensors.get("usual")
        if usual is not None:
            # A clip must not be among the neighbours that distances to others are judged by.
            usual = usual[others]
            if self.config.density:
                usual = local_distances(self.tensors["bank"][others], parts[others], self.config.density, _apart)
        sizes = None if self.sizes is None else [int(some.sum()) for some in torch.split(others, self.sizes)]
        return float(self._mean_of_nearest(self._judged(distances[others], usual), sizes))

    def _judged(self, distances: torch.Tensor, usual: torch.Tensor | None) -> torch.Tensor:
        """Distances, (n_clips,), by what is usual where each clip lies."""
        return distances if usual is None else normalised(distances, usual, self.config.density_form)

    def _mean_of_nearest(self, distances: torch.Tensor, sizes: list[int] | None) -> torch.Tensor:
        """Mean of the k least, in the domain of so many clips where it is least."""
        ends = list(accumulate(sizes or [len(distances)]))
        domains = [distances[start:end] for start, end in pairwise([0, *ends]) if start < end]
        return reduce(torch.minimum, [d.topk(min(self.config.k, len(d)), largest=False).values.mean() for d in domains])

    def map_logmel(self, logmel: torch.Tensor) -> torch.Tensor:
        """Squared deviation of each bin from the nearest clip's mean level, in units of the healthy spread."""
        nearest = int(self._judged(self._distances(logmel), self._usual).argmin())
        assert self.tensors is not None
        return ((logmel - self.tensors["means"][nearest]) / self.tensors["spread"]).square()

    @property
    def _usual(self) -> torch.Tensor | None:
        """The distance usual where each clip lies, (n_clips,), where one is judged by it."""
        return None if self.tensors is None else self.tensors.get("usual")

    def _distances(self, logmel: torch.Tensor) -> torch.Tensor:
        require_fitted(self.tensors, self.name)
        assert self.tensors is not None
        described = (self._pool(logmel.double()) - self.tensors["centre"]) / self.tensors["scale"]
        if "whitening" in self.tensors:
            described = described @ self.tensors["whitening"]
        return (self.tensors["bank"] - described).square().mean(1).sqrt()

    def _describe(self, spectrum: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logmel = torch.tensor(spectrum, dtype=torch.float64)
        return self._pool(logmel), logmel.mean(0).float(), logmel.var(0, correction=0).float()

    def _pool(self, logmel: torch.Tensor) -> torch.Tensor:
        """Statistics over time of each band, one after the other, shape (n_poolings * n_mels,)."""
        return torch.cat([_statistic(logmel, name) for name in self.config.pooling.split("+")])

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The bank and what normalises it."""
        require_fitted(self.tensors, self.name)
        assert self.tensors is not None
        return dict(self.tensors), {} if self.sizes is None else {"sizes": self.sizes}

    def restore(self, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Take over a bank.

        Raises
        ------
        AuscultError
            If the tensors are not a bank for these settings.
        """
        n_statistics = len(self.config.pooling.split("+")) * self.front_end.n_mels
        sizes = facts.get("sizes")
        if (
            "bank" not in tensors
            or tensors["bank"].shape[1] != n_statistics
            or (sizes is not None and (sum(sizes) != len(tensors["bank"]) or not {"usual", "parts"} <= tensors.keys()))
        ):
            raise AuscultError("the model's tensors do not fit knn", "fit it again")
        self.tensors, self.sizes = tensors, sizes


def _apart(some: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Root mean square distance between rows, (n, n_statistics) and (m, n_statistics): (n, m)."""
    exact = torch.cdist(some, others, compute_mode="donot_use_mm_for_euclid_dist")
    rms: torch.Tensor = exact / some.shape[-1] ** 0.5
    return rms


def _of_themselves(n: int) -> torch.Tensor:
    """Each item of a bank is from one clip, its own, (n, 2)."""
    return torch.arange(n)[:, None].expand(-1, 2)


def _statistic(logmel: torch.Tensor, name: str) -> torch.Tensor:
    if name == "mean":
        return logmel.mean(0)
    if name == "std":
        return logmel.std(0, correction=0)
    if name == "max":
        return logmel.amax(0)
    return logmel.quantile(int(name[1:]) / 100, dim=0)


def _floored(spread: torch.Tensor) -> torch.Tensor:
    """A spread that can be divided by: a statistic that never varied counts in dB (as with a single clip)."""
    return torch.where(spread > 1e-3, spread, torch.ones_like(spread))


def _whitening(bank: torch.Tensor) -> torch.Tensor:
    """The matrix that makes the bank's shrunk covariance the identity, shape (n_statistics, n_statistics)."""
    from sklearn.covariance import LedoitWolf

    covariance = LedoitWolf().fit(bank.numpy()).covariance_
    values, vectors = np.linalg.eigh(covariance)
    return torch.from_numpy(vectors / np.sqrt(np.maximum(values, 1e-6)))
