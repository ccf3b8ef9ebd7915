"""How unlike its class a classifier finds something, without the ties of saturated probabilities.

A network that is sure gives its class a probability that 32 bits call 1. All here is computed from logits in 64
bits, on the side where the figure is small, and so tells such clips apart.
"""

from __future__ import annotations

import torch

from auscult.nn.tracing import number


def log_odds_against(logits: torch.Tensor, own: int) -> torch.Tensor:
    """Log-odds against a class: log((1 - p) / p) for its softmax probability p.

    Parameters
    ----------
    logits : Tensor, shape (..., n_classes)
    own : int
        The class.

    Returns
    -------
    Tensor of float64, shape (...)
    """
    exact = logits.double()
    others = torch.cat([exact[..., :own], exact[..., own + 1 :]], dim=-1)
    return others.logsumexp(-1) - exact[..., own]


def surprise(log_odds: torch.Tensor, weights: torch.Tensor | None = None) -> float:
    """Negative logarithm of the mean probability of segments, from the log-odds against each.

    It puts clips in the same order as the papers' 1 - mean probability, equals it where that is small, and never
    saturates. One minus a product of probabilities, the papers' probability aggregation, is a plain sum of it.

    Parameters
    ----------
    log_odds : Tensor, shape (n_segments,)
        Larger is less probable.
    weights : Tensor, shape (n_segments,), optional
        Of the mean; they sum to 1. Default: all alike.

    Returns
    -------
    float
        From 0 (certain) up.
    """
    odds = log_odds.double()
    shares = torch.full_like(odds, 1 / len(odds)) if weights is None else weights.double()
    doubt = (torch.sigmoid(odds) * shares).sum()
    # log p = -log(1 + odds), without overflow.
    log_probability = -torch.logaddexp(odds, torch.zeros_like(odds))
    far = -(log_probability + shares.log()).logsumexp(0)
    return number(torch.where(doubt < 0.5, -torch.log1p(-doubt.clamp(max=0.5)), far))
