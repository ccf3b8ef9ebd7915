"""The summary counts right, and finds every problem that was planted, and none that was not."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auscult.corpus import Manifest, open_data
from auscult.corpus.recordings import copies, probe
from auscult.corpus.summary import Summary, summarise

REAL = Path(os.environ.get("AUSCULT_TEST_DATA", Path(__file__).parents[1] / "../shared/data"))
seeds = itertools.count()


def record(file: Path, seconds: float = 0.1, rate: int = 8000, channels: int = 1) -> Path:
    """Write noise that no other call writes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(next(seeds)).uniform(-0.5, 0.5, (round(seconds * rate), channels))
    soundfile.write(file, noise, rate, subtype="PCM_16")
    return file


@pytest.fixture
def pump(tmp_path: Path) -> Path:
    """A machine without any problem: two clips to train on, a normal and an anomaly to test on."""
    home = tmp_path / "plant" / "pump"
    for name in ("train/normal_1", "train/normal_2", "test/normal_3", "test/anomaly_1"):
        record(home / f"{name}.wav")
    return home


def look(folder: Path) -> Summary:
    return summarise(open_data(folder))


def problem(folder: Path) -> str:
    """The only problem of a folder."""
    problems = look(folder).problems
    assert len(problems) == 1, problems
    return problems[0]


def test_a_sound_folder_has_no_problems(pump: Path) -> None:
    summary = look(pump.parent)
    assert summary.problems == []
    assert summary.lines()[-1] == "no problems found"


def test_counts_and_format(pump: Path) -> None:
    record(pump.parent / "fan/id_02/abnormal/1.flac", seconds=0.2, rate=16_000, channels=2)
    summary = look(pump.parent)
    assert summary.n_clips == 5
    assert summary.counts.values.tolist() == [
        ["fan", "id_02", "unknown", 0, 1, 0],
        ["pump", "id_00", "test", 1, 1, 0],
        ["pump", "id_00", "train", 2, 0, 0],
    ]
    assert summary.rates == {8000: 4, 16_000: 1}
    assert summary.channels == {1: 4, 2: 1}
    assert sorted(summary.seconds) == pytest.approx([0.1] * 4 + [0.2])
    text = summary.render()
    for part in ("5 clips of 2 machines, 2 machine types, 0.6 s", "0.10 to 0.20 s", "8000 Hz (4), 16000 Hz (1)"):
        assert part in text
    assert "layout folder" in text


@pytest.mark.parametrize(("seconds", "said"), [(75, "1 min 15 s"), (2 * 3599.9, "2 h 0 min")])
def test_the_total_length_is_easy_to_read(tmp_path: Path, seconds: float, said: str) -> None:
    for number in range(1 + (seconds > 3600)):
        record(tmp_path / "press" / f"normal_{number}.wav", seconds=seconds / (1 + (seconds > 3600)), rate=100)
    assert said in look(tmp_path / "press").lines()[0]


def test_without_opening_files_only_the_table_counts(tmp_path: Path) -> None:
    (tmp_path / "press").mkdir()
    (tmp_path / "press" / "1.wav").write_bytes(b"no audio")
    summary = summarise(open_data(tmp_path / "press"), deep=False)
    assert summary.headers == ()
    assert summary.problems == [f"1 clip has no condition ({tmp_path}/press/1.wav)"]
    assert "sample rate" not in summary.render()


# --- files ----------------------------------------------------------------------------------------------------


def test_broken_clips_are_reported_each_with_its_reason(pump: Path) -> None:
    (pump / "test" / "normal_4.wav").write_bytes(b"")
    assert "1 clip cannot be read" in problem(pump)
    assert "normal_4.wav: the file is empty" in problem(pump)
    (pump / "test" / "normal_5.wav").write_bytes(b"RIFF, but not for long")
    record(pump / "test" / "normal_6.wav", seconds=0)
    (pump / "test" / "normal_7.wav").symlink_to("nowhere.wav")
    summary = look(pump)
    assert "4 clips cannot be read (first: " in summary.problems[0]
    reasons = [header.error for header in summary.headers if header.error]
    assert reasons == ["the file is empty", "no audio in it", "it holds no samples", "there is no such file"]


