"""Gradient clipping that finds its own threshold."""

from __future__ import annotations

from bisect import insort

import torch


class AutoClip:
    """Clip the gradient's norm to a percentile of all norms so far (Seetharaman et al., MLSP 2020).

    Parameters
    ----------
    percentile : float
        10 is what the AutoClip paper recommends, and what we use where a paper names none.

    Notes
    -----
    The present norm counts, as in the authors' program. Norms are kept sorted, so a step costs a binary
    search and an insertion, not a sort of the whole history.
    """

    def __init__(self, percentile: float = 10.0) -> None:
        self.percentile = percentile
        self.norms: list[float] = []

    def threshold(self, norm: float) -> float:
        """Take note of a gradient norm, and return what it is to be clipped to."""
        insort(self.norms, norm)
        position = (len(self.norms) - 1) * self.percentile / 100
        below = int(position)
        above = min(below + 1, len(self.norms) - 1)
        return self.norms[below] + (position - below) * (self.norms[above] - self.norms[below])

    def __call__(self, parameters: list[torch.nn.Parameter]) -> None:
        """Clip the gradients of `parameters` in place."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        torch.nn.utils.clip_grads_with_norm_(parameters, self.threshold(float(norm)), norm)

    def state(self) -> torch.Tensor:
        """The norms so far, for a checkpoint."""
        return torch.tensor(self.norms, dtype=torch.float64)

    def restore(self, state: torch.Tensor) -> None:
        """Go on from the norms of a checkpoint."""
        self.norms = state.tolist()
