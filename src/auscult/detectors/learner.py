"""A classifier in training, with what the training loop need not know: its centres, and its best weights so far."""

from __future__ import annotations

import torch
from torch import nn

from auscult.detectors.segments import LabelledSegments
from auscult.nn.best import BestWeights
from auscult.nn.centre_loss import CentreLoss

_SEGMENTS_AT_ONCE = 32
"""Bounds the memory of a look at what was kept aside."""


class Learner(nn.Module):
    """A classifier in training: its loss, its centres, and its best weights so far.

    Parameters
    ----------
    network : nn.Module
    centres : CentreLoss
    centre_weight : float
    aside : LabelledSegments or None
        What the best weights are chosen by.
    every : int
        Steps between two looks at them.
    """

    step: torch.Tensor

    def __init__(
        self, network: nn.Module, centres: CentreLoss, centre_weight: float, aside: LabelledSegments | None, every: int
    ) -> None:
        super().__init__()
        self.network, self.centres, self.centre_weight = network, centres, centre_weight
        self.aside, self.every = aside, every
        self.best = None if aside is None else BestWeights(network)
        self.register_buffer("step", torch.tensor(0))

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy and weighted centre loss of a batch."""
        if self.step > 0 and self.step % self.every == 0:
            self.look()
        self.step += 1
        embeddings, logits = self.network(images)
        apart: torch.Tensor = self.centres(embeddings, labels)
        return nn.functional.cross_entropy(logits, labels) + self.centre_weight * apart

    def look(self) -> None:
        """Compare the present weights with the best."""
        if self.aside is None or self.best is None:
            return
        labels, logits = self.classified()
        accuracy = float((logits.argmax(1) == labels).double().mean())
        self.best.consider(self.network, accuracy, float(nn.functional.cross_entropy(logits, labels)))

    def finish(self) -> None:
        """Go back to the best weights."""
        self.look()
        if self.best is not None:
            self.network.load_state_dict(self.best.network.state_dict())

    @torch.no_grad()
    def classified(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Labels and logits of what was kept aside, in 64 bits."""
        assert self.aside is not None
        training = self.network.training
        self.network.eval()
        device = self.step.device
        parts = []
        n_segments = len(self.aside)
        for first in range(0, n_segments, _SEGMENTS_AT_ONCE):
            images, labels = self.aside.gather(torch.arange(first, min(first + _SEGMENTS_AT_ONCE, n_segments)))
            parts.append((labels, self.network(images.to(device))[1].cpu().double()))
        self.network.train(training)
        return torch.cat([labels for labels, _ in parts]), torch.cat([logits for _, logits in parts])


def learner_loss(network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Loss of a batch of images and labels, as the training loop asks for it."""
    loss: torch.Tensor = network(*batch)
    return loss
