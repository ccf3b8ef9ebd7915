"""Stacks of dense layers with batch normalisation, as the DCASE 2020 baseline has them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

Initialisation = Literal["keras", "xavier-relu"]


def dense_stack(
    n_inputs: int, hidden: Sequence[int], n_outputs: int, initialisation: Initialisation = "keras"
) -> nn.Sequential:
    """Dense layers, each but the last followed by batch normalisation and ReLU.

    Batch normalisation has Keras' defaults (momentum 0.99, epsilon 1e-3), which in
    torch's convention is a momentum of 0.01.

    Parameters
    ----------
    n_inputs : int
    hidden : sequence of int
        Units of each hidden layer.
    n_outputs : int
    initialisation : {"keras", "xavier-relu"}
        Glorot-uniform with zero bias (Keras' default), or Glorot-uniform with the gain for ReLU and a bias
        of 0.01 (proxy-outlier paper's autoencoder).

    Returns
    -------
    nn.Sequential
        Maps (batch, n_inputs) to (batch, n_outputs).
    """
    widths = [n_inputs, *hidden]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [_dense(inputs, outputs, initialisation)]
        layers += [nn.BatchNorm1d(outputs, momentum=0.01, eps=1e-3), nn.ReLU()]
    return nn.Sequential(*layers, _dense(widths[-1], n_outputs, initialisation))


def _dense(n_inputs: int, n_outputs: int, initialisation: Initialisation) -> nn.Linear:
    layer = nn.Linear(n_inputs, n_outputs)
    for_relu = initialisation == "xavier-relu"
    nn.init.xavier_uniform_(layer.weight, gain=nn.init.calculate_gain("relu") if for_relu else 1.0)
    nn.init.constant_(layer.bias, 0.01 if for_relu else 0.0)
    return layer
