"""What is to be shown of one clip: what was heard, how strange it is, and where in time and frequency."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from auscult.evaluation.scales import even_edges

if TYPE_CHECKING:
    from auscult.corpus.clip import Clip
    from auscult.features import FrontEnd
    from auscult.model import Model

_CELLS = (32, 100)
"""Into how many bands and stretches of time `strangest_region` divides a map at most."""

_SMALLEST = (2, 3)
"""Bands and frames that such a cell holds at least: neighbouring bins hear the same sound."""


@dataclass(frozen=True)
class Region:
    """A rectangle of an anomaly map.

    Attributes
    ----------
    start, stop : float
        Seconds.
    low, high : float
        Hz.
    level : float
        Mean of the relative map inside: how many times the healthy level.
    bands, frames : slice
        The rows and columns of the map.
    """

    start: float
    stop: float
    low: float
    high: float
    level: float
    bands: slice
    frames: slice


@dataclass(frozen=True)
class Explanation:
    """Everything the picture of one clip shows.

    Attributes
    ----------
    name, machine, detector : str
        What was judged, and by what.
    front_end : FrontEnd
    waveform : ndarray of float32, shape (n_samples,)
    logmel : ndarray of float32, shape (n_mels, n_frames)
        dB.
    relative : ndarray of float32, shape (n_mels, n_frames)
        The anomaly map in multiples of the healthy level.
    score : float
    p_value, threshold : float or None
        None where the model has no calibration.
    decision : {"normal", "anomaly", ""}
    promise : str
        What the model promises about false alarms.
    region : Region
        The strangest one.
    findings : tuple of str
        What is strange in words, the strangest first, where the detector can say it.
    mask : str
        What was hidden and predicted from the rest, as the user wrote it; empty where the detector chose.
    """

    name: str
    machine: str
    detector: str
    front_end: FrontEnd
    waveform: np.ndarray
    logmel: np.ndarray
    relative: np.ndarray
    score: float
    p_value: float | None
    threshold: float | None
    decision: str
    promise: str
    region: Region
    findings: tuple[str, ...] = ()
    mask: str = ""

    @property
    def seconds(self) -> float:
        """Length of the clip."""
        return len(self.waveform) / self.front_end.sample_rate


def explain(model: Model, clip: Clip, mask: str = "") -> Explanation:
    """Judge one clip and say where it is strange.

    Parameters
    ----------
    model : Model
    clip : Clip
    mask : str
        Bins to hide and to predict from the rest, such as "bands:60-70,box:10-200x20-30"; the map then covers them
        alone. For detectors that take any mask (`anp`, `convcnp`).

    Raises
    ------
    AudioError
        If the clip cannot be judged.
    AuscultError
        If the detector takes no mask, or the mask does not fit the clip.
    """
    front = model.detector.front_end
    relative = np.asarray(model.relative_map(clip, mask))
    scores = np.asarray(model.score([clip]), dtype=np.float64)
    threshold = model.calibration.threshold
    p_value = float(np.ravel(model.calibration.p_values(scores))[0])
    return Explanation(
        name=Path(clip.path).name,
        machine=f"{clip.machine_type} {clip.machine_id}",
        detector=model.detector.name,
        front_end=front,
        waveform=clip.waveform(front.sample_rate, front.channel),
        logmel=np.asarray(model.logmel(clip)),
        relative=relative,
        score=float(scores[0]),
        p_value=p_value if np.isfinite(p_value) else None,
        threshold=threshold,
        decision="" if threshold is None else str(model.calibration.decide(scores)[0]),
        promise=model.calibration.promise,
        region=strangest_region(relative, front),
        findings=model.detector.findings(clip),
        mask=mask,
    )


def strangest_region(relative: np.ndarray, front_end: FrontEnd) -> Region:
    """Find the rectangle of time and frequency in which a clip is strangest.

    Of all rectangles R on a grid of at most 32 by 100 cells it is the one with the largest
    ``(mean of the map in R - usual) * area ** 0.4``: a scan statistic (Arias-Castro, Donoho & Huo,
    "Near-optimal detection of geometric objects by fast multiscale methods", IEEE Trans. Inf. Theory
    51(7), 2005). Theirs has the power 0.5, for independent noise; neighbouring bins of a map rise and
    fall together, and the lower power keeps to the core of what is strange. *Usual* is the clip's own median,
    but at least 1, the healthy level: in a clip that is strange all over, the worst of it is found.
    Frames that reach beyond the ends of the clip are passed over: half of what they hear is padding.

    Parameters
    ----------
    relative : ndarray, shape (n_mels, n_frames)
        Anomaly map in multiples of the healthy level.
    front_end : FrontEnd
        Gives the seconds and the Hz.

    Returns
    -------
    Region
    """
    n_frames = relative.shape[1]
    margin = -(-front_end.n_fft // (2 * front_end.hop_length))
    margin = margin if n_frames > 8 * margin else 0
    inner = relative[:, margin : n_frames - margin].astype(np.float64)
    rows, columns = (
        even_edges(n, min(most, max(1, n // least)))
        for n, most, least in zip(inner.shape, _CELLS, _SMALLEST, strict=True)
    )
    total = np.zeros((len(rows), len(columns)))
    cells = np.add.reduceat(np.add.reduceat(inner, rows[:-1], 0), columns[:-1], 1)
    total[1:, 1:] = cells.cumsum(0).cumsum(1)
    usual = max(1.0, float(np.median(cells / np.outer(np.diff(rows), np.diff(columns)))))

    bottom, top = np.triu_indices(len(rows), 1)
    left, right = np.triu_indices(len(columns), 1)
    strips = total[top] - total[bottom]
    sums = strips[:, right] - strips[:, left]
    areas = np.outer(rows[top] - rows[bottom], columns[right] - columns[left])
    # The millionth is for a map without contrast: of all the equal rectangles the whole is taken.
    contrast = (sums / areas - usual * (1 - 1e-6)) * areas**0.4
    row, column = np.unravel_index(contrast.argmax(), contrast.shape)

    bands = slice(int(rows[bottom[row]]), int(rows[top[row]]))
    frames = slice(int(columns[left[column]]) + margin, int(columns[right[column]]) + margin)
    hertz = _band_limits(front_end)
    hop = front_end.hop_length / front_end.sample_rate
    return Region(
        start=max(0.0, (frames.start - 0.5) * hop),
        stop=(min(frames.stop, n_frames - 0.5) - 0.5) * hop,
        low=float(hertz[bands.start]),
        high=float(hertz[bands.stop]),
        level=float(sums[row, column] / areas[row, column]),
        bands=bands,
        frames=frames,
    )


def _band_limits(front: FrontEnd) -> np.ndarray:
    """Where each band ends and the next begins in Hz, shape (n_mels + 1,)."""
    centres = front.band_centres()
    return np.concatenate([[front.fmin], (centres[:-1] + centres[1:]) / 2, [front.fmax]])
