"""Sound that goes on: each frame is computed once, and windows score as if they were cut out of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import auscult
from auscult.corpus import Clip
from auscult.errors import AuscultError
from auscult.features import FRONT_ENDS, FrontEnd, front_end
from auscult.model import Model
from auscult.monitor.frames import LiveFrames
from auscult.monitor.ring import Ring
from auscult.monitor.sliding import SILENCE, Sliding
from conftest import RATE, machine_sound

WAVE = machine_sound(7, seconds=6).astype(np.float32)


def pieces(wave: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    """A waveform cut at these sizes, over and over."""
    start = number = 0
    while start < len(wave):
        size = sizes[number % len(sizes)]
        yield wave[start : start + size]
        start, number = start + size, number + 1


# The ring -------------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.lists(st.integers(0, 20), max_size=30))
@settings(max_examples=200, deadline=None)
def test_the_ring_holds_the_newest(keep: int, sizes: list[int]) -> None:
    ring, everything = Ring(keep), np.empty(0, np.float32)
    for size in sizes:
        rows = np.arange(len(everything), len(everything) + size, dtype=np.float32)
        ring.append(rows)
        everything = np.concatenate([everything, rows])
        assert ring.end == len(everything)
        assert ring.begin <= max(0, ring.end - keep)
        start = max(ring.begin, ring.end - keep)
        assert np.array_equal(ring.slice(start, ring.end), everything[start:])
    with pytest.raises(IndexError):
        ring.slice(ring.end, ring.end + 1)


# Frames ---------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=6), st.sampled_from([300, 1023, 16_000, 40_001]))
@settings(max_examples=40, deadline=None)
def test_frames_equal_those_of_the_whole(sizes: list[int], length: int) -> None:
    front, wave = FRONT_ENDS["dcase2020"], WAVE[:length]
    frames = LiveFrames(front, 1000)
    for piece in pieces(wave, sizes):
        frames.feed(piece)
    frames.finish()
    if length <= front.n_fft // 2:
        assert frames.end == 0
        return
    whole = front.logmel(wave)
    assert frames.end == len(whole)
    assert torch.allclose(frames.logmel(0, frames.end, wave), whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "front",
    [
        FRONT_ENDS["dcase2021"],
        FRONT_ENDS["proxy-outlier"],
        FRONT_ENDS["stgram"],
        front_end("dcase2020", n_fft=512, hop_length=512),
        front_end("dcase2020", n_fft=1024, hop_length=400, n_mels=40),
        front_end("dcase2020", top_db=30.0),
    ],
    ids=["2021", "proxy-outlier", "stgram", "no overlap", "odd hop", "top_db"],
)
def test_frames_of_every_front_end_equal_those_of_the_whole(front: FrontEnd) -> None:
    assert LiveFrames.can_follow(front, 3.0)
    wave = WAVE[: 3 * RATE]
    frames = LiveFrames(front, 1000)
    for piece in pieces(wave, [777, 16_000, 1]):
        frames.feed(piece)
    frames.finish()
    assert torch.allclose(frames.logmel(0, frames.end, wave), front.logmel(wave), atol=2e-4, rtol=0)


def test_each_frame_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    plain = FrontEnd.mel_power

    def counting(self: FrontEnd, samples: np.ndarray, start: int, stop: int) -> np.ndarray:
        computed.append(stop - start)
        assert len(samples) < 3 * RATE, "the samples heard pile up"
        return plain(self, samples, start, stop)

    monkeypatch.setattr(FrontEnd, "mel_power", counting)
    frames = LiveFrames(FRONT_ENDS["dcase2020"], 100)
    for piece in pieces(np.tile(WAVE, 10), [RATE, 5000]):
        frames.feed(piece)
    assert sum(computed) == frames.end == (60 * RATE - 513) // 512 + 1


# Windows --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(fitted: Path, tiny_plant: Path, made_once: Callable[..., Path]) -> dict[str, Model]:
    def more(folder: Path) -> None:
        for name, detector, how in (
            ("std", "ae", {"front_end": "proxy-outlier", "max_steps": 20}),
            ("idnn", "idnn", {"max_steps": 20, "aggregation": "top-10%"}),
        ):
            auscult.fit(tiny_plant, detector, settings=how).save(folder / f"{name}.auscult")

    folder = made_once("sliding", more)
    files = [fitted / "knn.auscult", fitted / "ae.auscult", folder / "std.auscult", folder / "idnn.auscult"]
    return {file.stem: auscult.load(file) for file in files}


def expected(model: Model, wave: np.ndarray, start: int, window: int) -> float:
    """The score of a window cut out of the log-mel of everything."""
    front = model.detector.front_end
    first, stop = -(-start // front.hop_length), (start + window) // front.hop_length + 1
    samples = wave[start : start + window]
    plain = front.model_copy(update={"normalise": "none", "top_db": None})
    if front.normalise == "std":
        wave = wave / np.float32(samples.std(dtype=np.float64))
    logmel = plain.logmel(wave)[first:stop].clone()
    if front.top_db is not None:
        logmel = logmel.clamp(min=float(logmel.max()) - front.top_db)
    with torch.inference_mode():
        return model.detector.score_of(Clip(path="window", samples=samples, rate=RATE), logmel)


@pytest.mark.parametrize("name", ["knn", "ae", "std", "idnn"])
@pytest.mark.parametrize(("window", "hop"), [(2.0, 1.0), (1.0, 0.33), (0.5, 1.25)])
def test_windows_score_as_if_cut_out_of_the_whole(
    models: dict[str, Model], name: str, window: float, hop: float
) -> None:
    model = models[name]
    sliding = Sliding(model, window, hop)
    judged = [j for piece in pieces(WAVE, [RATE, 3000, 123]) for j in sliding.feed(piece)]
    n_window, n_hop = round(window * RATE), round(hop * RATE)
    starts = range(0, len(WAVE) - n_window - 512, n_hop)
    assert [round(j.end * RATE) for j in judged] == [start + n_window for start in starts]
    for judgement, start in zip(judged, starts, strict=True):
        assert judgement.score == pytest.approx(expected(model, WAVE, start, n_window), rel=1e-4)
        assert judgement.p_value == model.calibration.p_values(np.array([judgement.score]))[0]


def test_a_windows_score_is_nearly_the_clips(models: dict[str, Model]) -> None:
    """But for the frames at the ends, which in a clip hear its mirror image and here what was really there."""
    for name in ("knn", "ae"):
        model = models[name]
        judged = list(Sliding(model, 2.0).feed(WAVE))
        clips = [WAVE[start : start + 2 * RATE] for start in range(0, 4 * RATE, RATE)]
        assert [j.score for j in judged] == pytest.approx(model.score(clips, rate=RATE).tolist(), rel=0.1)


def test_what_cannot_be_followed_frame_by_frame_is_judged_as_clips(models: dict[str, Model]) -> None:
    model = auscult.model.Model(models["knn"].detector, models["knn"].calibration, {}, models["knn"].usual)
    before = model.detector.front_end
    model.detector.front_end = front_end("dcase2020", normalise="standard")
    try:
        sliding = Sliding(model, 2.0)
        assert not sliding.follows
        judged = list(sliding.feed(WAVE[: 3 * RATE]))
        clips = [WAVE[: 2 * RATE], WAVE[RATE : 3 * RATE]]
        assert [j.score for j in judged] == model.score(clips, rate=RATE).tolist()
    finally:
        model.detector.front_end = before


def test_a_recording_shorter_than_a_window_is_judged_as_a_clip(models: dict[str, Model]) -> None:
    sliding = Sliding(models["knn"], 10.0)
    assert list(sliding.feed(WAVE)) == []
    last = sliding.finish()
    assert last is not None
    assert last.score == models["knn"].score([WAVE], rate=RATE)[0]
    assert last.end == 6.0
    sliding.reset()
    assert sliding.finish() is None


def test_silence_is_not_judged(models: dict[str, Model]) -> None:
    wave = np.concatenate([WAVE[: 2 * RATE], np.zeros(3 * RATE, np.float32), WAVE[: 2 * RATE]])
    errors = [j.error for j in Sliding(models["ae"], 1.0).feed(wave)]
    assert errors == ["", "", SILENCE, SILENCE, SILENCE, ""]


def test_the_map_is_of_the_last_window(models: dict[str, Model]) -> None:
    sliding = Sliding(models["ae"], 2.0, keep=5.0)
    list(sliding.feed(WAVE))
    logmel, strange = sliding.picture()
    clip = Clip(path="last", samples=WAVE[3 * RATE : 5 * RATE], rate=RATE)
    assert np.array_equal(logmel, models["ae"].logmel(clip))
    assert np.array_equal(strange, models["ae"].relative_map(clip))
    sound, begins = sliding.sound(2.0)
    assert np.array_equal(sound, WAVE[2 * RATE :])
    assert begins == 2.0


def test_windows_that_are_none_are_refused(models: dict[str, Model]) -> None:
    with pytest.raises(AuscultError, match="too short for ae"):
        Sliding(models["ae"], 0.1)
    with pytest.raises(AuscultError, match="lengths of time"):
        Sliding(models["ae"], 1.0, 0.0)
