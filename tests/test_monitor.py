"""A machine is watched: faults are alarms, gaps are gaps, and a full disk stops the recording, not the judging."""

from __future__ import annotations

import io
import json
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import auscult
from auscult.errors import AuscultError
from auscult.model import Model
from auscult.monitor.events import AlarmEnded, AlarmRaised, Event, GapBegan, GapEnded, Judged, Trouble
from auscult.monitor.history import CONFIRMED, FALSE_ALARM, History
from auscult.monitor.rules import Thresholds
from auscult.monitor.sinks import Calls
from auscult.monitor.source import Chunk, Lost
from auscult.monitor.watch import Watch, WatchSettings
from conftest import RATE, Run, command, machine_sound, recording, write_wav

SETTINGS = WatchSettings("pump", thresholds=Thresholds(rate=0.05), drift_hours=100.0, before=4.0, after=2.0)


@pytest.fixture(scope="module")
def folder(watched: Path) -> Path:
    return watched


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return auscult.load(folder / "pump.auscult")


class Heard:
    """A watch, and what it told."""

    def __init__(self, model: Model, history: History | None = None, settings: WatchSettings = SETTINGS, **how: Any):
        self.events: list[Event] = []
        self.watch = Watch(model, settings, history=history, sinks=[Calls(self.events.append)], **how)

    def say(self, wave: np.ndarray, *, at: float | None = None, size: int = 4000) -> None:
        for start in range(0, len(wave), size):
            piece = wave[start : start + size, None].astype(np.float32)
            self.watch.hear(Chunk(piece, RATE, at if start == 0 else None, start == 0 and at is not None))

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def test_faults_are_alarms_at_their_time_with_sound_and_map(model: Model, tmp_path: Path) -> None:
    wave = recording(60, (20, 30), (45, 52))
    with History(tmp_path / "h.sqlite") as history:
        heard = Heard(model, history, model_name="pump.auscult", source_name="test")
        assert heard.watch.window == 2.0  # as long as the clips learnt from
        heard.say(wave, at=1e9)
        heard.watch.close()
        alarms = [event for event in heard.of(AlarmRaised) if event.rule == "threshold"]
        assert [20 < event.offset < 26 for event in alarms] == [True, False]
        assert 45 < alarms[1].offset < 51
        assert [event.time - event.offset for event in alarms] == pytest.approx([1e9, 1e9], abs=1e-3)
        over = [event for event in heard.of(AlarmEnded) if event.rule == "threshold"]
        assert 30 < over[0].offset < 38
        assert over[0].score >= alarms[0].score

        recorded = [history.alarm(event.alarm) for event in alarms]
        for event, row in zip(alarms, recorded, strict=True):
            assert (row["raised"], row["rule"], row["message"]) == (event.time, "threshold", event.message)
            assert row["map"].shape == row["logmel"].shape == (128, 63)
            sound = history.clip(row["id"])
            assert sound is not None
            samples, rate = soundfile.read(io.BytesIO(sound.flac))
            begin = round((sound.begins - 1e9) * RATE)
            assert rate == RATE
            assert np.abs(samples - wave[begin : begin + len(samples)]).max() < 1e-3
            assert sound.begins <= event.time - 3.9
        assert history.clip(recorded[0]["id"]).seconds == pytest.approx(6.0, abs=0.3)  # type: ignore[union-attr]
        scores = history.scores(1)
        assert len(scores) == len(heard.of(Judged)) == heard.watch.counts["windows"] == 58
        assert [row["quiet"] for row in scores if 1e9 + 27 < row["time"] < 1e9 + 30] == [0, 0]
        latest = history.latest(1)
        assert latest is not None
        assert latest["map"].shape == (128, 63)
        assert history.gaps(1) == []
        assert history.streams()[0]["facts"]["source"] == "test"


