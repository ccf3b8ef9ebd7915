"""Where sound comes from: files, folders, pipes, streams, messages, a microphone that is none; and when they drop."""

from __future__ import annotations

import collections
import io
import itertools
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from auscult.errors import AudioError, AuscultError
from auscult.monitor import listening, sources_file, sources_live
from auscult.monitor.listening import Listening, Patience
from auscult.monitor.source import PCM, Chunk, Heard, Lost, SourceLost, open_source, without_password
from auscult.monitor.sources_file import File, Folder, Stdin
from auscult.monitor.sources_live import Microphone, MQTTMessages, NetworkStream
from brokers import Broker, web_server
from conftest import RATE, machine_sound, write_wav

SOUND = machine_sound(3, seconds=3.5)
QUICK = Patience(0.01, 0.05)


def joined(heard: list[Heard]) -> np.ndarray:
    return np.concatenate([item.samples for item in heard if isinstance(item, Chunk)])


# Files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_file_is_read_second_by_second(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"sound.{suffix}"
    soundfile.write(path, np.stack([SOUND, -SOUND], 1), RATE, subtype="PCM_16")
    chunks = list(File(path).listen())
    assert [len(c.samples) for c in chunks] == [RATE, RATE, RATE, RATE // 2]
    assert [c.begins for c in chunks] == [True, False, False, False]
    assert [c.ends for c in chunks] == [False, False, False, True]
    assert np.array_equal(joined(chunks), soundfile.read(path, dtype="int16")[0])


def test_a_file_at_its_own_pace(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "sound.wav", SOUND[: RATE + 1600])
    source = open_source(str(path), real_time=True)
    assert source.live
    began = time.monotonic()
    list(source.listen())
    assert time.monotonic() - began >= 1.09


def test_a_file_that_is_no_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFFnonsense")
    with pytest.raises(AudioError, match="no audio"):
        list(File(tmp_path / "a.wav").listen())
    soundfile.write(tmp_path / "b.wav", np.empty(0), RATE)
    with pytest.raises(AudioError, match="no samples"):
        list(File(tmp_path / "b.wav").listen())


def test_a_folder_being_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_file, "_LOOK", 0.01)
    monkeypatch.setattr(sources_file, "_SETTLED", 0.1)
    write_wav(tmp_path / "b.wav", SOUND)
    write_wav(tmp_path / "a.wav", SOUND[:RATE])
    os.utime(tmp_path / "b.wav", (1000.0, 1000.0))
    os.utime(tmp_path / "a.wav", (2000.0, 2000.0))
    (tmp_path / "notes.txt").write_text("no recording")
    heard: list[Heard] = []
    with Listening(Folder(tmp_path), QUICK) as items:
        for item in items:
            heard.append(item)
            if len(heard) == 5:  # b in four pieces, a in one
                (tmp_path / "broken.flac").write_bytes(b"fLaC")
            elif isinstance(item, Lost):
                write_wav(tmp_path / "c.wav", SOUND[:1000])
            elif len(item.samples) == 1000:
                break
    begins = [item.time for item in heard if isinstance(item, Chunk) and item.begins]
    assert begins[:2] == [1000.0 - 3.5, 2000.0 - 1.0]
    assert [("broken.flac" in item.reason) for item in heard if isinstance(item, Lost)] == [True]
    assert len(joined(heard)) == len(SOUND) + RATE + 1000


def test_a_file_that_is_still_written_waits(tmp_path: Path) -> None:
    write_wav(tmp_path / "now.wav", SOUND)
    assert Folder(tmp_path)._new() == []
    os.utime(tmp_path / "now.wav", (time.time() - 60,) * 2)
    folder = Folder(tmp_path)
    assert folder._new() == [tmp_path / "now.wav"]
    assert folder._new() == []


def test_a_folder_that_is_gone_is_waited_for(tmp_path: Path) -> None:
    assert Folder(tmp_path / "share")._new() == []


