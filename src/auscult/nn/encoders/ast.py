"""AST, the audio spectrogram transformer (Gong et al., Interspeech 2021), as the package transformers has it."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from auscult.errors import AuscultError
from auscult.nn.encoders.base import Encoder, Sizes
from auscult.nn.encoders.fbank import fbank

_MEAN, _SPREAD = -4.2677393, 4.5689974
_BEFORE = 2
"""Tokens before those of the patches: one for the class, one for distillation."""

_SINCE = (5, 9)
"""The version of the package that gave the tensors their present names."""


class ASTSizes(Sizes):
    """Sizes of AST; the defaults are those of the published one, whose patches overlap by six."""

    time_stride: int = 10
    band_stride: int = 10


class AST(Encoder):
    """AST: 128 mel bands, of which each 16 by 16 are a token, every 10.

    Front end, as published: Kaldi's energies with a Hann window; filled up to 1024 frames with zeros; less
    -4.2677, by twice 4.5690. The network is the package's own, made from sizes in the weights file; nothing is fetched.

    Published checkpoints are those that transformers reads, in both of its spellings of names; the authors' own
    are named otherwise. The tokens were compared with the package's, not with a published checkpoint's.

    References
    ----------
    Gong, Chung, Glass, "AST: Audio spectrogram transformer", 2021.
    """

    kind = "ast"
    sizes_class = ASTSizes
    pads = True
    renames = (
        (r"^audio_spectrogram_transformer\.", ""),
        (r"^encoder\.layer\.", "layers."),
        (r"\.attention\.attention\.(q|k|v)(uery|ey|alue)\.", r".attention.\1_proj."),
        (r"\.attention\.output\.dense\.", ".attention.o_proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
        (r"^", "model."),
    )
    heads_of_others = r"^(model\.)?classifier\b"

    def __init__(self, sizes: Sizes, layer: int) -> None:
        super().__init__(sizes, layer)
        transformers = _package()
        self.model: nn.Module = transformers.ASTModel(
            transformers.ASTConfig(
                hidden_size=sizes.width,
                num_hidden_layers=layer,
                num_attention_heads=sizes.heads,
                intermediate_size=sizes.feed_forward,
                patch_size=sizes.patch,
                time_stride=sizes.time_stride,
                frequency_stride=sizes.band_stride,
                max_length=sizes.frames,
                num_mel_bins=sizes.n_mels,
            )
        )

    def spectrogram(self, wave: torch.Tensor) -> torch.Tensor:
        """Kaldi's energies, normalised, shape (n_frames, n_mels)."""
        return (fbank(wave, self.sizes.n_mels, "hanning") - _MEAN) / (2 * _SPREAD)

    def tokens(self, window: torch.Tensor) -> torch.Tensor:
        """Tokens of a window, shape (n_times, n_bands, width)."""
        if self.layer:
            hidden = self.model(window[None], output_hidden_states=True).hidden_states[-1]
        else:
            hidden = self.model.get_submodule("embeddings")(window[None])
        return hidden[0, _BEFORE:].view(self.sizes.n_bands, self.sizes.most_times, -1).transpose(0, 1)  # type: ignore[no-any-return]

    def filled(self, window: torch.Tensor, n_frames: int) -> torch.Tensor:
        """Fill up with what an energy of 0 becomes, as published."""
        return nn.functional.pad(window, (0, 0, 0, n_frames - len(window)), value=-_MEAN / (2 * _SPREAD))


def _package() -> Any:
    """The package, told not to ask the network: with sizes given it has no reason to."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import transformers
    except ImportError as error:
        raise AuscultError(
            "AST needs the package transformers", 'install it: pip install "auscult[encoders]"'
        ) from error
    if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < _SINCE:
        raise AuscultError(
            f"transformers {transformers.__version__} is too old for AST", 'upgrade it: pip install "auscult[encoders]"'
        )
    return transformers
