"""The picture of one clip, drawn and saved."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auscult.errors import AuscultError
from auscult.evaluation.explanation import Explanation, explain
from auscult.evaluation.scales import (
    MAP_COLOURS,
    SPECTROGRAM_COLOURS,
    decibel_range,
    even_edges,
    frequency_ticks,
    map_ceiling,
)
from auscult.evaluation.words import describe, sentence, verdict
from auscult.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from auscult.corpus.clip import Clip
    from auscult.model import Model

# Okabe & Ito's colours, which the colour-blind tell apart; greys for all that is not data.
INK, QUIET, RULE = "#1f2933", "#66717d", "#d5dbe1"
BLUE, VERMILION = "#0072B2", "#D55E00"
DECISIONS = {"anomaly": ("ANOMALY", VERMILION), "normal": ("NORMAL", BLUE), "": ("NO THRESHOLD", QUIET)}

FORMATS = (".png", ".svg", ".pdf", ".jpg", ".webp")


def explain_figure(model: Model, clip: Clip) -> Figure:
    """Draw one clip: waveform, log-mel, anomaly map with its profiles, score and decision.

    Returns
    -------
    Figure
        For `save`; on a canvas of its own, so that threads may draw side by side.

    Raises
    ------
    AudioError
        If the clip cannot be judged.
    """
    return draw(explain(model, clip))


def draw(shown: Explanation) -> Figure:
    """Draw an explanation."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        4, 3, left=0.075, right=0.93, top=0.825, bottom=0.085, hspace=0.34, wspace=0.03,
        height_ratios=(0.7, 2.3, 2.3, 0.75), width_ratios=(1, 0.1, 0.014),
    )  # fmt: skip
    wave, spectrum, strange, when = (_panel(figure.add_subplot(grid[row, 0])) for row in range(4))
    level, band = (_panel(figure.add_subplot(grid[row, 1])) for row in (1, 2))

    _write_headline(figure, shown)
    _draw_waveform(wave, shown)
    image = _draw_spectrogram(spectrum, shown)
    _colour_bar(figure, grid[1, 2], image, "dB")
    image = _draw_map(strange, shown)
    _colour_bar(figure, grid[2, 2], image, "times the healthy level")
    _draw_level_profile(level, shown)
    _draw_band_profile(band, shown)
    _draw_time_profile(when, shown)
    for panel in (wave, spectrum, strange, when):
        panel.set_xlim(0, shown.seconds)
    for panel in (wave, spectrum, strange):
        panel.tick_params(labelbottom=False)
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG, SVG, PDF, JPEG or WebP, by the file's ending; whole or not at all.

    Raises
    ------
    AuscultError
        If the ending is none of these, or the file cannot be written.
    """
    target = Path(path)
    kind = target.suffix.lower()
    if kind not in FORMATS:
        raise AuscultError(
            f"{target}: no picture can be written as {kind or 'a file without an ending'}",
            f"name a file that ends in {', '.join(FORMATS)}",
        )
    with atomic(target) as temporary, _glyphs_may_lack():
        figure.savefig(temporary, format=kind[1:])


@contextmanager
def _glyphs_may_lack() -> Iterator[None]:
    """A file name in a script that the font lacks must not stop the picture."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _panel(axes: Axes) -> Axes:
    """A plot with nothing on it that is not needed."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(RULE)
    axes.tick_params(colors=QUIET, labelsize=8.5, length=3, color=RULE)
    return axes


def _title(axes: Axes, text: str, aside: str = "") -> None:
    label = axes.annotate(
        text, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points",
        color=INK, fontsize=10, fontweight="bold",
    )  # fmt: skip
    if aside:
        axes.annotate(aside, (1, 0), (6, 0), xycoords=label, textcoords="offset points",
                      color=QUIET, fontsize=9, va="bottom")  # fmt: skip


def _write_headline(figure: Figure, shown: Explanation) -> None:
    word, colour = DECISIONS.get(shown.decision, DECISIONS[""])
    # parse_math: a dollar sign in a file name is a dollar sign.
    plain: dict[str, Any] = {"parse_math": False, "va": "center"}
    figure.text(
        0.93, 0.955, word, color="white", fontsize=12, fontweight="bold", ha="right", **plain,
        bbox={"boxstyle": "round,pad=0.45,rounding_size=0.3", "facecolor": colour, "edgecolor": "none"},
    )  # fmt: skip
    line = sentence(verdict(shown.score, shown.threshold, shown.p_value))
    promise = shown.promise[:1].upper() + shown.promise[1:]
    foot = f"{shown.machine}  ·  detector {shown.detector}  ·  {promise}"
    _fit(figure.text(0.075, 0.957, shown.name, color=INK, fontsize=15, fontweight="bold", **plain), 0.68)
    _fit(figure.text(0.075, 0.92, line, color=INK, fontsize=10.5, **plain), 0.86)
    _fit(figure.text(0.075, 0.892, describe(shown.region, shown.relative), color=INK, fontsize=10.5, **plain), 0.86)
    _fit(figure.text(0.075, 0.018, foot, color=QUIET, fontsize=8.5, **plain), 0.86)


def _fit(text: Text, width: float) -> None:
    """Shrink a text, and then cut its middle, until it takes no more than `width` of the figure's."""
    canvas: Any = text.get_figure().canvas  # type: ignore[union-attr]
    size = float(text.get_fontsize())
    room = width * canvas.get_width_height()[0]
    with _glyphs_may_lack():
        wide = text.get_window_extent(canvas.get_renderer()).width
        text.set_fontsize(max(0.7 * size, size * min(1.0, room / wide)))
        if 0.7 * wide > room:
            words, half = text.get_text(), int(len(text.get_text()) * room / (0.7 * wide) / 2) - 1
            text.set_text(f"{words[:half]}…{words[-half:]}")


