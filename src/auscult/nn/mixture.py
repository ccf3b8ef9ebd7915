"""A Gaussian or a mixture of them at each bin, read from a network's outputs: how unlikely a value is under it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

_LOG_ROOT_2_PI = math.log(2 * math.pi) / 2
_LOG_SIGMA_LIMIT = 5.0
"""For standardised values: a band that never changes keeps a finite likelihood."""


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians at each bin; with one component, a Gaussian.

    Attributes
    ----------
    log_weights, means, log_sigmas : Tensor, shape (..., n_components)
        The weights of a bin add up to one.
    """

    log_weights: torch.Tensor
    means: torch.Tensor
    log_sigmas: torch.Tensor

    @classmethod
    def read(cls, outputs: torch.Tensor, n_components: int) -> Mixture:
        """Take a network's outputs for what they stand for, log sigmas clamped to [-5, 5].

        Parameters
        ----------
        outputs : Tensor, shape (..., n_outputs(n_components))
            The components' means, then their log sigmas, then (if there are several) the weights' logits.
        n_components : int
        """
        means, log_sigmas, *logits = torch.split(outputs, n_components, dim=-1)
        log_weights = logits[0].log_softmax(dim=-1) if logits else torch.zeros_like(means)
        return cls(log_weights, means, log_sigmas.clamp(-_LOG_SIGMA_LIMIT, _LOG_SIGMA_LIMIT))

    def nll(self, values: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of one value a bin, in nats; negative where the density exceeds one.

        Parameters
        ----------
        values : Tensor, shape (...)

        Returns
        -------
        Tensor, shape (...)
        """
        return _LOG_ROOT_2_PI - (self._log_peaks() - self._distances(values)).logsumexp(dim=-1)

    def surprise(self, values: torch.Tensor) -> torch.Tensor:
        """Nats by which a value is less likely than the likeliest could be, never negative.

        For a Gaussian (y - mean)^2 / (2 sigma^2). A mixture's density is nowhere above the sum of its
        components' peaks, and reaches it where their means coincide: the distance to that bound, which a mixture
        of one component shares with the Gaussian.

        Parameters and result as of `nll`.
        """
        peaks = self._log_peaks()
        at_value = (peaks - self._distances(values)).logsumexp(dim=-1)
        return (peaks.logsumexp(dim=-1) - at_value).clamp(min=0)

    def _log_peaks(self) -> torch.Tensor:
        """Log of each component's weight times its largest density, short of the root of 2 pi."""
        return self.log_weights - self.log_sigmas

    def _distances(self, values: torch.Tensor) -> torch.Tensor:
        """Half the squared distance from each component's mean, in its sigmas."""
        return ((values[..., None] - self.means) * (-self.log_sigmas).exp()).square() / 2


def n_outputs(n_components: int) -> int:
    """How many numbers a network gives for the mixture at a bin."""
    return 2 if n_components == 1 else 3 * n_components
