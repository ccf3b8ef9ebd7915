"""The picture of one clip: the region it names, the words it says, the files it writes."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from auscult.calibration import Calibration
from auscult.corpus.clip import Clip
from auscult.errors import AuscultError
from auscult.evaluation import pictures
from auscult.features import FrontEnd

FRONT = FrontEnd()


class FakeModel:
    """Squared deviation of the log-mel from each band's median."""

    def __init__(self, front: FrontEnd = FRONT, calibration: Calibration | None = None) -> None:
        self.detector = SimpleNamespace(name="fake", front_end=front)
        self.calibration = calibration or Calibration(np.linspace(0.5, 1.5, 200), 0.05)

    def logmel(self, clip: Clip) -> np.ndarray:
        front = self.detector.front_end
        return front.logmel(clip.waveform(front.sample_rate)).numpy().T.copy()

    def relative_map(self, clip: Clip) -> np.ndarray:
        logmel = self.logmel(clip)
        return ((logmel - np.median(logmel, 1, keepdims=True)) / 6) ** 2

    def score(self, clips: list[Clip]) -> np.ndarray:
        return np.array([self.relative_map(clip).mean() for clip in clips], dtype=np.float64)


def a_clip(seconds: float = 10.0, path: str = "hall/pump_1.wav", seed: int = 0) -> Clip:
    noise = np.random.default_rng(seed).normal(0, 0.05, round(seconds * 16_000)).astype(np.float32)
    return Clip(path=path, samples=noise, rate=16_000, machine_type="pump", machine_id="id_02")


def healthy_map(n_frames: int = 313, n_mels: int = 128, seed: int = 0) -> np.ndarray:
    """Errors of mean 1, single bins reach 8."""
    return np.random.default_rng(seed).gamma(2, 0.5, (n_mels, n_frames)).astype(np.float32)


def every_text(figure: Any) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


# The strangest region ---------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    band=st.integers(0, 100), height=st.integers(12, 28), frame=st.integers(3, 250), width=st.integers(15, 55),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_finds_an_injected_block(band: int, height: int, frame: int, width: int, seed: int) -> None:
    strange = healthy_map(seed=seed)
    strange[band : band + height, frame : frame + width] *= 15
    region = pictures.strangest_region(strange, FRONT)
    found = np.zeros_like(strange, dtype=bool)
    found[region.bands, region.frames] = True
    true = np.zeros_like(found)
    true[band : band + height, frame : frame + width] = True
    assert (found & true).sum() > 0.6 * found.sum()
    assert (found & true).sum() > 0.4 * true.sum()
    assert region.level == pytest.approx(strange[found].mean(), rel=1e-5)


def test_gives_seconds_and_hertz_of_the_block() -> None:
    strange = healthy_map()
    strange[60:76, 100:130] += 10
    region = pictures.strangest_region(strange, FRONT)
    hop = FRONT.hop_length / FRONT.sample_rate
    assert region.start == pytest.approx(100 * hop, abs=0.1)
    assert region.stop == pytest.approx(130 * hop, abs=0.1)
    centres = FRONT.band_centres()
    assert region.low == pytest.approx(centres[60], rel=0.08)
    assert region.high == pytest.approx(centres[75], rel=0.08)


def test_best_of_all_rectangles_by_brute_force() -> None:
    """On a map no larger than the grid, against loops over every rectangle."""
    front = FrontEnd(n_mels=12, n_fft=512, hop_length=512)
    strange = np.random.default_rng(1).gamma(1.0, 2.0, (12, 24))
    inner = strange[:, 1:-1]
    rows = np.unique(np.linspace(0, 12, 7).round().astype(int))
    columns = np.unique(np.linspace(0, 22, 8).round().astype(int))
    cells = [inner[a:b, c:d].mean() for a, b in pairwise(rows) for c, d in pairwise(columns)]
    usual = max(1.0, float(np.median(cells)))
    best = max(
        ((inner[a:b, c:d].mean() - usual) * inner[a:b, c:d].size ** 0.4, a, b, c, d)
        for a in rows for b in rows[rows > a] for c in columns for d in columns[columns > c]
    )  # fmt: skip
    region = pictures.strangest_region(strange, front)
    assert (region.bands.start, region.bands.stop) == best[1:3]
    assert (region.frames.start - 1, region.frames.stop - 1) == best[3:5]


