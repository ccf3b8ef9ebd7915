"""Commands that read scores: evaluate, compare, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from auscult.cli.options import check_output
from auscult.cli.program import app
from auscult.cli.say import print_evaluation, print_rich
from auscult.errors import AuscultError


@app.command(epilog="Example: [bold]auscult evaluate scores.csv --json[/]")
def evaluate(
    scores: Annotated[Path, typer.Argument(metavar="SCORES", help="scores.csv, written by `auscult score`.")],
    truth: Annotated[
        Path | None,
        typer.Option(help="Which clips are normal and which are not, where the scores do not say: a list or a folder."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Also keep metrics and tables in a folder."),
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="dcase2020 (one curve per ID), dcase2021 to dcase2025 (domains) or pooled (per type).")
    ] = "dcase2020",
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    submission: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write the files that the challenge's evaluator of that year reads."),
    ] = None,
) -> None:
    """AUC and pAUC per machine ID, per type and overall, with 95 % intervals."""
    from auscult.corpus.truth import read_truth
    from auscult.evaluation.dcase_files import write_submission
    from auscult.evaluation.folder import write_folder
    from auscult.evaluation.protocol import evaluate as run_evaluate
    from auscult.evaluation.scores import read_scores
    from auscult.evaluation.truth import with_domains_of, with_truth

    table = read_scores(scores)
    known = read_truth(truth) if truth is not None else None
    if truth is not None:
        table = with_domains_of(table, truth)
    evaluation = run_evaluate(table, truth=known, protocol=protocol, seed=seed)
    if output is not None:
        write_folder(output, with_truth(table, known)[0] if known is not None else table, evaluation)
    written = write_submission(submission, table, protocol) if submission is not None else []
    if as_json:
        print(evaluation.json())
    else:
        print_evaluation(evaluation)
        if written:
            print(f"{len(written)} files for the evaluator: {submission}")


@app.command(epilog="Example: [bold]auscult compare baseline.csv mine.csv[/]")
def compare(
    scores: Annotated[
        list[Path],
        typer.Argument(metavar="SCORES…", help="Tables of scores of the same clips; the first is the reference."),
    ],
    truth: Annotated[
        Path | None,
        typer.Option(help="Which clips are normal and which are not, where the scores do not say: a list or a folder."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    protocol: Annotated[str, typer.Option(help="As of `auscult evaluate`.")] = "dcase2020",
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    everything: Annotated[bool, typer.Option("--all", help="Also each machine type and ID.")] = False,
) -> None:
    """Tell whether systems differ on the same clips: paired bootstrap, DeLong."""
    from auscult.corpus.truth import read_truth
    from auscult.evaluation.compare import compare as run_compare
    from auscult.evaluation.compare_table import to_rich
    from auscult.evaluation.scores import read_scores
    from auscult.evaluation.truth import with_domains_of, with_truth

    if len({str(path) for path in scores}) < len(scores):
        raise AuscultError("a table of scores is named twice", "name each once")
    tables = {str(path): read_scores(path) for path in scores}
    if truth is not None:
        known = read_truth(truth)
        tables = {name: with_truth(with_domains_of(table, truth), known)[0] for name, table in tables.items()}
    comparison = run_compare(tables, protocol=protocol, seed=seed)
    if as_json:
        print(comparison.json())
        return
    print_rich(to_rich(comparison, everything))
    print("\n".join([*comparison.notes, f"Reference: {comparison.systems[0]}. {comparison.convention}"]))


@app.command(epilog="Example: [bold]auscult report runs -o report.html[/]")
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder with scores.csv, and models beside it.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The page. Default: report.html in DIR.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Where the clips lie, if not where the scores say.")] = None,
    top: Annotated[int, typer.Option(min=0, max=50, help="Most anomalous clips to show of each run.")] = 8,
) -> None:
    """Write one self-contained page: tables, curves, the strangest clips to see and hear."""
    from auscult.evaluation.report import write_report

    target = output or folder / "report.html"
    check_output(target)
    write_report(folder, target, data=data, top=top)
    print(f"Report: {target}")
