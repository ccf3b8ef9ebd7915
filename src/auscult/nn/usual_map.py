"""What healthy clips' anomaly maps are like in each band, and how far above it another lies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from auscult.nn.tracing import number, softplus

_LEAST = 1e-3
"""A level or deviation smaller than this is none; its logarithm must end somewhere."""

_PRIOR_CLIPS = 5
_PRIOR_STD = 0.25
"""How much a few clips' logarithms scatter says little: it is averaged with this, which counts for so many clips."""


@dataclass(frozen=True)
class UsualMap:
    """Mean and standard deviation over time that the maps of healthy clips have in each band.

    A fault raises a map in some bands, at all times or at some. The map's mean over all bins hides that where the
    network that makes the map is unsure: its level as a whole then differs more from one healthy clip to the next
    than a fault in one band changes it. Ours.

    Attributes
    ----------
    mean, std : Tensor of float64, shape (2, n_mels)
        Over the clips, of the logarithms of a band's mean and of its deviation.
    """

    mean: torch.Tensor
    std: torch.Tensor

    @classmethod
    def of(cls, maps: Iterable[torch.Tensor]) -> UsualMap:
        """Of at least one healthy clip's maps, each (n_frames, n_mels), not negative."""
        logs = torch.stack([_described(one) for one in maps])
        n = len(logs)
        variance = (n * logs.var(0, correction=0) + _PRIOR_CLIPS * _PRIOR_STD**2) / (n + _PRIOR_CLIPS)
        return cls(logs.mean(0), variance.sqrt())

    def excess(self, anomaly_map: torch.Tensor) -> float:
        """Root mean square, over bands and the two, of log(1 + e^z): z is how many deviations one lies above the mean.

        Parameters
        ----------
        anomaly_map : Tensor, shape (n_frames, n_mels)

        Returns
        -------
        float
            About 0.9 for a healthy clip.
        """
        above = softplus((_described(anomaly_map) - self.mean) / self.std)
        return number(above.square().mean().sqrt())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Both, by name."""
        return {"mean": self.mean, "std": self.std}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> UsualMap:
        """What `tensors` gave.

        Raises
        ------
        KeyError
            If one is missing.
        """
        return cls(tensors["mean"], tensors["std"])


def _described(anomaly_map: torch.Tensor) -> torch.Tensor:
    """Logarithms of the mean and the standard deviation over time, shape (2, n_mels)."""
    exact = anomaly_map.double()
    return torch.log(torch.stack([exact.mean(0), exact.std(0, correction=0)]) + _LEAST)
