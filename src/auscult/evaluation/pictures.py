"""The picture of one clip: what was heard, how strange it is, and where in time and frequency."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auscult.errors import AuscultError
from auscult.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from auscult.corpus.clip import Clip
    from auscult.features import FrontEnd
    from auscult.model import Model

# Okabe & Ito's colours, which the colour-blind tell apart; greys for all that is not data.
INK, QUIET, RULE = "#1f2933", "#66717d", "#d5dbe1"
BLUE, VERMILION = "#0072B2", "#D55E00"
DECISIONS = {"anomaly": ("ANOMALY", VERMILION), "normal": ("NORMAL", BLUE), "": ("NO THRESHOLD", QUIET)}

SPECTROGRAM_COLOURS, MAP_COLOURS = "Greys", "inferno"
FORMATS = (".png", ".svg", ".pdf", ".jpg", ".webp")

_TICKS = (31, 62, 125, 250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000)
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

    @property
    def seconds(self) -> float:
        """Length of the clip."""
        return len(self.waveform) / self.front_end.sample_rate


def explain(model: Model, clip: Clip) -> Explanation:
    """Judge one clip and say where it is strange.

    Raises
    ------
    AudioError
        If the clip cannot be judged.
    """
    front = model.detector.front_end
    relative = np.asarray(model.relative_map(clip))
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
        _edges(n, min(most, max(1, n // least))) for n, most, least in zip(inner.shape, _CELLS, _SMALLEST, strict=True)
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
    low, high = _decibel_range(image)
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


def map_ceiling(relative: np.ndarray) -> float:
    """Which multiple of the healthy level is the brightest colour: 30, or more where much exceeds it."""
    peak = float(np.quantile(relative, 0.998))
    return next((step for step in (30.0, 100.0, 300.0) if peak <= step), 1000.0)


def frequency_ticks(front_end: FrontEnd, apart: float = 0.085) -> list[tuple[float, str]]:
    """Octaves that fall on the mel axis, at least `apart` of its length from one another.

    Returns
    -------
    list of (position, label)
        Position in bands, 0 at the middle of the lowest.
    """
    centres = front_end.band_centres()
    ticks: list[tuple[float, str]] = []
    for hertz in reversed(_TICKS):
        if not centres[0] <= hertz <= centres[-1] * 1.03:
            continue
        position = float(np.interp(hertz, centres, np.arange(len(centres))))
        if not ticks or ticks[-1][0] - position >= apart * len(centres):
            ticks.append((position, f"{hertz // 1000} kHz" if hertz >= 1000 else f"{hertz} Hz"))
    return ticks[::-1]


@contextmanager
def _glyphs_may_lack() -> Iterator[None]:
    """A file name in a script that the font lacks must not stop the picture."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _edges(n: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, n, min(n, most) + 1).round().astype(int))


def _band_limits(front: FrontEnd) -> np.ndarray:
    """Where each band ends and the next begins in Hz, shape (n_mels + 1,)."""
    centres = front.band_centres()
    return np.concatenate([[front.fmin], (centres[:-1] + centres[1:]) / 2, [front.fmax]])


def _hertz_span(low: float, high: float) -> str:
    if high < 1000:
        return f"{round(low, -1):.0f}–{round(high, -1):.0f} Hz"
    digits = 2 if low < 1000 else 1
    return f"{low / 1000:.{digits}f}–{high / 1000:.{digits}f} kHz"


def _times(level: float) -> str:
    return f"{level:.1f}" if level < 9.95 else f"{level:.0f}" if level < 1000 else "over 1000"


def _decibel_range(logmel: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(logmel, (0.02, 0.998))
    return max(low, high - 70.0) - 3.0, high + 1.0


def _narrow(image: np.ndarray, columns: int) -> np.ndarray:
    edges = _edges(image.shape[1], columns)
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
    line = verdict(shown.score, shown.threshold, shown.p_value)
    promise = shown.promise[:1].upper() + shown.promise[1:]
    foot = f"{shown.machine}  ·  detector {shown.detector}  ·  {promise}"
    _fit(figure.text(0.075, 0.957, shown.name, color=INK, fontsize=15, fontweight="bold", **plain), 0.68)
    _fit(figure.text(0.075, 0.92, line[0].upper() + line[1:] + ".", color=INK, fontsize=10.5, **plain), 0.86)
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
    edges = _edges(len(wave), 1500)[:-1]
    low, high = np.minimum.reduceat(wave, edges), np.maximum.reduceat(wave, edges)
    axes.fill_between(edges / shown.front_end.sample_rate, low, high, color=INK, linewidth=0.4)
    peak = float(np.abs(wave).max())
    axes.set_ylim(-1.05 * max(peak, 1e-4), 1.05 * max(peak, 1e-4))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    rms = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
    loudest, usual = (f"{20 * np.log10(max(value, 1e-6)):.0f}".replace("-", "−") for value in (peak, rms))
    _title(axes, "Waveform", f"peak {loudest} dB, mean level {usual} dB of full scale")


def _extent(shown: Explanation) -> tuple[float, float, float, float]:
    """Frames are centred on multiples of the hop."""
    n_mels, n_frames = shown.logmel.shape
    hop = shown.front_end.hop_length / shown.front_end.sample_rate
    return -hop / 2, (n_frames - 0.5) * hop, -0.5, n_mels - 0.5


def _frequency_axis(axes: Axes, shown: Explanation) -> None:
    ticks = frequency_ticks(shown.front_end)
    axes.set_yticks([position for position, _ in ticks], [label for _, label in ticks])
    axes.set_ylim(-0.5, shown.front_end.n_mels - 0.5)


def _draw_spectrogram(axes: Axes, shown: Explanation) -> Any:
    low, high = _decibel_range(shown.logmel)
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
    _title(axes, "Where it is strange", "anomaly map: dark is as healthy")
    return image


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


def _profile_limits(profile: np.ndarray) -> tuple[float, float]:
    return min(0.7, float(profile.min()) * 0.9), max(4.0, float(profile.max()) * 1.15)


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


def _plain_log_ticks(axis: Any) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = axis.get_view_interval()
    steps = [step for step in (0.1, 1, 3, 10, 30, 100, 300, 1000, 10_000) if low <= step <= high]
    axis.set_major_locator(FixedLocator(steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
