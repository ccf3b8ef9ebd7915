"""Which bins of a log-mel made a network's score what it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch


def integrated_gradients(
    score: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, baseline: torch.Tensor, steps: int = 16
) -> torch.Tensor:
    """Share of each input value in the difference between an input's score and the baseline's.

    The gradient of the score is averaged over the straight line from the baseline to the input, and multiplied by
    how far each value lies from the baseline. The shares of an input sum to the difference of the two scores
    (completeness), up to the error of the integration.

    Parameters
    ----------
    score : callable
        From inputs, (batch, ...), to one differentiable score each, (batch,), each depending on its own input alone
        (a network with batch normalisation is in its evaluation mode).
    inputs : Tensor, shape (batch, ...)
        May stem from inference mode.
    baseline : Tensor
        What an input without anything remarkable looks like; of the inputs' shape, or one that broadcasts to it.
    steps : int
        Points on the line, those of Gauss-Legendre quadrature.

    Returns
    -------
    Tensor, shape (batch, ...)
        Of either sign; positive where a value raised the score. The parameters' gradients are left alone.

    References
    ----------
    Sundararajan, Taly, Yan, "Axiomatic attribution for deep networks", ICML 2017, section 3.
    """
    places, weights = np.polynomial.legendre.leggauss(steps)
    with torch.inference_mode(False), torch.enable_grad():
        start, way = baseline.clone(), inputs.clone() - baseline.clone()
        total = torch.zeros_like(way)
        # On [0, 1], where the rule's own interval is [-1, 1].
        for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
            point = (start + float(place) * way).detach().requires_grad_()
            (gradient,) = torch.autograd.grad(score(point).sum(), point)
            total += float(weight) * gradient
        return (total * way).detach()
