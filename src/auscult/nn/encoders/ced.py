"""CED, a family of small transformers that tag sounds (Dinkel et al., ICASSP 2024)."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from auscult.features import FrontEnd
from auscult.nn.encoders.base import Encoder, Sizes, continued
from auscult.nn.encoders.blocks import Block, PatchEmbed


class CEDSizes(Sizes):
    """Sizes of CED; the defaults are those of CED-base. Tiny, mini and small are 192, 256 and 384 wide, 64 a head."""

    n_mels: int = 64
    frames: int = 1008


class CED(Encoder):
    """CED: 64 mel bands, of which each 16 by 16 are a token.

    Front end, as published: power spectra of 512 samples (Hann) every 160, centred; 64 triangles on the HTK mel scale
    from 0 to 8 kHz; dB, at most 120 below the clip's loudest; a batch norm for each mel band. Positions in time
    and in frequency are learnt apart. A clip shorter than ten seconds is heard as it is.

    Names and shapes follow the published code and its port to transformers. They were not checked against a published
    checkpoint.

    References
    ----------
    Dinkel, Wang, Yan, Zhang, Wang, "CED: Consistent ensemble distillation for audio tagging", 2024.
    """

    kind = "ced"
    sizes_class = CEDSizes
    first_centre = 0
    renames = ((r"^(module|encoder|model)\.", ""), (r"^init_bn\.1\.", "init_bn."))
    heads_of_others = r"^(norm|outputlayer|front_end)\b"

    def __init__(self, sizes: Sizes, layer: int) -> None:
        super().__init__(sizes, layer)
        width = sizes.width
        self.init_bn = nn.BatchNorm1d(sizes.n_mels)
        self.patch_embed = PatchEmbed(width, sizes.patch)
        self.time_pos_embed = nn.Parameter(0.02 * torch.randn(1, width, 1, sizes.most_times))
        self.freq_pos_embed = nn.Parameter(0.02 * torch.randn(1, width, sizes.n_bands, 1))
        self.blocks = nn.ModuleList(Block(width, sizes.heads, sizes.feed_forward, True) for _ in range(layer))

    @property
    def _front_end(self) -> FrontEnd:
        return FrontEnd(
            n_fft=512,
            hop_length=160,
            n_mels=self.sizes.n_mels,
            mel_scale="htk",
            mel_norm="none",
            log="max",
            floor=1e-10,
            top_db=120,
        )

    def spectrogram(self, wave: torch.Tensor) -> torch.Tensor:
        """Levels of 64 mel bands by the batch norm, shape (n_frames, n_mels)."""
        levels = self._front_end.logmel(wave.float().numpy())
        return self.init_bn(levels)  # type: ignore[no-any-return]

    def tokens(self, window: torch.Tensor) -> torch.Tensor:
        """Tokens of a window, shape (n_times, n_bands, width)."""
        patches = self.patch_embed(window.T)
        n_bands, n_times = patches.shape[1:]
        placed = patches + self.time_pos_embed[0, :, :, :n_times] + self.freq_pos_embed[0]
        tokens = placed.flatten(1).T
        for block in self.blocks:
            tokens = block(tokens)
        found: torch.Tensor = tokens.view(n_bands, n_times, -1)
        return found.transpose(0, 1)

    def filled(self, window: torch.Tensor, n_frames: int) -> torch.Tensor:
        """Go on with the last frame: ours, for clips shorter than one patch."""
        return continued(window, n_frames)

    def mel_centres(self) -> np.ndarray:
        """Centre frequencies of the mel bands in Hz, shape (n_mels,)."""
        return self._front_end.band_centres()
