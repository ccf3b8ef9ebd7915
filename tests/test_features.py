"""Front ends against librosa, the HTK formula, and themselves."""

import threading

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auscult.errors import AudioError, AuscultError
from auscult.features import EPSILON, FRONT_ENDS, FrontEnd, front_end

RATE = 16_000
TOLERANCE = 1e-4  # dB


def seconds(n: float = 2.0) -> np.ndarray:
    return np.arange(round(n * RATE)) / RATE


RNG = np.random.default_rng(7)
SOUNDS = {
    "noise": RNG.standard_normal(32_000) * 0.1,
    "quiet noise": RNG.standard_normal(32_000) * 1e-5,
    "pure tone": np.sin(2 * np.pi * 1000 * seconds()),
    "tone off the bins": 0.3 * np.sin(2 * np.pi * 440.4 * seconds()),
    "tone in noise": np.sin(2 * np.pi * 3000 * seconds()) + 1e-4 * RNG.standard_normal(32_000),
    "fading tone": np.sin(2 * np.pi * 500 * seconds()) * np.exp(-8 * seconds()),
    "square wave": np.sign(np.sin(2 * np.pi * 100 * seconds())),
    "noise after silence": np.r_[np.zeros(16_000), RNG.standard_normal(16_000)],
    "click": np.r_[np.zeros(9000), 1.0, np.zeros(22_999)],
    "offset": 1.0 + 1e-4 * RNG.standard_normal(32_000),
    "steep spectrum": np.cumsum(np.cumsum(RNG.standard_normal(32_000))) * 1e-6,
}


def reference_power(wave: np.ndarray, front: FrontEnd) -> np.ndarray:
    """Mel power by librosa in 64 bits."""
    if front.first_seconds:
        wave = wave[: round(front.first_seconds * RATE)]
    wave = wave.astype(np.float64)
    if front.normalise != "none":
        spread = wave.std()
        wave = wave - wave.mean() if front.normalise == "standard" else wave
        wave = wave / spread if spread > 0 else wave
        wave = wave.astype(np.float32).astype(np.float64)
    filters = librosa.filters.mel(
        sr=RATE,
        n_fft=1024,
        n_mels=128,
        htk=front.mel_scale == "htk",
        norm=None if front.mel_norm == "none" else front.mel_norm,
    )
    spectrum = librosa.stft(wave, n_fft=1024, hop_length=512, pad_mode=front.padding, dtype=np.complex128)
    return filters.astype(np.float64) @ np.abs(spectrum) ** 2


def reference(wave: np.ndarray, name: str) -> np.ndarray:
    power = reference_power(wave, FRONT_ENDS[name])
    if name == "dcase2020":
        return 10 * np.log10(power + np.finfo(float).eps)
    if name == "dcase2021":
        return 10 * np.log10(np.maximum(power, np.finfo(float).eps))
    top_db = 80.0 if name == "proxy-outlier" else None
    return librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=top_db)


@pytest.mark.parametrize("sound", SOUNDS)
@pytest.mark.parametrize("name", FRONT_ENDS)
def test_equal_to_librosa(name: str, sound: str) -> None:
    wave = SOUNDS[sound].astype(np.float32)
    ours = FRONT_ENDS[name].logmel(wave).numpy().T
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, reference(wave, name), atol=TOLERANCE)


def test_the_guard_is_needed_and_enough() -> None:
    """In 32 bits alone a pure tone is off by decibels; recomputed frames make up for it."""
    wave = SOUNDS["pure tone"].astype(np.float32)
    exact = reference(wave, "dcase2020")
    fast = FrontEnd(precision="float32").logmel(wave).numpy().T
    assert np.abs(fast - exact).max() > 0.5
    for precision in ("auto", "float64"):
        assert np.abs(FrontEnd(precision=precision).logmel(wave).numpy().T - exact).max() < TOLERANCE


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(1024, 9000),
    level=st.floats(1e-6, 1.0),
    tilt=st.integers(0, 3),
    hz=st.floats(20, 7900),
    tone=st.floats(0, 1),
    seed=st.integers(0, 10**6),
)
def test_equal_to_the_definition_whatever_the_sound(
    n: int, level: float, tilt: int, hz: float, tone: float, seed: int
) -> None:
    noise = np.random.default_rng(seed).standard_normal(n)
    for _ in range(tilt):
        noise = np.cumsum(noise - noise.mean())
        noise /= np.abs(noise).max() + 1e-12
    wave = (level * ((1 - tone) * noise + tone * np.sin(2 * np.pi * hz * np.arange(n) / RATE))).astype(np.float32)
    padded = np.pad(wave.astype(np.float64), 512, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 1024)[::512] * librosa.filters.get_window("hann", 1024)
    power = np.abs(np.fft.rfft(frames)) ** 2 @ librosa.filters.mel(sr=RATE, n_fft=1024, n_mels=128).T
    ours = FRONT_ENDS["dcase2020"].logmel(wave).numpy()
    np.testing.assert_allclose(ours, 10 * np.log10(power + np.finfo(float).eps), atol=TOLERANCE)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize("norm", ["slaney", "none"])
