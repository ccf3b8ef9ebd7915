"""Servers for tests: an MQTT broker, and a web server that hands out what it is told to."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Broker:
    """As much of MQTT 3.1.1 and 5 as passes messages on: connect, subscribe, publish at quality 0 and 1, ping."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.topics: list[tuple[socket.socket, str]] = []
        self.messages: list[tuple[str, bytes]] = []
        self.users: list[bytes] = []
        self.clients: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.socket.accept()
                self.clients.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                kind, body = _packet(client)
                if kind >> 4 == 1:
                    self.users.append(body)
                    client.sendall(b"\x20\x02\x00\x00")
                elif kind >> 4 == 8:
                    length = struct.unpack(">H", body[2:4])[0]
                    self.topics.append((client, body[4 : 4 + length].decode()))
                    client.sendall(b"\x90\x03" + body[:2] + b"\x00")
                elif kind >> 4 == 3:
                    length = struct.unpack(">H", body[:2])[0]
                    topic, rest = body[2 : 2 + length].decode(), body[2 + length :]
                    if kind & 6:
                        client.sendall(b"\x40\x02" + rest[:2])
                        rest = rest[2:]
                    self.publish(topic, rest)
                elif kind >> 4 == 12:
                    client.sendall(b"\xd0\x00")
                elif kind >> 4 == 14:
                    return

    def publish(self, topic: str, message: bytes) -> None:
        """Pass a message on to those who subscribed to its topic."""
        self.messages.append((topic, message))
        body = struct.pack(">H", len(topic)) + topic.encode() + message
        for client, wanted in self.topics:
            if wanted == topic:
                with contextlib.suppress(OSError):
                    client.sendall(b"\x30" + _length(len(body)) + body)

    def drop_all(self) -> None:
        """Break every connection."""
        for client in self.clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        self.topics.clear()

    def close(self) -> None:
        self.socket.close()
        self.drop_all()


def _packet(client: socket.socket) -> tuple[int, bytes]:
    kind, length, shift = _exactly(client, 1)[0], 0, 0
    while True:
        byte = _exactly(client, 1)[0]
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return kind, _exactly(client, length)


def _exactly(client: socket.socket, number: int) -> bytes:
    data = b""
    while len(data) < number:
        part = client.recv(number - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _length(number: int) -> bytes:
    out = b""
    while True:
        number, byte = divmod(number, 128)
        out += bytes([byte | (128 if number else 0)])
        if not number:
            return out


@contextmanager
def web_server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A web server on this machine; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
