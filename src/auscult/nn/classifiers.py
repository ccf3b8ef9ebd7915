"""The two networks of the classification-confidence systems: from a log-mel of any length to classes."""

from __future__ import annotations

import torch
from torch import nn

from auscult.errors import AuscultError

Heard = tuple[torch.Tensor, torch.Tensor]
"""Embeddings, (batch, 128), and logits, (batch, n_classes)."""

_WIDTH = 128


class Pvmilk20(nn.Module):
    """Five small convolutions, and the loudest answer of any channel at any time in each mel band.

    21 736 parameters and 129 for each class. The paper's table gives the channels as 8, 8, 32, 16, 16; only 8, 8,
    16, 16, 32 have the number of parameters it states beside them, and the 32 of the row that follows.

    Parameters
    ----------
    n_classes : int
    n_mels : int

    References
    ----------
    Inoue et al., "Detection of anomalous sounds for machine condition monitoring using classification confidence",
    DCASE 2020 workshop, Table 1. The ReLU after the first dense layer is ours.
    """

    min_frames = 9
    """The convolutions over time have nothing to stand on with fewer."""

    def __init__(self, n_classes: int, n_mels: int = 128) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *_convolution(1, 8, (7, 1), padding=(3, 0)),
            *_convolution(8, 8, (1, 7), stride=(1, 3), padding=(0, 2)),
            *_convolution(8, 16, (5, 1), padding=(2, 0)),
            *_convolution(16, 16, (5, 1), padding=(2, 0)),
            *_convolution(16, 32, (1, 5), stride=(1, 3), padding=(0, 1)),
        )
        self.dropout = nn.Dropout(0.2)
        self.embed = nn.Sequential(nn.Linear(n_mels, _WIDTH), nn.ReLU())
        self.classify = nn.Linear(_WIDTH, n_classes)

    def forward(self, images: torch.Tensor) -> Heard:
        """Log-mels, (batch, n_mels, n_frames), to embeddings and logits."""
        loudest = _convolved(self.convolutions, images).amax(dim=(1, 3))
        embeddings = self.embed(self.dropout(loudest))
        return embeddings, self.classify(embeddings)


class Inouet18(nn.Module):
    """Convolutions over frequency until one band is left, one over time, and each channel's loudest answer.

    395 136 parameters and 129 for each class, with 128 bands. That number is published; the network is not, in
    this form: it is the one of the authors' entry to DCASE 2018 Task 5, its kernels fitted to the number. The kernels
    of the second and third convolution, padding and dropout are therefore ours.

    Parameters
    ----------
    n_classes : int
    n_mels : int
        A multiple of 8.

    References
    ----------
    As `Pvmilk20`, Table 1b; Inoue et al., "Domestic activities classification based on CNN using shuffling and
    mixing data augmentation", DCASE 2018 challenge.
    """

    min_frames = 1

    def __init__(self, n_classes: int, n_mels: int = 128) -> None:
        super().__init__()
        if n_mels % 8:
            raise AuscultError(f"inouet18 pools eight mel bands into one, and {n_mels} are no multiple", "use pvmilk20")
        self.convolutions = nn.Sequential(
            *_convolution(1, 64, (7, 1), padding=(3, 0)),
            nn.MaxPool2d((8, 1)),
            nn.Dropout(0.2),
            *_convolution(64, 128, (n_mels // 8, 1)),
            *_convolution(128, 256, (1, 7), padding=(0, 3)),
        )
        self.dropout = nn.Dropout(0.5)
        self.embed = nn.Sequential(nn.Linear(256, _WIDTH), nn.ReLU())
        self.classify = nn.Linear(_WIDTH, n_classes)

    def forward(self, images: torch.Tensor) -> Heard:
        """Log-mels, (batch, n_mels, n_frames), to embeddings and logits."""
        loudest = _convolved(self.convolutions, images).amax(dim=(2, 3))
        embeddings = self.embed(self.dropout(loudest))
        return embeddings, self.classify(embeddings)


CLASSIFIERS: dict[str, type[Pvmilk20] | type[Inouet18]] = {"pvmilk20": Pvmilk20, "inouet18": Inouet18}
"""By the names that the paper gives them."""


def _convolved(convolutions: nn.Sequential, images: torch.Tensor) -> torch.Tensor:
    """What the convolutions make of log-mels; with channels last, which takes a processor a third less time."""
    convolved: torch.Tensor = convolutions(images[:, None].contiguous(memory_format=torch.channels_last))
    return convolved


def _convolution(
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
) -> tuple[nn.Module, ...]:
    """A convolution over frequency and time, normalised and rectified."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.BatchNorm2d(outputs), nn.ReLU()
