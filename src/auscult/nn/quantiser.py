"""Vector quantisation with a codebook that follows what it stands for, in memory that does not grow with the batch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

_DISTANCES_AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 26}
"""By device, entries of a block of the distance matrix: 16 MiB stay near a CPU's cache, 256 MiB keep a GPU busy. The
whole matrix of 256 spectrograms and 4096 codes has 2.7 * 10^9, ten GiB."""

_EPSILON = 1e-5
"""Added to each code's count, so that none is divided by zero (Laplace's rule)."""


class Quantiser(nn.Module):
    """Each vector becomes the nearest of a codebook's codes.

    The codes are not trained by gradients: each is the running mean of the vectors that chose it. The gradient
    passes straight through to the vectors. A code that none has chosen for some time begins anew at a vector of the
    batch; so does every code at first.

    Parameters
    ----------
    n_codes, width : int
        Size of the codebook, and of a vector.
    decay : float
        Of the running means.
    patience : int
        Training steps after which a code that no vector has chosen begins anew.

    References
    ----------
    van den Oord, Vinyals, Kavukcuoglu, "Neural discrete representation learning", NIPS 2017, section 3 and appendix
    A.1. Restarting unused codes: Dhariwal et al., "Jukebox", 2020, section 3.1.
    """

    codes: torch.Tensor
    counts: torch.Tensor
    sums: torch.Tensor
    idle: torch.Tensor
    usage: torch.Tensor

    def __init__(self, n_codes: int, width: int, decay: float = 0.99, patience: int = 100) -> None:
        super().__init__()
        self.decay, self.patience = decay, patience
        self.register_buffer("codes", torch.randn(n_codes, width))
        self.register_buffer("counts", torch.ones(n_codes))
        self.register_buffer("sums", self.codes.clone())
        self.register_buffer("idle", torch.full((n_codes,), patience))
        self.register_buffer("usage", torch.zeros(n_codes))

    def forward(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Quantise maps, and in training let the codes follow.

        Parameters
        ----------
        maps : Tensor, shape (batch, width, height, columns)

        Returns
        -------
        quantised : Tensor, as `maps`
            Its gradient is passed on to `maps` as it is.
        commitment : Tensor, a scalar
            Mean squared distance of `maps` to their codes, whose gradient draws `maps` towards these.
        """
        vectors = as_rows(maps)
        if self.training:
            self._restart(vectors.detach())
        chosen = self.nearest(vectors)
        quantised = as_maps(self.codes[chosen], maps)
        if self.training:
            self._follow(vectors.detach(), chosen)
        commitment = nn.functional.mse_loss(maps, quantised)
        return maps + (quantised - maps).detach(), commitment

    def quantise(self, maps: torch.Tensor) -> torch.Tensor:
        """The nearest codes in the place of maps, nothing more; both (batch, width, height, columns)."""
        return as_maps(self.codes[self.nearest(as_rows(maps))], maps)

    @torch.no_grad()
    def nearest(self, vectors: torch.Tensor) -> torch.Tensor:
        """Number of the code nearest to each vector, (n, width) to (n,); of equally near ones the first."""
        return torch.cat([distances.argmin(1) for distances in self.distances(vectors)])

    @torch.no_grad()
    def distances(self, vectors: torch.Tensor) -> Iterator[torch.Tensor]:
        """Squared distances of vectors, (n, width), to all codes, less the vectors' own squares, in blocks of rows.

        Yields
        ------
        Tensor, shape (some, n_codes)
        """
        squares = self.codes.square().sum(1)
        rows = max(1, _DISTANCES_AT_ONCE.get(vectors.device.type, 1 << 22) // len(self.codes))
        for some in torch.split(vectors, rows):
            yield torch.addmm(squares, some, self.codes.T, alpha=-2)

    @torch.no_grad()
    def _restart(self, vectors: torch.Tensor) -> None:
        dead = (self.idle >= self.patience).nonzero()[:, 0]
        if not len(dead):
            return
        # Drawn on the CPU, whose random numbers a checkpoint holds.
        drawn = (torch.rand(len(dead), dtype=torch.float64) * len(vectors)).long().to(vectors.device)
        self.codes[dead] = self.sums[dead] = vectors[drawn]
        self.counts[dead] = 1.0
        self.idle[dead] = 0

    @torch.no_grad()
    def _follow(self, vectors: torch.Tensor, chosen: torch.Tensor) -> None:
        n_codes = len(self.codes)
        here = torch.bincount(chosen, minlength=n_codes).to(self.counts.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, chosen, vectors)
        self.counts.lerp_(here, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        total = self.counts.sum()
        smoothed = (self.counts + _EPSILON) / (total + n_codes * _EPSILON) * total
        self.codes.copy_(self.sums / smoothed[:, None])
        self.idle.add_(1).masked_fill_(here > 0, 0)
        self.usage.lerp_(here / here.sum(), 1 - self.decay)

    def used(self) -> float:
        """Share of the codes that are chosen at least a hundredth as often as if all were chosen equally.

        Of a running mean over training steps, as `perplexity`.
        """
        return float((self.usage * len(self.usage) > 0.01 * self.usage.sum()).double().mean())

    def perplexity(self) -> float:
        """How many codes, equally used, would tell as much as these do: from 1 to the size of the codebook."""
        share = self.usage.double() / self.usage.double().sum().clamp(min=1e-300)
        return math.exp(float(torch.special.entr(share).sum()))


def as_rows(maps: torch.Tensor) -> torch.Tensor:
    """Maps, (batch, width, height, columns), as vectors, (batch * height * columns, width)."""
    return maps.movedim(1, -1).reshape(-1, maps.shape[1])


def as_maps(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Vectors back in the places that they have in maps, (batch, width, height, columns)."""
    batch, _, height, columns = like.shape
    return rows.view(batch, height, columns, -1).movedim(-1, 1)
