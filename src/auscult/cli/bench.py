"""Commands that run experiments: benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from auscult.cli.options import Address
from auscult.cli.program import app
from auscult.cli.say import DONE_WITH_GAPS, tell
from auscult.errors import AuscultError


@app.command(
    epilog="Examples: [bold]auscult benchmark synthetic -o bench[/] · "
    "[bold]auscult benchmark anp-table1 --data dcase2020 -o bench --device cuda --plan[/]"
)
def benchmark(
    experiment: Annotated[
        str | None,
        typer.Argument(metavar="EXPERIMENT", help="A YAML file, or a name; without one, the names are listed."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Where runs and tables go.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The recordings, for an experiment that needs some.")
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="NAME=DIR", help="Additional recordings that some rows want; repeatable."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="ROW", help="Only this row; repeatable.")] = None,
    seed: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Only this of its seeds; repeatable. The others can follow.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show the plan and how long it will take; run nothing.")] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Everything happens and nothing is learnt: minutes, not days.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    engine: Annotated[str, typer.Option(help="local (processes of this machine) or ray (a cluster).")] = "local",
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at once. Default: the cores there are.")] = None,
    address: Address = None,
) -> None:
    """Make a table of a paper again: ours beside the published figures. The same command goes on where it was."""
    from auscult.benchmark.conducting import Request, conduct
    from auscult.benchmark.experiment import experiment_names, read_experiment

    if experiment is None:
        for name in experiment_names():
            print(f"{name:<34} {read_experiment(name).title}")
        return
    if output is None:
        raise AuscultError("where do runs and tables go?", "name a folder with -o")
    from auscult.training import choose_device

    choose_device(device)
    summary = conduct(
        Request(
            read_experiment(experiment),
            output,
            data,
            _named(more or []),
            engine,
            workers,
            address,
            device,
            smoke,
            tuple(only or ()),
            tuple(seed or ()),
            plan,
        )
    )
    if summary.results is None:
        return
    print("\nTables: " + ", ".join(str(file) for file in summary.files))
    if summary.broken or summary.n_unjudged:
        if summary.broken:
            tell(f"{len(summary.broken)} runs broke; the same command tries them again")
        if summary.n_unjudged:
            tell(f"{summary.n_unjudged} clips could not be judged")
        raise typer.Exit(DONE_WITH_GAPS)


def _named(pairs: list[str]) -> dict[str, Path]:
    """`NAME=DIR …` as a mapping."""
    found = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not (name and equals and folder):
            raise AuscultError(f"--with {pair}: names no recordings", "write it as --with name=folder")
        found[name] = Path(folder)
    return found