def _draw_waveform(axes: Axes, shown: Explanation) -> None:
    """The envelope: between the lowest and the highest sample of each pixel's stretch."""
    wave = shown.waveform
    edges = even_edges(len(wave), 1500)[:-1]
    low, high = np.minimum.reduceat(wave, edges), np.maximum.reduceat(wave, edges)
    axes.fill_between(edges / shown.front_end.sample_rate, low, high, color=INK, linewidth=0.4)
    peak = float(np.abs(wave).max())
    axes.set_ylim(-1.05 * max(peak, 1e-4), 1.05 * max(peak, 1e-4))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    rms = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
    loudest, usual = (f"{20 * np.log10(max(value, 1e-6)):.0f}".replace("-", "−") for value in (peak, rms))
    _title(axes, "Waveform", f"peak {loudest} dB, mean level {usual} dB of full scale")


def _draw_spectrogram(axes: Axes, shown: Explanation) -> Any:
    low, high = decibel_range(shown.logmel)
    image = axes.imshow(
        shown.logmel, origin="lower", aspect="auto", extent=_extent(shown),
        cmap=SPECTROGRAM_COLOURS, vmin=low, vmax=high,
    )  # fmt: skip
    _frequency_axis(axes, shown)
    _outline(axes, shown, VERMILION)
    _title(axes, "What was heard", "log-mel spectrogram")
    return image


def _draw_map(axes: Axes, shown: Explanation) -> Any:
    from matplotlib.colors import LogNorm

    image = axes.imshow(
        np.maximum(shown.relative, 1e-6), origin="lower", aspect="auto", extent=_extent(shown),
        cmap=MAP_COLOURS, norm=LogNorm(1.0, map_ceiling(shown.relative), clip=True),
    )  # fmt: skip
    _frequency_axis(axes, shown)
    _outline(axes, shown, "white")
    aside = f"{shown.mask} predicted from all the rest" if shown.mask else "anomaly map: dark is as healthy"
    _title(axes, "Where it is strange", aside)
    return image


