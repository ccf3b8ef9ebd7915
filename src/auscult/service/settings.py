"""What the service allows, and whom."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from auscult.errors import AuscultError
from auscult.files import atomic

_PREFIX = "sha256:"


@dataclass(frozen=True)
class Limits:
    """What a client may ask for.

    Attributes
    ----------
    upload_bytes : int
        Of one request.
    clip_seconds : float
        Of one clip, looked up before it is decoded.
    batch : int
        Clips in one request.
    receive_seconds, decode_seconds, score_seconds : float
        For receiving a request, decoding a clip, scoring it.
    workers : int
        Clips decoded, and clips scored, at once.
    waiting : int
        Requests that wait for those; more are sent away (503).
    requests_a_minute : int
        Of one address.
    streams : int
        WebSockets at once.
    """

    upload_bytes: int = 64 * 2**20
    clip_seconds: float = 300.0
    batch: int = 64
    receive_seconds: float = 30.0
    decode_seconds: float = 10.0
    score_seconds: float = 60.0
    workers: int = 2
    waiting: int = 64
    requests_a_minute: int = 600
    streams: int = 64


@dataclass(frozen=True)
class Tokens:
    """Who may ask: the hashes of tokens, by name.

    Attributes
    ----------
    hashes : dict of str to str
        SHA-256 of each token, in hexadecimal. Tokens are 256 random bits, which no dictionary holds.
    """

    hashes: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.hashes)

    def owner(self, token: str) -> str | None:
        """Whose token it is; None if nobody's. Takes as long for every token."""
        hashed, found = hash_token(token), None
        for name, known in self.hashes.items():
            if hmac.compare_digest(hashed, known):
                found = name
        return found

    def with_token(self, name: str, token: str) -> Tokens:
        """These and one more."""
        if len(token) < 16:
            raise AuscultError("a token has at least 16 characters", "`auscult serve --new-token NAME` makes one")
        return Tokens({**self.hashes, name: hash_token(token)})


def hash_token(token: str) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(token.encode()).hexdigest()


def read_tokens(path: Path) -> Tokens:
    """Read a file of lines `sha256:HASH NAME`.

    Raises
    ------
    AuscultError
        If there is no such file, or a line is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AuscultError(f"{path}: cannot be read", "make it with `auscult serve --new-token NAME`") from error
    hashes = {}
    for number, line in enumerate(lines, 1):
        hashed, _, name = line.partition(" ")
        digest = hashed.removeprefix(_PREFIX)
        if not line.strip() or line.startswith("#"):
            continue
        if not hashed.startswith(_PREFIX) or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise AuscultError(f"{path}: line {number} is no hashed token", "`auscult serve --new-token NAME` adds one")
        hashes[name.strip() or str(number)] = digest
    return Tokens(hashes)


def allowed(path: Path | None, token: str | None) -> Tokens:
    """The tokens of a file, and one more.

    Raises
    ------
    AuscultError
        If the file cannot be read, or the token is too short.
    """
    known = Tokens() if path is None else read_tokens(path)
    if path is not None and not known:
        raise AuscultError(f"{path}: holds no token", "`auscult serve --new-token NAME` adds one")
    return known if token is None else known.with_token("--token", token)


def add_token(path: Path, name: str) -> str:
    """Make a token, add its hash to a file, and return it: it is not to be had again.

    Raises
    ------
    AuscultError
        If the name is taken or no name, or the file cannot be written.
    """
    if not name.isprintable() or not name.strip() or name != name.strip():
        raise AuscultError(f"{name!r} is no name", "as --new-token dashboard")
    known = read_tokens(path) if path.exists() else Tokens()
    if name in known.hashes:
        raise AuscultError(f"{path}: has a token of {name} already", "delete its line first, or choose another name")
    token = secrets.token_urlsafe(32)
    hashes = known.with_token(name, token).hashes
    with atomic(path) as temporary:
        temporary.write_text("".join(f"{_PREFIX}{digest} {who}\n" for who, digest in hashes.items()), encoding="utf-8")
    path.chmod(0o600)
    return token


def check_address(host: str, tokens: Tokens) -> None:
    """Refuse to be reached from elsewhere by everybody.

    Raises
    ------
    AuscultError
        If the address is not of this computer alone and there is no token.
    """
    if not is_loopback(host) and not tokens:
        raise AuscultError(
            f"{host} can be reached from other computers, and anybody could listen to your machines",
            "make a token first: auscult serve --new-token NAME --tokens FILE, and serve with --tokens FILE",
        )


def is_loopback(host: str) -> bool:
    """Whether an address is of this computer alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
