"""Commands that make model files: fit, ensemble."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auscult.cli.options import Data, Layout, MachineID, MachineType, Threads, check_output, parse_settings
from auscult.cli.program import app
from auscult.cli.say import report_broken, tell

if TYPE_CHECKING:
    from auscult.model import Model


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
        str | None,
        typer.Option(
            "-d",
            "--detector",
            help="Which detector (`auscult detectors`). Default: what `auscult doctor` says.",
        ),
    ] = None,
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
    check_output(target)
    chosen = parse_settings(settings)
    from auscult.corpus import open_data
    from auscult.doctor.advice import recommend
    from auscult.fitting import check_request, is_done, training_clips
    from auscult.fitting import fit as run_fit

    if detector is not None:  # before a recording is looked at
        check_request(detector, preset, chosen, false_alarm_rate, budget, device)
    manifest = open_data(data, layout=layout)
    if detector is None:
        advice = recommend(training_clips(manifest, machine_type=machine_type, machine_id=machine_id))
        detector = advice.detector
        check_request(detector, preset, chosen, false_alarm_rate, budget, device)
        tell(f"no detector was named; {detector}, because {advice.why}")
    n_types = len(manifest.select(machine_type=machine_type, machine_id=machine_id).machine_types)
    tell(*manifest.notes)
    if n_types > 1:
        tell(f"one model for {n_types} machine types; usual is one each: --machine-type")
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
    if resume and is_done(target, manifest, detector, **how, budget=budget):
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
    tell(*facts["notes"], *(str(one.message) for one in warned if one.category is UserWarning))
    _print_promise(model)
    report_broken(model.unusable)


@app.command(
    epilog="Examples: [bold]auscult ensemble bank.auscult ae.auscult -o both.auscult[/] · "
    "[bold]auscult ensemble *.auscult --rule mean --data healthy -o all.auscult[/]"
)
def ensemble(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL…", help="Model files, two or more.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The model file of them all.")],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="Healthy clips that none has learnt from. Default: those all kept for calibration."
        ),
    ] = None,
    scaling: Annotated[str, typer.Option(help="gamma, rank or raw: how scores are brought to one scale.")] = "gamma",
    rule: Annotated[str, typer.Option(help="probability, mean, product or max: how combined.")] = "probability",
    scaled_by: Annotated[
        str, typer.Option(help="all, machine-type or machine: whose healthy clips make one scale.")
    ] = "all",
    false_alarm_rate: Annotated[
        float | None,
        typer.Option(help="Share of healthy clips that may raise an alarm. Default: the first model's."),
    ] = None,
) -> None:
    """Make one model of several: what many find strange, each by its own lights, is stranger."""
    check_output(output)
    from auscult.detectors.ensemble import flat
    from auscult.ensembling import combine
    from auscult.model import load

    made = combine(
        [load(model) for model in models],
        data,
        scaling=scaling,
        rule=rule,
        scaled_by=scaled_by,
        false_alarm_rate=false_alarm_rate,
    )
    made.save(output)
    names = ", ".join(member.name for member in flat([made.detector]))
    print(f"ensemble of {names}: {output}")
    _print_promise(made)
    report_broken(made.unusable)


def _print_promise(model: Model) -> None:
    promise, doubt = model.calibration.promise, model.calibration.doubt
    if model.calibration.promised:
        print(promise[0].upper() + promise[1:])
    else:
        tell(promise)
    if doubt:
        tell(f"{doubt}: {model.provenance['calibration_clips'][-1]}")
