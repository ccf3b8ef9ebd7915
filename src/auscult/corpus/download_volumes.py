"""7-Zip archives in volumes, as ToyADMOS comes: read as one file, unpacked with the same suspicion."""

from __future__ import annotations

import importlib.util
import io
import lzma
from collections.abc import Sequence
from pathlib import Path

from auscult.corpus.download_archive import Damaged, Entry, check_space, wanted
from auscult.files import cannot_write


def can_unpack() -> bool:
    """Whether the library that reads 7-Zip archives is installed (the extra `toyadmos`)."""
    return importlib.util.find_spec("py7zr") is not None


class Volumes(io.RawIOBase):
    """Several files, read as if they were one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [open(path, "rb") for path in paths]  # noqa: SIM115  (closed in close)
        self._ends: list[int] = []
        for path in paths:
            self._ends.append((self._ends[-1] if self._ends else 0) + path.stat().st_size)
        self._at = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Bytes from the beginning of the first volume."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, counted over all volumes."""
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._ends[-1]}[whence])
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill a buffer as far as the present volume goes."""
        volume = next((k for k, end in enumerate(self._ends) if self._at < end), None)
        if volume is None:
            return 0
        start = self._ends[volume - 1] if volume else 0
        self._files[volume].seek(self._at - start)
        size = self._files[volume].readinto(memoryview(buffer)[: self._ends[volume] - self._at])
        self._at += size
        return size

    def close(self) -> None:
        """Close all volumes."""
        for file in self._files:
            file.close()
        super().close()


def unpack_volumes(name: str, paths: Sequence[Path], target: Path) -> list[str]:
    """Unpack a 7-Zip archive into a new folder.

    Parameters
    ----------
    name : str
        What to call it when complaining.
    paths : sequence of Path
        Its volumes, in order.
    target : Path
        Must not be there.

    Returns
    -------
    list of str
        The paths of the files, below `target`.

    Raises
    ------
    Damaged
        If it is no such archive, or its content does not have the length and the checksum it states.
    AuscultError
        As :func:`auscult.corpus.download_archive.wanted` says; or if the disk is too small.
    """
    from py7zr import SevenZipFile
    from py7zr.exceptions import ArchiveError

    packed = sum(path.stat().st_size for path in paths)
    try:
        with io.BufferedReader(Volumes(paths), 2**20) as stream:
            with SevenZipFile(stream) as archive:
                encrypted = archive.needs_password()
                entries = [
                    Entry(f.filename, f.uncompressed, f.is_directory, not (f.is_file or f.is_directory), encrypted)
                    for f in archive.list()
                ]
            files = wanted(name, entries, packed)
            total = sum(entry.size for entry in files)
            check_space(target, total)
            target.mkdir(parents=True)
            stream.seek(0)
            with SevenZipFile(stream, max_extract_size=sum(entry.size for entry in entries)) as archive:
                archive.extract(target, [entry.path for entry in files])
    except (ArchiveError, lzma.LZMAError, EOFError, ValueError, IndexError, KeyError, TypeError) as error:
        raise Damaged(f"{name}: the archive is damaged ({error})", "run the same command again") from error
    except OSError as error:
        raise cannot_write(target, error) from error
    for entry in files:
        path = target / entry.path
        if path.is_symlink() or not path.is_file() or path.stat().st_size != entry.size:
            raise Damaged(f"{name}: the archive is damaged ({entry.path})", "run the same command again")
        path.chmod(0o644)
    return [entry.path for entry in files]
