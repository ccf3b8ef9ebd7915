"""The tokens of a clip of any length: windows laid end to end, each moment heard once."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from auscult.nn.encoders.base import Encoder
from auscult.nn.encoders.fbank import HOP, RATE


@dataclass(frozen=True)
class TokenMap:
    """What an encoder says of a clip.

    Attributes
    ----------
    tokens : Tensor of float32, shape (n_times, n_bands, width)
        Bands from the lowest to the highest.
    seconds : Tensor of float64, shape (n_times,)
        Middle of what each token hears, from the beginning of the clip, increasing.
    """

    tokens: torch.Tensor
    seconds: torch.Tensor


def token_map(encoder: Encoder, wave: torch.Tensor) -> TokenMap:
    """Tokens of a whole clip.

    A clip longer than the encoder's longest window is heard in several, one after the other so that memory does
    not grow. They lie end to end, and the last ends with the clip; of it only tokens of what the others have not
    heard are taken. A shorter clip is filled up where the encoder was trained so; tokens of the filling are left out.

    Parameters
    ----------
    encoder : Encoder
    wave : Tensor of float32, shape (n_samples,)
        At 16 kHz.

    Returns
    -------
    TokenMap
    """
    sizes = encoder.sizes
    spectrogram = encoder.spectrogram(wave)
    n_frames = len(spectrogram)
    least = sizes.frames if encoder.pads else sizes.patch
    tokens, middles, heard = [], [], 0.0
    for start in window_starts(n_frames, sizes.frames):
        window = spectrogram[start : start + sizes.frames]
        if len(window) < least:
            window = encoder.filled(window, least)
        found = encoder.tokens(window)
        middle = start + torch.arange(len(found), dtype=torch.float64) * sizes.time_stride + (sizes.patch - 1) / 2
        new = (middle >= heard) & (middle < n_frames)
        new[0] |= start == 0  # a clip shorter than half a patch has a token, too
        tokens.append(found[new])
        middles.append(middle[new])
        heard = float(start + sizes.frames)
    seconds = (torch.cat(middles) * HOP + encoder.first_centre) / RATE
    return TokenMap(torch.cat(tokens), seconds)


def window_starts(n_frames: int, longest: int) -> list[int]:
    """First frames of windows laid end to end, the last one ending with the clip."""
    return [*range(0, n_frames - longest, longest), max(n_frames - longest, 0)]