# Raw samples ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["s16le", "s16be", "s32le", "f32le", "f32be"])
def test_raw_samples_on_standard_input(written: str) -> None:
    pcm = PCM.parse(f"8000:2:{written}")
    scale = 1.0 if written.startswith("f") else float(np.iinfo(pcm.dtype).max)
    samples = (np.stack([SOUND, -SOUND], 1) * 0.9 * scale).astype(pcm.dtype)
    data = samples.tobytes() + b"\x01"  # and a sample cut off in the middle

    class Trickle(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            return self.read(min(size or 1, 12_345))

    chunks = list(Stdin(pcm, Trickle(data)).listen())
    assert np.array_equal(joined(chunks), samples.astype(pcm.dtype.newbyteorder("=")))
    assert [c.begins for c in chunks].count(True) == 1
    assert chunks[0].rate == 8000


def test_pcm_that_is_none_is_refused() -> None:
    assert PCM.parse("48000") == PCM(48_000, 1, "s16le")
    for wrong in ("fast", "16000:two", "16000:1:mp3", "0", "16000:0", "16000:1:s16le:more"):
        with pytest.raises(AuscultError):
            PCM.parse(wrong)


# The network ----------------------------------------------------------------------------------------------


def test_an_http_stream_that_drops_is_heard_again() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, SOUND, 44_100, format="FLAC", subtype="PCM_16")
    calls = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        calls.append(request.path)
        if len(calls) == 2:
            request.send_error(503)
            return
        request.send_response(200)
        request.send_header("Content-Type", "audio/flac")
        request.end_headers()
        request.wfile.write(buffer.getvalue())

    heard: list[Heard] = []
    with web_server(answer) as url, Listening(open_source(f"{url}/live.flac"), QUICK) as items:
        for item in items:
            heard.append(item)
            if sum(isinstance(one, Lost) for one in heard) == 3:
                break
    reasons = [item.reason for item in heard if isinstance(item, Lost)]
    assert "503" in reasons[1] or "server" in reasons[1].lower()
    first = list(itertools.takewhile(lambda item: isinstance(item, Chunk), heard))
    assert {item.rate for item in first if isinstance(item, Chunk)} == {44_100}
    assert np.abs(joined(first)[:, 0] - SOUND).max() < 1e-3


def test_a_stream_that_is_not_there() -> None:
    with pytest.raises(SourceLost, match=r"127\.0\.0\.1:1"):
        list(NetworkStream("http://user:secret@127.0.0.1:1/x").listen())


def test_passwords_are_not_shown() -> None:
    assert open_source("rtsp://ada:secret@camera/1").name == "rtsp://camera/1"
    assert open_source("mqtt://ada:secret@broker/a/b").name == "mqtt://broker/a/b"
    assert without_password("http://plain/path@home") == "http://plain/path@home"


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.close()


def test_mqtt_messages_raw_and_as_files(broker: Broker) -> None:
    source = open_source(f"mqtt://ada:se%40cret@127.0.0.1:{broker.port}/hall/pump", pcm=PCM(RATE))
    buffer = io.BytesIO()
    soundfile.write(buffer, SOUND[:800], 8000, format="WAV", subtype="PCM_16")
    raw = (SOUND[:1600] * 32767).astype("<i2")

    def send() -> None:
        while not broker.topics:
            time.sleep(0.005)
        broker.publish("hall/fan", b"another machine's")
        broker.publish("hall/pump", raw.tobytes())
        broker.publish("hall/pump", b"")
        broker.publish("hall/pump", buffer.getvalue())
        time.sleep(0.1)
        broker.drop_all()

    threading.Thread(target=send, daemon=True).start()
    heard: list[Heard] = []
    with Listening(source, QUICK) as items:
        for item in items:
            heard.append(item)
            if isinstance(item, Lost):
                break
    chunks = [item for item in heard if isinstance(item, Chunk)]
    assert [c.rate for c in chunks] == [RATE, 8000]
    assert np.array_equal(chunks[0].samples[:, 0], raw)
    assert np.abs(chunks[1].samples[:, 0] - SOUND[:800]).max() < 1e-3
    assert "dropped" in heard[-1].reason  # type: ignore[union-attr]
    assert b"ada" in broker.users[0]
    assert b"se@cret" in broker.users[0]


def test_a_broker_that_is_not_there() -> None:
    with pytest.raises(SourceLost):
        list(MQTTMessages("mqtt://127.0.0.1:1/pump", PCM()).listen())
    with pytest.raises(AuscultError, match="no host and topic"):
        MQTTMessages("mqtt://127.0.0.1", PCM())


# A microphone ---------------------------------------------------------------------------------------------


class _Status:
    input_overflow = True


