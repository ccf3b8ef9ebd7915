"""Where events go on this computer: the terminal, a file of JSON lines, Prometheus."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from auscult.errors import AuscultError
from auscult.files import cannot_write
from auscult.monitor.events import AlarmEnded, AlarmRaised, Event, GapBegan, GapEnded, Judged, Trouble

_STATUS_EVERY = 0.5


class Console:
    """A line for each alarm, gap and trouble; on a terminal also one that shows the score now.

    Parameters
    ----------
    out, status : text files, optional
        Default: standard output for the lines, standard error for what is shown now, if that is a terminal.
    """

    def __init__(self, out: TextIO | None = None, status: TextIO | None = None) -> None:
        self.out = out or sys.stdout
        self.status = status or (sys.stderr if sys.stderr.isatty() else None)
        self._shown = 0.0

    def take(self, event: Event) -> None:
        """See `Sink.take`."""
        if isinstance(event, Judged):
            self._show(event)
            return
        line = say(event)
        if self.status is not None:
            self.status.write("\r\033[K")
        print(line, file=self.out, flush=True)

    def _show(self, event: Judged) -> None:
        now = time.monotonic()
        if self.status is None or now - self._shown < _STATUS_EVERY:
            return
        self._shown = now
        what = event.error or f"score {event.score:.4g} (threshold {event.threshold:.4g})"
        on = f"  ALARM: {', '.join(event.alarms)}" if event.alarms else ""
        speed = f"latency {1000 * event.latency:.0f} ms, real-time factor {event.real_time_factor:.4f}"
        self.status.write(f"\r\033[K{_clock(event.time)}  {event.machine}  {what}{on}  {speed}")
        self.status.flush()

    def close(self) -> None:
        """See `Sink.close`."""
        if self.status is not None:
            self.status.write("\r\033[K")
            self.status.flush()


def say(event: Event) -> str:
    """One line of text for an event."""
    head = f"{_clock(event.time)}  {event.machine}  "
    if isinstance(event, AlarmRaised):
        number = "not recorded" if event.alarm is None else f"number {event.alarm}"
        p = "" if event.p_value != event.p_value else f", p-value {event.p_value:.2g}"
        return f"{head}ALARM ({event.rule}, {number}): score {event.score:.4g}{p}. {event.message}"
    if isinstance(event, AlarmEnded):
        return f"{head}alarm over ({event.rule}) after {event.time - event.began:.0f} s, worst score {event.score:.4g}"
    if isinstance(event, GapBegan):
        return f"{head}nothing is heard: {event.reason}"
    if isinstance(event, GapEnded):
        return f"{head}heard again after {event.time - event.began:.0f} s"
    if isinstance(event, Trouble):
        return f"{head}{event.message}"
    return f"{head}{event.kind}"


def _clock(when: float) -> str:
    return datetime.fromtimestamp(when).strftime("%Y-%m-%d %H:%M:%S")


class JSONLines:
    """One JSON object a line for every event, windows judged included.

    Parameters
    ----------
    path : Path or None
        None for standard output.

    Raises
    ------
    AuscultError
        If the file cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        try:
            self.file: TextIO = sys.stdout if path is None else open(path, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise cannot_write(path or Path("standard output"), error) from error

    def take(self, event: Event) -> None:
        """See `Sink.take`."""
        self.file.write(json.dumps(event.facts(), allow_nan=False) + "\n")
        self.file.flush()
        if isinstance(event, AlarmRaised) and self.file is not sys.stdout:
            os.fsync(self.file.fileno())

    def close(self) -> None:
        """See `Sink.close`."""
        if self.file is not sys.stdout:
            self.file.close()


class Prometheus:
    """Metrics for a Prometheus server to fetch, at http://HOST:PORT/metrics.

    Parameters
    ----------
    port : int
        0 for any that is free.
    host : str
        Address to listen on.

    Raises
    ------
    AuscultError
        If the port is taken or prometheus-client is not installed.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        try:
            import prometheus_client as prometheus
        except ImportError as error:
            raise AuscultError("prometheus-client is missing", 'install it: pip install "auscult[monitor]"') from error
        self.registry = prometheus.CollectorRegistry()

        def gauge(name: str, what: str, labels: tuple[str, ...] = ("machine",)) -> Any:
            return prometheus.Gauge(f"auscult_{name}", what, labels, registry=self.registry)

        def counter(name: str, what: str, labels: tuple[str, ...] = ("machine",)) -> Any:
            return prometheus.Counter(f"auscult_{name}", what, labels, registry=self.registry)

        self.score = gauge("score", "anomaly score of the last window")
        self.p_value = gauge("p_value", "share of healthy windows that would score as high")
        self.threshold = gauge("threshold", "score above which a window counts towards an alarm")
        self.factor = gauge("real_time_factor", "seconds of computing for a second of sound")
        self.latency = gauge("latency_seconds", "from a sample's arrival to the judgement")
        self.on = gauge("alarm", "1 while an alarm is on", ("machine", "rule"))
        self.gap = gauge("gap", "1 while nothing is heard")
        self.windows = counter("windows", "windows judged")
        self.alarms = counter("alarms", "alarms raised", ("machine", "rule"))
        self.gaps = counter("gaps", "gaps")
        try:
            self.server, self.thread = prometheus.start_http_server(port, host, self.registry)
        except OSError as error:
            raise AuscultError(
                f"cannot listen on {host}:{port}: {error.strerror or error}", "choose another port"
            ) from error
        self.port = int(self.server.server_port)

    def take(self, event: Event) -> None:
        """See `Sink.take`."""
        if isinstance(event, Judged):
            self.windows.labels(event.machine).inc()
            for metric, value in (
                (self.score, event.score),
                (self.p_value, event.p_value),
                (self.threshold, event.threshold),
                (self.factor, event.real_time_factor),
                (self.latency, event.latency),
            ):
                metric.labels(event.machine).set(value)
        elif isinstance(event, AlarmRaised):
            self.alarms.labels(event.machine, event.rule).inc()
            self.on.labels(event.machine, event.rule).set(1)
        elif isinstance(event, AlarmEnded):
            self.on.labels(event.machine, event.rule).set(0)
        elif isinstance(event, GapBegan):
            self.gaps.labels(event.machine).inc()
            self.gap.labels(event.machine).set(1)
        elif isinstance(event, GapEnded):
            self.gap.labels(event.machine).set(0)

    def close(self) -> None:
        """See `Sink.close`."""
        self.server.shutdown()
        self.server.server_close()


class Calls:
    """Hands events to a function: for programs that use auscult as a library."""

    def __init__(self, function: Callable[[Event], object]) -> None:
        self.function = function

    def take(self, event: Event) -> None:
        """See `Sink.take`."""
        self.function(event)

    def close(self) -> None:
        """See `Sink.close`."""
