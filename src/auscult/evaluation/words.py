"""Regions and scores said in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from auscult.evaluation.explanation import Region


def describe(region: Region, relative: np.ndarray) -> str:
    """Say in one sentence where and how strange a clip is.

    Examples
    --------
    "Strangest at 3.1–3.9 s, 2.1–3.4 kHz: 6.2 times the healthy level (1.4 over the whole clip)."
    """
    n_bands, n_frames = relative.shape
    always = region.frames.stop - region.frames.start >= 0.9 * n_frames
    everywhere = region.bands.stop - region.bands.start >= 0.9 * n_bands
    digits = 2 if region.stop < 3 else 1
    when = "throughout" if always else f"at {region.start:.{digits}f}–{region.stop:.{digits}f} s"
    where = f"{when}, {'at all frequencies' if everywhere else _hertz_span(region.low, region.high)}"
    whole = _times(float(relative.mean()))
    if region.level < 2:
        return (
            f"No region stands out: the strangest, {where}, is at {_times(region.level)} times"
            f" the healthy level ({whole} over the whole clip)."
        )
    return f"Strangest {where}: {_times(region.level)} times the healthy level ({whole} over the whole clip)."


def verdict(score: float, threshold: float | None, p_value: float | None) -> str:
    """Say in one line what a score means: beside its threshold, and among healthy clips.

    Examples
    --------
    "score 12.4, above the threshold of 9.81; p-value 0.004: at most about 1 in 250 healthy clips scores as high"
    """
    line = f"score {score:.4g}"
    if threshold is not None:
        line += f", {'above' if score > threshold else 'not above'} the threshold of {threshold:.4g}"
    if p_value is None:
        return line
    share = f"{100 * p_value:.0f} % of healthy clips score"
    if p_value < 0.02:
        share = f"1 in {1 / max(p_value, 1e-9):.0f} healthy clips scores"
    return f"{line}; p-value {p_value:.2g}: at most about {share} as high"


def sentence(text: str) -> str:
    """Make a sentence of a text: a capital letter, single spaces, a full stop."""
    text = " ".join(text.split())
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _hertz_span(low: float, high: float) -> str:
    if high < 1000:
        return f"{round(low, -1):.0f}–{round(high, -1):.0f} Hz"
    digits = 2 if low < 1000 else 1
    return f"{low / 1000:.{digits}f}–{high / 1000:.{digits}f} kHz"


def _times(level: float) -> str:
    return f"{level:.1f}" if level < 9.95 else f"{level:.0f}" if level < 1000 else "over 1000"
