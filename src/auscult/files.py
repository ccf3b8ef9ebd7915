"""Files are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from auscult.errors import AuscultError


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on failure nothing is left.

    The replacement is flushed to the disk before it takes its name, so that neither a crash of the
    program nor of the machine leaves a half-written file under the final name.

    Raises
    ------
    AuscultError
        If the folder cannot be written to, or the disk is full.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:80]}.", suffix=".tmp", dir=target.parent)
    except OSError as error:
        raise cannot_write(target, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _flush_to_disk(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: str | os.PathLike[str], names: str = "*") -> None:
    """Delete what killed processes left of the files called `names` (a glob, folders included) in a folder.

    Only where no other process writes meanwhile.
    """
    where, _, name = names.rpartition("/")
    for temporary in Path(folder).glob(f"{where}/.{name}.tmp" if where else f".{name}.tmp"):
        temporary.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse an output that could not be written, before hours of work are spent on it.

    Raises
    ------
    AuscultError
        If `path` is a folder, or its folder (the nearest that is there) cannot be written to.
    """
    target = Path(path)
    try:
        if target.is_dir():
            raise AuscultError(f"{target} is a folder", "name a file inside it as the output")
        # Folders that are yet to be made are left to the writing: a refused command leaves nothing behind.
        there = next(folder for folder in target.absolute().parents if folder.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise cannot_write(target, error) from error


def cannot_write(path: Path, error: OSError) -> AuscultError:
    """Turn the system's complaint into one line that names the file and the remedy."""
    reason = (error.strerror or str(error)).lower()
    return AuscultError(f"cannot write {path}: {reason}", "choose an output folder that is writable and has space")


def _flush_to_disk(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
