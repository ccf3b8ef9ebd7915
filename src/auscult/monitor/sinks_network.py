"""Where events go in the network: a web address that is called, an MQTT topic."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import queue
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from auscult.errors import AuscultError
from auscult.monitor.events import Event, Judged
from auscult.monitor.source import without_password
from auscult.monitor.sources_live import connect, default_port, library

SIGNATURE = "X-Auscult-Signature"

_WAITING = 10_000
"""Messages that wait while the receiver is away; the oldest go first."""

_REFUSED = frozenset({400, 401, 403, 404, 405, 410, 413, 415, 422})
"""Answers after which the same message need not be sent again."""


@dataclass(frozen=True)
class Retries:
    """Seconds between attempts, each wait twice the one before; after `attempts` a message is given up."""

    first: float = 1.0
    longest: float = 300.0
    attempts: int = 50
    timeout: float = 10.0


class Webhook:
    """Calls a web address for each alarm, gap and trouble, in order, again and again until it is taken.

    The body is JSON; with a secret, the header `X-Auscult-Signature: t=SECONDS,v1=HEX` carries the HMAC-SHA256 of
    "SECONDS.BODY", so that the receiver can tell it from another's, and an old one from a new one.

    Parameters
    ----------
    url : str
        http:// or https://
    secret : str
        Empty for no signature.
    retries : Retries

    Raises
    ------
    AuscultError
        If the address is none.
    """

    def __init__(self, url: str, secret: str = "", retries: Retries = Retries()) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise AuscultError(f"{without_password(url)}: is no web address", "give http://… or https://…")
        self.url, self.secret, self.retries = url, secret.encode(), retries
        self.given_up = 0
        self._messages: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        self._stop = threading.Event()
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._thread = threading.Thread(target=self._deliver, name="webhook", daemon=True)
        self._thread.start()

    def take(self, event: Event) -> None:
        """See `Sink.take`; the call is made in another thread."""
        if isinstance(event, Judged):
            return
        body = json.dumps(event.facts(), allow_nan=False).encode()
        while True:
            try:
                self._messages.put_nowait(body)
                return
            except queue.Full:
                with contextlib.suppress(queue.Empty):
                    self._messages.get_nowait()
                    self.given_up += 1

    def close(self) -> None:
        """See `Sink.close`; a few seconds are given to what waits."""
        with contextlib.suppress(queue.Full):
            self._messages.put_nowait(None)
        self._thread.join(5.0)
        self._stop.set()

    def _deliver(self) -> None:
        while (body := self._messages.get()) is not None:
            wait = self.retries.first
            for _ in range(self.retries.attempts):
                if self._stop.is_set() or self._call(body):
                    break
                self._stop.wait(wait)
                wait = min(2 * wait, self.retries.longest)
            else:
                self.given_up += 1

    def _call(self, body: bytes) -> bool:
        """Whether the message need not be sent again."""
        headers = {"Content-Type": "application/json", "User-Agent": "auscult"}
        if self.secret:
            headers[SIGNATURE] = sign(self.secret, body, int(time.time()))
        request = urllib.request.Request(self.url, body, headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.retries.timeout):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in _REFUSED:
                self.given_up += 1
                return True
            return False
        except (OSError, ValueError):
            return False


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """What is meant for one address goes to no other."""

    def redirect_request(self, *_: object) -> None:
        """Follow none."""


def sign(secret: bytes, body: bytes, seconds: int) -> str:
    """The header of a message: when it was signed, and HMAC-SHA256 of "SECONDS.BODY"."""
    signature = hmac.new(secret, f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={signature}"


def is_signed(secret: bytes, body: bytes, header: str, now: float, tolerance: float = 300.0) -> bool:
    """Whether a message is ours and not older than `tolerance` seconds: what a receiver does."""
    parts = dict(part.split("=", 1) for part in header.split(",") if "=" in part)
    if not parts.get("t", "").isdigit() or abs(now - int(parts["t"])) > tolerance:
        return False
    return hmac.compare_digest(sign(secret, body, int(parts["t"])), header)


class MQTTSink:
    """Publishes each event as JSON to TOPIC/MACHINE/KIND; windows judged with quality 0, the rest with 1.

    Parameters
    ----------
    url : str
        mqtt://[USER:PASSWORD@]HOST[:PORT]/TOPIC

    Raises
    ------
    AuscultError
        If it names no host and topic, or paho-mqtt is not installed.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.topic = unquote(parts.path.strip("/"))
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or not self.topic:
            raise AuscultError(f"{without_password(url)}: names no MQTT host and topic", "write mqtt://HOST/TOPIC")
        self.client = connect(library("paho.mqtt.client", "monitor"), parts)
        # In its own thread, which connects again by itself; what has quality 1 waits meanwhile.
        self.client.max_queued_messages_set(_WAITING)
        self.client.reconnect_delay_set(1, 60)
        self.client.connect_async(parts.hostname, parts.port or default_port(parts.scheme), keepalive=30)
        self.client.loop_start()

    def take(self, event: Event) -> None:
        """See `Sink.take`."""
        judged = isinstance(event, Judged)
        if judged and not self.client.is_connected():
            return
        machine = event.machine.translate(str.maketrans("/+#", "___"))
        topic = f"{self.topic}/{machine}/{event.kind.replace(' ', '-')}"
        self.client.publish(topic, json.dumps(event.facts(), allow_nan=False), qos=0 if judged else 1)

    def close(self) -> None:
        """See `Sink.close`."""
        deadline = time.monotonic() + 5.0
        while self.client.is_connected() and self.client.want_write() and time.monotonic() < deadline:
            time.sleep(0.02)
        self.client.disconnect()
        self.client.loop_stop()
