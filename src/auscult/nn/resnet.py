"""The receptive-field-regularised residual network of the proxy-outlier detector (Koutini et al., 2019)."""

from __future__ import annotations

import torch
from torch import nn

RECEPTIVE_FIELDS = {87: (3, 1), 103: (3, 3)}
"""Kernels of the two convolutions of the first stage's last block, by how many bands and frames one place of the
last map then hears."""

_FIRST_BLOCKS = ((3, 1), (3, 3), (3, 3))
"""Kernels of the blocks before that one; the 1 x 1 ones keep the receptive field small."""

_POOLED_AFTER = (0, 1, 3)
"""Blocks of the first stage that a max-pooling follows."""

STRIDE = 16
"""Of the whole network: the first convolution's 2, and three poolings."""


class ResNet(nn.Module):
    """A residual network that hears a limited range of bands and frames at once, and averages what it hears.

    A 5 x 5 convolution of stride 2; three stages of residual blocks with `width`, twice and four times as many
    channels; a 1 x 1 convolution to one output with batch normalisation; its mean over all places.

    Parameters
    ----------
    blocks : (int, int, int)
        Residual blocks in each stage. The first always has four: kernels and poolings are given for those.
    width : int
        Channels of the first stage.
    receptive_field : {87, 103}
        Bands and frames.

    References
    ----------
    Koutini, Eghbal-zadeh, Dorfer, Widmer, "The receptive field as a regularizer in deep convolutional neural
    networks for acoustic scene classification", EUSIPCO 2019. Sizes: Primus et al., DCASE 2020 workshop, 4.1;
    4, 1 and 2 blocks are those of its authors' released program, 4, 4 and 4 those of its text; they entered the
    challenge with a width of 128 and a receptive field of 103.

    Notes
    -----
    Plain He initialisation, which is ours: batch normalisation does what the authors' scaled one is for.
    """

    def __init__(self, blocks: tuple[int, int, int] = (4, 1, 2), width: int = 64, receptive_field: int = 87) -> None:
        super().__init__()
        first_stage = (*_FIRST_BLOCKS, RECEPTIVE_FIELDS[receptive_field])
        if blocks[0] != len(first_stage):
            raise ValueError(f"the first stage has {len(first_stage)} blocks")
        self.first = nn.Sequential(
            nn.Conv2d(1, width, 5, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        stage: list[nn.Module] = []
        for number, kernels in enumerate(first_stage):
            stage.append(ResidualBlock(width, width, kernels))
            if number in _POOLED_AFTER:
                stage.append(nn.MaxPool2d(2))
        channels = width
        for n_blocks in blocks[1:]:
            stage += [
                ResidualBlock(channels if k == 0 else 2 * channels, 2 * channels, (1, 1)) for k in range(n_blocks)
            ]
            channels *= 2
        self.stages = nn.Sequential(*stage)
        self.head = nn.Sequential(nn.Conv2d(channels, 1, 1, bias=False), nn.BatchNorm2d(1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Output of each image.

        Parameters
        ----------
        images : Tensor, shape (batch, n_mels, n_frames)
            At least `MIN_SIDE` bands and frames.

        Returns
        -------
        Tensor, shape (batch,)
        """
        return self.places(images).mean(dim=(1, 2))

    def places(self, images: torch.Tensor) -> torch.Tensor:
        """Output at each place, of which `forward` is the mean, shape (batch, bands', frames')."""
        # Channels last is twice as fast on a CPU; the layers after this one keep to it.
        maps = self.first(images[:, None]).contiguous(memory_format=torch.channels_last)
        outputs: torch.Tensor = self.head(self.stages(maps))
        return outputs[:, 0]


MIN_SIDE = STRIDE + 1
"""Bands and frames from which on something is left after the last pooling."""


class ResidualBlock(nn.Module):
    """Two convolutions, each with batch normalisation; what came in is added before the last ReLU.

    Parameters
    ----------
    n_in, n_out : int
        Channels; where they differ, a 1 x 1 convolution with batch normalisation stands in the shortcut.
    kernels : (int, int)
        Side of each convolution's kernel.
    """

    def __init__(self, n_in: int, n_out: int, kernels: tuple[int, int]) -> None:
        super().__init__()
        one, two = kernels
        self.convolutions = nn.Sequential(
            nn.Conv2d(n_in, n_out, one, padding=one // 2, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(),
            nn.Conv2d(n_out, n_out, two, padding=two // 2, bias=False),
            nn.BatchNorm2d(n_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if n_in != n_out:
            self.shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images, shape (batch, n_in, bands, frames), to (batch, n_out, bands, frames)."""
        return torch.relu(self.shortcut(images) + self.convolutions(images))
