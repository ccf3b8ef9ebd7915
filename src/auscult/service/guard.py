"""Who may ask, how often and how much; and what every answer's headers say."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections import OrderedDict
from urllib.parse import urlsplit

from fastapi import HTTPException, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from auscult.service.settings import Limits, Tokens, is_loopback

SESSION = "auscult_session"
_SESSION_SECONDS = 12 * 3600
_MOST_SESSIONS = 1000
_MOST_ADDRESSES = 10_000

SAFE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


class Guard:
    """Tokens, sessions of browsers, and how often each address has asked.

    Parameters
    ----------
    tokens : Tokens
        None for a service that this computer alone can reach.
    limits : Limits
    """

    def __init__(self, tokens: Tokens, limits: Limits) -> None:
        self.tokens, self.limits = tokens, limits
        self._sessions: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._asked: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def who(self, connection: HTTPConnection) -> str:
        """The name of whoever asks.

        Raises
        ------
        HTTPException
            401 for a stranger, 403 for a page of another site that makes a browser ask.
        """
        self.same_site(connection)
        if not self.tokens:
            return "local"
        kind, _, token = connection.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and (owner := self.tokens.owner(token.strip())):
            return owner
        name, until = self._sessions.get(connection.cookies.get(SESSION, ""), ("", 0.0))
        if time.time() < until:
            return name
        raise HTTPException(401, "who are you? send Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})

    def same_site(self, connection: HTTPConnection) -> None:
        """Refuse what a page of another site makes a browser send, and other names for this computer."""
        host = urlsplit(f"//{connection.headers.get('host', '')}").hostname or ""
        if not self.tokens and not is_loopback(host):
            raise HTTPException(403, "this service is for this computer alone")
        origin = connection.headers.get("origin")
        if origin and urlsplit(origin).netloc != connection.headers.get("host"):
            raise HTTPException(403, "pages of other sites may not ask")

    def log_in(self, token: str) -> str:
        """A session for a browser that knows a token.

        Raises
        ------
        HTTPException
            401 if it does not.
        """
        owner = self.tokens.owner(token)
        if owner is None:
            raise HTTPException(401, "that is no token")
        session = secrets.token_urlsafe(32)
        self._sessions[session] = (owner, time.time() + _SESSION_SECONDS)
        while len(self._sessions) > _MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return session

    def log_out(self, session: str) -> None:
        """Forget a session."""
        self._sessions.pop(session, None)

    def count(self, connection: HTTPConnection, cost: float = 1.0) -> None:
        """Count a request of an address.

        Raises
        ------
        HTTPException
            429 if there were too many; `Retry-After` says how long to wait.
        """
        address = connection.client.host if connection.client else "?"
        a_second, most = self.limits.requests_a_minute / 60, float(self.limits.requests_a_minute)
        left, since = self._asked.pop(address, (most, time.monotonic()))
        now = time.monotonic()
        left = min(most, left + (now - since) * a_second) - cost
        self._asked[address] = (max(left, -cost), now)
        while len(self._asked) > _MOST_ADDRESSES:
            self._asked.popitem(last=False)
        if left < 0:
            wait = math.ceil(-left / a_second)
            raise HTTPException(429, "too many requests", {"Retry-After": str(wait)})


async def receive_body(request: Request, limits: Limits) -> bytes:
    """All of a request's body, if it is small enough and comes soon enough.

    Raises
    ------
    HTTPException
        413 if it is too large, which its header may say before it is received; 408 if it takes too long.
    """
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > limits.upload_bytes:
        raise _too_large(limits)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.receive_seconds):
            async for part in request.stream():
                body += part
                if len(body) > limits.upload_bytes:
                    raise _too_large(limits)
    except TimeoutError as error:
        late = f"nothing complete in {limits.receive_seconds:g} s"
        raise HTTPException(408, late, {"Connection": "close"}) from error
    return bytes(body)


def _too_large(limits: Limits) -> HTTPException:
    megabytes = limits.upload_bytes / 2**20
    return HTTPException(413, f"at most {megabytes:g} MiB are taken", {"Connection": "close"})


class SafeHeaders:
    """Adds `SAFE_HEADERS` to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAFE_HEADERS.items():
                    if name not in Headers(raw=message["headers"]):
                        headers[name] = value
            await send(message)

        await self.app(scope, receive, send_safely if scope["type"] == "http" else send)
