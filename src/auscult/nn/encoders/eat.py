"""EAT, an efficient self-supervised transformer for sound (Chen et al., IJCAI 2024)."""

from __future__ import annotations

import torch
from torch import nn

from auscult.nn.encoders.base import Encoder, Sizes
from auscult.nn.encoders.blocks import Block, PatchEmbed, norm
from auscult.nn.encoders.fbank import fbank

_MEAN, _SPREAD = -4.268, 4.569


class EAT(Encoder):
    """EAT: 128 mel bands, of which each 16 by 16 are a token; one further token stands for the clip.

    Front end, as published: the waveform without its mean; Kaldi's energies with a Hann window; filled up to 1024
    frames with zeros; less -4.268, by twice 4.569. The blocks have their norms after the sums; positions are
    fixed sines and cosines, kept in the checkpoint row by row of 8 bands, of which surplus rows are left out.

    Names and shapes follow the published code. They were not checked against a published checkpoint.

    References
    ----------
    Chen, Liang, Ma, Zheng, Chen, "EAT: Self-supervised pre-training with efficient audio transformer", 2024.
    """

    kind = "eat"
    pads = True
    renames = (
        (r"^model\.", ""),
        (r"^modality_encoders\.IMAGE\.", ""),
        (r"^context_encoder\.norm\.", "pre_norm."),
        (r"^fixed_positional_encoder\.positions$", "positions"),
    )
    heads_of_others = r"^(_ema|decoder|head|fc|fc_norm|proj|recon_proj|cls_proj|center|norm|shared_decoder)\b"

    def __init__(self, sizes: Sizes, layer: int) -> None:
        super().__init__(sizes, layer)
        width = sizes.width
        self.local_encoder = PatchEmbed(width, sizes.patch)
        self.extra_tokens = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, sizes.most_times * sizes.n_bands, width))
        self.pre_norm = norm(width)
        self.blocks = nn.ModuleList(Block(width, sizes.heads, sizes.feed_forward, False) for _ in range(layer))

    def spectrogram(self, wave: torch.Tensor) -> torch.Tensor:
        """Kaldi's energies, normalised, shape (n_frames, n_mels)."""
        energies = fbank(wave.double() - wave.double().mean(), self.sizes.n_mels, "hanning")
        return (energies - _MEAN) / (2 * _SPREAD)

    def tokens(self, window: torch.Tensor) -> torch.Tensor:
        """Tokens of a window, shape (n_times, n_bands, width)."""
        patches = self.local_encoder(window)
        n_times, n_bands = patches.shape[1:]
        placed = patches.flatten(1).T + self.positions[0, : n_times * n_bands]
        tokens = self.pre_norm(torch.cat([self.extra_tokens[0], placed]))
        for block in self.blocks:
            tokens = block(tokens)
        found: torch.Tensor = tokens[1:].view(n_times, n_bands, -1)
        return found

    def filled(self, window: torch.Tensor, n_frames: int) -> torch.Tensor:
        """Fill up with what an energy of 0 becomes, as published."""
        return nn.functional.pad(window, (0, 0, 0, n_frames - len(window)), value=-_MEAN / (2 * _SPREAD))