@given(junk=st.binary(max_size=200), whole=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_content_raises(pump: Path, junk: bytes, whole: bool) -> None:
    good = (pump / "train" / "normal_1.wav").read_bytes()
    (pump / "test" / "normal_4.wav").write_bytes(junk if whole else good[: len(junk)] + junk)
    assert len(look(pump).headers) == 5


def test_a_clip_in_memory_has_no_header(pump: Path) -> None:
    clip = open_data(pump).clips()[0]
    assert probe(type(clip)(path="live")).error == "it has no file"


def test_a_recording_of_hours_is_no_clip(pump: Path) -> None:
    soundfile.write(pump / "test" / "normal_4.wav", np.zeros(3700 * 2, np.int16), 2, subtype="PCM_U8")
    assert any(p.startswith("1 clip is longer than an hour (") for p in look(pump).problems)


def test_a_clip_shared_by_train_and_test_is_a_leak(pump: Path) -> None:
    shutil.copy(pump / "train" / "normal_2.wav", pump / "test" / "normal_9.wav")
    leak, copy = look(pump).problems
    assert leak.startswith("1 recording is in both train and test")
    assert f"({pump}/train/normal_2.wav and {pump}/test/normal_9.wav)" in leak
    assert copy.startswith("1 clip is a copy of another under a different name (")


def test_a_clip_that_is_both_normal_and_anomaly(pump: Path) -> None:
    for copy in ("anomaly_2.wav", "anomaly_3.wav"):
        shutil.copy(pump / "test" / "normal_3.wav", pump / "test" / copy)
    clash, copy = look(pump).problems
    assert clash.startswith("1 recording is both normal and anomaly, under different names (")
    assert copy.startswith("2 clips are copies of others under different names (first: ")


def test_only_equal_content_is_a_copy(tmp_path: Path) -> None:
    """Equal size and middle are not enough; another name or a link is."""
    home = tmp_path / "press"
    one = record(home / "1.wav", seconds=10)
    data = bytearray(one.read_bytes())
    data[-1] ^= 1
    (home / "2.wav").write_bytes(data)
    (home / "3.wav").write_bytes(data)
    (home / "4.wav").symlink_to("1.wav")
    record(home / "5.wav", seconds=10)
    clips = open_data(home).clips()
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        groups = copies(clips, [probe(clip) for clip in clips], pool)
    assert [[clip.path.rpartition("/")[2] for clip in group] for group in groups] == [
        ["1.wav", "4.wav"],
        ["2.wav", "3.wav"],
    ]


@given(contents=st.lists(st.integers(0, 3), max_size=8))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_copies_are_those_a_pairwise_comparison_finds(pump: Path, contents: list[int]) -> None:
    home = pump.parent / "many"
    shutil.rmtree(home, ignore_errors=True)
    for number, content in enumerate(contents):
        home.mkdir(exist_ok=True)
        soundfile.write(home / f"normal_{number}.wav", np.full(100, content / 8), 8000)
    expected = len(contents) - len(set(contents))
    found = [p for p in look(home).problems if "cop" in p] if contents else []
    assert [int(p.split()[0]) for p in found] == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"rate": 16_000}, "1 machine type mixes sample rates (pump: 8000 Hz (4), 16000 Hz (1); 16000 Hz is "),
        ({"channels": 2}, "1 machine type mixes numbers of channels (pump: 1 (4), 2 (1); 2 is "),
        ({"seconds": 0.3}, "1 machine type mixes lengths (pump: 0.10 to 0.30 s; the shortest is "),
    ],
)
def test_mixed_formats(pump: Path, odd: dict[str, int], said: str) -> None:
    record(pump / "test" / "normal_4.wav", **odd)
    assert problem(pump).startswith(said)


def test_formats_may_differ_between_machine_types(pump: Path) -> None:
    for name in ("train/normal_1", "test/normal_2", "test/anomaly_1"):
        record(pump.parent / "fan" / f"{name}.wav", rate=16_000, seconds=0.4, channels=2)
    assert look(pump.parent).problems == []


def test_lengths_may_differ_by_a_few_samples(pump: Path) -> None:
    record(pump / "test" / "normal_4.wav", seconds=0.1005)
    assert look(pump).problems == []


# --- table ----------------------------------------------------------------------------------------------------


def test_nothing_to_train_on(pump: Path) -> None:
    record(pump.parent / "fan" / "test" / "normal_1.wav")
    record(pump.parent / "fan" / "test" / "anomaly_1.wav")
    assert problem(pump.parent) == "1 machine has no normal clip to train on (fan id_00)"
    # A test folder on its own is there to be judged, not to train on.
    assert look(pump / "test").problems == []


def test_anomalies_to_train_on(pump: Path) -> None:
    record(pump / "train" / "anomaly_1.wav")
    assert problem(pump).startswith(f"1 clip for training is an anomaly ({pump}/train/anomaly_1.wav")


def test_only_anomalies(tmp_path: Path) -> None:
    record(tmp_path / "press" / "broken" / "1.wav")
    assert problem(tmp_path / "press") == "1 machine has no normal clip to train on (press id_00)"


@pytest.mark.parametrize(("gone", "left"), [("anomaly_1", "normal"), ("normal_3", "anomaly")])
def test_one_condition_only_to_test_on(pump: Path, gone: str, left: str) -> None:
    (pump / "test" / f"{gone}.wav").unlink()
    assert problem(pump).endswith(f"one condition only, so no AUC (pump id_00: only {left})")


def test_unlabelled_clips(pump: Path) -> None:
    record(pump / "test" / "morning.wav")
    record(pump / "test" / "noon.wav")
    assert problem(pump) == f"2 clips have no condition (first: {pump}/test/morning.wav)"


def test_a_manifest_keeps_its_notes(pump: Path) -> None:
    manifest = open_data(pump)
    noted = Manifest(manifest.table, manifest.root, ("look here",))
    assert "note: look here" in summarise(noted).lines()


@pytest.mark.slow
def test_a_thousand_clips_take_seconds(tmp_path: Path) -> None:
    for number in range(1000):
        record(tmp_path / "press" / f"normal_{number}.wav", seconds=10, rate=16_000)
    manifest = open_data(tmp_path / "press")
    start = time.perf_counter()
    assert summarise(manifest).problems == []
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("folder", ["dcase2020", "mimii0dB", "machining", "motors"])
def test_real_recordings_have_no_problems(folder: str) -> None:
    if not (REAL / folder).is_dir():
        pytest.skip(f"{REAL / folder} is not there: set AUSCULT_TEST_DATA")
    assert look(REAL / folder).problems == []
