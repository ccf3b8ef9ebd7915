"""TgramNet: what a convolution over the waveform finds, laid out like a log-mel (Liu et al., ICASSP 2022)."""

from __future__ import annotations

import torch
from torch import nn


class TgramNet(nn.Module):
    """From a waveform to a learnt time-frequency image with the bands and frames of its log-mel.

    A convolution as long as a frame of the log-mel, then three times: normalisation of each channel over the time
    of the window, leaky ReLU, convolution over three frames. 280 406 parameters for 128 channels and 313 frames.

    Parameters
    ----------
    n_frames : int
        Frames of a window: the normalisation's weights are one a frame, so that it fixes the length.
    n_channels : int
        As many as the log-mel has bands.
    kernel, stride : int
        Length of a frame and distance between two, in samples.
    n_layers : int

    References
    ----------
    Liu, Guan, Zhu, Wang, "Anomalous sound detection using spectral-temporal information fusion", ICASSP 2022,
    section 2.1.
    """

    def __init__(
        self, n_frames: int, n_channels: int = 128, kernel: int = 1024, stride: int = 512, n_layers: int = 3
    ) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, n_channels, kernel, stride, padding=kernel // 2, bias=False)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.LayerNorm(n_frames),
                    nn.LeakyReLU(0.2),
                    nn.Conv1d(n_channels, n_channels, 3, padding=1, bias=False),
                )
                for _ in range(n_layers)
            )
        )

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        """Waveforms, (batch, n_samples) of `n_frames` frames, to images, (batch, n_channels, n_frames)."""
        images: torch.Tensor = self.layers(self.first(waves[:, None]))
        return images
