"""Archives unpacked with suspicion: nothing leaves the folder, nothing is larger than it says."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from auscult.errors import AuscultError
from auscult.files import cannot_write

LARGEST_RATIO = 50
"""Recordings shrink by a third; what claims to have shrunk more than this is no archive of recordings."""

_ALLOWANCE = 2**24
_CHUNK = 2**20
_LITTER = ("__MACOSX", ".DS_Store", "Thumbs.db")


class Damaged(AuscultError):
    """An archive whose content is not what it should be; fetched anew it may be sound."""


def contents(archive: zipfile.ZipFile, name: str) -> list[zipfile.ZipInfo]:
    """The files of an archive that are worth unpacking.

    Raises
    ------
    AuscultError
        If a path leads out of the folder, an entry is a link, a device or encrypted, a path comes twice, or the
        archive claims to hold more than recordings of its size could be.
    """
    files = []
    seen: set[str] = set()
    for info in archive.infolist():
        path = info.filename
        parts = PurePosixPath(path).parts
        if path.startswith(("/", "\\")) or "\\" in path or ":" in path or "\0" in path or ".." in parts:
            raise AuscultError(f"{name}: the path {path!r} leads out of the folder", "do not trust this archive")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise AuscultError(f"{name}: {path!r} is a link or a device", "do not trust this archive")
        if info.flag_bits & 0x1:
            raise AuscultError(f"{name}: {path!r} is encrypted", "do not trust this archive")
        if info.is_dir() or not parts or set(parts) & set(_LITTER) or parts[-1].startswith("._"):
            continue
        if path.lower() in seen:
            raise AuscultError(f"{name}: {path!r} comes twice", "do not trust this archive")
        seen.add(path.lower())
        files.append(info)
    return files


def unpack(source: Path, target: Path, progress: Callable[[int], None] = lambda _: None) -> list[str]:
    """Unpack a zip archive into a new folder.

    Parameters
    ----------
    source : Path
    target : Path
        Must not be there.
    progress : callable
        Told of every few bytes written.

    Returns
    -------
    list of str
        The paths of the files, below `target`.

    Raises
    ------
    Damaged
        If it is no zip archive, or its content does not have the length and the checksum it states.
    AuscultError
        As `contents` says; or if the disk is too small.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            files = contents(archive, source.name)
            if not files:
                raise Damaged(f"{source.name}: the archive is empty", "run the same command again")
            _check_sizes(files, source, target)
            target.mkdir(parents=True)
            for info in files:
                _unpack_one(archive, info, target, progress)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise Damaged(f"{source.name}: the archive is damaged ({error})", "run the same command again") from error
    except OSError as error:
        raise cannot_write(target, error) from error
    return [info.filename for info in files]


def merge(source: Path, target: Path) -> None:
    """Move everything below `source` to its place below `target`; what is there under the same name is replaced."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in _sorted(source):
        there = target / entry.name
        if entry.is_dir() and there.is_dir():
            merge(Path(entry.path), there)
        else:
            os.replace(entry.path, there)
    source.rmdir()


def check_space(folder: Path, needed: int) -> None:
    """Refuse what the disk has no room for.

    Raises
    ------
    AuscultError
    """
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise AuscultError(
            f"{folder}: the disk has {size_in_words(free)} free, {size_in_words(needed)} are needed",
            "choose another disk, or fewer machines with --machine-type",
        )


def size_in_words(size: float) -> str:
    """Bytes in words: "1.2 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _check_sizes(files: list[zipfile.ZipInfo], source: Path, target: Path) -> None:
    total = sum(info.file_size for info in files)
    if total > LARGEST_RATIO * source.stat().st_size + _ALLOWANCE:
        raise AuscultError(
            f"{source.name}: claims to hold {size_in_words(total)}, which no recordings of its size can",
            "do not trust this archive",
        )
    check_space(target, total)


def _unpack_one(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, progress: Callable[[int], None]) -> None:
    path = target.joinpath(*PurePosixPath(info.filename).parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with archive.open(info) as stream, open(path, "xb") as file:
        while chunk := stream.read(_CHUNK):
            written += len(chunk)
            if written > info.file_size:
                raise zipfile.BadZipFile(f"{info.filename} is longer than it says")
            file.write(chunk)
            progress(len(chunk))
    if written != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename} is shorter than it says")


def _sorted(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from sorted(entries, key=lambda entry: entry.name)
