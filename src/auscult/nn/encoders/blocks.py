"""Transformer blocks that CED and EAT share; names of parameters are those of their checkpoints."""

from __future__ import annotations

import torch
from torch import nn

_EPSILON = 1e-6
"""Of the norms; torch's own default is ten times larger."""


def norm(width: int) -> nn.LayerNorm:
    """Layer norm over a token."""
    return nn.LayerNorm(width, eps=_EPSILON)


class Attention(nn.Module):
    """Every token attends to every other; query, key and value are one matrix.

    Parameters
    ----------
    width : int
    heads : int
        A divisor of `width`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map (n, width) to the same."""
        query, key, value = self.qkv(tokens).view(len(tokens), 3, self.heads, -1).permute(1, 2, 0, 3)[:, None].unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)[0]
        return self.proj(mixed.transpose(0, 1).flatten(1))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear layers and a GELU.

    Parameters
    ----------
    width, feed_forward : int
    """

    def __init__(self, width: int, feed_forward: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, feed_forward)
        self.fc2 = nn.Linear(feed_forward, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map (n, width) to the same."""
        return self.fc2(nn.functional.gelu(self.fc1(tokens)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then a small network for each token, both added to what comes in.

    Parameters
    ----------
    width, heads, feed_forward : int
    norm_first : bool
        Whether the norms stand before the two parts (CED), or after the sums (EAT).
    """

    def __init__(self, width: int, heads: int, feed_forward: int, norm_first: bool) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.norm1, self.norm2 = norm(width), norm(width)
        self.attn = Attention(width, heads)
        self.mlp = Mlp(width, feed_forward)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map (n, width) to the same."""
        if self.norm_first:
            tokens = tokens + self.attn(self.norm1(tokens))
            return tokens + self.mlp(self.norm2(tokens))  # type: ignore[no-any-return]
        tokens = self.norm1(tokens + self.attn(tokens))
        return self.norm2(tokens + self.mlp(tokens))  # type: ignore[no-any-return]


class PatchEmbed(nn.Module):
    """Each square of a spectrogram becomes a token.

    Parameters
    ----------
    width, patch : int
    """

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, width, patch, stride=patch)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map (height, width of the image) to (width of a token, rows, columns)."""
        return self.proj(image[None, None])[0]  # type: ignore[no-any-return]
