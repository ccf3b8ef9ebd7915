"""What networks that predict hidden bins of a window have in common: values by bin number, and dB at each target."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import nn

from auscult.nn.mixture import Mixture
from auscult.nn.standardise import Standardise

_WIDE = 4.0
"""0.1 + 0.9 softplus(4) is 3.7."""

Distributions = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class BinNetwork(nn.Module):
    """Predicts the target bins of windows from their context bins, and from nothing else."""

    standardise: Standardise

    @abstractmethod
    def forward(self, windows: torch.Tensor, context: torch.Tensor, target: torch.Tensor) -> Distributions:
        """Predict.

        Parameters
        ----------
        windows : Tensor, shape (batch, n_frames * n_mels)
            dB, frame by frame.
        context, target : Tensor of int64, shape (n,) or (batch, n)
            Bin numbers: for all windows, or for each its own.

        Returns
        -------
        log_weights, means, log_sigmas : Tensor, each (batch, n_targets, n_components)
            A `Mixture` at each target; means and sigmas in dB.
        """


def at(values: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
    """Values of a batch, (batch, n_bins), at bin numbers that are shared, (n,), or each one's own, (batch, n)."""
    return values[:, bins] if bins.dim() == 1 else values.gather(1, bins)


def read_decibels(
    outputs: torch.Tensor, n_components: int, standardise: Standardise, bands: torch.Tensor
) -> Distributions:
    """Take a network's outputs for means, spreads and (of several components) logits at each target.

    Means are scaled back from standardised bands. Sigma is 0.1 + 0.9 softplus(spread) dB, which cannot collapse
    (Wichern et al., WASPAA 2021, 2.1), and so is no matter of the band's scale.

    Parameters
    ----------
    outputs : Tensor, shape (batch, n_targets, n_outputs(n_components))
    n_components : int
    standardise : Standardise
    bands : Tensor of int64, shape (n_targets,) or (batch, n_targets)
        The mel band of each target.

    Returns
    -------
    log_weights, means, log_sigmas : Tensor, each (batch, n_targets, n_components)
    """
    means, spreads, *logits = torch.split(outputs, n_components, dim=-1)
    log_weights = logits[0].log_softmax(dim=-1) if logits else torch.zeros_like(means)
    means = means * standardise.std[bands, None] + standardise.mean[bands, None]
    return log_weights, means, (0.1 + 0.9 * nn.functional.softplus(spreads)).log()


def start_wide(last: nn.Linear | nn.Conv2d, n_components: int) -> None:
    """Let a new network's sigmas begin near 3.7 dB, about what noise scatters in a log-mel bin.

    No paper says so. Begun at 0.7 dB, as zero biases would have it, the first hundreds of steps of a training are
    spent on widening them, under gradients as large as errors in units of so small a sigma make them.
    """
    assert last.bias is not None
    with torch.no_grad():
        last.bias[n_components : 2 * n_components] = _WIDE


def mean_of(predicted: Mixture) -> torch.Tensor:
    """Mean of the whole mixture at each target, (batch, n_targets)."""
    return (predicted.log_weights.exp() * predicted.means).sum(dim=-1)


def std_of(predicted: Mixture) -> torch.Tensor:
    """Standard deviation of the whole mixture: the components' own spread, and theirs about the mean."""
    apart = predicted.means - mean_of(predicted)[..., None]
    variances = (2 * predicted.log_sigmas).exp() + apart.square()
    return (predicted.log_weights.exp() * variances).sum(dim=-1).sqrt()
