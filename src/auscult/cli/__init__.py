"""The commands: parse, call, print. No logic, and nothing heavy imported before a command runs."""

from auscult.cli import look, fetch, convert, learn, judge, results, bench, plant  # noqa: F401, I001  (the order of --help)
from auscult.cli.program import app, main

__all__ = ["app", "main"]
