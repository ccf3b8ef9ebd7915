"""Commands that judge clips: score, explain."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auscult.cli.options import (
    Address,
    Data,
    Layout,
    MachineID,
    MachineType,
    ModelFile,
    Threads,
    check_output,
    parse_settings,
)
from auscult.cli.program import app
from auscult.cli.say import DONE_WITH_GAPS, tell
from auscult.errors import AuscultError
from auscult.wording import counted

if TYPE_CHECKING:
    from auscult.corpus import Manifest

_FINDINGS = 3
"""Lines that `explain` says of what is strange."""

Rescoring = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Score another way, nothing learnt anew: masking=boot."),
]


@app.command(epilog="Example: [bold]auscult score pump.auscult recordings -o scores.csv[/]")
def score(
    model: ModelFile,
    data: Data,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="scores.csv (or .parquet). Default: standard output."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="test, train or all. Default: test where splits are known.")] = None,
    machine_type: MachineType = None,
    machine_id: MachineID = None,
    settings: Rescoring = None,
    reconstruction_error: Annotated[
        bool, typer.Option("--reconstruction-error", help="Also tell how well the levels were predicted.")
    ] = False,
    threads: Threads = None,
    layout: Layout = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was cut short.")] = False,
    engine: Annotated[
        str | None,
        typer.Option(help="For large archives, into Parquet: local (processes) or ray (a cluster). Default: threads."),
    ] = None,
    address: Address = None,
) -> None:
    """Judge clips: score, p-value and decision of each."""
    if split not in (None, "test", "train", "all"):
        raise AuscultError(f"there is no split {split!r}", "choose test, train or all")
    if output is not None:
        check_output(output)
    from auscult.corpus import open_data
    from auscult.evaluation.scores import write_scores
    from auscult.files import digest
    from auscult.scoring import already_learnt, open_model, score_table

    chosen = parse_settings(settings)
    fitted = open_model(model, chosen)
    manifest = open_data(data, layout=layout).select(machine_type=machine_type, machine_id=machine_id)
    manifest = manifest.for_scoring(split)
    if not len(manifest):
        raise AuscultError(f"{data}: no clip in the split {split or 'test'}", "choose another with --split")
    flattered = already_learnt(fitted, manifest)
    if flattered:
        tell(f"{flattered} of these {len(manifest)} clips were learnt from: their scores flatter the model")
    if engine is not None:
        _score_archive(engine, address, model, manifest, output, chosen, resume, threads, reconstruction_error)
        return
    partial = output.with_name(output.name + ".partial") if output is not None else None
    table = score_table(
        fitted,
        manifest,
        partial=partial,
        identity=" ".join([digest(model), *sorted(settings or []), "squared" * reconstruction_error]).strip(),
        resume=resume,
        workers=threads,
        reconstruction_error=reconstruction_error,
    )
    failed = [reason for reason in table["error"] if reason]
    if output is None:
        table.to_csv(sys.stdout, index=False, lineterminator="\n")
    else:
        write_scores(table, output)
        assert partial is not None
        partial.unlink(missing_ok=True)
        alarms = int((table["decision"] == "anomaly").sum())
        print(f"{counted(len(table) - len(failed), 'clip')} judged, {counted(alarms, 'alarm')}: {output}")
        if not fitted.calibration.promised:
            tell(fitted.calibration.promise)
    if failed:
        tell(*failed, f"{len(failed)} of {len(table)} clips could not be judged")
        raise typer.Exit(DONE_WITH_GAPS)


def _score_archive(
    engine: str,
    address: str | None,
    model: Path,
    manifest: Manifest,
    output: Path | None,
    settings: dict[str, str],
    resume: bool,
    workers: int | None,
    reconstruction_error: bool,
) -> None:
    """Judge many clips with an engine."""
    if output is None or reconstruction_error:
        raise AuscultError(
            "an engine writes scores into a Parquet file, without reconstruction errors", "say -o x.parquet"
        )
    from auscult.archive import score_archive
    from auscult.engines import open_engine

    with open_engine(engine, workers=workers, address=address) as opened:
        done = score_archive(model, manifest, output, opened, settings=settings, resume=resume)
    print(f"{counted(done.n_clips - done.n_failed, 'clip')} judged, {counted(done.n_alarms, 'alarm')}: {output}")
    if done.n_failed:
        tell(*done.first_failures, f"{done.n_failed} of {done.n_clips} clips could not be judged")
        raise typer.Exit(DONE_WITH_GAPS)


@app.command(epilog="Example: [bold]auscult explain pump.auscult strange.wav -o strange.png[/]")
def explain(
    model: ModelFile,
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="The recording.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The picture (.png, .svg, .pdf). Default: CLIP.png here."),
    ] = None,
    mask: Annotated[
        str,
        typer.Option(
            help="Hide these bins and predict them from the rest (anp, convcnp): frames:10-14, bands:60-70, "
            "box:10-200x20-30, joined by commas."
        ),
    ] = "",
    settings: Rescoring = None,
) -> None:
    """Draw where a clip sounds wrong: waveform, log-mel, anomaly map, score, decision."""
    target = output or Path(f"{clip.stem}.png")
    check_output(target)
    from auscult.corpus import open_data
    from auscult.evaluation import explanation, pictures
    from auscult.evaluation.words import describe
    from auscult.model import Model
    from auscult.scoring import open_model

    fitted = open_model(model, parse_settings(settings))
    if not isinstance(fitted, Model):
        raise AuscultError(f"{model}: an exported model has no map", "explain with the model that it was made of")
    shown = explanation.explain(fitted, open_data(clip).clips()[0], mask)
    pictures.save(pictures.draw(shown), target)
    print(describe(shown.region, shown.relative))
    for finding in shown.findings[:_FINDINGS]:
        print(f"  {finding}")
    print(f"Picture: {target}")
