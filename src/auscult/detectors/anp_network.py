"""The network of the attentive neural process: set encoder, attention over positions, decoder."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn

from auscult.nn.attention import AddAndNorm, CrossAttention, EncoderLayer
from auscult.nn.hidden_bins import BinNetwork, Distributions, at, read_decibels, start_wide
from auscult.nn.mixture import n_outputs
from auscult.nn.standardise import Standardise


class ANPNetwork(BinNetwork):
    """Predicts any bins of a window from any others: encoder, attention over positions, decoder.

    Parameters
    ----------
    n_frames, n_mels : int
        Of a window.
    width, heads, feed_forward, mixture, octaves : int
        See `ANPConfig`.

    Notes
    -----
    Positions run from -1 to 1 in both directions (Kim et al., "Attentive neural processes", ICLR 2019, for
    images; this paper does not say). One network embeds the positions of queries and keys, as in Kim et al.'s
    program, and the query's embedding is the residual of the cross-attention block.
    """

    grid: torch.Tensor

    def __init__(
        self,
        n_frames: int,
        n_mels: int,
        width: int = 128,
        heads: int = 8,
        feed_forward: int = 128,
        mixture: int = 1,
        octaves: int = 0,
    ) -> None:
        super().__init__()
        self.n_mels, self.mixture = n_mels, mixture
        self.register_buffer("grid", _positions(n_frames, n_mels, octaves), persistent=False)
        n = self.grid.shape[1]
        self.standardise = Standardise(n_mels)
        self.points = _dense(n + 1, width, width, width)
        self.encoder = nn.Sequential(*(EncoderLayer(width, heads, feed_forward) for _ in range(2)))
        self.positions = _dense(n, width, width)
        self.attention = CrossAttention(width, heads)
        self.rest = AddAndNorm(width, feed_forward)
        last = nn.Linear(width, n_outputs(mixture))
        self.decoder = nn.Sequential(*_dense(width + n, width, width), nn.ReLU(), last)
        self._attend_nearby()
        start_wide(last, mixture)

    def _attend_nearby(self) -> None:
        """Start with queries that find the keys of nearby positions.

        The paper does not say how weights are initialised. With torch's defaults positions are embedded so
        small that every query attends to all keys alike, and hundreds of steps pass before that changes.
        """
        for layer in (*self.points, *self.positions):
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
        nn.init.orthogonal_(self.attention.query.weight, gain=2.0)
        self.attention.key.load_state_dict(self.attention.query.state_dict())

    def forward(self, windows: torch.Tensor, context: torch.Tensor, target: torch.Tensor) -> Distributions:
        """Predict the target bins from the context bins, and from nothing else; see `BinNetwork`."""
        values = at(self.standardise(windows).flatten(1), context)
        here, there = self.grid[context], self.grid[target]
        points = torch.cat([here.expand(len(windows), -1, -1), values[..., None]], dim=-1)
        encodings = self.encoder(self.points(points))
        keys, queries = self.positions(here), self.positions(there)
        summary = self.rest(queries, self.attention(queries, keys, encodings))
        outputs = self.decoder(torch.cat([there.expand(len(windows), -1, -1), summary], dim=-1))
        return read_decibels(outputs, self.mixture, self.standardise, target % self.n_mels)


def _positions(n_frames: int, n_mels: int, octaves: int) -> torch.Tensor:
    """Coordinates of every bin, and sines and cosines of them in so many octaves; (n_bins, 2 + 4 * octaves)."""
    grid = torch.cartesian_prod(torch.linspace(-1, 1, n_frames), torch.linspace(-1, 1, n_mels))
    angles = [2**octave * math.pi / 2 * grid for octave in range(octaves)]
    return torch.cat([grid, *(wave for angle in angles for wave in (angle.sin(), angle.cos()))], dim=1)


def _dense(*widths: int) -> nn.Sequential:
    """Dense layers with ReLU between them, the last linear."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
