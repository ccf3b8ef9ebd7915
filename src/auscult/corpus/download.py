"""Published data sets, fetched: several archives at once, resumed, checked, unpacked, recorded with their licence."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from auscult.corpus.download_archive import Damaged, check_space, merge, size_in_words, unpack
from auscult.corpus.download_catalogue import corpus_named
from auscult.corpus.download_http import Client, Remote, Stopped, note_of
from auscult.corpus.download_listing import Item, find_items
from auscult.corpus.download_volumes import unpack_volumes
from auscult.errors import AuscultError
from auscult.files import atomic
from auscult.progress import progress_bytes

RECORD = "download.json"
"""What was fetched, from where, under which licence; beside the data. What it lists is whole."""

_WORKSHOP = ".download"
_GROWTH = 1.4
"""How much larger recordings are than their archive, to estimate the space needed before anything is fetched."""

_CHUNK = 2**20


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
    store = _Store(home, corpus.name, corpus.title)
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


def _needed(items: Sequence[Item], store: _Store, parallel: int) -> int:
    """Room for all recordings, and for the archives that lie beside them at the same time."""
    packed = sorted((item.size - store.have(item) for item in items), reverse=True)
    recordings = sum(item.size for item in items if item.packed) * _GROWTH
    left = sum(item.size for item in items if not item.packed)
    return int(recordings + left + sum(packed[:parallel]))


def _fetch_all(
    items: Sequence[Item], store: _Store, client: Client, parallel: int, keep: bool
) -> tuple[list[str], list[str]]:
    done, failures = [], []
    total = sum(item.size for item in items)
    with progress_bytes("Fetching", total) as show, ThreadPoolExecutor(max(1, parallel)) as pool:
        lock = threading.Lock()

        def advance(count: int) -> None:
            with lock:
                show(count)

        jobs = {pool.submit(_fetch_one, item, store, client, keep, advance): item for item in items}
        try:
            for job in as_completed(jobs):
                try:
                    job.result()
                    done.append(jobs[job].key)
                except AuscultError as error:
                    failures.append(str(error))
                except Stopped:
                    failures.append(f"{jobs[job].key}: stopped")
        except BaseException:
            client.stop.set()
            raise
    return done, failures


def _fetch_one(item: Item, store: _Store, client: Client, keep: bool, advance: Callable[[int], None]) -> None:
    """Fetch, check, unpack, put in place, record: in this order, so that what is recorded is whole."""
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
            places = store.place(item, paths, client.stop)
        except Damaged:
            # Of a file pieced together, any piece may be bad: once, it is fetched anew as a whole.
            for path in paths:
                advance(-path.stat().st_size)
                path.unlink()
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


class _Store:
    """The data set's folder on disk: what is in place, and what is under way."""

    def __init__(self, home: Path, name: str, title: str) -> None:
        self.home, self.name, self.title = home, name, title
        self.workshop = home / _WORKSHOP
        self._writing = threading.Lock()

    def has(self, item: Item) -> bool:
        """Whether an archive is in place, in the version that is stated now, and nobody took it away since."""
        entry = self._read()["archives"].get(item.key)
        if entry is None:
            return False
        noted = [(file["name"], file["size"], file["checksum"]) for file in entry["files"]]
        if item.volumes and (self.home / item.folder / item.machine).is_dir():
            return True  # unpacked by hand, it may be, and the volumes deleted
        same = noted == [(file.name, file.size, file.checksum) for file in item.files]
        return same and all((self.home / place).exists() for place in entry["places"])

    def have(self, item: Item) -> int:
        """Bytes of an archive that are there already."""
        parts = [self.part(item, remote) for remote in item.files]
        return sum(part.stat().st_size for part in parts if part.exists())

    def part(self, item: Item, remote: Remote) -> Path:
        """Where a file lies until it is whole."""
        folder = item.folder.replace("/", "_")
        return self.workshop / f"{folder}_{remote.name}.part".lstrip("_")

    def locked(self) -> Any:
        """Keep other downloads out of the folder."""
        from filelock import FileLock, Timeout

        self.workshop.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.workshop / "lock")
        try:
            return lock.acquire(timeout=0)
        except Timeout as error:
            raise AuscultError(f"{self.home}: another download is under way", "wait for it to end") from error

    def place(self, item: Item, paths: Sequence[Path], stop: threading.Event) -> list[str]:
        """Put the content where it belongs; the folders, or files, that it fills."""
        target = self.home / item.folder
        if not item.packed:
            target.mkdir(parents=True, exist_ok=True)
            for remote, path in zip(item.files, paths, strict=True):
                os.replace(path, target / remote.name)
            return [(Path(item.folder) / remote.name).as_posix() for remote in item.files]

        def go_on(_: int) -> None:
            if stop.is_set():
                raise Stopped

        staging = paths[0].with_suffix(".unpacking")
        shutil.rmtree(staging, ignore_errors=True)
        if item.volumes:
            files = unpack_volumes(item.name, paths, staging)
        else:
            files = unpack(paths[0], staging, go_on)
        merge(staging, target)
        return sorted({(Path(item.folder) / file).parent.as_posix() for file in files})

    def record(self, item: Item, places: list[str]) -> None:
        """Note that an archive is in place."""
        with self._writing:
            noted = self._read()
            noted["archives"][item.key] = {
                "part": item.part.name,
                "machine_type": item.machine,
                "folder": item.folder,
                "licence": item.licence,
                "record": item.part.record,
                "files": [asdict(file) for file in item.files],
                "places": places,
                "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            }
            noted["licences"] = sorted({entry["licence"] for entry in noted["archives"].values()})
            with atomic(self.home / RECORD) as temporary:
                temporary.write_text(json.dumps(noted, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def put_away(self, item: Item, paths: Sequence[Path], keep: bool) -> None:
        """Delete the archive that was unpacked, or keep it under its own name."""
        for remote, path in zip(item.files, paths, strict=True):
            if keep and item.packed:
                (self.home / "archives").mkdir(exist_ok=True)
                os.replace(path, self.home / "archives" / remote.name)
            else:
                path.unlink(missing_ok=True)
            note_of(path).unlink(missing_ok=True)

    def to_unpack(self, items: Sequence[Item]) -> tuple[str, ...]:
        """Archives in place that are not unpacked, by their first volume."""
        first = [self.home / item.folder / item.files[0].name for item in items if item.volumes]
        return tuple(str(path) for path in first if path.exists())

    def _read(self) -> dict[str, Any]:
        path = self.home / RECORD
        try:
            noted = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(noted, dict) and isinstance(noted.get("archives"), dict):
                return noted
        except FileNotFoundError:
            return {"data_set": self.name, "title": self.title, "licences": [], "archives": {}}
        except (OSError, ValueError):
            pass
        raise AuscultError(f"{path}: is damaged", "delete it: what is in place will be fetched again")
