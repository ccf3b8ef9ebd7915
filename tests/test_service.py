"""Models over HTTP: what is judged, who may ask, and what hostile clients get."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import os
import random
import socket
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import auscult
from auscult.errors import AudioError, AuscultError
from auscult.model import Model
from auscult.monitor.history import History, Raised, Sound
from auscult.service.app import create_app
from auscult.service.decoding import Decoder
from auscult.service.guard import SAFE_HEADERS, Guard, receive_body
from auscult.service.settings import Limits, Tokens, add_token, allowed, check_address, hash_token, read_tokens
from conftest import RATE, Run, command, machine_sound

TOKEN = "a-token-of-many-characters"
HERE, WS = "http://127.0.0.1", "ws://127.0.0.1"


@pytest.fixture(scope="module")
def model(fitted: Path) -> Model:
    return auscult.load(fitted / "knn.auscult")


@contextmanager
def client(model: Model, token: str | None = None, **how: Any) -> Iterator[TestClient]:
    tokens = Tokens().with_token("test", token) if token else Tokens()
    app = create_app({"pump": model}, tokens=tokens, **how)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with TestClient(
        app, base_url=HERE, headers=headers, raise_server_exceptions=False, client=("127.0.0.1", 1)
    ) as made:
        yield made


@pytest.fixture(scope="module")
def service(model: Model) -> Iterator[TestClient]:
    with client(model, limits=Limits(clip_seconds=20, upload_bytes=2**21, requests_a_minute=10**6)) as made:
        yield made


def wav(
    samples: np.ndarray | None = None, rate: int = RATE, kind: str = "WAV", subtype: str | None = "PCM_16"
) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, machine_sound(5) if samples is None else samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


# Judging --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", None)])
def test_a_clip_scores_as_from_the_command_line(
    service: TestClient, model: Model, tmp_path: Path, kind: str, subtype: str | None
) -> None:
    data = wav(machine_sound(901, faulty=True), kind=kind, subtype=subtype)
    file = tmp_path / f"clip.{kind.lower()}"
    file.write_bytes(data)
    answer = service.post("/v1/models/pump/score", content=data)
    assert answer.status_code == 200
    expected = model.score([file])
    assert answer.json()["score"] == pytest.approx(expected[0], rel=1e-9)
    assert answer.json()["decision"] == model.calibration.decide(expected)[0] == "anomaly"
    assert answer.json()["p_value"] == model.calibration.p_values(expected)[0]


def test_a_batch_goes_on_after_a_broken_clip(service: TestClient) -> None:
    files = [("clips", ("a.wav", wav())), ("clips", ("../../etc/passwd", b"nonsense")), ("clips", ("c.wav", wav()))]
    rows = service.post("/v1/models/pump/batch", files=files).json()
    assert [row["clip"] for row in rows] == ["clip 1", "clip 2", "clip 3"]
    assert rows[0]["score"] == rows[2]["score"]
    assert rows[1]["score"] is None
    assert "no audio" in rows[1]["error"]


def test_a_map_as_picture_and_in_numbers(service: TestClient, model: Model) -> None:
    picture = service.post("/v1/models/pump/map", content=wav())
    assert picture.headers["content-type"] == "image/png"
    assert picture.content[:4] == b"\x89PNG"
    numbers = service.post("/v1/models/pump/map?format=json", content=wav()).json()
    assert np.shape(numbers["map"]) == np.shape(numbers["logmel"]) == (128, len(numbers["seconds"]))
    assert len(numbers["hertz"]) == 128
    assert numbers["strangest"]["level"] > 0


def test_models_are_described_without_folders(service: TestClient, model: Model) -> None:
    assert [row["name"] for row in service.get("/v1/models").json()] == ["pump"]
    found = service.get("/v1/models/pump")
    assert found.json()["threshold"] == model.calibration.threshold
    assert found.json()["calibration_scores"] == model.calibration.scores.tolist()
    assert str(Path(model.provenance["training_clips"][0]).parent) not in found.text
    assert service.get("/v1/models/fan").status_code == 404


def test_health_metrics_and_the_page_of_requests(service: TestClient) -> None:
    service.post("/v1/models/pump/score", content=wav())
    assert service.get("/health").json()["status"] == "ok"
    text = service.get("/metrics").text
    assert 'auscult_requests_total{method="POST",route="/v1/models/{name}/score",status="200"}' in text
    schema = service.get("/openapi.json").json()
    assert "/v1/models/{name}/score" in schema["paths"]
    page = service.get("/docs").text
    assert "/v1/alarms/{number}/remarks" in page
    assert "http://" not in page
    assert "https://" not in page


def test_every_answer_has_safe_headers(service: TestClient) -> None:
    for path in ("/", "/health", "/none", "/static/app.js", "/v1/models/fan"):
        headers = service.get(path).headers
        assert SAFE_HEADERS.items() <= {name: headers[name] for name in SAFE_HEADERS}.items(), path
        assert "server" not in headers


def test_a_live_stream_over_a_websocket(service: TestClient) -> None:
    sound = np.concatenate([machine_sound(k, seconds=1, faulty=4 <= k < 14) for k in range(20)])
    events = []
    with service.websocket_connect(WS + "/v1/models/pump/stream?pcm=16000:1:f32le") as talk:
        data = sound.astype("<f4").tobytes()
        for start in range(0, len(data), 50_001):
            talk.send_bytes(data[start : start + 50_001])
        while len([e for e in events if e["event"] == "judged"]) < 18:
            events.append(json.loads(talk.receive_text()))
    assert next(e["rule"] for e in events if e["event"] == "alarm") == "threshold"
    for wrong in ("fan/stream", "pump/stream?pcm=mp3", "pump/stream?hop=0", "pump/stream?hop=nan"):
        with pytest.raises(WebSocketDisconnect), service.websocket_connect(WS + f"/v1/models/{wrong}") as talk:
            talk.receive_text()
    with service.websocket_connect(WS + "/v1/models/pump/stream") as talk:
        talk.send_bytes(b"\0" * (5 * 2**20))
        with pytest.raises(WebSocketDisconnect):
            talk.receive_text()


# Who may ask ----------------------------------------------------------------------------------------------


def test_strangers_are_sent_away(model: Model) -> None:
    with client(model, TOKEN) as service:
        assert service.get("/v1/models").status_code == 200
        for wrong in ({"Authorization": ""}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            for method, path in (
                ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/docs"),
                ("POST", "/v1/models/pump/score"), ("POST", "/v1/models/pump/batch"), ("GET", "/v1/machines"),
            ):  # fmt: skip
                assert service.request(method, path, headers=wrong).status_code == 401, path
            for path in ("/v1/models/pump/stream", "/v1/machines/live"):
                with pytest.raises(WebSocketDisconnect), service.websocket_connect(WS + path, headers=wrong) as talk:
                    talk.receive_text()
        assert service.get("/health", headers={"Authorization": ""}).status_code == 200


def test_a_browser_logs_in_and_out(model: Model) -> None:
    with client(model, TOKEN) as service:
        service.headers.pop("Authorization")
        assert service.get("/", follow_redirects=False).headers["location"] == "/login"
        assert service.post("/login", data={"token": "wrong"}).status_code == 401
        answer = service.post("/login", data={"token": TOKEN}, follow_redirects=False)
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert TOKEN not in cookie
        assert service.get("/v1/models").status_code == 200
        assert service.get("/").status_code == 200
        service.post("/logout", follow_redirects=False)
        assert service.get("/v1/models").status_code == 401


def test_guessing_tokens_is_slow(model: Model) -> None:
    with client(model, TOKEN, limits=Limits(requests_a_minute=60)) as service:
        statuses = [service.post("/login", data={"token": str(k)}).status_code for k in range(8)]
    assert statuses[0] == 401
    assert statuses[-1] == 429


def test_pages_of_other_sites_may_not_ask(service: TestClient) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
        assert service.post("/v1/models/pump/score", content=wav(), headers=headers).status_code == 403
        with (
            pytest.raises(WebSocketDisconnect),
            service.websocket_connect(WS + "/v1/machines/live", headers=headers) as talk,
        ):
            talk.receive_text()
    assert service.get("/v1/models", headers={"Origin": HERE}).status_code == 200


def test_tokens_are_kept_as_hashes(tmp_path: Path) -> None:
    file = tmp_path / "tokens.txt"
    token = add_token(file, "dashboard")
    other = add_token(file, "line 2")
    assert token not in file.read_text()
    assert file.stat().st_mode & 0o77 == 0
    tokens = read_tokens(file)
    assert (tokens.owner(token), tokens.owner(other), tokens.owner("x")) == ("dashboard", "line 2", None)
    with pytest.raises(AuscultError, match="already"):
        add_token(file, "dashboard")
    for name in ("", " x", "a\nb"):
        with pytest.raises(AuscultError, match="no name"):
            add_token(file, name)
    file.write_text("# a comment\n\nsha256:abc x\n")
    with pytest.raises(AuscultError, match="line 3"):
        read_tokens(file)
    file.write_text("")
    with pytest.raises(AuscultError, match="holds no token"):
        allowed(file, None)
    with pytest.raises(AuscultError, match="16 characters"):
        allowed(None, "short")
    assert hash_token("a") != hash_token("b")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "plant.example"])
def test_no_token_no_address_but_this_computers(host: str, fitted: Path, auscult: Run) -> None:
    done = auscult("serve", fitted / "knn.auscult", "--host", host)
    assert done.code == 2
    assert "can be reached from other computers" in done.err
    check_address(host, Tokens().with_token("x", TOKEN))
    for here in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        check_address(here, Tokens())


def test_requests_to_serve_that_make_no_sense(fitted: Path, tmp_path: Path, auscult: Run) -> None:
    assert "nothing to serve" in auscult("serve").err
    assert "named" in auscult("serve", "--new-token", "x").err
    assert "no such model" in auscult("serve", tmp_path / "none").err
    assert "cannot be read" in auscult("serve", fitted / "knn.auscult", "--tokens", tmp_path / "none").err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "cannot listen" in auscult("serve", fitted / "knn.auscult", "--port", port).err
    made = auscult("serve", "--new-token", "x", "--tokens", tmp_path / "t")
    assert read_tokens(tmp_path / "t").owner(made.out.strip()) == "x"


# Limits ---------------------------------------------------------------------------------------------------


def test_too_many_requests(model: Model) -> None:
    with client(model, limits=Limits(requests_a_minute=5)) as service:
        answers = [service.get("/v1/models") for _ in range(8)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 3
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_addresses_are_counted_one_by_one_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    from starlette.requests import HTTPConnection

    monkeypatch.setattr("auscult.service.guard._MOST_ADDRESSES", 100)
    guard = Guard(Tokens(), Limits(requests_a_minute=2))
    for number in range(1000):
        guard.count(HTTPConnection({"type": "http", "client": (f"10.0.0.{number}", 1), "headers": []}))
    assert len(guard._asked) == 100


def test_what_is_too_large_is_not_received(service: TestClient) -> None:
    sent = 0

    def parts() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(10_000):
            sent += 2**16
            yield bytes(2**16)

    assert service.post("/v1/models/pump/score", content=b"", headers={"Content-Length": str(2**40)}).status_code == 413
    assert service.post("/v1/models/pump/score", content=parts()).status_code == 413


def test_a_body_that_never_ends_is_given_up() -> None:
    from starlette.requests import Request

    async def slowly() -> dict[str, Any]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    scope = {"type": "http", "headers": [], "method": "POST", "path": "/"}
    with pytest.raises(Exception, match="408"):
        asyncio.run(receive_body(Request(scope, slowly), Limits(receive_seconds=0.1)))


def test_too_long_clips_are_refused_before_they_are_decoded(service: TestClient) -> None:
    hour = wav(np.zeros(21 * 8000, np.int16), 8000, "FLAC")
    assert len(hour) < 100_000
    answer = service.post("/v1/models/pump/score", content=hour)
    assert answer.status_code == 422
    assert "longer than 20 s" in answer.json()["error"]


def test_too_much_to_do_is_said(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with client(model, limits=Limits(waiting=1, score_seconds=0.2, decode_seconds=5.0, workers=1)) as service:
        assert service.post("/v1/models/pump/score", content=wav()).status_code == 200
        monkeypatch.setattr(type(model.detector), "score_clip", lambda *_: time.sleep(1.5))
        answer = service.post("/v1/models/pump/score", content=wav())
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
        assert service.post("/v1/models/pump/score", content=wav()).status_code == 503
        assert service.get("/health").status_code == 200


def test_a_decoder_that_hangs_or_dies_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(1, 20.0, 5.0)
    assert len(decoder.decode(wav(), RATE, 0)) == 2 * RATE
    (worker,) = decoder._all
    psutil.Process(worker._process.pid).suspend()
    decoder.decode_seconds = 0.2
    with pytest.raises(AudioError, match="took longer"):
        decoder.decode(wav(), RATE, 0)
    decoder.decode_seconds = 5.0
    assert len(decoder.decode(wav(), RATE, 0)) == 2 * RATE
    (worker,) = decoder._all
    worker._process.kill()
    with pytest.raises(AudioError, match="broke the decoder"):
        decoder.decode(wav(), RATE, 0)
    assert len(decoder.decode(wav(), RATE, 0)) == 2 * RATE
    decoder.close()


# Hostile uploads ------------------------------------------------------------------------------------------


def hostile(seed: int) -> bytes:
    """Something that nobody should send."""
    chance = random.Random(seed)
    good = wav(machine_sound(seed % 7, seconds=0.3), kind=("WAV", "FLAC", "OGG")[seed % 3], subtype=None)
    kind = chance.randrange(9)
    if kind == 0:
        return b""
    if kind == 1:
        return chance.randbytes(chance.randrange(1, 5000))
    if kind == 2:  # cut short
        return good[: chance.randrange(1, len(good))]
    if kind == 3:  # the header is noise
        head = bytearray(good[:200])
        for _ in range(chance.randrange(1, 30)):
            head[chance.randrange(len(head))] = chance.randrange(256)
        return bytes(head) + good[200:]
    if kind == 4:  # anywhere
        data = bytearray(good)
        for _ in range(chance.randrange(1, 100)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(data)
    if kind == 5:  # declares what is not there
        sizes = (0, 1, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
        form = (
            chance.choice((1, 3, 0xFFFE)),
            chance.choice((0, 1, 2, 255, 65535)),
            chance.choice((0, 1, RATE, 2**32 - 1)),
        )
        bits = (2**32 - 1, chance.choice((0, 1, 65535)), chance.choice((0, 1, 8, 16, 64, 65535)))
        head = struct.pack("<4sI4s4sI", b"RIFF", chance.choice(sizes), b"WAVE", b"fmt ", 16)
        data = struct.pack("<4sI", b"data", chance.choice(sizes)) + chance.randbytes(chance.randrange(300))
        return head + struct.pack("<HHIIHH", *form, *bits) + data
    if kind == 6:  # small here, large there
        return wav(np.zeros(chance.randrange(10, 200) * 48_000, np.int16), 48_000, "FLAC")
    if kind == 7:  # another type
        return chance.choice(
            (b"GIF89a", b"%PDF-1.4", b"PK\x03\x04", b"\x7fELF", b"<svg/>", b"{}", b"ID3\x04")
        ) + chance.randbytes(400)
    floats = chance.choice((np.nan, np.inf, 1e30, -0.0))
    return wav(np.full(RATE // 2, floats), RATE, "WAV", "FLOAT")


def assail(service: TestClient, numbers: range, folder: Path) -> None:
    before = set(folder.rglob("*"))
    process = psutil.Process()

    def memory() -> int:
        everyone = [process, *process.children(recursive=True)]
        return sum(one.memory_info().rss for one in everyone if one.is_running())

    for k in range(20):  # what is loaded once
        service.post("/v1/models/pump/score", content=hostile(k))
    began = memory()
    statuses: dict[int, int] = {}
    for number in numbers:
        route = ("score", "map?format=json", "batch")[number % 3] if number % 10 == 0 else "score"
        how: dict[str, Any] = {"content": hostile(number)}
        if route == "batch":
            how = {"files": [("clips", ("../../x", hostile(number))), ("clips", ("y", hostile(number + 1)))]}
        answer = service.post(f"/v1/models/pump/{route}", **how)
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        assert answer.status_code < 500, (number, answer.text)
        if answer.status_code == 200 and route == "score":
            assert np.isfinite(answer.json()["score"])
    assert memory() - began < 400 * 2**20
    assert set(folder.rglob("*")) == before
    assert service.post("/v1/models/pump/score", content=wav()).status_code == 200
    assert statuses.get(422, 0) > len(numbers) // 3


def test_hostile_uploads(service: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assail(service, range(400), tmp_path)


@pytest.mark.slow
def test_ten_thousand_hostile_uploads(service: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assail(service, range(10_000), tmp_path)


def test_forms_that_are_none(service: TestClient) -> None:
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    for body in (
        b"",
        b"--x",
        b"--x\r\n\r\n",
        b"--x\r\nContent-Disposition: form-data; name=clips\r\n\r\n1\r\n--x--\r\n",
        os.urandom(300),
    ):
        assert service.post("/v1/models/pump/batch", content=body, headers=kind).status_code == 400
    assert (
        service.post("/v1/models/pump/batch", content=b"", headers={"Content-Type": "multipart/form-data"}).status_code
        == 400
    )
    assert service.post("/v1/models/pump/batch", content=wav()).status_code == 400
    many = [("clips", ("a", b"x"))] * 100
    assert service.post("/v1/models/pump/batch", files=many).status_code == 400


def test_no_path_is_opened(service: TestClient) -> None:
    for name in ("../../etc/passwd", "..%2f..%2fetc%2fpasswd", "/etc/passwd", "app.js%00", "."):
        assert service.get(f"/static/{name}").status_code == 404
        assert service.post(f"/v1/models/{name}/score", content=wav()).status_code in (404, 405)


# Machines -------------------------------------------------------------------------------------------------


@pytest.fixture
def history(tmp_path: Path) -> Path:
    path = tmp_path / "h.sqlite"
    with History(path) as held:
        stream = held.stream(
            "pump", model="/secret/folder/pump.auscult", identity="i", facts={"hop": 1.0, "threshold": 2.0}
        )
        now = time.time()
        for k in range(100):
            held.add_score(stream, now - 100 + k, 1.0 + k / 100, 0.5, quiet=True)
        grid = np.random.default_rng(0).random((8, 5)).astype(np.float32)
        flac = wav(machine_sound(1), kind="FLAC")
        held.raise_alarm(
            stream, Raised("threshold", now - 20, 3.0, 0.01, "knocks", grid, grid, Sound(now - 22, 2.0, flac))
        )
        held.begin_gap(stream, now - 3, "cable out")
        held.set_latest(stream, now, {"score": 1.0}, grid, None)
    return path


def test_machines_alarms_and_remarks(model: Model, history: Path) -> None:
    with client(model, TOKEN, history=history) as service:
        (machine,) = service.get("/v1/machines").json()
        assert (machine["state"], machine["unacknowledged"], machine["model"]) == ("alarm", 1, "pump.auscult")
        told = service.get("/v1/machines/1/scores").json()
        assert len(told["scores"]) == 100
        assert told["gaps"][0][2] == "cable out"
        (row,) = service.get("/v1/alarms?machine=1").json()
        found = service.get(f"/v1/alarms/{row['id']}").json()
        assert (found["map"]["rows"], found["map"]["columns"]) == (8, 5)
        for form in ("flac", "wav"):
            sound = service.get(f"/v1/alarms/{row['id']}/clip?format={form}")
            assert len(soundfile.read(io.BytesIO(sound.content))[0]) == 2 * RATE
        said = {"kind": "false alarm", "note": "forklift"}
        answer = service.post(f"/v1/alarms/{row['id']}/remarks", json=said).json()
        assert (answer["label"], answer["acknowledged"]) == ("false alarm", True)
        assert answer["remarks"][0]["author"] == "test"
        assert service.get("/v1/machines").json()[0]["unacknowledged"] == 0
        for path in ("/v1/alarms/9", "/v1/machines/9/scores", "/v1/machines/9/latest", "/v1/alarms/9/clip"):
            assert service.get(path).status_code == 404
        assert service.post("/v1/alarms/1/remarks", json={"kind": "maybe"}).status_code == 422
        odd = b'{"kind": "note", "note": "\\ud800"}'  # half a character, which JSON can hold
        kind = {"Content-Type": "application/json"}
        assert service.post("/v1/alarms/1/remarks", content=odd, headers=kind).status_code in (200, 422)
        assert service.post("/v1/alarms/9/remarks", json={"kind": "note"}).status_code == 404
        assert service.get("/v1/machines/1/latest").json()["logmel"]["rows"] == 8
        with service.websocket_connect(WS + "/v1/machines/live") as talk:
            assert talk.receive_json()["machines"][0]["name"] == "pump"
            talk.send_text("1")
            while "latest" not in (told := talk.receive_json()):
                pass
            assert told["latest"]["logmel"]["columns"] == 5
    with History(history) as held:
        assert held.alarm(1)["label"] == "false alarm"


def test_without_history_there_are_no_machines(service: TestClient) -> None:
    answer = service.get("/v1/machines")
    assert answer.status_code == 404
    assert "--history" in answer.json()["error"]


# A real server --------------------------------------------------------------------------------------------


@contextmanager
def running(*words: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    with subprocess.Popen(command("serve", *words, "--port", 0), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            deadline = time.monotonic() + 60
            while True:
                try:
                    urllib.request.urlopen(f"{url}/health", timeout=5).read()
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            yield url, process
        finally:
            process.kill()


def test_slow_writers_do_not_stop_the_others(fitted: Path) -> None:
    with running(fitted / "knn.auscult") as (url, process):
        port = int(url.rsplit(":", 1)[1])
        head = b"POST /v1/models/knn/score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nab"
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
        for number, one in enumerate(slow):
            one.sendall(head if number % 2 else head[:20])
        request = urllib.request.Request(f"{url}/v1/models/knn/score", wav(), method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert np.isfinite(json.load(answer)["score"])
        for one in slow:
            one.close()
        process.terminate()
        assert process.wait(30) == 0


def kill_service(fitted: Path, home: Path, times: int) -> None:
    """`kill -9` under load: the history opens, and holds every remark that was answered."""
    path = home / "h.sqlite"
    with History(path) as held:
        stream = held.stream("pump", model="m", identity="i", facts={})
        held.raise_alarm(stream, Raised("threshold", 1.0, 2.0, 0.1, "x"))
    answered = 0
    for number in range(times):
        with running(fitted / "knn.auscult", "--history", path) as (url, process):
            stop = threading.Timer(random.Random(number).uniform(0.05, 0.5), process.kill)
            stop.start()
            body = json.dumps({"kind": "note", "note": "x"}).encode()
            kind = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{url}/v1/alarms/1/remarks", body, kind)
            with contextlib.suppress(OSError, http.client.HTTPException):
                while True:
                    urllib.request.urlopen(request, timeout=30).read()
                    answered += 1
            stop.join()
        with History(path) as held:
            assert held.connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            assert len(held.alarm(1)["remarks"]) >= answered


def test_kill_9_of_the_service(fitted: Path, tmp_path: Path) -> None:
    kill_service(fitted, tmp_path, 1)


@pytest.mark.slow
def test_kill_9_of_the_service_twenty_times(fitted: Path, tmp_path: Path) -> None:
    kill_service(fitted, tmp_path, 20)
