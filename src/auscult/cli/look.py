"""Commands that look at data and at what there is: demo, doctor, detectors, index, cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from auscult.cli.options import Data, Layout, MachineID, MachineType, check_output
from auscult.cli.program import app
from auscult.cli.say import print_evaluation, print_rich
from auscult.errors import AuscultError


@app.command(epilog="Example: [bold]auscult demo --out plant[/]")
def demo(
    out: Annotated[Path, typer.Option(help="Where the plant, the models and the report go.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another plant.")] = 0,
) -> None:
    """Make a synthetic plant, learn it, judge it, and write a report: the whole job in two minutes."""
    from auscult.demo import run_demo

    page, evaluation = run_demo(out, seed=seed)
    print_evaluation(evaluation)
    print(f"\nReport: {page.resolve()}")


@app.command(epilog="Example: [bold]auscult detectors --json[/]")
def detectors(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """List the detectors: name, family, paper, what they need."""
    import json

    from auscult.detectors.registry import detectors as all_detectors

    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "family": detector.family,
            "paper": detector.paper,
            "needs": sorted(detector.needs),
            "parameters": detector().n_parameters(),
            "anomaly_map": True,
            "exports": detector.exports,
        }
        for name, detector in all_detectors().items()
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from rich.table import Table

    table = Table("detector", "family", "parameters", "needs", "paper")
    for row in rows:
        count = f"{row['parameters']:,}".replace(",", " ") if row["parameters"] else "–"
        table.add_row(row["name"], row["family"], count, ", ".join(row["needs"]), row["paper"])
    print_rich(table)


@app.command(epilog="Example: [bold]auscult index recordings -o manifest.csv[/]")
def index(
    data: Data,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the manifest here (.csv or .parquet).")
    ] = None,
    layout: Layout = "auto",
) -> None:
    """List the clips of a folder, say what is odd about them, and write a manifest."""
    from auscult.corpus import open_data
    from auscult.corpus.summary import summarise

    if output is not None:
        check_output(output)
    manifest = open_data(data, layout=layout)
    print(summarise(manifest).render())
    if output is not None:
        manifest.write(output)
        print(f"Manifest of {len(manifest)} clips: {output}")


@app.command(epilog="Example: [bold]auscult doctor recordings[/]")
def doctor(
    data: Data,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    machine_type: MachineType = None,
    machine_id: MachineID = None,
    layout: Layout = "auto",
) -> None:
    """Say what recordings are like, what could mislead a detector, and which detector to use."""
    import json

    from auscult.corpus import open_data
    from auscult.doctor.examination import examine

    found = examine(open_data(data, layout=layout).select(machine_type=machine_type, machine_id=machine_id))
    print(json.dumps(found.facts(), indent=2) if as_json else "\n".join(found.lines()))


@app.command(epilog="Examples: [bold]auscult cache[/] · [bold]auscult cache clear[/]")
def cache(
    action: Annotated[str | None, typer.Argument(metavar="[clear]", help="`clear` deletes it all.")] = None,
) -> None:
    """Look at the log-mels kept on disk, or clear them."""
    if action not in (None, "clear"):
        raise AuscultError(f"cannot {action!r} the cache", "say `auscult cache` or `auscult cache clear`")
    from auscult.store import Store

    store = Store()
    usage = store.usage()
    size = f"{usage['bytes'] / 2**20:.1f} MiB, {usage['clips']} clips in {usage['packs']} packs"
    if action == "clear":
        store.clear()
        print(f"Cleared {size}: {store.root}")
    else:
        print(f"{size} of at most {store.limit / 2**30:.0f} GiB: {store.root}")