def test_passes_over_frames_that_hear_the_padding() -> None:
    strange = healthy_map()
    strange[:, 0] *= 100
    strange[:, -1] *= 100
    region = pictures.strangest_region(strange, FRONT)
    assert region.frames.start >= 1
    assert region.frames.stop <= 312
    assert region.level < 20


def test_a_map_without_contrast_is_strange_as_a_whole() -> None:
    strange = np.full((128, 313), 4.0, np.float32)
    region = pictures.strangest_region(strange, FRONT)
    assert region.level == pytest.approx(4.0)
    assert "throughout, at all frequencies: 4.0 times" in pictures.describe(region, strange)


@pytest.mark.parametrize("n_frames", [1, 2, 5, 31])
def test_short_maps_have_a_region_inside_the_clip(n_frames: int) -> None:
    region = pictures.strangest_region(healthy_map(n_frames), FRONT)
    assert 0 <= region.frames.start < region.frames.stop <= n_frames
    assert 0 <= region.start < region.stop or n_frames == 1


# The words ----------------------------------------------------------------------------------------


def test_describes_where_and_how_strange() -> None:
    region = pictures.Region(3.1, 3.9, 2120, 3390, 6.23, slice(60, 80), slice(97, 122))
    strange = np.full((128, 313), 1.4, np.float32)
    assert pictures.describe(region, strange) == (
        "Strangest at 3.1–3.9 s, 2.1–3.4 kHz: 6.2 times the healthy level (1.4 over the whole clip)."
    )
    hum = replace(region, frames=slice(2, 311), low=48, high=253, level=41.3)
    assert "Strangest throughout, 50–250 Hz: 41 times" in pictures.describe(hum, strange)
    assert "0.85–1.04 kHz" in pictures.describe(replace(region, low=853, high=1041), strange)
    assert pictures.describe(replace(region, level=1.6), strange).startswith("No region stands out")


@pytest.mark.parametrize(
    ("threshold", "p_value", "said"),
    [
        (9.81, 0.004, "score 12.4, above the threshold of 9.81; p-value 0.004: at most about 1 in 250 healthy clips"),
        (20.0, 0.3, "not above the threshold of 20; p-value 0.3: at most about 30 % of healthy clips score as high"),
        (None, None, "score 12.4"),
        (float("inf"), None, "score 12.4, not above the threshold of inf"),
    ],
)
def test_verdict(threshold: float | None, p_value: float | None, said: str) -> None:
    assert said in pictures.verdict(12.4, threshold, p_value)


@pytest.mark.parametrize("front", [FRONT, FrontEnd(sample_rate=48_000, fmax=24_000, n_mels=64), FrontEnd(n_mels=4)])
def test_frequency_ticks_lie_on_their_bands(front: FrontEnd) -> None:
    ticks = pictures.frequency_ticks(front)
    centres = front.band_centres()
    for position, label in ticks:
        number, unit = label.split()
        hertz = float(number) * (1000 if unit == "kHz" else 1)
        assert np.interp(position, np.arange(len(centres)), centres) == pytest.approx(hertz, rel=0.03)
    places = [position for position, _ in ticks]
    assert all(b - a >= 0.08 * front.n_mels for a, b in pairwise(places))


# The picture --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [1.0, 10.0, 60.0])
def test_draws_clips_of_any_length(seconds: float, tmp_path: Any) -> None:
    figure = pictures.explain_figure(FakeModel(), a_clip(seconds))
    pictures.save(figure, tmp_path / "clip.png")
    with Image.open(tmp_path / "clip.png") as image:
        assert image.size == (1650, 1200)
    texts = every_text(figure)
    assert "pump_1.wav" in texts
    assert any("times the healthy level" in text for text in texts)
    assert any("fake" in text and "pump id_02" in text for text in texts)


def test_the_decision_is_said_in_words() -> None:
    clip = a_clip(2)
    alarm = pictures.explain_figure(FakeModel(calibration=Calibration(np.linspace(0, 1e-3, 100), 0.05)), clip)
    quiet = pictures.explain_figure(FakeModel(calibration=Calibration(np.linspace(1e3, 1e4, 100), 0.05)), clip)
    silent = pictures.explain_figure(FakeModel(calibration=Calibration(np.array([]), 0.05)), clip)
    assert "ANOMALY" in every_text(alarm)
    assert "NORMAL" in every_text(quiet)
    assert "NO THRESHOLD" in every_text(silent)
    assert not any("p-value" in text or "threshold of" in text for text in every_text(silent))


