"""The commands: parse, call, print."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from auscult import __version__
from auscult.errors import AuscultError, TrainingInterrupted

if TYPE_CHECKING:
    from auscult.store import Broken

app = typer.Typer(
    name="auscult",
    help="Hears when a machine is failing: learns from healthy recordings, judges new ones, shows where.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="First steps: [bold]auscult demo[/], then [bold]auscult fit FOLDER -o model.auscult[/] and "
    "[bold]auscult score model.auscult FOLDER -o scores.csv[/].",
)

Data = Annotated[str, typer.Argument(metavar="DATA", help="A folder, a manifest (.csv, .parquet) or a clip.")]
ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file written by `auscult fit`.")]
Layout = Annotated[str, typer.Option(help="How a folder is laid out: auto, folder, dcase2020, mimii or toyadmos.")]
MachineType = Annotated[str | None, typer.Option(help="Only this machine type.", metavar="T")]
MachineID = Annotated[str | None, typer.Option(help="Only this machine ID.", metavar="I")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads to use.")]

# Of typer itself, or in its older versions of click: the class that all complaints about usage share.
_UsageError: type[typer.BadParameter] = typer.BadParameter.__mro__[1]

_DONE_WITH_GAPS = 1
_REFUSED = 2
_INTERRUPTED = 130

_FINDINGS = 3
"""Lines that `explain` says of what is strange."""


def main() -> None:
    """Run the program; every expected failure is one line on standard error."""
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = app(prog_name="auscult", standalone_mode=False) or 0
        sys.stdout.flush()
        if status == _INTERRUPTED:  # typer's word for Ctrl-C
            raise KeyboardInterrupt
        sys.exit(status)
    except _UsageError as error:
        _refuse_usage(error, debug)
    except TrainingInterrupted as error:
        _fail(error, debug, _INTERRUPTED)
    except AuscultError as error:
        _fail(error, debug, _REFUSED)
    except KeyboardInterrupt as error:
        _fail(
            AuscultError("stopped", "a long `fit` or `score` goes on with --resume"),
            debug,
            _INTERRUPTED,
            error,
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_DONE_WITH_GAPS)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        remedy = "use fewer --threads, shorter clips or a smaller network"
        _fail(AuscultError("the memory is full", remedy), debug, _REFUSED, error)
    except OSError as error:
        what = f"{error.filename or 'output'}: {(error.strerror or str(error)).lower()}"
        _fail(
            AuscultError(what, "see that it is there, permitted, and that the disk has space"), debug, _REFUSED, error
        )


@app.callback(invoke_without_command=True)
def _program(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of a failure.")] = False,  # noqa: ARG001
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command(epilog="Example: [bold]auscult demo --out plant[/]")
def demo(
    out: Annotated[Path, typer.Option(help="Where the plant, the models and the report go.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another plant.")] = 0,
) -> None:
    """Make a synthetic plant, learn it, judge it, and write a report: the whole job in two minutes."""
    from auscult.demo import run_demo

    page, evaluation = run_demo(out, seed=seed)
    _print_evaluation(evaluation)
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
    _print_rich(table)


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
        _check_output(output)
    manifest = open_data(data, layout=layout)
    print(summarise(manifest).render())
    if output is not None:
        manifest.write(output)
        print(f"Manifest of {len(manifest)} clips: {output}")


@app.command(
    epilog="Examples: [bold]auscult fit recordings -o pump.auscult[/] · "
    "[bold]auscult fit dcase --machine-type fan -d idnn --preset paper -o fan.auscult[/]"
)
def fit(
    data: Data,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The model file. Default: named after DATA.")
    ] = None,
    detector: Annotated[
        str, typer.Option("-d", "--detector", help="Which detector; `auscult detectors` lists them.")
    ] = "bank",
    preset: Annotated[str, typer.Option(help="quick (minutes on a laptop) or paper.")] = "quick",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; repeatable.")
    ] = None,
    machine_type: MachineType = None,
    machine_id: MachineID = None,
    outliers: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Recordings of something else, where a detector needs them."),
    ] = None,
    false_alarm_rate: Annotated[float, typer.Option(help="The share of healthy clips that may raise an alarm.")] = 0.01,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same model.")] = 0,
    budget: Annotated[float | None, typer.Option(min=0, metavar="SECONDS", help="Train no longer.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Threads = None,
    layout: Layout = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was cut short.")] = False,
) -> None:
    """Learn what a healthy machine sounds like."""
    target = output or Path(f"{Path(data).resolve().stem or 'model'}.auscult")
    _check_output(target)
    chosen = _parse_settings(settings)
    from auscult.corpus import open_data
    from auscult.fitting import check_request, is_done
    from auscult.fitting import fit as run_fit

    check_request(detector, preset, chosen, false_alarm_rate, budget, device)

    manifest = open_data(data, layout=layout)
    n_types = len(manifest.select(machine_type=machine_type, machine_id=machine_id).machine_types)
    _tell(*manifest.notes)
    if n_types > 1:
        _tell(f"one model for {n_types} machine types; usual is one each: --machine-type")
    checkpoint = target.with_name(target.name + ".checkpoint")
    how: dict[str, Any] = {
        "preset": preset,
        "settings": chosen,
        "machine_type": machine_type,
        "machine_id": machine_id,
        "outliers": outliers,
        "false_alarm_rate": false_alarm_rate,
        "seed": seed,
        "layout": layout,
    }
    if resume and is_done(target, manifest, detector, **how):
        checkpoint.unlink(missing_ok=True)
        print(f"Already done: {target}")
        return
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        model = run_fit(
            manifest,
            detector,
            **how,
            budget=budget,
            device=device,
            threads=threads or 1,
            checkpoint=checkpoint,
            resume=resume,
        )
    model.save(target)
    checkpoint.unlink(missing_ok=True)
    facts = model.provenance
    print(f"{model.detector.name} learnt from {facts['n_training_clips']} clips: {target}")
    _tell(*facts["notes"], *(str(one.message) for one in warned if one.category is UserWarning))
    if model.calibration.promised:
        print(model.calibration.promise[0].upper() + model.calibration.promise[1:])
    else:
        _tell(model.calibration.promise)
    _report_broken(model.unusable)


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
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Score another way, nothing learnt anew: masking=boot."),
    ] = None,
    reconstruction_error: Annotated[
        bool, typer.Option("--reconstruction-error", help="Also tell how well the levels were predicted.")
    ] = False,
    threads: Threads = None,
    layout: Layout = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was cut short.")] = False,
) -> None:
    """Judge clips: score, p-value and decision of each."""
    if split not in (None, "test", "train", "all"):
        raise AuscultError(f"there is no split {split!r}", "choose test, train or all")
    if output is not None:
        _check_output(output)
    from auscult.corpus import open_data
    from auscult.evaluation.scores import write_scores
    from auscult.files import digest
    from auscult.model import load
    from auscult.scoring import already_learnt, score_table

    chosen = _parse_settings(settings)
    fitted = load(model).rescored(**chosen) if chosen else load(model)
    manifest = open_data(data, layout=layout).select(machine_type=machine_type, machine_id=machine_id)
    manifest = manifest.for_scoring(split)
    if not len(manifest):
        raise AuscultError(f"{data}: no clip in the split {split or 'test'}", "choose another with --split")
    flattered = already_learnt(fitted, manifest)
    if flattered:
        _tell(f"{flattered} of these {len(manifest)} clips were learnt from: their scores flatter the model")
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
    if output is None:
        table.to_csv(sys.stdout, index=False, lineterminator="\n")
    else:
        write_scores(table, output)
        assert partial is not None
        partial.unlink(missing_ok=True)
        alarms = int((table["decision"] == "anomaly").sum())
        print(f"{len(table)} clips judged, {alarms} alarms: {output}")
        if not fitted.calibration.promised:
            _tell(fitted.calibration.promise)
    failed = [reason for reason in table["error"] if reason]
    if failed:
        _tell(*failed, f"{len(failed)} of {len(table)} clips could not be judged")
        raise typer.Exit(_DONE_WITH_GAPS)


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
) -> None:
    """Draw where a clip sounds wrong: waveform, log-mel, anomaly map, score, decision."""
    target = output or Path(f"{clip.stem}.png")
    _check_output(target)
    from auscult.corpus import open_data
    from auscult.evaluation import explanation, pictures
    from auscult.evaluation.words import describe
    from auscult.model import load

    shown = explanation.explain(load(model), open_data(clip).clips()[0], mask)
    pictures.save(pictures.draw(shown), target)
    print(describe(shown.region, shown.relative))
    for finding in shown.findings[:_FINDINGS]:
        print(f"  {finding}")
    print(f"Picture: {target}")


@app.command(epilog="Example: [bold]auscult evaluate scores.csv --json[/]")
def evaluate(
    scores: Annotated[Path, typer.Argument(metavar="SCORES", help="scores.csv, written by `auscult score`.")],
    truth: Annotated[
        Path | None,
        typer.Option(help="Which clips are normal and which are not, where the scores do not say."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Also keep metrics and tables in a folder."),
    ] = None,
    protocol: Annotated[str, typer.Option(help="dcase2020 (one curve per ID) or pooled (per type).")] = "dcase2020",
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
) -> None:
    """AUC and pAUC per machine ID, per type and overall, with 95 % intervals."""
    from auscult.corpus.truth import read_truth
    from auscult.evaluation.folder import write_folder
    from auscult.evaluation.protocol import evaluate as run_evaluate
    from auscult.evaluation.scores import read_scores
    from auscult.evaluation.truth import with_truth

    table = read_scores(scores)
    known = read_truth(truth) if truth is not None else None
    evaluation = run_evaluate(table, truth=known, protocol=protocol, seed=seed)
    if output is not None:
        write_folder(output, with_truth(table, known)[0] if known is not None else table, evaluation)
    if as_json:
        print(evaluation.json())
    else:
        _print_evaluation(evaluation)


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
    _check_output(target)
    write_report(folder, target, data=data, top=top)
    print(f"Report: {target}")


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


def _check_output(path: Path) -> None:
    from auscult.files import check_writable

    check_writable(path)


def _parse_settings(pairs: list[str] | None) -> dict[str, str]:
    settings: dict[str, str] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise AuscultError(f"--set {pair}: is no setting", "write it as --set key=value")
        settings[key.strip()] = value.strip()
    return settings


def _print_evaluation(evaluation: Any) -> None:
    from auscult.evaluation import tables

    _print_rich(tables.to_rich(evaluation))
    for note in tables.notes(evaluation):
        print(note)


def _print_rich(renderable: Any) -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() else 140
    Console(width=width).print(renderable)


def _tell(*lines: str) -> None:
    """Write to standard error, one line each, whatever a file's name holds."""
    for line in lines:
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
        print(f"auscult: {shown}", file=sys.stderr)


def _report_broken(broken: tuple[Broken, ...]) -> None:
    if broken:
        _tell(*(str(b.reason) for b in broken), f"{len(broken)} clips could not be used")
        raise typer.Exit(_DONE_WITH_GAPS)


def _refuse_usage(error: typer.BadParameter, debug: bool) -> NoReturn:
    """Say what is wrong with the command itself; without any arguments, the help has just been shown."""
    what = error.format_message().strip()
    if not what:
        sys.exit(_REFUSED)
    path = error.ctx.command_path if error.ctx else "auscult"
    _fail(AuscultError(what.rstrip("."), f"see {path} --help"), debug, _REFUSED, error)


def _fail(error: AuscultError, debug: bool, status: int, cause: BaseException | None = None) -> NoReturn:
    if debug:
        raise cause or error
    with contextlib.suppress(BrokenPipeError):
        _tell(str(error))
    sys.exit(status)


if __name__ == "__main__":
    main()