def _extent(shown: Explanation) -> tuple[float, float, float, float]:
    """Frames are centred on multiples of the hop."""
    n_mels, n_frames = shown.logmel.shape
    hop = shown.front_end.hop_length / shown.front_end.sample_rate
    return -hop / 2, (n_frames - 0.5) * hop, -0.5, n_mels - 0.5


def _frequency_axis(axes: Axes, shown: Explanation) -> None:
    ticks = frequency_ticks(shown.front_end)
    axes.set_yticks([position for position, _ in ticks], [label for _, label in ticks])
    axes.set_ylim(-0.5, shown.front_end.n_mels - 0.5)


def _outline(axes: Axes, shown: Explanation, colour: str) -> None:
    from matplotlib.patches import Rectangle

    region = shown.region
    corner = (region.start, region.bands.start - 0.5)
    size = (region.stop - region.start, region.bands.stop - region.bands.start)
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=1.3))


def _colour_bar(figure: Figure, place: Any, image: Any, label: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    bar = figure.colorbar(image, cax=figure.add_subplot(place))
    bar.outline.set_visible(False)
    bar.set_label(label, color=QUIET, fontsize=9)
    bar.ax.tick_params(colors=QUIET, labelsize=8.5, length=2, color=RULE)
    if image.norm.__class__.__name__ == "LogNorm":
        steps = [step for step in (1, 3, 10, 30, 100, 300, 1000) if step <= image.norm.vmax]
        bar.set_ticks(steps)
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        bar.ax.yaxis.set_minor_locator(NullLocator())


def _draw_level_profile(axes: Axes, shown: Explanation) -> None:
    bands = np.arange(shown.front_end.n_mels)
    axes.plot(shown.logmel.mean(1), bands, color=QUIET, linewidth=1.1)
    axes.set_ylim(-0.5, len(bands) - 0.5)
    axes.set_yticks([])
    axes.tick_params(labelbottom=False, bottom=False)
    _title(axes, "", "mean dB")


def _draw_band_profile(axes: Axes, shown: Explanation) -> None:
    profile = np.maximum(shown.relative.mean(1), 1e-3)
    bands = np.arange(len(profile))
    axes.set_xscale("log")
    axes.set_xlim(*_profile_limits(profile))
    axes.fill_betweenx(bands, 1, profile, where=profile > 1, color=VERMILION, alpha=0.3, linewidth=0)
    axes.plot(profile, bands, color=VERMILION, linewidth=1.1)
    axes.axvline(1, color=QUIET, linewidth=0.8)
    axes.set_ylim(-0.5, len(bands) - 0.5)
    axes.set_yticks([])
    _plain_log_ticks(axes.xaxis)
    _title(axes, "", "by frequency")


def _draw_time_profile(axes: Axes, shown: Explanation) -> None:
    profile = np.maximum(shown.relative.mean(0), 1e-3)
    seconds = np.arange(len(profile)) * (shown.front_end.hop_length / shown.front_end.sample_rate)
    axes.set_yscale("log")
    axes.set_ylim(*_profile_limits(profile))
    axes.fill_between(seconds, 1, profile, where=profile > 1, color=VERMILION, alpha=0.3, linewidth=0)
    axes.plot(seconds, profile, color=VERMILION, linewidth=1.1)
    axes.axhline(1, color=QUIET, linewidth=0.8)
    _plain_log_ticks(axes.yaxis)
    axes.set_xlabel("seconds", color=QUIET, fontsize=9)
    _title(axes, "When", "mean over all frequencies, times the healthy level")


def _profile_limits(profile: np.ndarray) -> tuple[float, float]:
    return min(0.7, float(profile.min()) * 0.9), max(4.0, float(profile.max()) * 1.15)


def _plain_log_ticks(axis: Any) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = axis.get_view_interval()
    steps = [step for step in (0.1, 1, 3, 10, 30, 100, 300, 1000, 10_000) if low <= step <= high]
    if high > 200 * low:  # all of them would run into one another
        steps = [step for step in steps if step in (0.1, 1, 10, 100, 1000, 10_000)]
    axis.set_major_locator(FixedLocator(steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
