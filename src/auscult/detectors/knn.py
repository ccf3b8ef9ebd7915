"""Nearest neighbours on pooled log-mel statistics: the bar that every network must clear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt, field_validator

from auscult.corpus.clip import Clip
from auscult.detectors.base import Detector, DetectorConfig, require_fitted
from auscult.detectors.registry import register
from auscult.errors import AuscultError
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
    """

    pooling: str = Field(default="mean+std", description="statistics over time, joined by +")
    k: PositiveInt = Field(default=1, description="neighbours averaged")
    distance: Literal["euclidean", "mahalanobis"] = Field(
        default="euclidean", description="how far apart two clips' statistics are"
    )

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
    work.

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

    def fit(
        self,
        train: Sequence[Clip],
        *,
        outliers: Sequence[Clip] | None = None,  # noqa: ARG002
        store: Store,
        budget: float | None = None,  # noqa: ARG002
        seed: int = 0,  # noqa: ARG002
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
        return TrainingLog()

    def score_logmel(self, logmel: torch.Tensor) -> float:
        """Mean distance to the k nearest training clips, per root of the number of statistics."""
        return self._mean_of_nearest(self._distances(logmel))

    @property
    def exports_any_length(self) -> bool:
        """Where no percentile is asked for, which interpolates between frames of a known number."""
        return set(self.config.pooling.split("+")) <= {"mean", "std", "max"}

    def score_learnt(self, clips: Sequence[Clip]) -> np.ndarray:
        """Leave-one-out: a training clip is not its own neighbour; 0 for one that has no other."""
        with torch.inference_mode():
            distances = (self._distances(self.logmel(clip)).sort().values[1:] for clip in clips)
            return np.array([self._mean_of_nearest(others) if len(others) else 0.0 for others in distances])

    def _mean_of_nearest(self, distances: torch.Tensor) -> float:
        nearest = distances.topk(min(self.config.k, len(distances)), largest=False).values
        return number(nearest.mean())

    def map_logmel(self, logmel: torch.Tensor) -> torch.Tensor:
        """Squared deviation of each bin from the nearest clip's mean level, in units of the healthy spread."""
        nearest = int(self._distances(logmel).argmin())
        assert self.tensors is not None
        return ((logmel - self.tensors["means"][nearest]) / self.tensors["spread"]).square()

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
        return dict(self.tensors), {}

    def restore(self, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:  # noqa: ARG002
        """Take over a bank.

        Raises
        ------
        AuscultError
            If the tensors are not a bank for these settings.
        """
        n_statistics = len(self.config.pooling.split("+")) * self.front_end.n_mels
        if "bank" not in tensors or tensors["bank"].shape[1] != n_statistics:
            raise AuscultError("the model's tensors do not fit knn", "fit it again")
        self.tensors = tensors


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
