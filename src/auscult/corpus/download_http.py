"""Files over HTTP: resumed after a break, never longer than declared, patient with a busy server."""

from __future__ import annotations

import contextlib
import email.utils
import json
import os
import random
import re
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auscult import __version__
from auscult.errors import AuscultError
from auscult.files import atomic, cannot_write

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

TRIES = 6
"""How often a request may fail in a row without a byte gained."""

LONGEST_WAIT = 300.0
"""Seconds; a server that asks for more patience than this is given up."""

_BUSY = (408, 425, 429, 500, 502, 503, 504)
_CHUNK = 2**20
_LARGEST_LISTING = 64 * 2**20


class Stopped(Exception):
    """The user stopped the download."""


@dataclass(frozen=True)
class Remote:
    """A file to be had.

    Attributes
    ----------
    name, url : str
    size : int
        In bytes, as the archive states it.
    checksum : str
        "md5:…" or "git:…" (the SHA-1 that git gives a file's content); "" where none is known.
    """

    name: str
    url: str
    size: int
    checksum: str = ""


class Client:
    """Fetches; safe to share between threads.

    Parameters
    ----------
    wait : float
        Seconds before the second try of a request that failed; doubled each time, unless the server says how long.
    timeout : float
        Seconds that a server may keep silent.
    """

    def __init__(self, *, wait: float = 1.0, timeout: float = 60.0) -> None:
        self.wait, self.timeout = wait, timeout
        self.stop = threading.Event()
        self._pools: dict[str, PoolManager] = {}

    def listing(self, url: str) -> Any:
        """Fetch a JSON document.

        Raises
        ------
        AuscultError
            If the server cannot be reached, refuses, or sends no JSON.
        """
        failures = 0
        while True:
            try:
                with self._open(url, {"Accept": "application/json"}) as response:
                    _refuse(url, response)
                    if response.status == 200:
                        return json.loads(response.read(_LARGEST_LISTING))
                    wait = self._patience(url, response, failures)
            except _broken(json.JSONDecodeError) as error:
                failure = f"{url}: {_reason(error)}"
                wait = self._backoff(failures)
            else:
                failure = f"{url}: the server is busy ({response.status})"
            failures += 1
            self._pause(failure, failures, wait)

    def fetch(self, remote: Remote, part: Path, advance: Callable[[int], None] = lambda _: None) -> None:
        """Bring a file to `part`, going on from what is there already; its checksum is not looked at.

        Parameters
        ----------
        remote : Remote
        part : Path
            The unfinished file. Beside it, in `<part>.json`, is noted which version of the file it is of.
        advance : callable
            Told of every few bytes gained; of a negative number where the file begins anew.

        Raises
        ------
        AuscultError
            If the server cannot be reached, refuses, or sends another length than the archive states.
        Stopped
            If `stop` was set.
        """
        note = note_of(part)
        version = _noted(note)
        if version.get("url") != remote.url or version.get("size") != remote.size:
            _begin_anew(part, advance)
            version = {}
        failures = 0
        while (have := _size(part)) != remote.size:
            if have > remote.size:
                _begin_anew(part, advance)
                continue
            tag = version.get("etag", "")
            try:
                with self._open(remote.url, _range(have, tag)) as response:
                    _refuse(remote.url, response)
                    if response.status in (200, 206):
                        version = {"url": remote.url, "size": remote.size, "etag": _etag(response)}
                        if response.status == 200 or not _continues(response, have, remote.size):
                            have = _begin_anew(part, advance)
                        if response.status == 200 or have:
                            _note(note, version)
                            self._copy(response, part, have, remote, advance)
                        failure = f"{remote.name}: the server sends less than the {remote.size} bytes that it states"
                        wait = self._backoff(failures)
                    elif response.status == 416:
                        _begin_anew(part, advance)
                        failure = f"{remote.name}: the server has no such range"
                        wait = self._backoff(failures)
                    else:
                        wait = self._patience(remote.url, response, failures)
                        failure = f"{remote.name}: the server is busy ({response.status})"
            except _broken() as error:
                failure = f"{remote.name}: {_reason(error)}"
                wait = self._backoff(failures)
            gained = _size(part) - have
            failures = 0 if gained > 0 and have else failures + 1
            if _size(part) < remote.size:
                self._pause(failure, failures, 0.0 if gained > 0 else wait)
        part.touch()  # also where the file is empty

    def _copy(
        self, response: BaseHTTPResponse, part: Path, have: int, remote: Remote, advance: Callable[[int], None]
    ) -> None:
        with open(part, "ab", buffering=0) as file:
            # Not `stream`, which holds back what it has of a piece when the connection breaks.
            while chunk := response.read1(_CHUNK):
                if self.stop.is_set():
                    raise Stopped
                have += len(chunk)
                if have > remote.size:
                    raise AuscultError(
                        f"{remote.name}: the server sends more than the {remote.size} bytes that it should be",
                        "try again later; if it stays so, the file was exchanged",
                    )
                _append(file, chunk, part)
                advance(len(chunk))

    @contextlib.contextmanager
    def _open(self, url: str, headers: Mapping[str, str]) -> Iterator[BaseHTTPResponse]:
        from urllib3 import Retry, Timeout

        if self.stop.is_set():
            raise Stopped
        only_redirects = Retry(total=8, connect=0, read=0, status=0, other=0, redirect=8, raise_on_status=False)
        response = self._pool(url).request(
            "GET",
            url,
            headers={"User-Agent": f"auscult/{__version__}", "Accept-Encoding": "identity", **headers},
            preload_content=False,
            retries=only_redirects,
            timeout=Timeout(connect=min(30.0, self.timeout), read=self.timeout),
        )
        try:
            landed = urllib.parse.urljoin(url, response.geturl() or url)
            if url.startswith("https:") and not landed.startswith("https:"):
                raise AuscultError(f"{url}: leads to an address without encryption", "try again, or use --mirror")
            yield response
        finally:
            # Not given back to the pool half read: what is left of it would have to be read first.
            response.close()

    def _pool(self, url: str) -> PoolManager:
        import urllib3

        scheme, _, rest = url.partition("://")
        proxy = urllib.request.getproxies().get(scheme, "")
        if not proxy or urllib.request.proxy_bypass(rest.partition("/")[0]):
            proxy = ""
        if proxy not in self._pools:
            self._pools[proxy] = urllib3.ProxyManager(proxy) if proxy else urllib3.PoolManager(maxsize=16)
        return self._pools[proxy]

    def _backoff(self, failures: int) -> float:
        return float(self.wait * 2**failures * random.uniform(0.75, 1.25))

    def _patience(self, url: str, response: BaseHTTPResponse, failures: int) -> float:
        """How long to wait before asking again."""
        asked = _retry_after(response.headers.get("Retry-After", ""))
        if asked is None:
            return self._backoff(failures)
        if asked > LONGEST_WAIT:
            raise AuscultError(f"{url}: the server is busy for {asked:.0f} s more", "run the same command later")
        return asked

    def _pause(self, failure: str, failures: int, wait: float) -> None:
        if failures >= TRIES:
            raise AuscultError(f"{failure}, {TRIES} times", "run the same command later: it goes on where it was")
        if self.stop.wait(wait):
            raise Stopped


