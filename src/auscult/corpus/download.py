"""Published data sets, fetched: several archives at once, resumed, checked, unpacked, recorded with their licence."""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from auscult.corpus.download_archive import Damaged, check_space, size_in_words
from auscult.corpus.download_catalogue import corpus_named
from auscult.corpus.download_http import Client, Remote, Stopped, note_of
from auscult.corpus.download_listing import Item, find_items
from auscult.corpus.download_store import RECORD, Store
from auscult.errors import AuscultError
from auscult.progress import progress_bytes

__all__ = ["RECORD", "Fetched", "download"]

_GROWTH = 1.4
"""How much larger recordings are than their archive, to estimate the space needed before anything is fetched."""

_FAREWELL = 1.0
"""Seconds that an archive under way is given to stop."""


@dataclass(frozen=True)
class Fetched:
    """What a download came to.

    Attributes
    ----------
    folder : Path
        The data set's folder.
    done, kept : tuple of str
        Archives fetched now, and those that were there already.
    failures : tuple of str
        What is missing, and why: one line each.
    to_unpack : tuple of str
        Archives that auscult does not unpack, by their first volume.
    """

    folder: Path
    done: tuple[str, ...]
    kept: tuple[str, ...]
    failures: tuple[str, ...]
    to_unpack: tuple[str, ...] = ()


def download(
    name: str,
    output: str | os.PathLike[str],
    *,
    machines: Sequence[str] = (),
    parts: Sequence[str] = (),
    parallel: int = 2,
    mirror: str | None = None,
    keep_archives: bool = False,
    client: Client | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Fetched:
    """Fetch a published data set, or some of it, into `output/<name>`.

    What is already there is not fetched again; what a break left unfinished is gone on with. An archive counts as
    done when its content is in place and `download.json` lists it, never before.

    Parameters
    ----------
    name : str
        Of a data set in :data:`auscult.corpus.download_catalogue.CORPORA`.
    output : path
    machines, parts : sequence of str
        Only these; everything where empty.
    parallel : int
        Archives at once.
    mirror : str, optional
        An address that stands in for Zenodo and GitHub.
    keep_archives : bool
        Keep the archives, under `archives`, after they are unpacked.
    client : Client, optional
    say : callable
        Told in a line each what is fetched, from where, and under which licence.

    Raises
    ------
    AuscultError
        If there is no such data set, machine type or part; an archive cannot be reached; the disk is too small; or
        another download into the same folder is under way. A single archive that fails does not raise: see
        `failures`.
    """
    corpus = corpus_named(name)
    chosen = corpus.choose(machines, parts)
    client = client or Client()
    home = Path(output) / corpus.name
    items = find_items(client, corpus, chosen, mirror)
    store = Store(home, corpus.name, corpus.title)
    missing = [item for item in items if not store.has(item)]
    kept = tuple(item.key for item in items if item not in missing)
    _announce(say, corpus.title, items, missing)
    if not missing:
        return Fetched(home, (), kept, (), store.to_unpack(items))
    check_space(home, _needed(missing, store, parallel))
    with store.locked():
        done, failures = _fetch_all(missing, store, client, parallel, keep_archives)
    return Fetched(home, tuple(done), kept, tuple(failures), store.to_unpack(items))


def _announce(say: Callable[[str], None], title: str, items: Sequence[Item], missing: Sequence[Item]) -> None:
    size = size_in_words(sum(item.size for item in missing))
    here = f", {len(items) - len(missing)} are there already" if len(missing) < len(items) else ""
    say(f"{title}: {len(missing)} archives to fetch, {size}{here}")
    for licence in dict.fromkeys(item.licence for item in items):
        say(f"licence: {licence} ({', '.join(dict.fromkeys(i.part.name for i in items if i.licence == licence))})")


def _needed(items: Sequence[Item], store: Store, parallel: int) -> int:
    """Room for all recordings, and for the archives that lie beside them at the same time."""
    packed = sorted((item.size - store.have(item) for item in items), reverse=True)
    recordings = sum(item.size for item in items if item.packed) * _GROWTH
    left = sum(item.size for item in items if not item.packed)
    return int(recordings + left + sum(packed[:parallel]))


def _fetch_all(
    items: Sequence[Item], store: Store, client: Client, parallel: int, keep: bool
) -> tuple[list[str], list[str]]:
    """The archives fetched, and what became of the others."""
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    ended: queue.SimpleQueue[tuple[Item, BaseException | None]] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    total = sum(item.size * (2 if item.packed else 1) for item in items)
    with progress_bytes("Fetching and unpacking" if any(i.packed for i in items) else "Fetching", total) as show:
        lock = threading.Lock()

        def advance(count: int) -> None:
            with lock:
                show(count)

        def work() -> None:
            with contextlib.suppress(queue.Empty):
                while True:
                    item = waiting.get_nowait()
                    try:
                        _fetch_one(item, store, client, keep, advance)
                        ended.put((item, None))
                    except BaseException as error:
                        ended.put((item, error))

        # Daemons, because Ctrl-C shall not wait for a server that is silent.
        workers = [threading.Thread(target=work, daemon=True) for _ in range(min(parallel, len(items)))]
        for worker in workers:
            worker.start()
        done, failures = [], []
        try:
            for _ in items:
                item, error = ended.get()
                if error is None:
                    done.append(item.key)
                elif isinstance(error, AuscultError):
                    failures.append(str(error))
                else:
                    raise error
        except BaseException:
            client.stop.set()
            for worker in workers:
                worker.join(_FAREWELL)
            raise
    return done, failures


def _fetch_one(item: Item, store: Store, client: Client, keep: bool, advance: Callable[[int], None]) -> None:
    """Fetch, check, unpack, put in place, record: in this order, so that what is recorded is whole."""

    def tick(count: int) -> None:
        advance(count)
        if client.stop.is_set():
            raise Stopped

    for last_try in (False, True):
        paths = []
        for remote in item.files:
            part = store.part(item, remote)
            advance(min(remote.size, part.stat().st_size) if part.exists() else 0)
            client.fetch(remote, part, advance)
            paths.append(part)
        try:
            for remote, path in zip(item.files, paths, strict=True):
                _check(remote, path)
            places = store.place(item, paths, tick)
        except Damaged:
            # Of a file pieced together, any piece may be bad: once, it is fetched anew as a whole.
            for path in paths:
                advance(-path.stat().st_size)
                path.unlink()
                note_of(path).unlink(missing_ok=True)
            if last_try:
                raise
        else:
            store.record(item, places)
            store.put_away(item, paths, keep)
            return


def _check(remote: Remote, path: Path) -> None:
    kind, _, expected = remote.checksum.partition(":")
    if not expected:
        return
    if kind not in ("md5", "git"):
        raise AuscultError(f"{remote.name}: a checksum of the kind {kind!r} is unknown", "please report it")
    found = _md5(path) if kind == "md5" else _git_sha(path)
    if found != expected:
        raise Damaged(
            f"{remote.name}: its {kind} checksum is {found}, it should be {expected}",
            "run the same command again; if it stays so, the file was exchanged",
        )


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _git_sha(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
