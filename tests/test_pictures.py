"""The pictures of one clip, large and small: what they show, and the files they are written to."""

from __future__ import annotations

import io
import threading
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from auscult.calibration import Calibration
from auscult.corpus.clip import Clip
from auscult.errors import AuscultError
from auscult.evaluation import pictures
from auscult.evaluation.explanation import explain
from auscult.evaluation.scales import frequency_ticks, map_ceiling
from auscult.evaluation.thumbnails import map_png, spectrogram_png
from auscult.features import FrontEnd

FRONT = FrontEnd()


class FakeModel:
    """Squared deviation of the log-mel from each band's median."""

    def __init__(self, front: FrontEnd = FRONT, calibration: Calibration | None = None) -> None:
        self.detector = SimpleNamespace(name="fake", front_end=front, findings=lambda clip: ())
        self.calibration = calibration or Calibration(np.linspace(0.5, 1.5, 200), 0.05)

    def logmel(self, clip: Clip) -> np.ndarray:
        front = self.detector.front_end
        return front.logmel(clip.waveform(front.sample_rate)).numpy().T.copy()

    def relative_map(self, clip: Clip, mask: str = "") -> np.ndarray:
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

    shown = explain(FakeModel(), a_clip(3))
    figure = pictures.draw(shown)
    norms = [image.norm for axes in figure.axes for image in axes.get_images()]
    (scale,) = [norm for norm in norms if isinstance(norm, LogNorm)]
    assert (scale.vmin, scale.vmax) == (1.0, map_ceiling(shown.relative))


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
    image = pixels(map_png(strange))
    assert image.shape == (128, 313, 3)
    bright = image.sum(2) > 300
    assert bright[128 - 20 : 128 - 10, 50:80].all()
    assert bright.sum() == 300


def test_as_healthy_or_less_is_the_darkest_colour() -> None:
    strange = np.ones((8, 8), np.float32)
    strange[:, :4] = 0.01
    image = pixels(map_png(strange))
    assert image.max() < 10


def test_louder_is_darker_in_the_spectrogram() -> None:
    logmel = np.linspace(-60, 0, 128 * 100, dtype=np.float32).reshape(128, 100)
    image = pixels(spectrogram_png(logmel)).sum(2)
    assert image[0].mean() < image[64].mean() < image[-1].mean()


def test_long_clips_make_no_wider_images() -> None:
    assert pixels(map_png(healthy_map(5000))).shape == (128, 480, 3)
    assert len(map_png(healthy_map(5000))) < 64_000


# The scales ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("front", [FRONT, FrontEnd(sample_rate=48_000, fmax=24_000, n_mels=64), FrontEnd(n_mels=4)])
def test_frequency_ticks_lie_on_their_bands(front: FrontEnd) -> None:
    ticks = frequency_ticks(front)
    centres = front.band_centres()
    for position, label in ticks:
        number, unit = label.split()
        hertz = float(number) * (1000 if unit == "kHz" else 1)
        assert np.interp(position, np.arange(len(centres)), centres) == pytest.approx(hertz, rel=0.03)
    places = [position for position, _ in ticks]
    assert all(b - a >= 0.08 * front.n_mels for a, b in pairwise(places))


def test_the_scale_grows_only_where_much_exceeds_it() -> None:
    strange = healthy_map()
    assert map_ceiling(strange) == 30
    strange[0, 0] = 1e6
    assert map_ceiling(strange) == 30
    strange[:20] *= 100
    assert map_ceiling(strange) in (300, 1000)