def test_the_map_is_drawn_on_a_scale_that_starts_at_healthy() -> None:
    from matplotlib.colors import LogNorm

    shown = pictures.explain(FakeModel(), a_clip(3))
    figure = pictures.draw(shown)
    norms = [image.norm for axes in figure.axes for image in axes.get_images()]
    (scale,) = [norm for norm in norms if isinstance(norm, LogNorm)]
    assert (scale.vmin, scale.vmax) == (1.0, pictures.map_ceiling(shown.relative))


@pytest.mark.parametrize("name", ["a$b$_{c^.wav", "ポンプ.wav", "x" * 300 + ".wav", "<script>.wav"])
def test_any_file_name_can_be_drawn(name: str, tmp_path: Any) -> None:
    figure = pictures.explain_figure(FakeModel(), a_clip(1, path=name))
    pictures.save(figure, tmp_path / "clip.png")
    box = next(text for text in figure.texts if text.get_fontweight() == "bold" and text.get_text()[:1] == name[0])
    assert box.get_window_extent().x1 < 0.8 * 1650


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_silence_and_clipping_can_be_drawn(level: float, tmp_path: Any) -> None:
    samples = np.full(32_000, level, np.float32)
    clip = Clip(path="flat.wav", samples=samples, rate=16_000)
    pictures.save(pictures.explain_figure(FakeModel(), clip), tmp_path / "flat.png")


def test_drawing_leaves_pyplot_alone_and_works_in_threads() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    figures: list[Any] = []

    def work(seed: int) -> None:
        figures.append(pictures.explain_figure(FakeModel(), a_clip(1, seed=seed)))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(figures) == 3
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf", ".JPG"])
def test_saves_by_ending(ending: str, tmp_path: Any) -> None:
    from matplotlib.figure import Figure

    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF", ".JPG": b"\xff\xd8"}
    pictures.save(Figure(), tmp_path / f"x{ending}")
    assert (tmp_path / f"x{ending}").read_bytes().startswith(starts[ending])
    assert [file.name for file in tmp_path.iterdir()] == [f"x{ending}"]


@pytest.mark.parametrize("name", ["x.gif", "x"])
def test_refuses_other_endings(name: str, tmp_path: Any) -> None:
    from matplotlib.figure import Figure

    with pytest.raises(AuscultError, match=r"\.png"):
        pictures.save(Figure(), tmp_path / name)
    assert not list(tmp_path.iterdir())


# Small images -------------------------------------------------------------------------------------


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_small_images_have_low_bands_at_the_bottom() -> None:
    strange = np.ones((128, 313), np.float32)
    strange[10:20, 50:80] = 25
    image = pixels(pictures.map_png(strange))
    assert image.shape == (128, 313, 3)
    bright = image.sum(2) > 300
    assert bright[128 - 20 : 128 - 10, 50:80].all()
    assert bright.sum() == 300


def test_as_healthy_or_less_is_the_darkest_colour() -> None:
    strange = np.ones((8, 8), np.float32)
    strange[:, :4] = 0.01
    image = pixels(pictures.map_png(strange))
    assert image.max() < 10


def test_louder_is_darker_in_the_spectrogram() -> None:
    logmel = np.linspace(-60, 0, 128 * 100, dtype=np.float32).reshape(128, 100)
    image = pixels(pictures.spectrogram_png(logmel)).sum(2)
    assert image[0].mean() < image[64].mean() < image[-1].mean()


def test_long_clips_make_no_wider_images() -> None:
    assert pixels(pictures.map_png(healthy_map(5000))).shape == (128, 480, 3)
    assert len(pictures.map_png(healthy_map(5000))) < 64_000


def test_the_scale_grows_only_where_much_exceeds_it() -> None:
    strange = healthy_map()
    assert pictures.map_ceiling(strange) == 30
    strange[0, 0] = 1e6
    assert pictures.map_ceiling(strange) == 30
    strange[:20] *= 100
    assert pictures.map_ceiling(strange) in (300, 1000)
