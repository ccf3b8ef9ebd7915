"""Centre loss: embeddings of a class are drawn together."""

from __future__ import annotations

import torch
from torch import nn


class CentreLoss(nn.Module):
    """Mean squared distance of embeddings to their class's centre; the centres follow their classes.

    The paper's formula sums half the squared distances over the batch. The implementation that prescribes the paper's
    rate of 0.5 takes their mean and no half, and so does this: otherwise the weight would depend on the batch size.
    Centres take a step of plain gradient descent of their own for each batch in training, at their own rate
    and by the loss without its weight. That step is written out here, so that the loop needs one optimizer only and a
    checkpoint holds the centres.

    Parameters
    ----------
    n_classes, width : int
    rate : float
        Of the centres' gradient descent.

    References
    ----------
    Wen, Zhang, Li, Qiao, "A discriminative feature learning approach for deep face recognition", ECCV 2016. Inoue et
    al., DCASE 2020 workshop, equation 4 and section 4.1.3.
    """

    centres: torch.Tensor

    def __init__(self, n_classes: int, width: int = 128, rate: float = 0.5) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("centres", torch.zeros(n_classes, width))

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Loss of a batch; in training, the centres move afterwards.

        Parameters
        ----------
        embeddings : Tensor, shape (batch, width)
        labels : Tensor of int, shape (batch,)
        """
        apart = embeddings - self.centres[labels]
        loss = apart.square().sum(dim=1).mean()
        if self.training:
            step = apart.detach().to(self.centres.dtype) * (2 * self.rate / len(labels))
            self.centres.index_add_(0, labels, step)
        return loss