class FakeSoundDevice:
    """What auscult uses of sounddevice."""

    class PortAudioError(Exception):
        pass

    def __init__(self, ending: str) -> None:
        self.ending, self.asked = ending, {}

    def query_devices(self, device: object, kind: str) -> dict[str, float]:
        if device == "absent":
            raise ValueError("No input device matching 'absent'")
        return {"default_samplerate": 48_000.0, "max_input_channels": 8}

    def InputStream(self, **how: Any) -> Any:
        self.asked = how
        fake = self

        class Stream:
            def __enter__(self) -> None:
                for start in range(0, 4800, 480):
                    block = np.full((480, how["channels"]), start, np.float32)
                    how["callback"](block, 480, None, None)
                    block[:] = -1  # PortAudio uses its buffer again
                if fake.ending == "overflow":
                    how["callback"](np.zeros((480, 2), np.float32), 480, None, _Status())

            def __exit__(self, *_: object) -> None:
                fake.ending = "closed"

        return Stream()


def test_a_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeSoundDevice("overflow")
    monkeypatch.setattr(sources_live, "library", lambda *_: fake)
    with pytest.raises(SourceLost, match="overflowed"):
        list(Microphone("USB").listen())
    assert fake.ending == "closed"
    assert (fake.asked["device"], fake.asked["samplerate"], fake.asked["channels"]) == ("USB", 48_000, 2)
    assert Microphone("3").device == 3
    assert Microphone("").device is None


def test_what_a_microphone_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeSoundDevice("silence")
    monkeypatch.setattr(sources_live, "library", lambda *_: fake)
    monkeypatch.setattr(sources_live, "_PATIENCE", 0.05)
    chunks: list[Any] = []
    with pytest.raises(SourceLost, match="nothing came"):
        collections.deque(map(chunks.append, Microphone().listen()))
    assert [float(c.samples[0, 0]) for c in chunks] == [float(start) for start in range(0, 4800, 480)]
    assert [c.begins for c in chunks] == [True] + [False] * 9
    with pytest.raises(SourceLost, match="absent"):
        list(Microphone("absent").listen())


def test_a_library_that_is_missing_is_named() -> None:
    with pytest.raises(AuscultError, match=r"auscult\[monitor\]"):
        sources_live.library("no_such_library", "monitor")


# Dropping -------------------------------------------------------------------------------------------------


class Flaky:
    """Fails so many times before each sound."""

    name, live, endless = "flaky", True, True

    def __init__(self, failures: int) -> None:
        self.failures, self.attempts = failures, []

    def listen(self) -> Iterator[Heard]:
        self.attempts.append(time.monotonic())
        if len(self.attempts) % (self.failures + 1):
            raise SourceLost("not there")
        yield Chunk(np.zeros((10, 1), np.float32), RATE, begins=True)


def test_waits_double_and_begin_anew_after_a_sound() -> None:
    source = Flaky(4)
    with Listening(source, Patience(0.02, 0.08)) as items:
        for _ in items:
            if len(source.attempts) >= 12:
                break
    least = [0.02, 0.04, 0.08, 0.08, 0.02, 0.04, 0.08, 0.08, 0.02]
    assert all(wait >= shortest for wait, shortest in zip(np.diff(source.attempts), least, strict=False))


def test_live_sound_that_comes_too_fast_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_LONGEST_WAITING", 2.0)

    class Torrent:
        name, live, endless = "torrent", True, False

        def listen(self) -> Iterator[Heard]:
            for _ in range(10):
                yield Chunk(np.zeros((RATE, 1), np.float32), RATE)

    with Listening(Torrent()) as items:
        time.sleep(0.2)
        heard = list(items)
    assert sum(isinstance(item, Chunk) for item in heard) == 2
    assert any("too slow" in item.reason for item in heard if isinstance(item, Lost))


def test_a_file_waits_for_the_judge(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "long.wav", np.tile(SOUND, 20))
    with Listening(File(path)) as items:
        time.sleep(0.2)
        assert len(joined(list(items))) == 20 * len(SOUND)


def test_what_can_never_be_heard_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AudioError), Listening(File(tmp_path / "none.wav")) as items:
        list(items)

    class Buggy:
        name, live, endless = "buggy", True, True

        def listen(self) -> Iterator[Heard]:
            raise KeyError("surprise")

    with pytest.raises(AuscultError, match="KeyError"), Listening(Buggy()) as items:
        list(items)


def test_names_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    for wrong in (tmp_path / "none", "ftp://host/x"):
        with pytest.raises(AuscultError):
            open_source(str(wrong))
    assert isinstance(open_source(str(tmp_path)), Folder)
    assert isinstance(open_source("-"), Stdin)
    assert isinstance(open_source("mic:"), Microphone)
