"""What the encoders have in common: sizes, a front end, and tokens of one window of a spectrogram."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator
from torch import nn

from auscult.nn.encoders import fbank


class Sizes(BaseModel):
    """How large an encoder is; kept in its weights file.

    Attributes
    ----------
    width : int
        Numbers in a token.
    depth, heads, feed_forward : int
        Blocks, heads of attention, width of the network within a block.
    patch : int
        Side of the square that becomes a token, in frames and in mel bands.
    time_stride, band_stride : int
        From one patch to the next, in frames and in mel bands.
    n_mels : int
    frames : int
        Longest window, in frames.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: PositiveInt = 768
    depth: PositiveInt = 12
    heads: PositiveInt = 12
    feed_forward: PositiveInt = 3072
    patch: PositiveInt = 16
    time_stride: PositiveInt = 16
    band_stride: PositiveInt = 16
    n_mels: PositiveInt = 128
    frames: PositiveInt = 1024

    @model_validator(mode="after")
    def _are_possible(self) -> Sizes:
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} cannot be shared among {self.heads} heads")
        if self.patch > min(self.n_mels, self.frames):
            raise ValueError(f"a patch of {self.patch} is larger than {self.n_mels} mel bands or {self.frames} frames")
        return self

    @property
    def n_bands(self) -> int:
        """Tokens above one another."""
        return (self.n_mels - self.patch) // self.band_stride + 1

    @property
    def most_times(self) -> int:
        """Tokens beside one another in the longest window."""
        return (self.frames - self.patch) // self.time_stride + 1


class Encoder(nn.Module, ABC):
    """A published encoder, or its first blocks, from a spectrogram to tokens.

    Parameters
    ----------
    sizes : Sizes
        Of the whole encoder.
    layer : int
        After how many blocks tokens are taken; later ones are not built. 0: as they enter the first.
    """

    kind: ClassVar[str]
    sizes_class: ClassVar[type[Sizes]] = Sizes
    pads: ClassVar[bool] = False
    """Whether a shorter clip is filled up to the longest window, or heard as it is."""
    first_centre: ClassVar[int] = fbank.LENGTH // 2
    """Sample in the middle of the first frame; the others follow every 160 samples."""
    renames: ClassVar[tuple[tuple[str, str], ...]] = ()
    """From names in a published checkpoint to those here: regular expressions and what replaces them."""
    heads_of_others: ClassVar[str]
    """Regular expression of names in checkpoints that are no part of the encoder, such as a classifier's."""

    def __init__(self, sizes: Sizes, layer: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.layer = layer

    @abstractmethod
    def spectrogram(self, wave: torch.Tensor) -> torch.Tensor:
        """What the encoder hears of a waveform at 16 kHz, (n_samples,); shape (n_frames, n_mels), normalised."""

    @abstractmethod
    def tokens(self, window: torch.Tensor) -> torch.Tensor:
        """Tokens of a window, (n_frames, n_mels), neither shorter than a patch nor longer than `sizes.frames`.

        Returns
        -------
        Tensor of float32, shape (n_times, n_bands, width)
            Bands from the lowest to the highest.
        """

    @abstractmethod
    def filled(self, window: torch.Tensor, n_frames: int) -> torch.Tensor:
        """Fill a window, (fewer frames, n_mels), up to `n_frames`."""

    def mel_centres(self) -> np.ndarray:
        """Centre frequencies of the encoder's mel bands in Hz, shape (n_mels,)."""
        return fbank.mel_centres(self.sizes.n_mels)

    def band_edges(self) -> np.ndarray:
        """Centre frequencies of the lowest and the highest mel band of each band in Hz, shape (n_bands, 2)."""
        first = np.arange(self.sizes.n_bands) * self.sizes.band_stride
        centres = self.mel_centres()
        return np.stack([centres[first], centres[first + self.sizes.patch - 1]], 1)


def continued(window: torch.Tensor, n_frames: int) -> torch.Tensor:
    """Fill up a window, (fewer frames, n_mels), with its last frame."""
    return torch.cat([window, window[-1:].expand(n_frames - len(window), -1)])
