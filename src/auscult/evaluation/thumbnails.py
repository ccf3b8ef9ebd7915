"""A clip as small bare images, for pages that show many."""

from __future__ import annotations

import io

import numpy as np

from auscult.evaluation.scales import MAP_COLOURS, SPECTROGRAM_COLOURS, decibel_range, even_edges, map_ceiling


def spectrogram_png(logmel: np.ndarray, *, columns: int = 480) -> bytes:
    """Draw a log-mel as a bare image, one pixel a band, low bands at the bottom.

    Parameters
    ----------
    logmel : ndarray, shape (n_mels, n_frames)
        dB.
    columns : int
        Longer clips are averaged over time to this width.
    """
    image = _narrow(logmel, columns)
    low, high = decibel_range(image)
    return _png((image - low) / (high - low), SPECTROGRAM_COLOURS)


def map_png(relative: np.ndarray, *, columns: int = 480) -> bytes:
    """Draw a relative anomaly map as a bare image, one pixel a band, on the scale of the large picture.

    Parameters
    ----------
    relative : ndarray, shape (n_mels, n_frames)
        Multiples of the healthy level.
    columns : int
        Longer clips are averaged over time to this width.
    """
    image = np.maximum(_narrow(relative, columns), 1.0)
    return _png(np.log(image) / np.log(map_ceiling(relative)), MAP_COLOURS)


def _narrow(image: np.ndarray, columns: int) -> np.ndarray:
    edges = even_edges(image.shape[1], columns)
    return np.asarray(np.add.reduceat(image, edges[:-1], 1) / np.diff(edges), dtype=np.float64)


def _png(shades: np.ndarray, colours: str) -> bytes:
    """0…1 to a palette image: a third of the bytes of a true-colour one."""
    from matplotlib import colormaps
    from PIL import Image

    levels = 48
    index = np.clip(shades[::-1] * (levels - 1), 0, levels - 1).round().astype(np.uint8)
    image = Image.fromarray(index, mode="P")
    palette = (colormaps[colours](np.linspace(0, 1, levels))[:, :3] * 255).round().astype(np.uint8)
    image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
