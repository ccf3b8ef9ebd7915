"""Linear layers with forbidden connections, and the masks of MADE (Germain et al., ICML 2015).

Every unit has a degree: an input or output its rank in the autoregressive order, counted from 1; a hidden
unit the highest rank of any input it may see. Masks follow from degrees alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


class MaskedLinear(nn.Linear):
    """A linear layer some of whose weights are held at zero.

    Parameters
    ----------
    n_inputs, n_outputs : int
    mask : Tensor of bool, shape (n_outputs, n_inputs)
        Where there is a connection. It follows from the settings, so it is no part of the saved state.
    bias : bool
    """

    mask: torch.Tensor

    def __init__(self, n_inputs: int, n_outputs: int, mask: torch.Tensor, bias: bool = True) -> None:
        super().__init__(n_inputs, n_outputs, bias)
        if mask.shape != self.weight.shape:
            raise ValueError(f"a mask of shape {tuple(mask.shape)} for weights of {tuple(self.weight.shape)}")
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)

    def forward(self, values: torch.Tensor, outputs: slice = slice(None)) -> torch.Tensor:
        """Map (..., n_inputs) to (..., n_outputs), or to a range of the outputs where not all are wanted."""
        bias = None if self.bias is None else self.bias[outputs]
        return nn.functional.linear(values, self.weight[outputs] * self.mask[outputs], bias)


def cycled_degrees(n_units: int, n_ranks: int) -> torch.Tensor:
    """Degrees of hidden units: 1, 2, ..., n_ranks - 1, 1, 2, ...: the last rank is seen by nobody.

    Parameters
    ----------
    n_units : int
    n_ranks : int
        Ranks of the autoregressive order, at least 2.

    Returns
    -------
    Tensor of int64, shape (n_units,)
    """
    return torch.arange(n_units) % (n_ranks - 1) + 1


def hidden_mask(earlier: torch.Tensor, later: torch.Tensor) -> torch.Tensor:
    """Mask into a hidden layer, from the input or another hidden layer: where the later degree is no lower.

    Parameters
    ----------
    earlier, later : Tensor of int, shapes (n_inputs,) and (n_outputs,)
        Degrees.

    Returns
    -------
    Tensor of bool, shape (n_outputs, n_inputs)
    """
    return later[:, None] >= earlier


def output_mask(earlier: torch.Tensor, later: torch.Tensor) -> torch.Tensor:
    """Mask into the outputs: where their rank is strictly higher, so that none sees itself.

    Parameters and result as of `hidden_mask`.
    """
    return later[:, None] > earlier


def made_masks(ranks: torch.Tensor, hidden: Sequence[torch.Tensor], outputs: torch.Tensor) -> list[torch.Tensor]:
    """Masks of all layers of a MADE.

    Parameters
    ----------
    ranks : Tensor of int, shape (n_inputs,)
        Ranks of the inputs, from 1; equal ranks form a group that is conditionally independent.
    hidden : sequence of Tensor of int
        Degrees of each hidden layer's units.
    outputs : Tensor of int, shape (n_outputs,)
        Rank of the input that each output describes.

    Returns
    -------
    list of Tensor of bool
        One for each layer, shape (its outputs, its inputs).
    """
    into_hidden = [hidden_mask(earlier, later) for earlier, later in pairwise([ranks, *hidden])]
    return [*into_hidden, output_mask(hidden[-1] if hidden else ranks, outputs)]
