"""The history: nothing committed is lost, labels are kept, old files brought up to date, and there is an end to it."""

from __future__ import annotations

import io
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from auscult.errors import AuscultError
from auscult.monitor import schema
from auscult.monitor.blobs import flac, pack, unpack
from auscult.monitor.history import CONFIRMED, FALSE_ALARM, NOTE, History, Raised, Sound
from auscult.monitor.retention import DAY, prune, used_bytes


def begun(history: History, name: str = "pump") -> int:
    return history.stream(name, model="pump.auscult", identity="abc", facts={"window": 10.0})


def alarm(time: float = 100.0, *, seconds: float = 0.0, score: float = 3.5) -> Raised:
    sound = None
    if seconds:
        noise = np.random.default_rng(int(time)).normal(0, 0.1, round(seconds * 16_000))
        sound = Sound(time - seconds, seconds, flac(noise, 16_000))
    grid = np.arange(12, dtype=np.float32).reshape(3, 4)
    return Raised("threshold", time, score, 0.01, "louder at 3 kHz", grid, grid * 2, sound)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "h.sqlite")


# What goes in comes out -----------------------------------------------------------------------------------


def test_scores_alarms_and_gaps_come_back(history: History) -> None:
    stream = begun(history)
    history.add_score(stream, 99.0, 1.5, 0.2, quiet=True)
    history.add_score(stream, 100.0, 3.5, float("nan"), quiet=False)
    number = history.raise_alarm(stream, alarm(seconds=1.0))
    gap = history.begin_gap(stream, 101.0, "cable out")
    history.end_gap(gap, 103.0)
    history.end_alarm(number, 104.0, 4.5, 0.005)
    path = history.path
    history.close()
    with History(path) as again:
        assert [row["name"] for row in again.streams()] == ["pump"]
        assert again.scores(stream) == [
            {"time": 99.0, "score": 1.5, "p_value": 0.2, "quiet": 1},
            {"time": 100.0, "score": 3.5, "p_value": None, "quiet": 0},
        ]
        found = again.alarm(number)
        assert (found["raised"], found["ended"], found["score"], found["p_value"]) == (100.0, 104.0, 4.5, 0.005)
        assert found["machine"] == "pump"
        assert np.array_equal(found["map"], 2 * np.arange(12).reshape(3, 4))
        sound = again.clip(number)
        assert sound is not None
        samples, rate = soundfile.read(io.BytesIO(sound.flac))
        assert (len(samples), rate) == (16_000, 16_000)
        assert [(g["began"], g["ended"], g["reason"]) for g in again.gaps(stream)] == [(101.0, 103.0, "cable out")]


def test_a_stream_is_known_by_its_name(history: History) -> None:
    first, other = begun(history), begun(history, "fan")
    assert begun(history) == first != other
    assert len(history.streams()) == 2


