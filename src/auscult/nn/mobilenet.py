"""MobileNetV2 for small images: inverted residuals and linear bottlenecks (Sandler et al., CVPR 2018)."""

from __future__ import annotations

import torch
from torch import nn

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels at width 1, blocks, and stride of the first of them (the paper's Table 2)."""

_LAST = 1280
"""Channels of the last convolution, which a width below 1 leaves as they are."""


class MobileNetV2(nn.Module):
    """From images of one channel to classes; the channel is taken thrice, as an image's three colours.

    Parameters
    ----------
    n_classes : int
    width : float
        Factor on the channels; at 0.5 there are 687 680 parameters and 1281 for each class.
    momentum : float
        Of the running statistics of batch normalisation.

    References
    ----------
    Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: inverted residuals and linear bottlenecks", CVPR 2018. As in
    Keras, where the DCASE 2021 baseline takes it from: an image of an even side is padded on its far side only
    before a stride of 2, and batch normalisation has an epsilon of 1e-3.

    Notes
    -----
    He initialisation is ours.
    """

    def __init__(self, n_classes: int, width: float = 0.5, momentum: float = 0.01) -> None:
        super().__init__()
        n_in = _rounded(32 * width)
        layers: list[nn.Module] = [_convolution(3, n_in, 3, stride=2, momentum=momentum)]
        for expansion, channels, n_blocks, stride in _STAGES:
            n_out = _rounded(channels * width)
            for number in range(n_blocks):
                layers.append(InvertedResidual(n_in, n_out, expansion, stride if number == 0 else 1, momentum))
                n_in = n_out
        n_last = _LAST if width <= 1 else _rounded(_LAST * width)
        layers.append(_convolution(n_in, n_last, 1, momentum=momentum))
        self.layers = nn.Sequential(*layers)
        self.classify = nn.Linear(n_last, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, shape (batch, n_classes), of images, shape (batch, height, width)."""
        # Channels last is the quicker on a CPU; every layer keeps to it.
        colours = images[:, None].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        logits: torch.Tensor = self.classify(self.layers(colours).mean(dim=(2, 3)))
        return logits


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; added to what came in where the shapes allow.

    Parameters
    ----------
    n_in, n_out : int
        Channels.
    expansion : int
        Factor on the channels in between; 1 for no expansion.
    stride : {1, 2}
    momentum : float
    """

    def __init__(self, n_in: int, n_out: int, expansion: int, stride: int, momentum: float) -> None:
        super().__init__()
        hidden = n_in * expansion
        self.adds = stride == 1 and n_in == n_out
        self.layers = nn.Sequential(
            *([_convolution(n_in, hidden, 1, momentum=momentum)] if expansion != 1 else []),
            _convolution(hidden, hidden, 3, stride=stride, groups=hidden, momentum=momentum),
            nn.Conv2d(hidden, n_out, 1, bias=False),
            nn.BatchNorm2d(n_out, eps=1e-3, momentum=momentum),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images, shape (batch, n_in, height, width), to (batch, n_out, height', width')."""
        projected: torch.Tensor = self.layers(images)
        return images + projected if self.adds else projected


class KerasPad(nn.Module):
    """One row and column of zeros after an image, and before it where its side is odd."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images, shape (batch, channels, height, width), padded for a 3 x 3 convolution of stride 2."""
        rows, columns = (side % 2 for side in images.shape[2:])
        return nn.functional.pad(images, (columns, 1, rows, 1))


def _convolution(
    n_in: int, n_out: int, kernel: int, *, stride: int = 1, groups: int = 1, momentum: float
) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU up to 6."""
    return nn.Sequential(
        *([KerasPad()] if stride == 2 else []),
        nn.Conv2d(n_in, n_out, kernel, stride, 0 if stride == 2 else kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(n_out, eps=1e-3, momentum=momentum),
        nn.ReLU6(),
    )


def _rounded(channels: float) -> int:
    """The nearest multiple of 8 that takes no more than a tenth away."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
