"""What the archives themselves state of their files: names, sizes, checksums, licence."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from auscult.corpus.download_catalogue import Corpus, Part
from auscult.corpus.download_http import Client, Remote
from auscult.corpus.download_volumes import can_unpack
from auscult.errors import AuscultError

MIRROR = "AUSCULT_MIRROR"
"""The environment variable with an address that stands in for Zenodo and GitHub."""


@dataclass(frozen=True)
class Item:
    """Something that is fetched and put in place as a whole: an archive, its volumes, or a plain file.

    Attributes
    ----------
    part : Part
    machine : str
        "" where it holds for all machine types.
    files : tuple of Remote
        Several where an archive comes in volumes.
    licence : str
        As the archive states it, else as the catalogue has it.
    """

    part: Part
    machine: str
    files: tuple[Remote, ...]
    licence: str

    @property
    def name(self) -> str:
        """The name of the archive."""
        return self.files[0].name.removesuffix(".001") if self.volumes else self.files[0].name

    @property
    def key(self) -> str:
        """What it is called in the record: lists of different folders may share their name."""
        return f"{self.folder}/{self.name}".lstrip("/")

    @property
    def volumes(self) -> bool:
        """Whether it is a 7-Zip archive in volumes."""
        return ".7z." in self.files[0].name

    @property
    def packed(self) -> bool:
        """Whether it is an archive that is unpacked, and not a file that is put in place as it is."""
        return self.name.endswith(".zip") or (self.volumes and can_unpack())

    @property
    def folder(self) -> str:
        """Where the content goes, below the data set's folder."""
        return self.part.folder.replace("{t}", self.machine)

    @property
    def size(self) -> int:
        """Bytes to fetch."""
        return sum(file.size for file in self.files)


def find_items(
    client: Client, corpus: Corpus, chosen: Iterable[tuple[Part, list[str]]], mirror: str | None = None
) -> list[Item]:
    """Ask the archives for the files of the parts chosen.

    Parameters
    ----------
    client : Client
    corpus : Corpus
    chosen : iterable of (Part, machine types)
    mirror : str, optional
        An address that stands in for Zenodo and GitHub; default: the environment variable `AUSCULT_MIRROR`.

    Raises
    ------
    AuscultError
        If an archive cannot be reached, or lacks a file that it should have.
    """
    base = (mirror or os.environ.get(MIRROR) or "").rstrip("/")
    if base and not base.startswith(("http://", "https://")):
        raise AuscultError(f"{base}: is no address of a mirror", "it begins with https:// or http://")
    records: dict[str, tuple[list[Remote], str]] = {}
    items = []
    for part, machines in chosen:
        if part.record not in records:
            records[part.record] = _read_record(client, part.record, base)
        files, licence = records[part.record]
        for machine in machines or [""]:
            items += _items_of(corpus, part, machine, files, licence or part.licence)
    return items


def _items_of(corpus: Corpus, part: Part, machine: str, files: list[Remote], licence: str) -> list[Item]:
    regex = part.regex(machine)
    found = [(match, file) for file in files if (match := regex.fullmatch(file.name))]
    if not found:
        raise AuscultError(
            f"record {part.record} holds no {part.pattern.replace('{t}', machine)}", "was it renamed? please report it"
        )
    if part.pattern.endswith(".zip"):  # the last revision
        found = [max(found, key=lambda pair: int(pair[0]["revision"] or 0))]
    remotes = [_with_known_checksum(corpus, file) for _, file in sorted(found, key=lambda pair: pair[1].name)]
    groups = [remotes] if ".7z." in part.pattern else [[remote] for remote in remotes]
    return [Item(part, machine, tuple(group), licence) for group in groups]


def _with_known_checksum(corpus: Corpus, file: Remote) -> Remote:
    known = corpus.md5.get(file.name)
    return Remote(file.name, file.url, file.size, f"md5:{known}") if known else file


def _read_record(client: Client, record: str, base: str) -> tuple[list[Remote], str]:
    """The files of a record, and its licence if the archive states it."""
    if record.isdecimal():
        url = f"{base or 'https://zenodo.org'}/api/records/{record}"
        stated = client.listing(url)
        try:
            files = [
                Remote(
                    _plain(f["key"]),
                    f"{base or 'https://zenodo.org'}/records/{record}/files/{urllib.parse.quote(f['key'])}?download=1",
                    int(f["size"]),
                    str(f.get("checksum") or ""),
                )
                for f in stated["files"]
            ]
            return files, _licence(stated)
        except (KeyError, TypeError, ValueError) as error:
            raise _odd(url) from error
    place, _, folder = record.partition("@")[2].partition("/")
    repository = record.partition("@")[0]
    url = f"{base or 'https://api.github.com'}/repos/{repository}/contents/{folder}?ref={place}"
    stated = client.listing(url)
    raw = f"{base or 'https://raw.githubusercontent.com'}/{repository}/{place}/{folder}"
    try:
        return [
            Remote(_plain(f["name"]), f"{raw}/{urllib.parse.quote(f['name'])}", int(f["size"]), f"git:{f['sha']}")
            for f in stated
            if f["type"] == "file"
        ], ""
    except (KeyError, TypeError, ValueError) as error:
        raise _odd(url) from error


def _licence(stated: Any) -> str:
    licence = (stated.get("metadata") or {}).get("license") or {}
    return str(licence.get("id") or "") if isinstance(licence, dict) else str(licence)


def _plain(name: Any) -> str:
    """A file's name, refused if it were a path."""
    if not isinstance(name, str) or not name or set(name) & set("/\\:\0") or name.startswith("."):
        raise ValueError(name)
    return name


def _odd(url: str) -> AuscultError:
    return AuscultError(f"{url}: does not state which files there are", "is the address right? see --mirror")
