"""Supervised contrastive loss: examples of a class are drawn together, all others pushed away."""

from __future__ import annotations

import torch
from torch import nn


def supervised_contrastive(embeddings: torch.Tensor, labels: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """Mean over examples of -log of the share that those of its class have in all similarities to others.

    Parameters
    ----------
    embeddings : Tensor, shape (batch, n_features)
        Brought to unit length here.
    labels : Tensor of int, shape (batch,)
    temperature : float

    Returns
    -------
    Tensor, a scalar
        Examples without another one of their class do not count; 0 if there are none that do.

    References
    ----------
    Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu, Krishnan, "Supervised contrastive learning", NeurIPS
    2020, equation 2.
    """
    directions = nn.functional.normalize(embeddings)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    similarity = (directions @ directions.T / temperature).masked_fill(itself, -torch.inf)
    logs = similarity.log_softmax(1).masked_fill(itself, 0.0)
    of_class = (labels[:, None] == labels[None, :]) & ~itself
    n_others = of_class.sum(1)
    each = -(logs * of_class).sum(1) / n_others.clamp(min=1)
    return each.sum() / (n_others > 0).sum().clamp(min=1)
