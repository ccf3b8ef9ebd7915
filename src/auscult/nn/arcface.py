"""Classes as directions: logits are cosines, and the true class is handicapped by an angle (Deng et al., CVPR 2019)."""

from __future__ import annotations

import math

import torch
from torch import nn


class ArcFace(nn.Module):
    """Scaled cosines between embeddings and one learnt direction a class, with an additive angular margin.

    Parameters
    ----------
    n_features, n_classes : int
    margin : float
        Radians added to the angle between an embedding and its own class.
    scale : float

    References
    ----------
    Deng, Guo, Xue, Zafeiriou, "ArcFace: additive angular margin loss for deep face recognition", CVPR 2019.

    Notes
    -----
    Where the angle and the margin exceed half a turn the cosine would rise again; there, as usual, its logit is the
    cosine less margin * sin(margin), which goes on falling. That sine's gradient is infinite along the direction
    itself, so cosines are kept 1e-6 from one there; this guard is ours.
    """

    def __init__(self, n_features: int, n_classes: int, margin: float = 0.7, scale: float = 30.0) -> None:
        super().__init__()
        self.margin, self.scale = margin, scale
        self.weight = nn.Parameter(torch.empty(n_classes, n_features))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Logits, shape (batch, n_classes).

        Parameters
        ----------
        embeddings : Tensor, shape (batch, n_features)
        labels : Tensor of int, shape (batch,), optional
            The classes that bear the margin; none does without.
        """
        normal = nn.functional.normalize
        cosines = nn.functional.linear(normal(embeddings), normal(self.weight))
        if labels is None:
            return self.scale * cosines
        own = cosines.gather(1, labels[:, None])
        return self.scale * cosines.scatter(1, labels[:, None], self._handicapped(own))

    def _handicapped(self, cosines: torch.Tensor) -> torch.Tensor:
        margin, inside = self.margin, cosines.clamp(-1 + 1e-6, 1 - 1e-6)
        turned = cosines * math.cos(margin) - (1 - inside.square()).sqrt() * math.sin(margin)
        return torch.where(cosines > -math.cos(margin), turned, cosines - margin * math.sin(margin))