def test_a_source_that_drops_is_a_gap(model: Model, tmp_path: Path) -> None:
    with History(tmp_path / "h.sqlite") as history:
        heard = Heard(model, history)
        heard.say(recording(5), at=1000.0)
        heard.watch.hear(Lost("cable out", 1005.0))
        heard.watch.hear(Lost("still out", 1006.0))
        heard.say(recording(5), at=1020.0)
        heard.watch.close()
        assert [(g["began"], g["ended"], g["reason"]) for g in history.gaps(1)] == [(1005.0, 1020.0, "cable out")]
        times = [row["time"] for row in history.scores(1)]
        assert all(time <= 1005.0 or time >= 1022.0 - 0.02 for time in times)  # no window across the gap
        assert len(heard.of(GapBegan)) == len(heard.of(GapEnded)) == 1
    offsets = [event.offset for event in heard.of(Judged)]
    assert offsets == sorted(offsets)
    assert max(offsets) < 10.0


def test_a_dead_microphone_is_a_gap_not_an_alarm(model: Model) -> None:
    heard = Heard(model)
    heard.say(np.concatenate([recording(6), np.zeros(8 * RATE), recording(6)]), at=0.0)
    heard.watch.close()
    assert "connected" in heard.of(GapBegan)[0].reason
    assert 14.0 < heard.of(GapEnded)[0].time <= 16.0
    assert all("connected" in event.error for event in heard.of(Judged) if 8.0 < event.time < 14.0)


def test_samples_that_are_none_are_a_gap(model: Model) -> None:
    heard = Heard(model)
    heard.say(recording(4), at=0.0)
    heard.watch.hear(Chunk(np.full((100, 1), np.nan, np.float32), RATE))
    heard.say(recording(4))
    heard.watch.close()
    assert "NaN" in heard.of(GapBegan)[0].reason
    assert len(heard.of(GapEnded)) == 1
    assert len([event for event in heard.of(Judged) if not event.error]) >= 4


def test_a_full_disk_stops_the_recording_not_the_judging(model: Model, tmp_path: Path) -> None:
    with History(tmp_path / "h.sqlite") as history:
        heard = Heard(model, history)
        heard.say(recording(4), at=0.0)
        pages = history.connection.execute("PRAGMA page_count").fetchone()[0]
        history.connection.execute(f"PRAGMA max_page_count={pages}")
        heard.say(recording(24, (2, 10)), at=10.0)
        assert [event.alarm for event in heard.of(AlarmRaised) if event.rule == "threshold"] == [None]
        history.connection.execute("PRAGMA max_page_count=1000000")
        heard.say(recording(24, (2, 10)), at=40.0)
        heard.watch.close()
        told = heard.of(Trouble)
        assert [event.over for event in told] == [False, True]
        assert "full" in told[0].message
        numbers = [event.alarm for event in heard.of(AlarmRaised) if event.rule == "threshold"]
        assert numbers[0] is None
        assert numbers[1] is not None
        # Scores waited for room.
        assert len(history.scores(1)) == len(heard.of(Judged))


def test_a_sink_that_fails_disturbs_nobody(model: Model) -> None:
    def fails(event: Event) -> None:
        raise RuntimeError("no")

    seen: list[Event] = []
    watch = Watch(model, SETTINGS, sinks=[Calls(fails), Calls(seen.append)])
    watch.hear(Chunk(recording(4)[:, None].astype(np.float32), RATE, 0.0, True))
    watch.close()
    told = [event.message for event in seen if isinstance(event, Trouble)]
    assert told == ["Calls fails: no"]
    assert len(seen) >= 3


def test_another_rate_and_channels(model: Model) -> None:
    """Resampled as it comes, it scores as the whole resampled at once."""
    import soxr

    wave = recording(8).astype(np.float32)
    heard, plain = Heard(model), Heard(model)
    slow = soxr.resample(wave, RATE, 44_100)
    for start in range(0, len(slow), 10_000):
        part = slow[start : start + 10_000]
        stereo = np.stack([part, 0 * part], 1)
        heard.watch.hear(Chunk(stereo, 44_100, 0.0 if start == 0 else None, start == 0, start + 10_000 >= len(slow)))
    plain.say(soxr.resample(slow, 44_100, RATE), at=0.0)
    ours, theirs = ([event.score for event in one.of(Judged)] for one in (heard, plain))
    assert ours == pytest.approx(theirs[: len(ours)], rel=1e-3)


