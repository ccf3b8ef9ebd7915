"""Words for people that several parts of the program need."""

from __future__ import annotations


def counted(n: int, what: str) -> str:
    """A number of things, in words: "1 clip", "2 clips"."""
    return f"{n} {what}{'s' * (n != 1)}"
