"""The command that brings published recordings here: download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from auscult.cli.program import app
from auscult.cli.say import DONE_WITH_GAPS, tell
from auscult.errors import AuscultError


@app.command(epilog="Example: [bold]auscult download dcase2020 --machine-type fan -o data[/]")
def download(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="dcase2020 to dcase2025, mimii, toyadmos.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="The data set becomes a folder in there.")
    ] = None,
    machine_type: Annotated[
        list[str] | None, typer.Option(metavar="T", help="Only this machine type. May be given several times.")
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help="Only this part: dev, additional, eval, truth; of mimii -6dB, 0dB, 6dB. Several times."),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Show what there is; of one data set with sizes, which asks its archive.")
    ] = False,
    parallel: Annotated[int, typer.Option(min=1, max=8, help="Archives at once.")] = 2,
    mirror: Annotated[
        str | None, typer.Option(metavar="URL", help="An address that stands in for Zenodo and GitHub.")
    ] = None,
    keep_archives: Annotated[bool, typer.Option("--keep-archives", help="Keep the archives once unpacked.")] = False,
) -> None:
    """Fetch a published data set: resumed after a break, checked, unpacked, its licence recorded."""
    from auscult.corpus import download as downloads
    from auscult.corpus.download_overview import overview, overview_of

    if name is None or listed:
        if name is None and not listed:
            raise AuscultError("no data set is named", "`auscult download --list` shows what there is")
        print("\n".join(overview() if name is None else overview_of(name, machine_type or (), part or (), mirror)))
        return
    if output is None:
        raise AuscultError("no folder is named", "say where to with -o DIR")
    done = downloads.download(
        name,
        output,
        machines=machine_type or (),
        parts=part or (),
        parallel=parallel,
        mirror=mirror,
        keep_archives=keep_archives,
        say=print,
    )
    print(f"{len(done.done)} fetched, {len(done.kept)} there before: {done.folder}")
    if done.to_unpack:
        print(
            "Install auscult[toyadmos], or unpack with 7-Zip: "
            + ", ".join(f"7z x {archive}" for archive in done.to_unpack)
        )
    if done.failures:
        tell(*done.failures, f"{len(done.failures)} archives are missing: the same command goes on with them")
        raise typer.Exit(DONE_WITH_GAPS)