def test_short_recordings_are_judged_and_counted_together(model: Model) -> None:
    """Three of five recordings of a folder are an alarm, each being one window."""
    heard = Heard(model)
    for number, faulty in enumerate([False, True, True, True, False]):
        part = machine_sound(2000 + number, seconds=1.5, faulty=faulty)[:, None].astype(np.float32)
        heard.watch.hear(Chunk(part, RATE, 60.0 * number, begins=True, ends=True))
    heard.watch.close()
    assert len(heard.of(Judged)) == 5
    assert [event.time for event in heard.of(AlarmRaised)] == [181.5]


def test_live_sound_that_lags_keeps_to_the_clock(model: Model) -> None:
    heard = Heard(model, live=True)
    now, began = time.monotonic(), time.time()
    piece = recording(2)[:, None].astype(np.float32)
    heard.watch.hear(Chunk(piece, RATE, began, True, arrived=now))
    heard.watch.hear(Chunk(piece, RATE, arrived=now + 100.0))
    heard.watch.close()
    assert heard.of(Judged)[-1].time == pytest.approx(began + 100.0, abs=2.0)


def test_a_model_without_threshold_is_refused(model: Model) -> None:
    from auscult.calibration import Calibration

    with pytest.raises(AuscultError, match="no threshold"):
        Watch(Model(model.detector, Calibration(np.empty(0)), {}, model.usual))


def test_memory_stays_flat(model: Model) -> None:
    import psutil

    process, piece = psutil.Process(), recording(20)
    heard = Watch(model, WatchSettings(show=False, drift_hours=None))
    grown = []
    for _ in range(45):
        heard.hear(Chunk(piece[:, None].astype(np.float32), RATE))
        grown.append(process.memory_info().rss)
    assert heard.counts["windows"] > 800
    assert grown[-1] - grown[10] < 8 * 2**20


# From the command line ------------------------------------------------------------------------------------


def test_monitor_a_file(folder: Path, tmp_path: Path, auscult: Run) -> None:
    history, events = tmp_path / "h.sqlite", tmp_path / "events.jsonl"
    done = auscult("monitor", folder / "pump.auscult", folder / "week.wav", "--history", history, "--json", events)
    assert done.code == 0, done.err
    assert done.out.count("ALARM (threshold") == 2
    assert "real-time factor" in done.notes[-1]
    rows = [json.loads(line) for line in events.read_text().splitlines()]
    assert sum(row["event"] == "judged" for row in rows) == 58
    with History(history) as held:
        assert [row["machine"] for row in held.alarms()] == ["pump"] * len(held.alarms())
    again = auscult("monitor", folder / "pump.auscult", folder / "week.wav", "--json", "-", "--alarm", "1/1")
    assert all(json.loads(line)["event"] for line in again.out.splitlines())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("none.auscult", "x.wav"), "no such model"),
        (("MODEL", "none.wav"), "no such file or folder"),
        (("MODEL", "WEEK", "--window", "0.01"), "too short"),
        (("MODEL", "WEEK", "--alarm", "often"), "--alarm often"),
        (("MODEL", "WEEK", "--alarm", "5/3"), "cannot begin"),
        (("MODEL", "WEEK", "--pcm", "x"), "--pcm x"),
        (("MODEL", "WEEK", "--webhook", "x"), "no web address"),
        (("MODEL", "WEEK", "--history", "MODEL"), "is no history"),
        (("MODEL", "WEEK", "--false-alarm-rate", "2"), "not possible"),
    ],
)
def test_requests_that_make_no_sense(folder: Path, auscult: Run, wrong: tuple[str, ...], said: str) -> None:
    names = {"MODEL": folder / "pump.auscult", "WEEK": folder / "week.wav"}
    done = auscult("monitor", *(names.get(word, word) for word in wrong))
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_raw_samples_through_a_pipe_until_ctrl_c(folder: Path, tmp_path: Path) -> None:
    samples = (recording(14, (4, 12)) * 32767).astype("<i2").tobytes()
    words = command("monitor", folder / "pump.auscult", "-", "--json", tmp_path / "e.jsonl")
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(samples)
        process.stdin.flush()
        assert process.stdout is not None
        assert b"ALARM" in process.stdout.readline()  # while the pipe is still open
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert b"1 alarm," in err


