"""The bank's other ear: tokens of a published encoder instead of log-mels, pooled over time, band by band."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from auscult import encoderfile
from auscult.audio import Channel
from auscult.corpus.clip import Clip
from auscult.detectors.bank_views import Heard, View, wrong_side
from auscult.errors import AudioError, AuscultError
from auscult.features import FrontEnd
from auscult.nn.encoders import Encoder, TokenMap, token_map
from auscult.nn.encoders.fbank import RATE

_SIZE = 10.0
"""Root mean square of a token's numbers. The bank reckons in dB, of which it calls a tenth next to nothing: here that
is a hundredth of a token. Ours."""


class Tokens:
    """Hears clips through an encoder that lies in a local file.

    Parameters
    ----------
    path : str
        Of the encoder file (see `auscult.encoderfile`).
    layer : int or None
        Blocks after which tokens are taken; None: half of them.
    """

    def __init__(self, path: str, layer: int | None) -> None:
        self.path = path
        self.layer = layer
        self.facts: dict[str, Any] = {}
        self._encoder: Encoder | None = None

    # The encoder ----------------------------------------------------------------------------------------

    def choose(self) -> None:
        """Take the file as it is now: what is learnt will depend on it.

        Raises
        ------
        AuscultError
            If it is missing or damaged, or has fewer blocks than were asked for.
        """
        file, layer = self.there()
        self._encoder = encoderfile.load(file, layer)
        self.facts = {
            "kind": file.kind,
            "sha256": file.sha256,
            "layer": layer,
            "width": file.sizes.width,
            "band_edges": self._encoder.band_edges().tolist(),
        }

    def there(self) -> tuple[encoderfile.EncoderFile, int]:
        """The file as it is now, and how many of its blocks are heard; refused as by `choose`."""
        file = encoderfile.describe(self.path)
        layer = file.sizes.depth // 2 if self.layer is None else self.layer
        if layer > file.sizes.depth:
            raise AuscultError(
                f"{file.path}: has {file.sizes.depth} blocks, not {layer}", f"--set encoder_layer={file.sizes.depth}"
            )
        return file, layer

    def remember(self, facts: dict[str, Any]) -> None:
        """Take over what was known of the encoder when the bank was made; the file is looked at when it is needed.

        Raises
        ------
        KeyError, TypeError
            If something is missing.
        """
        names = ("kind", "sha256", "layer", "width", "band_edges")
        self.facts = {name: facts[name] for name in names}

    @property
    def encoder(self) -> Encoder:
        """The very encoder that the bank was made with.

        Raises
        ------
        AuscultError
            If its file is missing, damaged, or another one.
        """
        if self._encoder is None:
            file = encoderfile.describe(self.path)
            if file.sha256 != self.facts["sha256"]:
                raise AuscultError(
                    f"{file.path}: is not the encoder that the bank was made with: its SHA-256 is "
                    f"{file.sha256[:12]}…, not {self.facts['sha256'][:12]}…",
                    "name that file with --set encoder=FILE, or fit again",
                )
            self._encoder = encoderfile.load(file, int(self.facts["layer"]))
        return self._encoder

    @property
    def width(self) -> int:
        """Numbers in a token."""
        return int(self.facts["width"])

    @property
    def n_bands(self) -> int:
        """Bands of tokens."""
        return len(self.facts["band_edges"])

    @property
    def band_edges(self) -> np.ndarray:
        """Lowest and highest frequency of each band in Hz, shape (n_bands, 2)."""
        return np.array(self.facts["band_edges"], dtype=np.float64)

    # Hearing --------------------------------------------------------------------------------------------

    def hear(self, clip: Clip, channel: Channel) -> TokenMap:
        """Tokens of a clip, each less its mean and of the same size, so that all encoders and layers count alike.

        Raises
        ------
        AudioError
            If the clip cannot be judged; the message names it.
        AuscultError
            If the encoder is not to be had.
        """
        encoder = self.encoder
        wave = torch.from_numpy(clip.waveform(RATE, channel))
        try:
            heard = token_map(encoder, wave)
        except AudioError as error:
            raise AudioError(f"{clip.path}: {error.what}", error.remedy) from error
        return replace(heard, tokens=_SIZE * torch.nn.functional.layer_norm(heard.tokens, heard.tokens.shape[2:]))

    def upon_logmel(self, shares: torch.Tensor, heard: TokenMap, n_frames: int, front_end: FrontEnd) -> torch.Tensor:
        """A map by time and band of tokens, drawn by frame and mel band: each bin as the token nearest to it.

        Parameters
        ----------
        shares : Tensor, shape (n_times, n_bands)
        heard : TokenMap
        n_frames : int
        front_end : FrontEnd
            Both of the log-mel.

        Returns
        -------
        Tensor, shape (n_frames, n_mels)
        """
        frames = torch.from_numpy(front_end.frame_times(n_frames))
        between = (heard.seconds[1:] + heard.seconds[:-1]) / 2
        times = torch.searchsorted(between, frames.to(between.dtype))
        return shares[times][:, self._nearest_bands(front_end.band_centres())]

    def _nearest_bands(self, hertz: np.ndarray) -> torch.Tensor:
        """Which of the tokens' bands lies nearest to each frequency."""
        apart = np.abs(_mel(hertz)[:, None] - _mel(self.band_edges).mean(1))
        return torch.from_numpy(apart.argmin(1))


def _mel(hertz: np.ndarray) -> np.ndarray:
    return np.log1p(hertz / 700)


# Views --------------------------------------------------------------------------------------------------


def _content(heard: Heard) -> torch.Tensor:
    return heard.values.mean(0)


def _events(heard: Heard) -> torch.Tensor:
    return torch.einsum("tb,tbs->bs", _standing_out(heard.values), heard.values)


def _standing_out(tokens: torch.Tensor) -> torch.Tensor:
    """Weights of the tokens of each band, (n_times, n_bands), sum 1: by their squared distance to the clip's mean."""
    away = (tokens - tokens.mean(0)).square().sum(2) + 1e-9
    return away / away.sum(0)


def _blame_content(heard: Heard, own: torch.Tensor, healthy: torch.Tensor) -> torch.Tensor:
    return wrong_side(heard.values.permute(2, 1, 0), own, healthy)


def _blame_events(heard: Heard, own: torch.Tensor, healthy: torch.Tensor) -> torch.Tensor:
    return _standing_out(heard.values).T * _blame_content(heard, own, healthy)


TOKEN_VIEWS: dict[str, View] = {
    view.name: view
    for view in (
        View("content", "of another kind on the whole", "of another kind on the whole", 0, _content, _blame_content),
        View(
            "events",
            "of another kind where it stands out",
            "of another kind where it stands out",
            0,
            _events,
            _blame_events,
        ),
    )
}
"""Views of tokens, (n_times, n_bands, width), as means over time of each band: all alike, or those that stand out.

The second is relative deviation pooling (Wilkinghoff, Yadav and Tan, 2026), which gives larger weights to tokens that
deviate more from the clip's mean; that they grow with the square is ours. Their size is the encoder's width."""
