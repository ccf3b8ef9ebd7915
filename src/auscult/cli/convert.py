"""The command that makes encoder files: convert-encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from auscult.cli.options import check_output
from auscult.cli.program import app


@app.command(
    epilog="Examples: [bold]auscult convert-encoder BEATs_iter3.pt --kind beats -o beats.safetensors[/] · then "
    "[bold]auscult fit recordings -d bank --set encoder=beats.safetensors[/]"
)
def convert_encoder(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="As published: .pt, .pth, .bin or .safetensors.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The encoder file.")],
    kind: Annotated[str, typer.Option(help="beats, ced, eat or ast.")],
    heads: Annotated[
        int | None,
        typer.Option(
            min=1, help="Heads of attention. Default: as the checkpoint says, or one for each 64 of the width."
        ),
    ] = None,
) -> None:
    """Turn a published checkpoint of an encoder into a file that `bank` can listen with."""
    check_output(output)
    from auscult.conversion import convert

    made = convert(checkpoint, output, kind, heads)
    sizes = made.sizes
    print(f"{made.kind}, {sizes.depth} blocks of width {sizes.width}, {sizes.n_bands} bands: {output}")
    print(f"SHA-256 {made.sha256}")
