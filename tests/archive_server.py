"""A server on this machine that acts as Zenodo and GitHub do, on good days and bad."""

from __future__ import annotations

import email.utils
import hashlib
import json
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Clients that break off are nothing to speak of."""


class Site:
    """What the server holds, how it misbehaves, and what it was asked.

    Attributes
    ----------
    records : dict
        Zenodo record → file name → content.
    repositories : dict
        "owner/name@commit/folder" → file name → content.
    faults : dict
        File name (or "record", for listings) → what to do wrong, request by request; then all is well.
    asked : list of (str, str)
        File name and Range of each request for a file.
    stated : dict
        File name → what the listing states instead of the truth: {"size": …, "checksum": …}.
    """

    def __init__(self) -> None:
        self.records: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.repositories: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.stated: dict[str, dict[str, Any]] = defaultdict(dict)
        self.asked: list[tuple[str, str]] = []
        self.conditions: list[str] = []
        self.busiest = 0
        self._now = 0
        self._lock = threading.Lock()
        self._server = _Quiet(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def requests(self, name: str) -> list[str]:
        """The ranges asked of a file, in order."""
        return [asked for file, asked in self.asked if file == name]

    # What is answered ------------------------------------------------------------------------------------------

    def listing(self, path: str) -> Any:
        record = path.removeprefix("/api/records/")
        if record != path and record in self.records:
            files = [self._stated_file(name, content) for name, content in self.records[record].items()]
            return {"id": int(record), "metadata": {"license": {"id": "cc-by-nc-sa-4.0"}}, "files": files}
        for place, held in self.repositories.items():
            repository, _, rest = place.partition("@")
            if path == f"/repos/{repository}/contents/{rest.partition('/')[2]}":
                return [
                    {"name": name, "type": "file", "size": len(content), "sha": git_sha(content)}
                    for name, content in held.items()
                ]
        return None

    def _stated_file(self, name: str, content: bytes) -> dict[str, Any]:
        checksum = f"md5:{hashlib.md5(content).hexdigest()}"
        return {"key": name, "size": len(content), "checksum": checksum} | self.stated[name]

    def file(self, path: str) -> tuple[str, bytes] | None:
        parts = unquote(path).strip("/").split("/")
        if parts[0] == "records" and parts[2:3] == ["files"] and parts[3] in self.records[parts[1]]:
            return parts[3], self.records[parts[1]][parts[3]]
        for place, held in self.repositories.items():
            if place.replace("@", "/") == "/".join(parts[:-1]) and parts[-1] in held:
                return parts[-1], held[parts[-1]]
        return None

    def next_fault(self, name: str) -> str:
        with self._lock:
            return self.faults[name].pop(0) if self.faults[name] else ""

    def _handler(site) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Quietly."""

            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                with site._lock:
                    site._now += 1
                    site.busiest = max(site.busiest, site._now)
                try:
                    held = site.file(path.removeprefix("/elsewhere"))
                    if held is not None:
                        self.send_file(*held)
                    else:
                        self.send_listing(path)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True
                finally:
                    with site._lock:
                        site._now -= 1

            def send_listing(self, path: str) -> None:
                fault = site.next_fault("record")
                if fault.isdecimal():
                    return self.refuse(int(fault))
                stated = site.listing(path)
                body = b"<html>" if fault == "html" else json.dumps(stated).encode()
                self.answer(404 if stated is None else 200, body)
                return None

            def send_file(self, name: str, content: bytes) -> None:
                asked = self.headers.get("Range", "")
                with site._lock:
                    site.asked.append((name, asked))
                    site.conditions.append(self.headers.get("If-Range", ""))
                fault, _, detail = site.next_fault(name).partition(":")
                if fault.isdecimal():
                    return self.refuse(int(fault), detail)
                if fault == "redirect" and not self.path.startswith("/elsewhere"):
                    self.send_response(302)
                    self.send_header("Location", f"/elsewhere{self.path}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return None
                if fault == "slow":
                    time.sleep(float(detail))
                start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
                tag = f'"{hashlib.md5(content).hexdigest()}"'
                condition = self.headers.get("If-Range", "")
                if fault in ("whole", "stubborn") or (condition and condition != tag):
                    start = 0
                if start > len(content) or (fault == "unsatisfiable" and asked):
                    return self.refuse(416)
                body = content[start:]
                headers = {"ETag": tag}
                if asked and start:
                    at = start + 1 if fault == "misplaced" else start
                    headers["Content-Range"] = f"bytes {at}-{len(content) - 1}/{len(content)}"
                length = len(body)
                if fault == "garbled":
                    body = body[:-1] + bytes([body[-1] ^ 1])
                if fault == "more":
                    body, length = body + b"!" * 100_000, length + 100_000
                if fault == "overstated":
                    length += 1000
                if fault == "understated":
                    body, length = body[: int(detail)], int(detail)
                self.send_response(206 if asked and start else 200)
                for key, value in {**headers, "Content-Length": str(length)}.items():
                    self.send_header(key, value)
                self.end_headers()
                if fault in ("break", "stubborn"):
                    self.wfile.write(body[: int(detail)])
                    self.close_connection = True
                    return None
                self.wfile.write(body)
                self.close_connection = fault == "overstated"
                return None

            def refuse(self, status: int, after: str = "") -> None:
                headers = {"Retry-After": after} if after else {}
                if after == "date":
                    headers = {"Retry-After": email.utils.formatdate(time.time() + 1, usegmt=True)}
                self.answer(status, b"", headers)

            def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)

        return Handler


def git_sha(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