def _append(file: FileIO, chunk: bytes, part: Path) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise cannot_write(part, error) from error


def note_of(part: Path) -> Path:
    """Where it is noted which version of its file an unfinished one is of; it stays until `part` is put away."""
    return part.with_name(part.name + ".json")


def _broken(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """What a connection that breaks raises."""
    from urllib3.exceptions import HTTPError

    return (HTTPError, ConnectionError, TimeoutError, *more)


def _reason(error: Exception) -> str:
    from urllib3.exceptions import MaxRetryError

    if isinstance(error, MaxRetryError) and error.reason is not None:
        error = error.reason
    text = re.sub(r"^<[^>]*>:? *|^[\w.]+\([^)]*\): *", "", str(error))
    return text or type(error).__name__


def _refuse(url: str, response: BaseHTTPResponse) -> None:
    if 400 <= response.status < 500 and response.status not in (*_BUSY, 416):
        limited = response.headers.get("X-RateLimit-Remaining") == "0"
        remedy = (
            "too many requests: run the same command in an hour" if limited else "is the address right? see --mirror"
        )
        raise AuscultError(f"{url}: the server refuses ({response.status} {response.reason or ''})".rstrip(), remedy)


def _range(have: int, tag: str) -> dict[str, str]:
    if not have:
        return {}
    # Where the file has changed since, the server sends all of it; without a tag the checksum must tell.
    return {"Range": f"bytes={have}-", **({"If-Range": tag} if tag else {})}


def _etag(response: BaseHTTPResponse) -> str:
    """What If-Range may name: a strong entity tag, or the date of the last change."""
    tag: str = response.headers.get("ETag", "")
    if tag and not tag.startswith("W/"):
        return tag
    changed: str = response.headers.get("Last-Modified", "")
    return changed


def _continues(response: BaseHTTPResponse, have: int, size: int) -> bool:
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    return match is not None and int(match[1]) == have and match[2] in ("*", str(size))


def _retry_after(text: str) -> float | None:
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _begin_anew(part: Path, advance: Callable[[int], None]) -> int:
    advance(-_size(part))
    part.unlink(missing_ok=True)
    return 0


def _size(part: Path) -> int:
    try:
        return os.stat(part).st_size
    except FileNotFoundError:
        return 0


def _noted(note: Path) -> dict[str, Any]:
    try:
        noted = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _note(note: Path, version: dict[str, Any]) -> None:
    with atomic(note) as temporary:
        temporary.write_text(json.dumps(version), encoding="utf-8")