@pytest.mark.parametrize("limits", [(0.0, 8000.0), (200.0, 7000.0)])
def test_mel_filters_equal_librosas(scale: str, norm: str, limits: tuple[float, float]) -> None:
    front = FrontEnd(mel_scale=scale, mel_norm=norm, fmin=limits[0], fmax=limits[1])  # type: ignore[arg-type]
    theirs = librosa.filters.mel(
        sr=RATE,
        n_fft=1024,
        n_mels=128,
        fmin=limits[0],
        fmax=limits[1],
        htk=scale == "htk",
        norm=None if norm == "none" else "slaney",
    )
    np.testing.assert_allclose(front.mel_matrix(), theirs, atol=1e-7, rtol=2e-6)
    mels = librosa.mel_frequencies(130, fmin=limits[0], fmax=limits[1], htk=scale == "htk")
    np.testing.assert_allclose(front.band_centres(), mels[1:-1], rtol=1e-9)


def test_htk_formula() -> None:
    """The HTK book: mel = 2595 log10(1 + f / 700), edges equally spaced, triangles of height one."""
    front = FRONT_ENDS["stgram"]
    top = 2595 * np.log10(1 + 8000 / 700)
    edges = 700 * (10 ** (np.arange(130) * top / 129 / 2595) - 1)
    bins = np.arange(513) * RATE / 1024
    triangles = [np.interp(bins, edges[m : m + 3], [0, 1, 0]) for m in range(128)]
    np.testing.assert_allclose(front.mel_matrix(), triangles, atol=1e-6)


@pytest.mark.parametrize(("length", "frames"), [(10.0, 313), (11.0, 344), (2.0, 63), (1.0, 32)])
def test_frame_counts(length: float, frames: int) -> None:
    front = FRONT_ENDS["dcase2020"]
    assert front.n_frames(round(length * RATE)) == frames
    assert front.logmel(np.ones(round(length * RATE), np.float32)).shape == (frames, 128)


def test_stgram_hears_ten_seconds() -> None:
    wave = RNG.standard_normal(176_000).astype(np.float32)
    front = FRONT_ENDS["stgram"]
    assert front.n_frames(176_000) == 313
    torch.testing.assert_close(front.logmel(wave), front.logmel(wave[:160_000]), rtol=0, atol=0)


@settings(max_examples=20, deadline=None)
@given(batch=st.integers(1, 5), n=st.integers(600, 5000), name=st.sampled_from(sorted(FRONT_ENDS)))
def test_a_batch_equals_its_clips(batch: int, n: int, name: str) -> None:
    waves = np.random.default_rng(n).standard_normal((batch, n)).astype(np.float32)
    together = FRONT_ENDS[name].logmel(waves)
    for wave, spectrum in zip(waves, together, strict=True):
        assert torch.equal(FRONT_ENDS[name].logmel(wave), spectrum)


def test_long_clips_are_computed_in_blocks_that_do_not_show() -> None:
    wave = RNG.standard_normal(16_000 * 60).astype(np.float32)
    front = FRONT_ENDS["dcase2020"]
    whole = front.logmel(wave)
    assert len(whole) == front.n_frames(len(wave))
    np.testing.assert_allclose(whole.numpy().T, reference(wave, "dcase2020"), atol=TOLERANCE)


def test_silence_is_the_floor_and_finite() -> None:
    for name, front in FRONT_ENDS.items():
        spectrum = front.logmel(np.zeros(16_000, np.float32))
        assert torch.isfinite(spectrum).all(), name
        assert spectrum.max() == pytest.approx(10 * np.log10(front.floor), abs=1e-3)


def test_level_is_removed_by_unit_variance_only() -> None:
    wave = SOUNDS["noise"].astype(np.float32)
    for name, front in FRONT_ENDS.items():
        difference = (front.logmel(wave * 0.25) - front.logmel(wave)).abs().max()
        assert (float(difference) < 1e-3) == (name == "proxy-outlier"), name


def test_eighty_decibels_below_the_maximum() -> None:
    spectrum = FRONT_ENDS["proxy-outlier"].logmel(SOUNDS["pure tone"].astype(np.float32))
    assert float(spectrum.max() - spectrum.min()) == pytest.approx(80, abs=1e-3)


def test_too_short() -> None:
    with pytest.raises(AudioError, match="too short"):
        FRONT_ENDS["dcase2020"].logmel(np.zeros(512, np.float32))
    assert FRONT_ENDS["dcase2020"].logmel(np.ones(513, np.float32)).shape == (2, 128)


def test_threads_do_not_share_buffers() -> None:
    waves = [RNG.standard_normal(RATE * (1 + k % 3)).astype(np.float32) for k in range(24)]
    alone = [FRONT_ENDS["dcase2020"].logmel(w) for w in waves]
    found: dict[int, torch.Tensor] = {}

    def work(k: int) -> None:
        for _ in range(3):
            found[k] = FRONT_ENDS["dcase2020"].logmel(waves[k])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[k], alone[k]) for k in range(24))


def test_names_and_changes() -> None:
    assert front_end("dcase2020", n_mels=64).logmel(SOUNDS["noise"].astype(np.float32)).shape[1] == 64
    with pytest.raises(AuscultError, match="no front end"):
        front_end("dcase2019")
    with pytest.raises(ValueError, match="hop_length"):
        FrontEnd(hop_length=2048)
    with pytest.raises(ValueError, match="fmax"):
        FrontEnd(fmax=9000)
    assert FrontEnd().floor == EPSILON
