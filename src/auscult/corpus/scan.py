"""Find the recordings below a folder, quickly, whatever links and hidden files lie there."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from auscult.audio import SUFFIXES


@dataclass
class Found:
    """What a search came upon.

    Attributes
    ----------
    folders : dict of str to list of str
        The recordings' names by folder, relative to the root with `/` ("" is the root itself).
    other_endings : Counter of str
        How many other files there are, by ending.
    closed : list of str
        Folders that may not be opened.
    unnameable : list of str
        Recordings whose name is no valid text, which no table could hold.
    """

    folders: dict[str, list[str]] = field(default_factory=dict)
    other_endings: Counter[str] = field(default_factory=Counter)
    closed: list[str] = field(default_factory=list)
    unnameable: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(map(len, self.folders.values()))


def find_recordings(root: str) -> Found:
    """Search the tree below `root` for recordings.

    Hidden files and folders (their name starts with a dot, as do the `._` files of macOS) are passed over.
    Links are followed, after everything else, and each folder is entered once: a recording is found under
    its own name, and links in a circle end.
    """
    found = Found()
    seen: set[tuple[int, int]] = set()
    waiting, links = [""], list[str]()
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        full = Path(root, folder)
        try:
            stat = full.stat()
            if (stat.st_dev, stat.st_ino) in seen:
                continue
            seen.add((stat.st_dev, stat.st_ino))
            with os.scandir(full) as entries:
                for entry in entries:
                    _sort_out(entry, folder, found, waiting, links)
        except OSError:
            found.closed.append(folder)
    return found


def is_recording(name: str) -> bool:
    """Whether a file's ending is one that auscult reads."""
    return _ending(name) in SUFFIXES


def absolute(path: str | os.PathLike[str]) -> Path:
    """The path from the root of the file system, without `.` and `..`; links keep their own names."""
    return Path(os.path.abspath(path))  # resolve() would follow links


def natural(path: str) -> list[str | int]:
    """Sort key: folder by folder, numbers by value, so that clip 9 comes before clip 10."""
    pieces: list[str | int] = list(re.split(r"(\d+)", path.replace("/", "\0")))
    pieces[1::2] = map(int, pieces[1::2])
    return pieces


def _sort_out(entry: os.DirEntry[str], folder: str, found: Found, waiting: list[str], links: list[str]) -> None:
    name = entry.name
    if name.startswith("."):
        return
    if _is_folder(entry):
        below = f"{folder}/{name}" if folder else name
        (links if entry.is_symlink() else waiting).append(below)
    elif not is_recording(name):
        found.other_endings[_ending(name)] += 1
    elif not _is_text(folder + name):
        found.unnameable.append(repr(name))
    else:
        found.folders.setdefault(folder, []).append(name)


def _ending(name: str) -> str:
    stem, dot, ending = name.rpartition(".")
    return (dot + ending).lower() if stem else ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_text(name: str) -> bool:
    """Whether a name is valid Unicode: Python marks the bytes of others with lone surrogates."""
    return name.isascii() or not re.search("[\ud800-\udfff]", name)
