"""What data sets there are to download, said in lines."""

from __future__ import annotations

from collections.abc import Sequence

from auscult.corpus.download_archive import size_in_words
from auscult.corpus.download_catalogue import CORPORA, corpus_named
from auscult.corpus.download_http import Client
from auscult.corpus.download_listing import find_items


def overview() -> list[str]:
    """All data sets: title, licence, parts, machine types. Asks nobody."""
    lines = []
    for corpus in CORPORA.values():
        lines.append(f"{corpus.name}: {corpus.title}")
        for part in corpus.parts:
            machines = ", ".join(part.machines) or "all machine types"
            where = part.record if "@" in part.record else f"Zenodo {part.record}"
            lines.append(f"  {part.name:<11}{machines}  [{where.partition('@')[0]}; {part.licence}]")
    return lines


def overview_of(
    name: str,
    machines: Sequence[str] = (),
    parts: Sequence[str] = (),
    mirror: str | None = None,
    client: Client | None = None,
) -> list[str]:
    """One data set: each archive with its size, checksum and licence, as the archives state them.

    Raises
    ------
    AuscultError
        If there is no such data set, machine type or part, or an archive cannot be reached.
    """
    corpus = corpus_named(name)
    items = find_items(client or Client(), corpus, corpus.choose(machines, parts), mirror)
    lines = [f"{corpus.name}: {corpus.title}"]
    for item in items:
        checks = "" if all(file.checksum for file in item.files) else "; no checksum is stated"
        lines.append(f"  {item.part.name:<11}{size_in_words(item.size):>8}  {item.name}  [{item.licence}{checks}]")
    return [*lines, f"{len(items)} archives, {size_in_words(sum(item.size for item in items))}"]
