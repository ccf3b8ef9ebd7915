"""A clip heard at four resolutions: its whole spectrum, and spectrograms of short, middling and long windows."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import normalize, relu

SAMPLE_RATE = 16_000

WINDOWS = ((256, 128), (1024, 512), (4096, 2048))
"""Samples in a spectrogram's window, and between the starts of two."""

MIDDLE = 2
"""The middle spectrogram's place among the resolutions."""

WIDTH = 128
"""Of a branch's embedding."""

_LOWEST_HZ, _HIGHEST_HZ = 200.0, 8000.0
_STAGES = (16, 32, 64, 128)
_RATIO = 16

Resolutions = list[torch.Tensor]
"""The magnitudes that branches hear: (batch, n_bins) of the whole, and (batch, n_bins, n_frames) of each window."""


class MultiResolution(nn.Module):
    """Embeds waveforms of one length by four branches, each on its own.

    Parameters
    ----------
    n_samples : int
        At 16 kHz.

    References
    ----------
    Wilkinghoff, "Design choices for learning embeddings from auxiliary tasks for domain generalization in anomalous
    sound detection", ICASSP 2023: the two branches. Fujimura et al., "ASDKit", 2025 (arXiv 2507.10264): three
    spectrograms, squeeze and excitation. From descriptions of both; no bias and no learnt scale in any normalisation,
    lest a branch learn to ignore its input.
    """

    def __init__(self, n_samples: int) -> None:
        super().__init__()
        self.n_samples = n_samples
        self.spectrum = SpectrumBranch(n_samples // 2 + 1)
        self.spectrograms = nn.ModuleList(SpectrogramBranch(len(kept_bins(n_fft))) for n_fft, _ in WINDOWS)

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        """Embed waveforms, (batch, n_samples); returns (batch, 4 * WIDTH), a branch after the other."""
        return self.embed(self.resolve(waves))

    def resolve(self, waves: torch.Tensor) -> Resolutions:
        """The magnitudes that the branches hear."""
        whole = torch.fft.rfft(waves, norm="ortho").abs()
        return [whole, *(spectrogram(waves, n_fft, hop) for n_fft, hop in WINDOWS)]

    def embed(self, resolutions: Resolutions) -> torch.Tensor:
        """Embed magnitudes."""
        whole, *spectrograms = resolutions
        parts = [self.spectrum(whole)]
        parts += [branch(own) for branch, own in zip(self.spectrograms, spectrograms, strict=True)]
        return torch.cat(parts, dim=1)


class Embedders(nn.Module):
    """Networks of different seeds, and what the middle spectrogram usually is.

    Parameters
    ----------
    count, n_samples : int
    """

    usual: torch.Tensor

    def __init__(self, count: int, n_samples: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(MultiResolution(n_samples) for _ in range(count))
        self.register_buffer("usual", torch.zeros(middle_bins().stop - middle_bins().start))

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        """Directions of waveforms, (batch, n_samples): (batch, count, width)."""
        return torch.stack([normalize(network(waves), dim=1) for network in self.networks], dim=1)


def kept_bins(n_fft: int) -> range:
    """Bins of a spectrogram from 200 to 8000 Hz."""
    spacing = SAMPLE_RATE / n_fft
    return range(-int(-_LOWEST_HZ // spacing), int(_HIGHEST_HZ // spacing) + 1)


def middle_bins() -> slice:
    """Bins of the middle spectrogram, among those of its transform."""
    bins = kept_bins(WINDOWS[MIDDLE - 1][0])
    return slice(bins.start, bins.stop)


def spectrogram(waves: torch.Tensor, n_fft: int, hop: int) -> torch.Tensor:
    """Magnitudes of the bins kept, (batch, n_bins, n_frames), over the root of the window's energy."""
    window = torch.hann_window(n_fft, device=waves.device)
    bins = kept_bins(n_fft)
    whole = torch.stft(waves, n_fft, hop, window=window, return_complex=True)[:, bins.start : bins.stop]
    return whole.abs() / window.square().sum().sqrt()


class SpectrumBranch(nn.Module):
    """Three strided convolutions over the magnitudes of a whole clip's transform, and five dense layers.

    Parameters
    ----------
    n_bins : int
    """

    def __init__(self, n_bins: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for kernel, stride in ((256, 64), (64, 32), (16, 4)):
            # A short clip's spectrum is over before the last kernel would fit: it is padded.
            missing = max(0, kernel - n_bins)
            layers += [nn.ConstantPad1d((0, missing), 0.0)] * bool(missing)
            layers += [nn.Conv1d(channels, WIDTH, kernel, stride, bias=False), nn.ReLU(), Excited(WIDTH)]
            channels, n_bins = WIDTH, (n_bins + missing - kernel) // stride + 1
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        dense: list[nn.Module] = []
        width = WIDTH * n_bins
        for _ in range(4):
            dense += [nn.Linear(width, WIDTH, bias=False), nn.BatchNorm1d(WIDTH, affine=False), nn.ReLU()]
            width = WIDTH
        self.dense = nn.Sequential(*dense, nn.Linear(WIDTH, WIDTH, bias=False))

    def forward(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """(batch, n_bins) to (batch, WIDTH)."""
        out: torch.Tensor = self.dense(self.convolutions(magnitudes[:, None]))
        return out


class SpectrogramBranch(nn.Module):
    """A residual network over a spectrogram, its maximum over time, and a dense layer.

    Parameters
    ----------
    n_bins : int
    """

    def __init__(self, n_bins: int) -> None:
        super().__init__()
        self.normalise = nn.BatchNorm1d(n_bins, affine=False)
        self.first = nn.Sequential(
            nn.Conv2d(1, _STAGES[0], 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(_STAGES[0], affine=False),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        blocks: list[nn.Module] = []
        channels = _STAGES[0]
        for number, width in enumerate(_STAGES):
            blocks += [Block(channels, width, 2 if number else 1), Block(width, width, 1)]
            channels = width
        self.blocks = nn.Sequential(*blocks)
        for _ in range(2 + len(_STAGES) - 1):  # the first convolution, the pooling, and each stage but the first
            n_bins = (n_bins + 1) // 2
        self.last = nn.Sequential(
            nn.BatchNorm1d(channels * n_bins, affine=False), nn.Linear(channels * n_bins, WIDTH, bias=False)
        )

    def forward(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """(batch, n_bins, n_frames) to (batch, WIDTH)."""
        images = self.normalise(magnitudes)[:, None].contiguous(memory_format=torch.channels_last)
        maps = self.blocks(self.first(images)).amax(dim=3)
        out: torch.Tensor = self.last(maps.flatten(1))
        return out


class Block(nn.Module):
    """Two convolutions, each after normalisation and ReLU, with squeeze and excitation; what came in is added.

    Parameters
    ----------
    n_in, n_out, stride : int
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.before = nn.BatchNorm2d(n_in, affine=False)
        self.one = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.between = nn.BatchNorm2d(n_out, affine=False)
        self.two = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.excited = Excited(n_out)
        self.shortcut = nn.Conv2d(n_in, n_out, 1, stride, bias=False) if stride > 1 or n_in != n_out else None

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(batch, n_in, bins, frames) to (batch, n_out, bins / stride, frames / stride)."""
        ready = relu(self.before(maps))
        out: torch.Tensor = self.excited(self.two(relu(self.between(self.one(ready)))))
        return out + (maps if self.shortcut is None else self.shortcut(ready))


class Excited(nn.Module):
    """Squeeze and excitation: each channel is scaled by what all channels say on average (Hu et al., CVPR 2018).

    Parameters
    ----------
    channels : int
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(1, channels // _RATIO)
        self.weigh = nn.Sequential(
            nn.Linear(channels, narrow, bias=False), nn.ReLU(), nn.Linear(narrow, channels, bias=False), nn.Sigmoid()
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(batch, channels, …), the same shape."""
        weights = self.weigh(maps.flatten(2).mean(2))
        out: torch.Tensor = maps * weights.view(*weights.shape, *[1] * (maps.dim() - 2))
        return out


def repeated(wave: torch.Tensor, n_samples: int) -> torch.Tensor:
    """A waveform, (n,), that is too short, again and again until it is long enough."""
    return wave if len(wave) >= n_samples else wave.repeat(-(-n_samples // len(wave)))[:n_samples]


def crop_starts(n_samples: int, length: int, hop: int) -> list[int]:
    """Where crops of a length begin that cover so many samples, evenly laid, at multiples of a hop."""
    count = max(1, -(-n_samples // length))
    last = max(0, n_samples - length)
    return [round(k * last / max(count - 1, 1)) // hop * hop for k in range(count)]
