"""A data set's folder on disk: what is in place, what is under way, and the record of it all."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from auscult.corpus.download_archive import merge, unpack
from auscult.corpus.download_http import Remote, note_of
from auscult.corpus.download_listing import Item
from auscult.corpus.download_volumes import unpack_volumes
from auscult.errors import AuscultError
from auscult.files import atomic

RECORD = "download.json"
"""What was fetched, from where, under which licence; beside the data. What it lists is whole."""

_WORKSHOP = ".download"


class Store:
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

    def place(self, item: Item, paths: Sequence[Path], tick: Callable[[int], None]) -> list[str]:
        """Put the content where it belongs; the folders, or files, that it fills.

        Of an archive, `tick` is told how many of its bytes are unpacked, as it goes.
        """
        target = self.home / item.folder
        if not item.packed:
            target.mkdir(parents=True, exist_ok=True)
            for remote, path in zip(item.files, paths, strict=True):
                os.replace(path, target / remote.name)
            return [(Path(item.folder) / remote.name).as_posix() for remote in item.files]

        staging = paths[0].with_suffix(".unpacking")
        shutil.rmtree(staging, ignore_errors=True)
        if item.volumes:
            files = unpack_volumes(item.name, paths, staging)
            tick(item.size)
        else:
            files = unpack(paths[0], staging, tick)
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
