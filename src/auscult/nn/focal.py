"""Focal loss: bins that are already judged right hardly count."""

from __future__ import annotations

import torch

_SMOOTHING = 1e-5
"""Keeps the logarithm finite; of DSR's program."""


def focal_loss(logits: torch.Tensor, truth: torch.Tensor, gamma: float = 2.0) -> torch.Tensor:
    """Mean of -(1 - p)^gamma log p, p being the probability given to the true class of a bin.

    Parameters
    ----------
    logits : Tensor, shape (batch, 2, height, columns)
        Of a normal and of an anomalous bin.
    truth : Tensor, shape (batch, height, columns)
        1 where anomalous, else 0.
    gamma : float

    Returns
    -------
    Tensor, a scalar

    References
    ----------
    Lin, Goyal, Girshick, He, Dollár, "Focal loss for dense object detection", ICCV 2017, equation 4, without the
    weights of the classes; smoothed as in the released program of DSR.
    """
    anomalous = logits.softmax(1)[:, 1]
    true = torch.where(truth > 0, anomalous, 1 - anomalous)
    smoothed = true * (1 - _SMOOTHING) + (1 - true) * _SMOOTHING + _SMOOTHING
    # Rounding may leave a probability just above 1.
    return -((1 - smoothed).clamp(min=0) ** gamma * smoothed.log()).mean()
