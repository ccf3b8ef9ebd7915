"""Commands that make model files: fit."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from auscult.cli.options import Data, Layout, MachineID, MachineType, Threads, check_output, parse_settings
from auscult.cli.program import app
from auscult.cli.say import report_broken, tell


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
    check_output(target)
    chosen = parse_settings(settings)
    from auscult.corpus import open_data
    from auscult.fitting import check_request, is_done
    from auscult.fitting import fit as run_fit

    check_request(detector, preset, chosen, false_alarm_rate, budget, device)

    manifest = open_data(data, layout=layout)
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
    tell(*facts["notes"], *(str(one.message) for one in warned if one.category is UserWarning))
    if model.calibration.promised:
        print(model.calibration.promise[0].upper() + model.calibration.promise[1:])
    else:
        tell(model.calibration.promise)
    report_broken(model.unusable)
