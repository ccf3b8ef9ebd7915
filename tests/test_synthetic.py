"""Machines made of arithmetic: the same clip for the same key, faults where they are said to be, plants kept whole."""

from __future__ import annotations

import csv
import json
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from auscult.corpus import open_data
from auscult.corpus.synthetic import (
    DEFAULT_SNR_DB,
    MACHINE_TYPES,
    RATE,
    SyntheticClip,
    faults_of,
    machine_ids,
    synthesise,
    write_plant,
)
from auscult.corpus.synthetic_sounds import GRID, band, bump, gate, noise, slope, tones, turns
from auscult.errors import AuscultError

FAULTY = [(machine_type, fault) for machine_type in MACHINE_TYPES for fault in faults_of(machine_type)]


def power(samples: np.ndarray) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64)))


def mean_spectrum(samples: np.ndarray) -> np.ndarray:
    """Mean log power in 64 bands of 125 Hz, dB around their mean, shape (64,)."""
    frames = samples[: len(samples) // 1024 * 1024].reshape(-1, 1024) * np.hanning(1024)
    spectrum = np.square(np.abs(np.fft.rfft(frames))).mean(axis=0)[:512]
    levels = 10.0 * np.log10(spectrum.reshape(64, 8).mean(axis=1))
    return levels - levels.mean()


def difference(
    machine_type: str, fault: str, severity: float = 1.0, index: int = 0
) -> tuple[np.ndarray, SyntheticClip]:
    """What a fault changes, and the faulty clip."""
    machine_id = machine_ids(machine_type, 2)[index % 2]
    faulty = synthesise(machine_type, machine_id, fault=fault, severity=severity, index=index, seconds=6.0)
    healthy = synthesise(machine_type, machine_id, condition="anomaly", index=index, seconds=6.0)
    return faulty.samples.astype(np.float64) - healthy.samples, faulty


def speed_ratio(faulty: np.ndarray, healthy: np.ndarray) -> float:
    """By how much the lines of one spectrum lie higher than those of another."""
    hz = np.arange(100.0, 1200.0, 1.0)
    bins = np.fft.rfftfreq(len(healthy), 1.0 / RATE)
    ours, theirs = (np.log(np.abs(np.fft.rfft(sound)) + 1e-6) for sound in (faulty, healthy))
    smooth = np.hanning(41) / np.hanning(41).sum()
    ours, theirs = (np.convolve(spectrum, smooth, "same") for spectrum in (ours, theirs))
    ratios = np.arange(0.85, 1.2, 0.005)
    still = np.interp(hz, bins, theirs)
    alike = [np.corrcoef(np.interp(hz * ratio, bins, ours), still)[0, 1] for ratio in ratios]
    return float(ratios[np.argmax(alike)])


# One clip -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine_type", MACHINE_TYPES)
def test_clips_have_the_length_and_level_of_the_challenge(machine_type: str) -> None:
    clip = synthesise(machine_type, "id_02")
    assert clip.samples.shape == ((176_000 if machine_type == "ToyCar" else 160_000),)
    assert clip.samples.dtype == np.float32
    assert clip.regions == ()
    assert 0.005 < np.sqrt(power(clip.samples)) < 0.08
    assert abs(float(clip.samples.mean())) < 0.002


@pytest.mark.parametrize("machine_type", MACHINE_TYPES)
def test_the_same_key_gives_the_same_clip_and_any_other_key_another(machine_type: str) -> None:
    key = {"seed": 3, "split": "test", "condition": "normal", "index": 7, "seconds": 2.0}
    one = synthesise(machine_type, "id_00", **key).samples
    assert np.array_equal(one, synthesise(machine_type, "id_00", **key).samples)
    for change in ({"seed": 4}, {"split": "train"}, {"condition": "anomaly"}, {"index": 8}):
        other = synthesise(machine_type, "id_00", **{**key, **change}).samples
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.5, change


@pytest.mark.parametrize("machine_type", MACHINE_TYPES)
def test_an_id_sounds_more_like_itself_than_like_another(machine_type: str) -> None:
    ids = machine_ids(machine_type, 4)
    clips = [[synthesise(machine_type, i, index=k, snr_db=60.0, seconds=4.0).samples for k in range(3)] for i in ids]
    spectra = np.array([[mean_spectrum(clip) for clip in same] for same in clips])
    within = np.mean([np.abs(same[0] - same[1:]).mean() for same in spectra])
    between = np.mean([np.abs(spectra[a] - spectra[b]).mean() for a, b in combinations(range(4), 2)])
    assert 0.2 < within < 0.6 * between


@pytest.mark.parametrize(("machine_type", "fault"), FAULTY)
def test_severity_zero_is_healthy_sample_for_sample(machine_type: str, fault: str) -> None:
    clip = synthesise(machine_type, "id_01", fault=fault, severity=0.0, seconds=3.0, index=2)
    healthy = synthesise(machine_type, "id_01", condition="anomaly", seconds=3.0, index=2)
    assert np.array_equal(clip.samples, healthy.samples)
    assert clip.regions == ()


@pytest.mark.parametrize(("machine_type", "fault"), FAULTY)
def test_a_fault_changes_the_sound_where_it_says(machine_type: str, fault: str) -> None:
    for index in (0, 1):
        change, clip = difference(machine_type, fault, index=index)
        assert power(change) > 1e-4 * power(clip.samples)
        low, high = clip.regions[0].low, clip.regions[0].high
        assert {(r.low, r.high) for r in clip.regions} == {(low, high)}
        hz = np.fft.rfftfreq(len(change), 1.0 / RATE)
        spectrum = np.square(np.abs(np.fft.rfft(change)))
        assert spectrum[(hz >= low) & (hz <= high)].sum() > 0.8 * spectrum.sum()
        inside = gate(len(change), [(r.start, r.end) for r in clip.regions]) > 0
        assert power(change * inside) > 0.99 * power(change)


@pytest.mark.parametrize(
    ("machine_type", "fault"),
    [
        ("fan", "rattle"),
        ("slider", "missing-stroke"),
        ("slider", "rail-damage"),
        ("valve", "missing-stroke"),
        ("ToyCar", "rattle"),
        ("ToyConveyor", "slipping-belt"),
        ("ToyConveyor", "damaged-roller"),
    ],
)
def test_a_passing_fault_is_pinned_to_a_part_of_the_clip(machine_type: str, fault: str) -> None:
    for index in range(4):
        _, clip = difference(machine_type, fault, index=index)
        assert 0.0 < sum(r.end - r.start for r in clip.regions) < 0.6 * len(clip.samples) / RATE
        assert all(a.end < b.start for a, b in zip(clip.regions, clip.regions[1:], strict=False))


@pytest.mark.parametrize(("machine_type", "fault"), [f for f in FAULTY if f[1] != "detuned-motor"])
def test_a_worse_fault_changes_more(machine_type: str, fault: str) -> None:
    differences = [difference(machine_type, fault, severity) for severity in (0.3, 1.0, 3.0)]
    if fault == "late-stroke":
        extents = [sum(r.end - r.start for r in clip.regions) for _, clip in differences]
    else:
        extents = [power(change) for change, _ in differences]
    assert extents == sorted(extents)
    assert extents[0] < extents[2]


@pytest.mark.parametrize(("machine_type", "per_severity"), [("ToyCar", -0.03), ("ToyConveyor", 0.05)])
def test_a_detuned_motor_is_off_by_as_much_as_the_severity_says(machine_type: str, per_severity: float) -> None:
    how = {"seconds": 6.0, "snr_db": 40.0, "condition": "anomaly"}
    healthy = synthesise(machine_type, "id_01", **how).samples  # type: ignore[arg-type]
    for severity in (1.0, 2.0, 3.0):
        faulty = synthesise(machine_type, "id_01", fault="detuned-motor", severity=severity, **how)  # type: ignore[arg-type]
        assert speed_ratio(faulty.samples, healthy) == pytest.approx(1.0 + severity * per_severity, abs=0.0101)


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 6.0])
@pytest.mark.parametrize("machine_type", MACHINE_TYPES)
def test_the_machine_stands_above_the_background_by_the_snr(machine_type: str, snr_db: float) -> None:
    machine = synthesise(machine_type, "id_00", snr_db=100.0, seconds=4.0).samples.astype(np.float64)
    mixed = synthesise(machine_type, "id_00", snr_db=snr_db, seconds=4.0).samples.astype(np.float64)
    heard = machine * (mixed @ machine) / (machine @ machine)
    assert 10.0 * np.log10(power(heard) / power(mixed - heard)) == pytest.approx(snr_db, abs=0.7)


