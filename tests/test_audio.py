"""Files become waveforms, or are refused by name."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from auscult import audio
from auscult.errors import AudioError


def tone(seconds: float = 0.5, rate: int = 16_000, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        (".wav", "PCM_16", 1 / 2**15),
        (".wav", "PCM_24", 1 / 2**23),
        (".wav", "PCM_32", 1 / 2**23),
        (".wav", "FLOAT", 0),
        (".wav", "DOUBLE", 0),
        (".wav", "PCM_U8", 1 / 2**6),
        (".flac", "PCM_16", 1 / 2**15),
        (".flac", "PCM_24", 1 / 2**23),
        (".ogg", "VORBIS", 0.05),
        (".mp3", "MPEG_LAYER_III", 0.1),
    ],
)
def test_formats(tmp_path: Path, suffix: str, subtype: str, tolerance: float) -> None:
    file = tmp_path / f"clip{suffix}"
    soundfile.write(file, tone(), 16_000, subtype=subtype)
    wave = audio.read(file)
    assert wave.dtype == np.float32
    assert wave.flags.c_contiguous
    n = min(len(wave), len(tone()))
    assert abs(len(wave) - len(tone())) <= (0 if suffix != ".mp3" else 3000)
    if suffix != ".mp3":
        np.testing.assert_allclose(wave[:n], tone()[:n], atol=tolerance)
    else:
        assert np.sqrt((wave**2).mean()) == pytest.approx(np.sqrt((tone() ** 2).mean()), rel=tolerance)


def test_integers_are_scaled_exactly_as_libsndfile_does(tmp_path: Path) -> None:
    file = tmp_path / "clip.wav"
    everything = np.arange(-(2**15), 2**15, dtype=np.int16)
    soundfile.write(file, everything, 16_000, subtype="PCM_16")
    np.testing.assert_array_equal(audio.read(file), soundfile.read(file, dtype="float32")[0])


def test_channels(tmp_path: Path) -> None:
    file = tmp_path / "eight.wav"
    channels = np.stack([tone(hz=100.0 * (k + 1)) for k in range(8)], axis=1)
    soundfile.write(file, channels, 16_000, subtype="FLOAT")
    np.testing.assert_array_equal(audio.read(file), channels[:, 0])
    np.testing.assert_array_equal(audio.read(file, channel=5), channels[:, 5])
    np.testing.assert_allclose(audio.read(file, channel="mean"), channels.mean(axis=1), atol=1e-6)
    with pytest.raises(AudioError, match=r"no channel 8; the recording has 8"):
        audio.read(file, channel=8)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_pitch_level_and_length(tmp_path: Path, rate: int) -> None:
    file = tmp_path / "clip.wav"
    soundfile.write(file, tone(1.0, rate, 1000.0), rate, subtype="PCM_24")
    wave = audio.read(file)
    assert len(wave) == pytest.approx(16_000, abs=1)
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    assert np.argmax(spectrum) * 16_000 / len(wave) == pytest.approx(1000, abs=1.5)
    assert np.sqrt((wave[1000:-1000] ** 2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 400),
    channels=st.integers(1, 3),
    kind=st.sampled_from(["int16", "int32", "float32", "float64"]),
)
def test_samples_in_memory(n: int, channels: int, kind: str) -> None:
    rng = np.random.default_rng(n)
    floats = rng.uniform(-1, 1, (n, channels))
    samples = (floats * (2**15 - 1)).astype(kind) if kind == "int16" else floats.astype(kind)
    if kind == "int32":
        samples = (floats * (2**31 - 1)).astype(kind)
    wave = audio.prepare(samples, 16_000, 16_000)
    np.testing.assert_allclose(wave, floats[:, 0], atol=1e-4)


def write_bytes(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


def wav_bytes(tmp_path: Path, samples: np.ndarray, subtype: str = "PCM_16") -> bytes:
    file = tmp_path / "source.wav"
    soundfile.write(file, samples, 16_000, subtype=subtype)
    return file.read_bytes()


@pytest.mark.parametrize("kept", [0.9, 0.5, 0.1])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    whole = tmp_path / f"whole{suffix}"
    soundfile.write(whole, np.random.default_rng(0).standard_normal(40_000) * 0.1, 16_000)
    content = whole.read_bytes()
    cut = write_bytes(tmp_path / f"cut{suffix}", content[: int(len(content) * kept)])
    audio.read(whole)
    with pytest.raises(AudioError, match="cut"):
        audio.read(cut)


def test_wav_with_a_length_that_was_never_filled_in_is_read(tmp_path: Path) -> None:
    content = bytearray(wav_bytes(tmp_path, tone()))
    place = content.index(b"data") + 4
    content[place : place + 4] = b"\xff\xff\xff\xff"
    assert len(audio.read(write_bytes(tmp_path / "piped.wav", bytes(content)))) == len(tone())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"this is no sound at all\n" * 10, "no audio could be read"),
        (b"RIFF\x24\x00\x00\x00WAVE", "no audio could be read"),
    ],
)
def test_no_audio(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(AudioError, match=says) as caught:
        audio.read(write_bytes(tmp_path / "bad.wav", content))
    assert str(tmp_path / "bad.wav") in str(caught.value)
    assert caught.value.remedy


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="there is no such file"):
        audio.read(tmp_path / "none.wav")
    with pytest.raises(AudioError, match="is a folder"):
        audio.read(tmp_path)


def test_zero_length(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0), 16_000)
    with pytest.raises(AudioError, match="no samples"):
        audio.read(tmp_path / "nothing.wav")


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path: Path, poison: float) -> None:
    samples = tone()
    samples[100] = poison
    soundfile.write(tmp_path / "bad.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN or infinite"):
        audio.read(tmp_path / "bad.wav")


def test_hours_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "long.wav", tone(), 16_000)
    monkeypatch.setattr(audio, "LONGEST_CLIP", 0.1)
    with pytest.raises(AudioError, match="hours long"):
        audio.read(tmp_path / "long.wav")


def test_silence() -> None:
    assert audio.is_silent(np.zeros(10))
    assert audio.is_silent(np.full(10, 0.25))
    assert not audio.is_silent(tone())
