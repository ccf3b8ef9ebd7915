"""Multi-head attention over sets: fused where a set attends to itself, shared where a whole batch asks the same."""

from __future__ import annotations

import torch
from torch import nn


class SelfAttention(nn.Module):
    """Every member of a set attends to every other, by torch's fused kernel: no weights are kept in memory.

    Parameters
    ----------
    width : int
    heads : int
        A divisor of `width`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, members: torch.Tensor) -> torch.Tensor:
        """Map (batch, n, width) to the same; a permutation of the members permutes the result likewise."""
        batch, n, _ = members.shape
        heads: torch.Tensor = self.inputs(members).view(batch, n, 3, self.heads, -1)
        query, key, value = heads.transpose(1, 3).unbind(2)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Queries attend to keys and take a mean of the values.

    Where queries and keys are the same for a whole batch (positions, under a mask that all windows share) the
    weights are computed once and applied to all values in one matrix product; else, in the plain form, for
    every member of the batch.

    Parameters
    ----------
    width, heads : int
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Take the mean of the values for each query.

        Parameters
        ----------
        queries : Tensor, shape (n_queries, width) or (batch, n_queries, width)
        keys : Tensor, shape (n_keys, width) or (batch, n_keys, width)
            Without a batch where queries are.
        values : Tensor, shape (batch, n_keys, width)

        Returns
        -------
        Tensor, shape (batch, n_queries, width)
        """
        query, key, value = self._split(self.query(queries)), self._split(self.key(keys)), self.value(values)
        if queries.dim() == 2:
            return self.output(self._shared(query, key, value))  # type: ignore[no-any-return]
        mixed = nn.functional.scaled_dot_product_attention(query, key, self._split(value))
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, vectors: torch.Tensor) -> torch.Tensor:
        """(..., n, width) to (..., heads, n, width / heads)."""
        return vectors.view(*vectors.shape[:-1], self.heads, -1).transpose(-3, -2)

    def _shared(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """One set of weights a head, (n_queries, n_keys), times the values of the whole batch side by side."""
        weights = torch.softmax(query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5, dim=-1)
        batch, n_keys, width = value.shape
        side_by_side = value.view(batch, n_keys, self.heads, -1).permute(2, 1, 0, 3).reshape(self.heads, n_keys, -1)
        mixed = torch.matmul(weights, side_by_side).view(self.heads, -1, batch, width // self.heads)
        return mixed.permute(2, 1, 0, 3).reshape(batch, -1, width)


class AddAndNorm(nn.Module):
    """What follows attention in a transformer: residual and norm, feed-forward, residual and norm, no dropout.

    Parameters
    ----------
    width, feed_forward : int

    References
    ----------
    Vaswani et al., "Attention is all you need", NeurIPS 2017, 3.1: the norm after the sum.
    """

    def __init__(self, width: int, feed_forward: int) -> None:
        super().__init__()
        self.first_norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, feed_forward)
        self.outer = nn.Linear(feed_forward, width)
        self.second_norm = nn.LayerNorm(width)

    def forward(self, residual: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Both (..., n, width), the residual perhaps without the batch."""
        middle = self.first_norm(attended + residual)
        return self.second_norm(middle + self.outer(self.inner(middle).relu()))  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """A transformer encoder layer, norm after the sum, no dropout.

    Parameters
    ----------
    width, heads, feed_forward : int
    """

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.rest = AddAndNorm(width, feed_forward)

    def forward(self, members: torch.Tensor) -> torch.Tensor:
        """Map (batch, n, width) to the same."""
        return self.rest(members, self.attention(members))  # type: ignore[no-any-return]