def test_the_background_differs_from_clip_to_clip() -> None:
    halls = [mean_spectrum(synthesise("fan", "id_00", snr_db=-100.0, index=k, seconds=4.0).samples) for k in range(4)]
    apart = [np.abs(a - b).mean() for i, a in enumerate(halls) for b in halls[:i]]
    assert min(apart) > 1.0


@settings(max_examples=50, deadline=None)
@given(
    which=st.sampled_from(FAULTY),
    machine=st.integers(0, 9),
    severity=st.floats(0.0, 100.0),
    snr_db=st.floats(-100.0, 100.0),
    seconds=st.floats(1.0, 3.0),
    seed=st.integers(0, 2**63),
)
def test_no_clip_ever_clips(
    which: tuple[str, str], machine: int, severity: float, snr_db: float, seconds: float, seed: int
) -> None:
    machine_type, fault = which
    clip = synthesise(
        machine_type, f"id_{machine:02d}", fault=fault, severity=severity, snr_db=snr_db, seconds=seconds, seed=seed
    )
    assert clip.samples.shape == (round(seconds * RATE),)
    assert clip.samples.dtype == np.float32
    assert np.isfinite(clip.samples).all()
    assert np.abs(clip.samples).max() < 1.0
    for region in clip.regions:
        assert 0.0 <= region.start < region.end <= len(clip.samples) / RATE
        assert 0.0 <= region.low < region.high <= RATE / 2
    assert [r.start for r in clip.regions] == sorted(r.start for r in clip.regions)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"machine_type": "lathe"}, "fan, pump"),
        ({"fault": "leak"}, "imbalance, bearing"),
        ({"severity": -0.1}, "severity"),
        ({"severity": float("nan")}, "severity"),
        ({"snr_db": float("inf")}, "snr_db"),
        ({"seconds": 0}, "seconds"),
        ({"seed": -1}, "seed"),
        ({"index": -1}, "index"),
    ],
)
def test_a_clip_that_makes_no_sense_is_refused(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(AuscultError, match=named):
        synthesise(**{"machine_type": "fan", "machine_id": "id_00", **wrong})  # type: ignore[arg-type]


# A plant ------------------------------------------------------------------------------------------------

SMALL = {"machine_types": ("valve", "ToyCar"), "ids": 2, "train": 2, "test_normal": 1, "test_anomaly": 2}


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plants") / "plant"
    write_plant(root, **SMALL)  # type: ignore[arg-type]
    return root


def test_a_plant_has_the_layout_of_dcase_2020(plant: Path) -> None:
    clips = sorted(plant.rglob("*.wav"))
    pattern = re.compile(r"(valve|ToyCar)/(train/normal|test/normal|test/anomaly)_id_0[0-9]_000000[0-9]{2}\.wav")
    assert all(pattern.fullmatch(clip.relative_to(plant).as_posix()) for clip in clips)
    table = open_data(plant).table
    assert len(table) == len(clips) == 2 * 2 * 5
    counts = table.groupby(["machine_type", "machine_id", "split", "condition"]).size()
    assert set(table[["machine_type", "machine_id"]].itertuples(index=False, name=None)) == {
        ("valve", "id_00"),
        ("valve", "id_02"),
        ("ToyCar", "id_01"),
        ("ToyCar", "id_02"),
    }
    for machine in counts.index.droplevel([2, 3]).unique():
        assert counts[machine].to_dict() == {("train", "normal"): 2, ("test", "normal"): 1, ("test", "anomaly"): 2}


def test_clips_are_16_khz_mono_16_bit(plant: Path) -> None:
    for file in plant.rglob("*.wav"):
        about = soundfile.info(file)
        assert (about.samplerate, about.channels, about.format, about.subtype) == (16_000, 1, "WAV", "PCM_16")
        assert about.frames == (176_000 if "ToyCar" in file.parts else 160_000)


def test_a_file_holds_what_synthesise_makes(plant: Path) -> None:
    stored, _ = soundfile.read(plant / "valve/test/anomaly_id_02_00000001.wav", dtype="int16")
    clip = synthesise("valve", "id_02", fault=faults_of("valve")[1], split="test", index=1)
    assert np.abs(stored / 32767.0 - clip.samples).max() <= 0.5 / 32767 + 1e-7


def test_faults_csv_names_every_anomalous_clip_and_its_regions(plant: Path) -> None:
    with open(plant / "faults.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    anomalous = {p.relative_to(plant).as_posix() for p in plant.rglob("anomaly_*.wav")}
    assert {row["path"] for row in rows} == anomalous
    for path in anomalous:
        mine = [row for row in rows if row["path"] == path]
        machine_type, index = path.split("/")[0], int(path[-12:-4])
        machine_id = re.findall(r"id_\d\d", path)[0]
        assert {row["fault"] for row in mine} == {faults_of(machine_type)[index]}
        assert {float(row["severity"]) for row in mine} == {1.0}
        clip = synthesise(machine_type, machine_id, fault=mine[0]["fault"], split="test", index=index)
        stated = [[float(row[c]) for c in ("start_s", "end_s", "low_hz", "high_hz")] for row in mine]
        meant = [[r.start, r.end, r.low, r.high] for r in clip.regions]
        np.testing.assert_allclose(stated, meant, atol=0.06)


def test_the_bytes_do_not_depend_on_workers_nor_a_clip_on_the_counts(plant: Path, tmp_path: Path) -> None:
    write_plant(tmp_path / "threads", **SMALL, workers=3)  # type: ignore[arg-type]
    assert contents(tmp_path / "threads") == contents(plant)
    more = {**SMALL, "machine_types": ("ToyCar",), "ids": 3, "train": 3, "test_normal": 0, "test_anomaly": 3}
    write_plant(tmp_path / "more", **more)  # type: ignore[arg-type]
    small, large = contents(plant), contents(tmp_path / "more")
    common = {name for name in small.keys() & large.keys() if name.endswith(".wav")}
    assert len(common) == 2 * 4
    assert all(small[name] == large[name] for name in common)


def test_an_interrupted_plant_is_finished_by_the_next_call(plant: Path, tmp_path: Path) -> None:
    made = 0

    def pull_the_plug() -> None:
        nonlocal made
        made += 1
        if made == 7:
            raise KeyboardInterrupt

    root = tmp_path / "plant"
    with pytest.raises(KeyboardInterrupt):
        write_plant(root, **SMALL, progress=pull_the_plug)  # type: ignore[arg-type]
    assert not (root / "faults.csv").exists()
    assert len(list(root.rglob("*.wav"))) == 7
    (root / "valve/train/.normal_id_02_00000001.wav.x1y2.tmp").write_bytes(b"RIFF")
    done = []
    write_plant(root, **SMALL, progress=lambda: done.append(1))  # type: ignore[arg-type]
    assert len(done) == 20
    assert contents(root) == contents(plant)


def test_a_finished_plant_is_left_as_it_is(plant: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in plant.rglob("*")}
    called = []
    write_plant(plant, **SMALL, workers=2, progress=lambda: called.append(1))  # type: ignore[arg-type]
    assert not called
    assert {p: p.stat().st_mtime_ns for p in plant.rglob("*")} == before


@pytest.mark.parametrize("change", [{"seed": 1}, {"train": 3}, {"snr_db": 0.0}, {"machine_types": ("valve",)}])
def test_another_plant_in_the_same_folder_is_refused(plant: Path, change: dict[str, object]) -> None:
    before = contents(plant)
    with pytest.raises(AuscultError, match=f"other parameters \\({next(iter(change))}\\)"):
        write_plant(plant, **{**SMALL, **change})  # type: ignore[arg-type]
    assert contents(plant) == before


def test_recordings_that_are_not_ours_are_not_overwritten(tmp_path: Path) -> None:
    theirs = tmp_path / "valve/train/normal_id_00_00000000.wav"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"mine")
    with pytest.raises(AuscultError, match="already holds valve"):
        write_plant(tmp_path, **SMALL)  # type: ignore[arg-type]
    assert contents(tmp_path) == {"valve/train/normal_id_00_00000000.wav": b"mine"}


@pytest.mark.parametrize("text", ["{", "7", "[1]"])
def test_a_damaged_plant_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "plant.json").write_text(text)
    with pytest.raises(AuscultError, match=r"plant\.json"):
        write_plant(tmp_path, **SMALL)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [{"ids": 0}, {"train": -1}, {"test_anomaly": -1}, {"seed": -1}, {"workers": 0}, {"machine_types": ()}],
)
def test_a_plant_that_makes_no_sense_is_refused_before_anything_is_written(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    with pytest.raises(AuscultError, match=next(iter(wrong))):
        write_plant(tmp_path / "plant", **{**SMALL, **wrong})  # type: ignore[arg-type]
    assert not (tmp_path / "plant").exists()


def test_plant_json_tells_the_parameters(plant: Path) -> None:
    told = json.loads((plant / "plant.json").read_text())
    assert told["finished"] is True
    assert told["snr_db"] == DEFAULT_SNR_DB
    assert told["machine_types"] == ["valve", "ToyCar"]


# The sounds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [16_000, 33_333])
def test_noise_has_the_spectrum_asked_for(n: int) -> None:
    curve = slope(-4.0) * bump(1500.0, 200.0, 12.0)
    sounds = np.array([noise(np.random.default_rng(k), n, curve) for k in range(40)])
    assert power(sounds) == pytest.approx(1.0, rel=0.03)
    spectrum = np.square(np.abs(np.fft.rfft(sounds, axis=1))).mean(axis=0)
    hz = np.fft.rfftfreq(n, 1.0 / RATE)
    meant = np.square(np.interp(hz, GRID, curve))
    middles = range(200, 7800, 200)
    ratios = [spectrum[np.abs(hz - m) < 40].sum() / meant[np.abs(hz - m) < 40].sum() for m in middles]
    assert np.ptp(10.0 * np.log10(ratios)) < 1.5


def test_band_noise_stays_in_its_band() -> None:
    sound = noise(np.random.default_rng(0), RATE, band(2000.0, 3000.0))
    spectrum, hz = np.square(np.abs(np.fft.rfft(sound))), np.fft.rfftfreq(RATE, 1.0 / RATE)
    assert spectrum[(hz > 1990) & (hz < 3010)].sum() > 0.999 * spectrum.sum()


def test_tones_are_the_harmonics_of_the_rotation() -> None:
    rotation = turns(np.random.default_rng(0), RATE, 100.0)
    assert rotation[-1] - rotation[0] == pytest.approx(100.0 * (RATE - 1) / RATE)
    sound = tones(np.random.default_rng(1), rotation, [1.0, 0.0, 0.5])
    amplitudes = np.abs(np.fft.rfft(sound)) * 2.0 / RATE
    assert amplitudes[300] / amplitudes[100] == pytest.approx(0.5, rel=0.01)
    assert power(sound) == pytest.approx(1.0, rel=0.01)
    amplitudes[[100, 300]] = 0.0
    assert amplitudes.max() < 0.005
