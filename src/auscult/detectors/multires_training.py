"""How `multires` learns: crops from anywhere, and the loss that its embeddings are learnt by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.functional import one_hot

from auscult.corpus.clip import Clip
from auscult.nn.mixing import exchanged, mixed
from auscult.nn.multires import WIDTH, MultiResolution, repeated
from auscult.nn.subclusters import SubClusters

WaveOf = Callable[[Clip], torch.Tensor]
"""From a clip to its waveform, (n_samples,)."""


class Crops:
    """A crop from anywhere in each clip, and the number of its class; whole batches."""

    def __init__(self, clips: Sequence[Clip], labels: Sequence[int], wave_of: WaveOf, length: int, batch: int) -> None:
        self.clips, self.labels, self.wave_of, self.length = clips, labels, wave_of, length
        self.n_examples = -(-len(clips) // batch) * batch

    def __len__(self) -> int:
        return self.n_examples

    def gather(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Waveforms, (n, n_samples), and classes, (n,)."""
        length = self.length
        waves = []
        for number in (indices % len(self.clips)).tolist():
            wave = repeated(self.wave_of(self.clips[number]), length)
            start = int(torch.randint(len(wave) - length + 1, ()))
            waves.append(wave[start : start + length])
        return torch.stack(waves), torch.tensor([self.labels[k] for k in (indices % len(self.clips)).tolist()])


class Learner(nn.Module):
    """A network with the head it is learnt by."""

    def __init__(
        self, network: MultiResolution, head: SubClusters, n_classes: int, mixup: float, exchange: bool
    ) -> None:
        super().__init__()
        self.network, self.head = network, head
        self.n_classes, self.mixup, self.exchange = n_classes, mixup, exchange

    def forward(self, waves: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Loss of waveforms, (batch, n_samples), and classes, (batch,)."""
        soft = one_hot(labels, self.n_classes).to(waves.dtype)
        waves, soft = mixed(waves, soft, self.mixup)
        embedded = self.network(waves)
        if self.exchange:
            embedded, soft = exchanged(embedded, soft, WIDTH)
        loss: torch.Tensor = self.head(embedded, soft)
        return loss


def loss_of(network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Loss of a batch of waveforms and classes."""
    loss: torch.Tensor = network(*batch)
    return loss
