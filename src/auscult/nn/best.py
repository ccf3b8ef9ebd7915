"""The weights that did best on examples kept aside."""

from __future__ import annotations

import copy

import torch
from torch import nn


class BestWeights(nn.Module):
    """A copy of a network as it was when it classified best; of equals, when its loss was least.

    Part of what is trained, without being trained itself, so that a checkpoint holds it.

    Parameters
    ----------
    network : nn.Module
    """

    accuracy: torch.Tensor
    loss: torch.Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("accuracy", torch.tensor(-1.0, dtype=torch.float64))
        self.register_buffer("loss", torch.tensor(torch.inf, dtype=torch.float64))

    def consider(self, network: nn.Module, accuracy: float, loss: float) -> None:
        """Take over the network's weights if they did better than those here."""
        if (accuracy, -loss) > (float(self.accuracy), -float(self.loss)):
            self.network.load_state_dict(network.state_dict())
            self.accuracy.fill_(accuracy)
            self.loss.fill_(loss)
