"""Archives unpacked with suspicion: nothing leaves the folder, nothing is larger than it says."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Entry:
    """What an archive says of one of its entries; `odd`: a link, a device or the like."""

    path: str
    size: int
    folder: bool = False
    odd: bool = False
    encrypted: bool = False


def wanted(name: str, entries: Iterable[Entry], packed: int) -> list[Entry]:
    """The files of an archive that are worth unpacking.

    Parameters
    ----------
    name : str
        Of the archive.
    entries : iterable of Entry
    packed : int
        The archive's own size in bytes.

    Raises
    ------
    Damaged
        If there is none.
    AuscultError
        If a path leads out of the folder, an entry is a link, a device or encrypted, a path comes twice, or the
        archive claims to hold more than recordings of its size could be.
    """
    files = []
    seen: set[str] = set()
    for entry in entries:
        path, parts = entry.path, PurePosixPath(entry.path).parts
        if path.startswith("/") or set(path) & set("\\:\0") or ".." in parts:
            raise _untrusted(f"{name}: the path {path!r} leads out of the folder")
        if entry.odd:
            raise _untrusted(f"{name}: {path!r} is a link or a device")
        if entry.encrypted:
            raise _untrusted(f"{name}: {path!r} is encrypted")
        if entry.folder or not parts or set(parts) & set(_LITTER) or parts[-1].startswith("._"):
            continue
        if path.lower() in seen:
            raise _untrusted(f"{name}: {path!r} comes twice")
        seen.add(path.lower())
        files.append(entry)
    total = sum(entry.size for entry in files)
    if total > LARGEST_RATIO * packed + _ALLOWANCE:
        raise _untrusted(f"{name}: claims to hold {size_in_words(total)}, which no recordings of its size can")
    if not files:
        raise Damaged(f"{name}: the archive is empty", "run the same command again")
    return files


def unpack(source: Path, target: Path, progress: Callable[[int], None] = lambda _: None) -> list[str]:
    """Unpack a zip archive into a new folder.

    Parameters
    ----------
    source : Path
    target : Path
        Must not be there.
    progress : callable
        Told of each file how many bytes of the archive it was.

    Returns
    -------
    list of str
        The paths of the files, below `target`.

    Raises
    ------
    Damaged
        If it is no zip archive, or its content does not have the length and the checksum it states.
    AuscultError
        As `wanted` says; or if the disk is too small.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            infos = {info.filename: info for info in archive.infolist()}
            files = wanted(source.name, map(_entry, archive.infolist()), source.stat().st_size)
            check_space(target, sum(entry.size for entry in files))
            target.mkdir(parents=True)
            for entry in files:
                _unpack_one(archive, infos[entry.path], target)
                progress(infos[entry.path].compress_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise Damaged(f"{source.name}: the archive is damaged ({error})", "run the same command again") from error
    except OSError as error:
        raise cannot_write(target, error) from error
    return [entry.path for entry in files]


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


def _entry(info: zipfile.ZipInfo) -> Entry:
    kind = stat.S_IFMT(info.external_attr >> 16)
    odd = kind not in (0, stat.S_IFREG, stat.S_IFDIR)
    return Entry(info.filename, info.file_size, info.is_dir(), odd, bool(info.flag_bits & 0x1))


def _untrusted(what: str) -> AuscultError:
    return AuscultError(what, "do not trust this archive")


def _unpack_one(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    path = target.joinpath(*PurePosixPath(info.filename).parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with archive.open(info) as stream, open(path, "xb") as file:
        while chunk := stream.read(_CHUNK):
            written += len(chunk)
            if written > info.file_size:
                raise zipfile.BadZipFile(f"{info.filename} is longer than it says")
            file.write(chunk)
    if written != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename} is shorter than it says")


def _sorted(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from sorted(entries, key=lambda entry: entry.name)
