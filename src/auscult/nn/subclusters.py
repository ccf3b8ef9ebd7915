"""Losses that gather a class around several directions: sub-cluster AdaCos and AdaProj."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.functional import normalize


class SubClusters(nn.Module):
    """Cross-entropy of soft labels over classes of several centres each, on the sphere.

    Parameters
    ----------
    width : int
        Of an embedding.
    n_classes, n_centres : int
        Classes, and centres of each.
    projected : bool
        AdaProj: a class is as near as the embedding's projection on the span of its centres. Else sub-cluster AdaCos:
        it is as probable as its centres together.
    trainable : bool
        Whether the centres move; else they stay where they are drawn.

    Notes
    -----
    The scale is AdaCos's first one, sqrt(2) log(n - 1) with n the number of directions that compete, and stays.

    References
    ----------
    Zhang et al., "AdaCos", CVPR 2019. Wilkinghoff, "Sub-cluster AdaCos for unsupervised anomalous sound detection",
    IJCNN 2021; "AdaProj", 2024 (arXiv 2403.14179).
    """

    def __init__(
        self, width: int, n_classes: int, n_centres: int = 16, *, projected: bool = False, trainable: bool = True
    ) -> None:
        super().__init__()
        self.projected = projected
        centres = nn.init.xavier_uniform_(torch.empty(n_classes * n_centres, width)).view(n_classes, n_centres, width)
        self.centres = nn.Parameter(centres, requires_grad=trainable)
        competing = n_classes if projected else n_classes * n_centres
        self.scale = math.sqrt(2) * math.log(max(competing - 1, 2))

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of embeddings, (batch, width), against soft labels, (batch, n_classes)."""
        return -(labels * self.log_probabilities(embeddings)).sum(dim=1).mean()

    def log_probabilities(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Of each class, (batch, n_classes)."""
        directions = normalize(embeddings, dim=1)
        centres = normalize(self.centres, dim=2)
        if self.projected:
            along = torch.einsum("bw,ckw->bck", directions, centres)
            spanned = normalize(torch.einsum("bck,ckw->bcw", along, centres), dim=2)
            cosines = (spanned * directions[:, None]).sum(dim=2)
            return (self.scale * cosines).log_softmax(dim=1)
        cosines = torch.einsum("bw,ckw->bck", directions, centres)
        every = (self.scale * cosines).flatten(1).log_softmax(dim=1)
        return every.view(cosines.shape).logsumexp(dim=2)
