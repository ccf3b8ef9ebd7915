"""A feature extractor that tells machines apart, and recordings from what a predictive autoencoder makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import nn

from auscult.nn.contrastive import supervised_contrastive
from auscult.nn.mobilefacenet import MobileFaceNet

N_FEATURES = 128

_INERTIA = 0.95
"""Of the running share of recordings told from reconstructions."""


class Losses(NamedTuple):
    """The parts of what is minimised, each a scalar."""

    classification: torch.Tensor
    contrastive: torch.Tensor
    reality: torch.Tensor


class GeCoNetwork(nn.Module):
    """Predictive autoencoders, one for a machine type, which stay as they are; an extractor and its two heads.

    Parameters
    ----------
    autoencoders : sequence of nn.Module
        From windows, (n, length * n_mels) in dB, to their centre frames, (n, n_mels), predicted and true, standardised;
        with a layer `standardise`.
    length : int
        Frames in their windows.
    shape : (int, int)
        Bands and frames of the extractor's images.
    types : sequence of int
        Which autoencoder each class has.
    form : {2022, 2023}
        See `MobileFaceNet`.
    """

    residual: torch.Tensor
    statistics: torch.Tensor
    types: torch.Tensor
    told: torch.Tensor

    def __init__(
        self,
        autoencoders: Sequence[nn.Module],
        length: int,
        shape: tuple[int, int],
        types: Sequence[int],
        form: int,
    ) -> None:
        super().__init__()
        self.length = length
        self.autoencoders = nn.ModuleList(autoencoders).requires_grad_(False)
        self.extract = MobileFaceNet(form, shape, 1, N_FEATURES)
        self.classify = nn.Linear(N_FEATURES, len(types))
        self.tell = nn.Linear(N_FEATURES, 1)
        self.register_buffer("types", torch.tensor(types))
        self.register_buffer("residual", torch.zeros(len(autoencoders), shape[0]))
        self.register_buffer("statistics", torch.tensor([[0.0, 1.0], [0.0, 1.0]]).repeat(len(types), 1, 1))
        self.register_buffer("told", torch.tensor(0.5))

    def train(self, mode: bool = True) -> Self:
        """As any module, but for the autoencoders."""
        super().train(mode)
        self.autoencoders.eval()
        return self

    def trained(self) -> list[nn.Parameter]:
        """The parameters that learn."""
        return [p for part in (self.extract, self.classify, self.tell) for p in part.parameters()]

    def forward(self, windows: torch.Tensor, labels: torch.Tensor, noise: float, temperature: float) -> Losses:
        """What is to be minimised, of recordings and of their reconstructions.

        Parameters
        ----------
        windows : Tensor, shape (batch, n_frames, n_mels), dB
        labels : Tensor of int, shape (batch,)
        noise : float
            How much of the noise that an autoencoder leaves out is added to its reconstructions.
        temperature : float
            Of the contrastive loss.
        """
        with torch.no_grad():
            real, made = self.pairs(windows, labels, noise)
        embeddings = self.extract(torch.cat([real, made]).transpose(1, 2)[:, None])
        is_made = torch.arange(len(embeddings), device=labels.device) >= len(real)
        reality = self.tell(embeddings)[:, 0]
        if self.training:
            with torch.no_grad():
                self.told.lerp_(((reality > 0) == is_made).float().mean(), 1 - _INERTIA)
        return Losses(
            nn.functional.cross_entropy(self.classify(embeddings[: len(real)]), labels),
            supervised_contrastive(embeddings, torch.cat([labels, labels + len(self.types)]), temperature),
            nn.functional.binary_cross_entropy_with_logits(reality, is_made.float()),
        )

    def pairs(self, windows: torch.Tensor, labels: torch.Tensor, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows, (batch, n_frames, n_mels) in dB, standardised, and as their types' autoencoders predict them."""
        real, made = torch.empty_like(windows), torch.empty_like(windows)
        kinds = self.types[labels]
        for kind in torch.unique(kinds).tolist():
            here = kinds == kind
            real[here], made[here] = self.reconstructed(windows[here], kind)
        # Drawn on the CPU, whose random numbers a checkpoint holds.
        strewn = torch.randn(made.shape).to(made.device) * self.residual[kinds][:, None]
        return real, made + noise * strewn

    def reconstructed(self, windows: torch.Tensor, kind: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows of one machine type standardised, and predicted frame by frame, copied at the ends."""
        autoencoder, n = self.autoencoders[kind], len(windows)
        rows = windows.unfold(1, self.length, 1).transpose(2, 3).flatten(0, 1).flatten(1)
        predicted = autoencoder(rows)[0].view(n, -1, windows.shape[2])
        edge = self.length // 2
        made = torch.cat([predicted[:, :1].expand(-1, edge, -1), predicted, predicted[:, -1:].expand(-1, edge, -1)], 1)
        real: torch.Tensor = autoencoder.standardise(windows.flatten(1))  # type: ignore[operator]
        return real, made

    def surprise(self, windows: torch.Tensor, own: int) -> torch.Tensor:
        """-log of the probability of being of class `own`, shape (batch,), of windows in dB."""
        autoencoder = self.autoencoders[int(self.types[own])]
        real: torch.Tensor = autoencoder.standardise(windows.flatten(1))  # type: ignore[operator]
        logits = self.classify(self.extract(real.transpose(1, 2)[:, None]))
        surprise: torch.Tensor = -logits.log_softmax(1)[:, own]
        return surprise
