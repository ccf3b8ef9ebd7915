"""What healthy clips' maps are like in each band, and how far above it another clip's lie."""

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
    """Mean and standard deviation over time that maps of healthy clips have in each band, several maps of a clip.

    A fault raises a map in some bands, at all times or at some. The map's mean over all bins hides that where the
    network that makes the map is unsure: its level as a whole then differs more from one healthy clip to the next
    than a fault in one band changes it. Ours.

    Attributes
    ----------
    mean, std : Tensor of float64, shape (n_maps, 2, n_mels)
        Over the clips, of the logarithms of a band's mean and of its deviation.
    """

    mean: torch.Tensor
    std: torch.Tensor

    @classmethod
    def of(cls, maps: Iterable[torch.Tensor]) -> UsualMap:
        """Of at least one healthy clip, the maps of each (n_maps, n_frames, n_mels), not negative."""
        logs = torch.stack([_described(one) for one in maps])
        n = len(logs)
        variance = (n * logs.var(0, correction=0) + _PRIOR_CLIPS * _PRIOR_STD**2) / (n + _PRIOR_CLIPS)
        return cls(logs.mean(0), variance.sqrt())

    def excess(self, maps: torch.Tensor) -> float:
        """Root mean square, over maps, bands and the two, of log(1 + e^z): z deviations above the mean.

        Parameters
        ----------
        maps : Tensor, shape (n_maps, n_frames, n_mels)

        Returns
        -------
        float
            About 0.9 for a healthy clip.
        """
        above = softplus((_described(maps) - self.mean) / self.std)
        return number(above.square().mean().sqrt())

    def relative(self, maps: torch.Tensor) -> torch.Tensor:
        """One map of several: root mean square over them of log(1 + e^z), z by the band's usual mean and deviation.

        Parameters
        ----------
        maps : Tensor, shape (n_maps, n_frames, n_mels)

        Returns
        -------
        Tensor of float32, shape (n_frames, n_mels)
        """
        level, deviation = self.mean.exp().unbind(1)
        above = softplus((maps.double() - level[:, None]) / deviation[:, None])
        return above.square().mean(0).sqrt().float()

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


def _described(maps: torch.Tensor) -> torch.Tensor:
    """Logarithms of the mean and the standard deviation over time, shape (n_maps, 2, n_mels)."""
    exact = maps.double()
    return torch.log(torch.stack([exact.mean(1), exact.std(1, correction=0)], 1) + _LEAST)
