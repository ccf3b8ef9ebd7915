"""The network of STgram: the log-mel and a learnt image of the waveform, seen as one image of two channels."""

from __future__ import annotations

import torch
from torch import nn

from auscult.features import FrontEnd
from auscult.nn.arcface import ArcFace
from auscult.nn.confidence import log_odds_against
from auscult.nn.mobilefacenet import MobileFaceNet
from auscult.nn.tgram import TgramNet
from auscult.nn.usual import UsualLevels

N_FEATURES = 128
"""Length of an embedding."""


class STgramNetwork(nn.Module):
    """TgramNet, MobileFaceNet and a head, and the levels that the machines usually have.

    Parameters
    ----------
    front_end : FrontEnd
    n_frames : int
    form : {2022, 2023}
    head : ArcFace or nn.Linear
    n_classes : int

    References
    ----------
    Liu, Guan, Zhu, Wang, "Anomalous sound detection using spectral-temporal information fusion", ICASSP 2022.
    """

    def __init__(self, front_end: FrontEnd, n_frames: int, form: int, head: nn.Module, n_classes: int) -> None:
        super().__init__()
        self.tgram = TgramNet(n_frames, front_end.n_mels, front_end.n_fft, front_end.hop_length)
        self.face = MobileFaceNet(form, (front_end.n_mels, n_frames), n_features=N_FEATURES)
        self.head = head
        self.usual = UsualLevels(n_classes, front_end.n_mels)

    def forward(self, waves: torch.Tensor, windows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Logits, shape (batch, n_classes).

        Parameters
        ----------
        waves : Tensor, shape (batch, n_samples)
        windows : Tensor, shape (batch, n_frames, n_mels), dB
        labels : Tensor of int, shape (batch,)
            The classes that bear ArcFace's margin.
        """
        images = torch.stack([windows.transpose(1, 2), self.tgram(waves)], dim=1)
        embeddings = self.face(images)
        logits: torch.Tensor = (
            self.head(embeddings, labels) if isinstance(self.head, ArcFace) else self.head(embeddings)
        )
        return logits

    def against(self, own: int, waves: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
        """Log-odds against a class, with the margin on it, shape (batch,)."""
        return log_odds_against(self(waves, windows, torch.full((len(windows),), own)), own)
