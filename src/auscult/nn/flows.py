"""Invertible layers: each maps values to latents and knows the logarithm of what that does to volume.

Every layer has `forward(values) -> (latents, log_det)`, with one log-determinant for each example of the batch,
and `inverse(latents) -> values`. Log-determinants are kept in 32 bits whatever the precision around them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

Transformed = tuple[torch.Tensor, torch.Tensor]
"""Latents, and log |det| of each example's Jacobian, shape (batch,)."""

_LARGEST_LOG = 5.0
"""A predicted deviation lies between 1/148 and 148: far from anything standardised data ask for, near enough that
four blocks of sounds never heard in training stay within 32 bits. Ours."""

_LEAST_STD = 1e-3
"""A channel that varies less in the batch ActNorm begins with is not blown up to unit variance: dozens of
layers one after another would."""


def limited(log: torch.Tensor) -> torch.Tensor:
    """Bend a logarithm so that it stays between -5 and 5; near zero it is left as it is."""
    return _LARGEST_LOG * torch.tanh(log / _LARGEST_LOG)


def nll_per_dimension(latents: Sequence[torch.Tensor], log_det: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood under a standard normal base, in nats per dimension.

    Parameters
    ----------
    latents : sequence of Tensor, each (batch, ...)
    log_det : Tensor, shape (batch,)

    Returns
    -------
    Tensor of float64, shape (batch,)
    """
    n_dimensions = sum(latent[0].numel() for latent in latents)
    # Squares in 64 bits: those of sounds never heard may leave the range of 32.
    squares = torch.stack([latent.double().square().flatten(1).sum(1) for latent in latents]).sum(0)
    return (squares / 2 - log_det) / n_dimensions + math.log(2 * math.pi) / 2


class Flow(nn.Module, ABC):
    """An invertible layer."""

    @abstractmethod
    def forward(self, values: torch.Tensor) -> Transformed:
        """Values to latents."""

    @abstractmethod
    def inverse(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents to values."""


class Chain(Flow):
    """One flow after another."""

    def __init__(self, *flows: Flow) -> None:
        super().__init__()
        self.flows = nn.ModuleList(flows)

    def forward(self, values: torch.Tensor) -> Transformed:
        """Through all flows in order."""
        log_det = values.new_zeros(len(values), dtype=torch.float32)
        for flow in self.flows:
            values, change = flow(values)
            log_det = log_det + change
        return values, log_det

    def inverse(self, latents: torch.Tensor) -> torch.Tensor:
        """Through all flows in the opposite order."""
        for flow in reversed(self.flows):
            assert isinstance(flow, Flow)
            latents = flow.inverse(latents)
        return latents


class FlowBatchNorm(Flow):
    """Batch normalisation that counts in the likelihood (Papamakarios et al., NeurIPS 2017, appendix B).

    In training with the batch's statistics, else with the running ones (a tenth of the new to nine of the
    old); the inverse always with the running ones.

    Parameters
    ----------
    n_values : int
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, n_values: int) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(n_values))
        self.shift = nn.Parameter(torch.zeros(n_values))
        self.register_buffer("running_mean", torch.zeros(n_values))
        self.register_buffer("running_var", torch.ones(n_values))
        self.epsilon = 1e-5

    def forward(self, values: torch.Tensor) -> Transformed:
        """Normalise rows, shape (batch, n_values)."""
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = values.mean(0), values.var(0, correction=0)
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean), 0.1)
                self.running_var.lerp_(var.to(self.running_var), 0.1)
        log_scale = self.log_gain - (var.float() + self.epsilon).log() / 2
        return (values - mean) * log_scale.exp() + self.shift, log_scale.sum().expand(len(values))

    def inverse(self, latents: torch.Tensor) -> torch.Tensor:
        """Undo what evaluation mode does."""
        log_scale = self.log_gain - (self.running_var + self.epsilon).log() / 2
        return (latents - self.shift) * (-log_scale).exp() + self.running_mean


class ActNorm(Flow):
    """A gain and a shift for each channel, set by the first training batch to make it zero-mean, unit-variance.

    Source: Kingma and Dhariwal, "Glow", NeurIPS 2018, 3.1. That it has been set is part of its saved state, so
    a run that goes on does not set it anew; before training it does nothing.

    Parameters
    ----------
    n_channels : int
    """

    initialised: torch.Tensor

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(n_channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(n_channels, 1, 1))
        self.register_buffer("initialised", torch.tensor(False))

    def forward(self, values: torch.Tensor) -> Transformed:
        """Scale and shift images, shape (batch, n_channels, height, width)."""
        if self.training and not self.initialised:
            self._initialise(values)
        n_places = values.shape[2] * values.shape[3]
        log_det = n_places * self.log_gain.float().sum()
        return (values + self.shift) * self.log_gain.exp(), log_det.expand(len(values))

    def inverse(self, latents: torch.Tensor) -> torch.Tensor:
        """Undo it."""
        return latents * (-self.log_gain).exp() - self.shift

    @torch.no_grad()
    def _initialise(self, values: torch.Tensor) -> None:
        std, mean = torch.std_mean(values.float(), dim=(0, 2, 3), correction=0)
        std = torch.where(std > _LEAST_STD, std, torch.ones_like(std))
        self.log_gain.copy_(-std.log()[:, None, None])
        self.shift.copy_(-mean[:, None, None])
        self.initialised.fill_(True)


class InvertibleConv(Flow):
    """A 1x1 convolution W = P L (U + diag(s)), whose determinant is the product of s (Glow, 3.2).

    Begins as a random rotation; P and the signs of s stay as they were.

    Parameters
    ----------
    n_channels : int
    """

    permutation: torch.Tensor
    signs: torch.Tensor

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        rotation = nn.init.orthogonal_(torch.empty(n_channels, n_channels))
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation)
        self.register_buffer("signs", diagonal.sign())
        self.log_diagonal = nn.Parameter(diagonal.abs().log())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))

    def weight(self) -> torch.Tensor:
        """The matrix that each place's channels are multiplied by, shape (n_channels, n_channels)."""
        unit = torch.eye(len(self.signs), device=self.signs.device)
        upper = self.upper.triu(1) + torch.diag(self.signs * self.log_diagonal.exp())
        return self.permutation @ (self.lower.tril(-1) + unit) @ upper

    def forward(self, values: torch.Tensor) -> Transformed:
        """Mix the channels of images, shape (batch, n_channels, height, width)."""
        with torch.autocast(values.device.type, enabled=False):
            latents = _at_each_place(self.weight(), values.float())
        n_places = values.shape[2] * values.shape[3]
        return latents, (n_places * self.log_diagonal.float().sum()).expand(len(values))

    def inverse(self, latents: torch.Tensor) -> torch.Tensor:
        """Unmix, by a matrix inverted in 64 bits."""
        inverse = torch.linalg.inv(self.weight().double()).to(latents.dtype)
        return _at_each_place(inverse, latents)


class Coupling(Flow):
    """Half of the channels are shifted, and scaled if affine, by what a small network makes of the other half.

    The scale is sigmoid(h + 2), below one and about one at first, as in the authors' program.

    Parameters
    ----------
    n_channels : int
        Even.
    width : int
        Channels in the network.
    kind : {"affine", "additive"}
    """

    def __init__(self, n_channels: int, width: int, kind: Literal["affine", "additive"] = "affine") -> None:
        super().__init__()
        half = n_channels // 2
        self.affine = kind == "affine"
        self.network = nn.Sequential(
            nn.Conv2d(half, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
            nn.ReLU(),
            ZeroConv(width, 2 * half if self.affine else half),
        )

    def forward(self, values: torch.Tensor) -> Transformed:
        """Transform images, shape (batch, n_channels, height, width)."""
        kept, changed = values.chunk(2, dim=1)
        shift, log_scale = self._transform(kept)
        latents = torch.cat([kept, changed * log_scale.exp() + shift], dim=1)
        return latents, log_scale.flatten(1).sum(1)

    def inverse(self, latents: torch.Tensor) -> torch.Tensor:
        """Undo it: the half that the network looks at was left as it is."""
        kept, changed = latents.chunk(2, dim=1)
        shift, log_scale = self._transform(kept)
        return torch.cat([kept, (changed - shift) * (-log_scale).exp()], dim=1)

    def _transform(self, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shift = self.network(kept).float()
        if not self.affine:
            return shift, torch.zeros_like(shift)
        shift, raw = shift.chunk(2, dim=1)
        return shift, nn.functional.logsigmoid(raw + 2)


class Gaussianise(nn.Module):
    """Values become standard normal ones by a mean and a deviation predicted from their context (Glow's split).

    Parameters
    ----------
    n_context, n_values : int
        Channels of either.
    """

    def __init__(self, n_context: int, n_values: int) -> None:
        super().__init__()
        self.network = ZeroConv(n_context, 2 * n_values)

    def forward(self, values: torch.Tensor, context: torch.Tensor) -> Transformed:
        """Whiten images, shape (batch, n_values, height, width), by a context of the same size."""
        mean, log_std = self._prior(context)
        return (values - mean) * (-log_std).exp(), -log_std.flatten(1).sum(1)

    def inverse(self, latents: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Undo it."""
        mean, log_std = self._prior(context)
        return latents * log_std.exp() + mean

    def _prior(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = self.network(context).float().chunk(2, dim=1)
        return mean, limited(log_std)


class ZeroConv(nn.Conv2d):
    """A 3x3 convolution that begins with zeros and has a learned logarithmic scale for each output (Glow, 3.3).

    Parameters
    ----------
    n_inputs, n_outputs : int
    """

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__(n_inputs, n_outputs, 3, padding=1)
        self.log_scale = nn.Parameter(torch.zeros(n_outputs, 1, 1))
        with torch.no_grad():
            self.weight.zero_()
            assert self.bias is not None
            self.bias.zero_()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Convolve; the factor 3 lets the scale learn faster than the weights, as in the authors' program."""
        return super().forward(images) * (3 * self.log_scale).exp()


def squeeze(images: torch.Tensor) -> torch.Tensor:
    """Each 2x2 square becomes four channels: (batch, c, 2h, 2w) to (batch, 4c, h, w)."""
    return nn.functional.pixel_unshuffle(images, 2)


def unsqueeze(images: torch.Tensor) -> torch.Tensor:
    """Undo `squeeze`."""
    return nn.functional.pixel_shuffle(images, 2)


def _at_each_place(matrix: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return nn.functional.conv2d(images, matrix[:, :, None, None])
