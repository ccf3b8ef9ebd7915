"""Where events go: the terminal, JSON lines, a webhook that must not be lost, MQTT, Prometheus."""

from __future__ import annotations

import io
import json
import math
import time
import urllib.request
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from auscult.errors import AuscultError
from auscult.monitor.events import AlarmEnded, AlarmRaised, GapBegan, GapEnded, Judged, Trouble
from auscult.monitor.sinks import Console, JSONLines, Prometheus
from auscult.monitor.sinks_network import SIGNATURE, MQTTSink, Retries, Webhook, is_signed, sign
from brokers import Broker, web_server

NAN = float("nan")
JUDGED = Judged("pump", 1e9, 10.0, 1.5, 0.2, 2.0, (), 0.01, 0.002)
ALARM = AlarmRaised("pump", 1e9 + 1, 11.0, 3, "threshold", 4.5, 0.01, "Strangest at 3 kHz.")
OVER = AlarmEnded("pump", 1e9 + 9, 19.0, 3, "threshold", 1e9 + 1, 5.5, 0.005)
GAP, HEARD = GapBegan("pump", 1e9 + 20, 30.0, "cable out"), GapEnded("pump", 1e9 + 25, 30.0, 1e9 + 20, "cable out")
TROUBLE = Trouble("pump", 1e9 + 30, 40.0, "not recording: disk full")
ALL = [JUDGED, ALARM, OVER, GAP, HEARD, TROUBLE]


def eventually(seen: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.01)


def test_the_console_has_a_line_for_what_matters() -> None:
    out, status = io.StringIO(), io.StringIO()
    console = Console(out, status)
    for event in ALL:
        console.take(event)
    console.close()
    lines = out.getvalue().splitlines()
    assert len(lines) == 5
    assert "ALARM (threshold, number 3): score 4.5, p-value 0.01. Strangest at 3 kHz." in lines[0]
    assert "after 8 s, worst score 5.5" in lines[1]
    assert "cable out" in lines[2]
    assert "after 5 s" in lines[3]
    assert "disk full" in lines[4]
    assert "latency 10 ms, real-time factor 0.0020" in status.getvalue()


def test_an_alarm_that_was_not_recorded_says_so() -> None:
    out = io.StringIO()
    Console(out).take(AlarmRaised("pump", 1e9, 1.0, None, "threshold", 4.5, NAN, "x"))
    assert "not recorded): score 4.5. x" in out.getvalue()


def test_json_lines_are_json(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for event in (*ALL, Judged("pump", 1e9, 1.0, NAN, NAN, 2.0, ("drift",), 0.0, 0.0, "silence")):
        sink = JSONLines(path)  # each time anew: what is there stays
        sink.take(event)
        sink.close()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert [row["event"] for row in rows] == ["judged", "alarm", "alarm ended", "gap", "gap ended", "trouble", "judged"]
    assert rows[0]["at"] == "2001-09-09T01:46:40.000+00:00"
    assert rows[-1]["score"] is None
    assert rows[-1]["alarms"] == ["drift"]
    with pytest.raises(AuscultError, match="cannot write"):
        JSONLines(tmp_path)


# Webhooks -------------------------------------------------------------------------------------------------


def test_a_webhook_is_signed_and_tried_until_it_is_taken() -> None:
    taken: list[dict[str, Any]] = []
    answers = iter([500, 429, 200, 302, 200, 400, 200, 200])
    signatures = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        signatures.append(is_signed(b"secret", body, request.headers[SIGNATURE], time.time()))
        status = next(answers)
        request.send_response(status)
        if status == 302:
            request.send_header("Location", "http://elsewhere.example/")
        request.send_header("Content-Length", "0")
        request.end_headers()
        if status == 200:
            taken.append(json.loads(body))

    with web_server(answer) as url:
        sink = Webhook(url + "/hook", "secret", Retries(0.01, 0.02, 20, 5.0))
        for event in ALL:
            sink.take(event)
        eventually(lambda: len(taken) == 4)
        sink.close()
    # Windows are not told, and what the receiver refuses (400) is not sent again.
    assert [row["event"] for row in taken] == ["alarm", "alarm ended", "gap ended", "trouble"]
    assert all(signatures)
    assert sink.given_up == 1


def test_a_receiver_that_is_away_is_given_up_in_the_end() -> None:
    sink = Webhook("http://127.0.0.1:1/hook", retries=Retries(0.001, 0.002, 5, 1.0))
    sink.take(ALARM)
    eventually(lambda: sink.given_up == 1)
    sink.close()


def test_signatures_of_others_and_old_ones_are_told_apart() -> None:
    header = sign(b"secret", b"{}", 1000)
    assert is_signed(b"secret", b"{}", header, 1100.0)
    assert not is_signed(b"other", b"{}", header, 1100.0)
    assert not is_signed(b"secret", b"{ }", header, 1100.0)
    assert not is_signed(b"secret", b"{}", header, 2000.0)
    for nonsense in ("", "t=1", "t=x,v1=y", "v1=" + "0" * 64):
        assert not is_signed(b"secret", b"{}", nonsense, 1100.0)


def test_addresses_that_are_none_are_refused() -> None:
    for wrong in ("file:///etc/passwd", "plant", "http://"):
        with pytest.raises(AuscultError, match="no web address"):
            Webhook(wrong)
    for wrong in ("http://broker/x", "mqtt://broker", "mqtt:///x"):
        with pytest.raises(AuscultError, match="no MQTT host"):
            MQTTSink(wrong)


# MQTT and Prometheus --------------------------------------------------------------------------------------


def test_mqtt_gets_every_event() -> None:
    broker = Broker()
    sink = MQTTSink(f"mqtt://127.0.0.1:{broker.port}/plant/hall")
    eventually(sink.client.is_connected)
    for event in ALL:
        sink.take(event)
    sink.take(GapBegan("a/b+#", 1e9, 1.0, "x"))
    eventually(lambda: len(broker.messages) == 7)
    sink.close()
    broker.close()
    assert [topic for topic, _ in broker.messages] == [
        *(f"plant/hall/pump/{kind}" for kind in ("judged", "alarm", "alarm-ended", "gap", "gap-ended", "trouble")),
        "plant/hall/a_b__/gap",
    ]
    assert json.loads(broker.messages[1][1])["message"] == "Strangest at 3 kHz."


def test_prometheus_can_fetch() -> None:
    sink = Prometheus(0)
    for event in (JUDGED, ALARM, GAP):
        sink.take(event)
    with urllib.request.urlopen(f"http://127.0.0.1:{sink.port}/metrics") as answer:
        text = answer.read().decode()
    with pytest.raises(AuscultError, match="choose another port"):
        Prometheus(sink.port)
    sink.take(OVER)
    value = sink.registry.get_sample_value
    machine = {"machine": "pump"}
    assert 'auscult_alarm{machine="pump",rule="threshold"} 1.0' in text
    assert value("auscult_alarm", {**machine, "rule": "threshold"}) == 0.0
    assert value("auscult_alarms_total", {**machine, "rule": "threshold"}) == 1.0
    assert value("auscult_windows_total", machine) == 1.0
    assert value("auscult_score", machine) == 1.5
    assert value("auscult_gap", machine) == 1.0
    assert not math.isnan(value("auscult_latency_seconds", machine) or NAN)
    sink.close()