# Killed ---------------------------------------------------------------------------------------------------


def kill_again_and_again(folder: Path, home: Path, times: int) -> None:
    """`kill -9` a watch at random moments: the history opens and holds every alarm that was announced."""
    write_wav(home / "long.wav", np.tile(recording(20, (2, 7), (12, 17)), 40))
    history, moments = home / "h.sqlite", random.Random(times)
    words = ("monitor", folder / "pump.auscult", home / "long.wav", "--history", history, "--json", "-")
    announced: set[int] = set()
    for _ in range(times):
        with subprocess.Popen(command(*words, "--alarm", "2/2"), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(moments.randrange(10, 150))]
            process.kill()
            lines += process.stdout.read().split("\n")[:-1]
        rows = [json.loads(line) for line in lines if line]
        assert process.returncode == -signal.SIGKILL
        announced |= {row["alarm"] for row in rows if row["event"] == "alarm"}
        with History(history) as held:
            assert held.connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            recorded = {row["id"] for row in held.alarms(at_most=10**6)}
            assert announced <= recorded
            assert all(held.clip(number) is not None for number in announced)
    assert len(announced) >= times


def test_kill_9_loses_no_announced_alarm(folder: Path, tmp_path: Path) -> None:
    kill_again_and_again(folder, tmp_path, 2)


@pytest.mark.slow
def test_kill_9_twenty_times(folder: Path, tmp_path: Path) -> None:
    kill_again_and_again(folder, tmp_path, 20)


# Labels make a threshold ----------------------------------------------------------------------------------


def test_recalibrate_by_labels(folder: Path, tmp_path: Path, auscult: Run) -> None:
    model, history, anew = folder / "pump.auscult", tmp_path / "h.sqlite", tmp_path / "anew.auscult"
    assert auscult("monitor", model, folder / "week.wav", "--history", history, "--drift-hours", "0").code == 0
    refused = auscult("recalibrate", model, "--history", history, "-o", anew)
    assert refused.code == 2
    assert "labelled a false alarm" in refused.err
    with History(history) as held:
        later, first = held.alarms()
        held.remark(later["id"], CONFIRMED, "bearing")
        held.remark(first["id"], FALSE_ALARM, "forklift")
    done = auscult("recalibrate", model, "--history", history, "-o", anew)
    assert done.code == 0, done.err
    assert "from 1 false alarms" in done.out
    assert "1 confirmed" in done.err
    import auscult as package

    before, after = package.load(model), package.load(anew)
    assert after.calibration.n == before.calibration.n + 1
    assert first["score"] in after.calibration.scores
    assert later["score"] not in after.calibration.scores
    assert after.calibration.threshold >= before.calibration.threshold
    assert after.provenance["recalibrations"][0]["false_alarms"] == 1

    more = auscult("recalibrate", model, "--history", history, "-o", anew, "--ordinary", "--false-alarm-rate", "0.1")
    assert more.code == 0, more.err
    with_ordinary = package.load(anew).calibration
    # 58 windows a second apart, of two seconds; the confirmed alarm and two windows around it are left out.
    assert 15 <= with_ordinary.n - before.calibration.n - 1 <= 26
    assert with_ordinary.false_alarm_rate == 0.1

    other = auscult("recalibrate", model, "--history", history, "-o", anew, "--machine", "fan")
    assert other.code == 2
    assert "nothing of fan" in other.err