@given(st.lists(st.floats(-1e3, 1e3, width=16), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_arrays_survive_packing(values: list[float]) -> None:
    array = np.array([values], dtype=np.float32)
    unpacked = unpack(pack(array))
    assert unpacked is not None
    assert np.array_equal(unpacked, array)
    assert unpack(pack(None)) is None


def test_arrays_too_large_for_half_precision_stay_finite() -> None:
    unpacked = unpack(pack(np.array([[1e9, -1e9]], dtype=np.float32)))
    assert unpacked is not None
    assert np.isfinite(unpacked).all()


def test_long_histories_are_thinned_by_their_highest_scores(history: History) -> None:
    stream = begun(history)
    scores = np.random.default_rng(0).random(5000)
    scores[1234] = 9.0
    for second, score in enumerate(scores):
        history.add_score(stream, float(second), float(score), 0.5, quiet=True)
    history.flush()
    thinned = history.scores(stream, at_most=100)
    assert 100 <= len(thinned) <= 101
    assert {"time": 1234.0, "score": 9.0, "p_value": 0.5, "quiet": 1} in thinned
    assert len(history.scores(stream, 10.0, 19.0)) == 10


def test_the_latest_is_replaced(history: History) -> None:
    stream = begun(history)
    assert history.latest(stream) is None
    for time in (1.0, 2.0):
        history.set_latest(stream, time, {"score": time}, np.ones((2, 3), np.float32), None)
    latest = history.latest(stream)
    assert latest is not None
    assert latest["facts"] == {"score": 2.0}
    assert latest["logmel"].shape == (2, 3)
    assert latest["map"] is None


# Labels ---------------------------------------------------------------------------------------------------


def test_the_last_label_counts_and_all_are_kept(history: History) -> None:
    number = history.raise_alarm(begun(history), alarm())
    assert history.alarms()[0]["label"] == ""
    assert not history.alarms()[0]["acknowledged"]
    history.remark(number, NOTE, "heard it too")
    assert not history.alarms()[0]["acknowledged"]
    history.remark(number, CONFIRMED, "bearing", "Ada")
    history.remark(number, FALSE_ALARM, "forklift", "Bea")
    found = history.alarms()[0]
    assert (found["label"], found["acknowledged"]) == (FALSE_ALARM, True)
    assert [r["kind"] for r in found["remarks"]] == [NOTE, CONFIRMED, FALSE_ALARM]


def test_remarks_that_make_no_sense_are_refused(history: History) -> None:
    number = history.raise_alarm(begun(history), alarm())
    with pytest.raises(AuscultError, match="no remark"):
        history.remark(number, "maybe")
    with pytest.raises(AuscultError, match="no alarm 7"):
        history.remark(7, CONFIRMED)


# Killed, full, damaged ------------------------------------------------------------------------------------


ANNOUNCER = """
import sys
from auscult.monitor.history import History, Raised, Sound
history = History(sys.argv[1])
stream = history.stream("pump", model="m", identity="i", facts={})
history.take_up(stream, 1e6)
for second in range(100_000):
    history.add_score(stream, float(second), 1.0, 0.5, quiet=True)
    sound = Sound(second, 1.0, bytes(20_000))
    print(history.raise_alarm(stream, Raised("threshold", second, 2.0, 0.01, "knock", sound=sound)), flush=True)
"""


def test_what_was_announced_survives_kill_9(tmp_path: Path) -> None:
    path, announced = tmp_path / "h.sqlite", set()
    for number_of_lines in (1, 7, 40, 3, 90):
        with subprocess.Popen(
            [sys.executable, "-c", ANNOUNCER, str(path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(number_of_lines):
                announced.add(int(process.stdout.readline()))
            os.kill(process.pid, signal.SIGKILL)
            announced |= {int(line) for line in process.stdout.read().split("\n")[:-1]}
        with History(path) as history:
            assert history.connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            assert announced <= {row["id"] for row in history.alarms(at_most=10**6)}
            assert all(history.clip(number) is not None for number in announced)


def test_taking_up_closes_what_a_killed_monitor_left(history: History) -> None:
    stream = begun(history)
    history.add_score(stream, 50.0, 1.0, 0.5, quiet=True)
    number = history.raise_alarm(stream, alarm(52.0))
    history.begin_gap(stream, 51.0, "cable out")
    history.take_up(stream, 60.0)
    assert history.alarm(number)["ended"] == 52.0
    assert [(g["began"], g["ended"]) for g in history.gaps(stream)] == [(50.0, 60.0), (51.0, 60.0)]


def test_a_full_disk_is_said_and_scores_wait(history: History) -> None:
    stream = begun(history)
    pages = history.connection.execute("PRAGMA page_count").fetchone()[0]
    history.connection.execute(f"PRAGMA max_page_count={pages}")
    history.add_score(stream, 1.0, 2.0, 0.1, quiet=True)
    with pytest.raises(AuscultError, match="full"):
        history.raise_alarm(stream, alarm(seconds=3.0))
    history.connection.execute("PRAGMA max_page_count=100000")
    assert history.raise_alarm(stream, alarm(seconds=3.0)) == 1
    assert len(history.scores(stream)) == 1


def test_two_processes_share_it(history: History) -> None:
    number = history.raise_alarm(begun(history), alarm())
    with History(history.path, create=False) as other:
        other.remark(number, CONFIRMED)
    assert history.alarms()[0]["label"] == CONFIRMED


def test_files_that_are_no_history_are_refused(tmp_path: Path) -> None:
    text, other, later = tmp_path / "notes.txt", tmp_path / "other.sqlite", tmp_path / "later.sqlite"
    text.write_text("not a database, but long enough to have a header " * 20)
    with pytest.raises(AuscultError, match="is no history"):
        History(text)
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()
    with pytest.raises(AuscultError, match="another program's"):
        History(other)
    with sqlite3.connect(later) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(AuscultError, match="later auscult"):
        History(later)
    with pytest.raises(AuscultError, match="no such history"):
        History(tmp_path / "none.sqlite", create=False)
    with pytest.raises(AuscultError, match="cannot record"):
        History(tmp_path)


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    with History(path) as history:
        stream = begun(history)
        for second in range(3000):
            history.add_score(stream, float(second), 1.0, 0.5, quiet=True)
    content = bytearray(path.read_bytes())
    content[4096 * 3 :] = os.urandom(len(content) - 4096 * 3)
    path.write_bytes(content)

    def look() -> None:
        with History(path) as history:
            history.scores(1)
            history.alarms()
            begun(history, "fan")

    with pytest.raises(AuscultError, match=r"damaged|no history|cannot record"):
        look()


# Older files ----------------------------------------------------------------------------------------------


def test_a_file_of_the_first_version_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "h.sqlite"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        with History(path) as old:
            number = old.raise_alarm(begun(old), alarm(seconds=1.0))
            assert not old.connection.execute("SELECT * FROM sqlite_master WHERE name = 'latest'").fetchall()
    with History(path) as history:
        assert history.alarm(number)["message"] == "louder at 3 kHz"
        assert history.latest(1) is None
        history.set_latest(1, 5.0, {}, None, None)


def test_a_step_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "h.sqlite"
    with History(path) as history:
        begun(history)
    broken = (*schema.MIGRATIONS, "CREATE TABLE extra (x);\nCREATE TABEL typo (y);\n")
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", broken)
        with pytest.raises(AuscultError):
            History(path)
    with History(path) as history:
        assert len(history.streams()) == 1
        assert not history.connection.execute("SELECT * FROM sqlite_master WHERE name = 'extra'").fetchall()


# Retention ------------------------------------------------------------------------------------------------


def test_what_is_too_old_goes_but_labelled_alarms_stay(history: History) -> None:
    stream = begun(history)
    numbers = []
    for day in range(5):
        history.add_score(stream, day * DAY, 1.0, 0.5, quiet=True)
        numbers.append(history.raise_alarm(stream, alarm(day * DAY, seconds=0.5)))
        history.end_alarm(numbers[-1], day * DAY + 1, 3.5, 0.01)
    history.remark(numbers[0], FALSE_ALARM)
    prune(history, 4.5 * DAY, max_days=2)
    assert [row["time"] / DAY for row in history.scores(stream)] == [3, 4]
    assert {row["id"] for row in history.alarms()} == {numbers[0], numbers[3], numbers[4]}
    assert history.clip(numbers[0]) is None
    assert history.clip(numbers[4]) is not None


def test_the_file_stays_below_its_limit_and_gives_back_space(history: History) -> None:
    stream = begun(history)
    for number in range(60):
        history.raise_alarm(stream, alarm(float(number), seconds=2.0))
    history.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    before, limit = history.path.stat().st_size, 1_000_000
    prune(history, 100.0, max_bytes=limit)
    history.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert used_bytes(history) <= limit < before
    assert history.path.stat().st_size < before / 2
    assert len(history.alarms()) == 60
    assert history.clip(60) is not None
    assert history.clip(1) is None


def test_a_limit_below_what_is_always_used_does_not_go_on_for_ever(history: History) -> None:
    stream = begun(history)
    history.add_score(stream, 1.0, 1.0, 0.5, quiet=True)
    history.flush()
    prune(history, 2.0, max_bytes=1)
    assert history.scores(stream) == []
