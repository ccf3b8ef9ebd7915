"""Arguments and options that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from auscult.errors import AuscultError

Data = Annotated[str, typer.Argument(metavar="DATA", help="A folder, a manifest (.csv, .parquet) or a clip.")]
ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file written by `auscult fit`.")]
Layout = Annotated[
    str, typer.Option(help="How a folder is laid out: auto, folder, dcase2020 to dcase2025, mimii or toyadmos.")
]
MachineType = Annotated[str | None, typer.Option(help="Only this machine type.", metavar="T")]
MachineID = Annotated[str | None, typer.Option(help="Only this machine ID.", metavar="I")]
Address = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Of a Ray cluster that runs already. Default: one started here."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads to use.")]


def check_output(path: Path) -> None:
    """Refuse, before any work is done, a file that could not be written."""
    from auscult.files import check_writable

    check_writable(path)


def parse_settings(pairs: list[str] | None) -> dict[str, str]:
    """Turn `--set key=value …` into a mapping."""
    settings: dict[str, str] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise AuscultError(f"--set {pair}: is no setting", "write it as --set key=value")
        settings[key.strip()] = value.strip()
    return settings
