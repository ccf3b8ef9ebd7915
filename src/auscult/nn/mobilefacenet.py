"""MobileFaceNet, from an image to an embedding, in the two forms that STgram has been published with."""

from __future__ import annotations

import math

import torch
from torch import nn

FORMS = {
    2022: ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1)),
    2023: ((2, 128, 2, 2), (4, 128, 2, 2), (4, 128, 2, 2)),
}
"""Expansion, channels, blocks and stride of the first of them: of the program as it was when the paper appeared, and
after its authors rewrote it."""

_FIRST, _WIDE = 64, 512
_STRIDE = 16


class MobileFaceNet(nn.Module):
    """A small network that looks at the whole image at its end, each place with its own weight.

    A 3 x 3 convolution of stride 2 and one of each channel by itself; bottlenecks; 512 channels, each weighted over
    all places ("global depthwise convolution"); a linear embedding.

    Parameters
    ----------
    form : {2022, 2023}
    shape : (int, int)
        Bands and frames of the images.
    n_channels : int
    n_features : int
        Length of the embedding.

    References
    ----------
    Chen, Liu, Gao, Han, "MobileFaceNets: efficient CNNs for accurate real-time face verification on mobile devices",
    CCBR 2018. Sizes: Liu et al., ICASSP 2022, and its authors' released programs.
    """

    def __init__(self, form: int, shape: tuple[int, int], n_channels: int = 2, n_features: int = 128) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            *_convolution(n_channels, _FIRST, 3, stride=2),
            *_convolution(_FIRST, _FIRST, 3, groups=_FIRST),
        ]
        n_in = _FIRST
        for expansion, n_out, n_blocks, stride in FORMS[form]:
            for number in range(n_blocks):
                layers.append(Bottleneck(n_in, n_out, expansion, stride if number == 0 else 1))
                n_in = n_out
        places = (-(-shape[0] // _STRIDE), -(-shape[1] // _STRIDE))
        layers += [
            *_convolution(n_in, _WIDE, 1),
            *_linear_convolution(_WIDE, _WIDE, places, groups=_WIDE),
            *_linear_convolution(_WIDE, n_features, (1, 1)),
        ]
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, math.sqrt(2 / (math.prod(module.kernel_size) * module.out_channels)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings, shape (batch, n_features), of images, shape (batch, n_channels, bands, frames)."""
        # Channels last is the quicker on a CPU; every layer keeps to it.
        embeddings: torch.Tensor = self.layers(images.contiguous(memory_format=torch.channels_last))
        return embeddings.flatten(1)


class Bottleneck(nn.Module):
    """Expand, filter each channel, project; added to what came in where the shapes allow.

    Parameters
    ----------
    n_in, n_out : int
        Channels.
    expansion : int
    stride : {1, 2}
    """

    def __init__(self, n_in: int, n_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = n_in * expansion
        self.adds = stride == 1 and n_in == n_out
        self.layers = nn.Sequential(
            *_convolution(n_in, hidden, 1),
            *_convolution(hidden, hidden, 3, stride=stride, groups=hidden),
            *_linear_convolution(hidden, n_out, (1, 1)),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images, shape (batch, n_in, bands, frames), to (batch, n_out, bands', frames')."""
        projected: torch.Tensor = self.layers(images)
        return images + projected if self.adds else projected


def _convolution(n_in: int, n_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution, batch normalisation, PReLU."""
    return [
        nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(n_out),
        nn.PReLU(n_out),
    ]


def _linear_convolution(n_in: int, n_out: int, kernel: tuple[int, int], *, groups: int = 1) -> list[nn.Module]:
    """Convolution without padding, batch normalisation."""
    return [nn.Conv2d(n_in, n_out, kernel, groups=groups, bias=False), nn.BatchNorm2d(n_out)]
