"""BEATs, a self-supervised transformer taught by acoustic tokenisers (Chen et al., ICML 2023)."""

from __future__ import annotations

import math

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import nn

from auscult.nn.encoders.base import Encoder, Sizes, continued
from auscult.nn.encoders.fbank import fbank

_MEAN, _SPREAD = 15.41663, 6.55582
_FULL_SCALE = 2**15


class BEATsSizes(Sizes):
    """Sizes of BEATs; the defaults are those of the published ones.

    Attributes
    ----------
    patch_width : int
        Numbers in a token before it is brought to `width`.
    reach, groups : int
        Kernel, in tokens, and groups of the convolution that tells tokens their place.
    buckets, farthest : int
        Classes of distance between tokens, and where the last begins.
    residual : float
        By what each block multiplies what comes in before it adds; (2 * depth)^(1/4) with "deep norm".
    """

    patch_width: PositiveInt = 512
    reach: PositiveInt = 128
    groups: PositiveInt = 16
    buckets: PositiveInt = 320
    farthest: PositiveInt = 800
    residual: PositiveFloat = 24**0.25


class BEATs(Encoder):
    """BEATs: 128 mel bands, of which each 16 by 16 are a token.

    Front end, as published: samples as 16-bit numbers; Kaldi's energies with its own window; less 15.41663, by twice
    6.55582. Positions: a convolution along the row of tokens, frame by frame, and in attention a bias for
    each distance along that row, gated by the query. A clip of any length is heard as it is; in windows of 1024
    frames, as it was trained on ten seconds (ours).

    Names and shapes follow the published code, but that the convolution's weight norm is multiplied out and the bias,
    which all blocks share, is kept once. They were not checked against a published checkpoint, but once, with weights
    drawn at random, against the port in openbeats 0.1.1: tokens of three blocks were equal within 2e-6. That
    package is not used here, as it needs torchaudio and a client of a model hub.

    References
    ----------
    Chen, Wu, Wang, Liu, Tompkins, Chen, Wei, "BEATs: Audio pre-training with acoustic tokenizers", 2023.
    """

    kind = "beats"
    sizes_class = BEATsSizes
    renames = (
        (r"^encoder\.layers\.0\.self_attn\.relative_attention_bias\.", "relative_attention_bias."),
        (r"^encoder\.pos_conv\.0\.bias$", "encoder.pos_conv.bias"),
    )
    heads_of_others = r"^(predictor\b|label_embs|mask_emb|encoder\.layers\.\d+\.self_attn\.relative_attention_bias\b)"

    def __init__(self, sizes: Sizes, layer: int) -> None:
        super().__init__(sizes, layer)
        assert isinstance(sizes, BEATsSizes)
        self.patch_embedding = nn.Conv2d(1, sizes.patch_width, sizes.patch, stride=sizes.patch, bias=False)
        self.layer_norm = nn.LayerNorm(sizes.patch_width)
        self.post_extract_proj = nn.Linear(sizes.patch_width, sizes.width)
        self.relative_attention_bias = nn.Embedding(sizes.buckets, sizes.heads)
        self.encoder = _Blocks(sizes, layer)
        self.buckets, self.farthest = sizes.buckets, sizes.farthest

    def spectrogram(self, wave: torch.Tensor) -> torch.Tensor:
        """Kaldi's energies, normalised, shape (n_frames, n_mels)."""
        energies = fbank(wave.double() * _FULL_SCALE, self.sizes.n_mels, "povey")
        return (energies - _MEAN) / (2 * _SPREAD)

    def tokens(self, window: torch.Tensor) -> torch.Tensor:
        """Tokens of a window, shape (n_times, n_bands, width)."""
        patches = self.patch_embedding(window[None, None])[0]
        n_times, n_bands = patches.shape[1:]
        tokens = self.post_extract_proj(self.layer_norm(patches.flatten(1).T))
        place = torch.arange(len(tokens))
        classes = distance_classes(place[None] - place[:, None], self.buckets, self.farthest)
        bias = self.relative_attention_bias(classes).permute(2, 0, 1)
        return self.encoder(tokens, bias).view(n_times, n_bands, -1)  # type: ignore[no-any-return]

    def filled(self, window: torch.Tensor, n_frames: int) -> torch.Tensor:
        """Go on with the last frame: ours, for clips shorter than one patch."""
        return continued(window, n_frames)


class _Blocks(nn.Module):
    def __init__(self, sizes: BEATsSizes, layer: int) -> None:
        super().__init__()
        self.pos_conv = nn.Conv1d(sizes.width, sizes.width, sizes.reach, padding=sizes.reach // 2, groups=sizes.groups)
        self.layer_norm = nn.LayerNorm(sizes.width)
        self.layers = nn.ModuleList(_Block(sizes) for _ in range(layer))

    def forward(self, tokens: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        # An even kernel gives one place too many, at the end.
        places = self.pos_conv(tokens.T[None])[0, :, : len(tokens)].T
        tokens = self.layer_norm(tokens + nn.functional.gelu(places))
        for block in self.layers:
            tokens = block(tokens, bias)
        return tokens


class _Block(nn.Module):
    def __init__(self, sizes: BEATsSizes) -> None:
        super().__init__()
        self.residual = sizes.residual
        self.self_attn = _GatedAttention(sizes.width, sizes.heads)
        self.self_attn_layer_norm = nn.LayerNorm(sizes.width)
        self.fc1 = nn.Linear(sizes.width, sizes.feed_forward)
        self.fc2 = nn.Linear(sizes.feed_forward, sizes.width)
        self.final_layer_norm = nn.LayerNorm(sizes.width)

    def forward(self, tokens: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        tokens = self.self_attn_layer_norm(self.residual * tokens + self.self_attn(tokens, bias))
        changed = self.fc2(nn.functional.gelu(self.fc1(tokens)))
        return self.final_layer_norm(self.residual * tokens + changed)  # type: ignore[no-any-return]


class _GatedAttention(nn.Module):
    """Attention with a bias for each distance, as large as two gates make it that the query opens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.grep_linear = nn.Linear(width // heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, heads, 1, 1))

    def forward(self, tokens: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        query, key, value = (self._split(part(tokens)) for part in (self.q_proj, self.k_proj, self.v_proj))
        opened = self.grep_linear(query).unflatten(-1, (2, 4)).sum(-1).sigmoid()
        first, second = opened[..., :1], opened[..., 1:]
        gate = first * (second * self.grep_a[0] - 1) + 2
        mixed = nn.functional.scaled_dot_product_attention(query[None], key[None], value[None], gate * bias)[0]
        return self.out_proj(mixed.transpose(0, 1).flatten(1))  # type: ignore[no-any-return]

    def _split(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, width) to (heads, n, width / heads)."""
        return tokens.view(len(tokens), self.heads, -1).transpose(0, 1)


def distance_classes(distances: torch.Tensor, buckets: int, farthest: int) -> torch.Tensor:
    """Class of each distance: half of them for those ahead, each half one by one, then ever wider.

    Parameters
    ----------
    distances : Tensor of int64
        From the token that asks to the one that answers.
    buckets, farthest : int

    References
    ----------
    Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text transformer", 2020, 2.1.
    """
    half = buckets // 2
    single = half // 2
    apart = distances.abs()
    growth = torch.log(apart.clamp(min=1).float() / single) / math.log(farthest / single) * (half - single)
    wide = (single + growth.long()).clamp(max=half - 1)
    return torch.where(apart < single, apart, wide) + half * (distances > 0)
