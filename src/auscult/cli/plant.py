"""Commands for the plant: monitor, recalibrate, serve, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from auscult.cli.options import MachineID, MachineType, ModelFile, check_output
from auscult.cli.program import app
from auscult.cli.say import tell
from auscult.wording import counted


@app.command(
    epilog="Examples: [bold]auscult monitor pump.auscult mic: --history pump.sqlite[/] · "
    "[bold]auscult monitor pump.auscult rtsp://camera/1 --webhook https://plant/alarms[/]"
)
def monitor(
    model: ModelFile,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="mic: (or mic:NAME), a folder being filled, a file, rtsp://…, http://…, mqtt://HOST/TOPIC, or - for "
            "raw samples on standard input.",
        ),
    ],
    history: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep scores, alarms and their sound in this file (SQLite).")
    ] = None,
    machine: Annotated[str | None, typer.Option(help="The machine's name. Default: the model file's.")] = None,
    machine_type: MachineType = None,
    machine_id: MachineID = None,
    window: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Judged at once. Default: as long as the clips learnt from.")
    ] = None,
    hop: Annotated[float, typer.Option(metavar="SECONDS", help="Between two judgements.")] = 1.0,
    alarm: Annotated[str, typer.Option(metavar="N/M", help="So many of so many windows make an alarm.")] = "3/5",
    release: Annotated[int, typer.Option(min=1, metavar="N", help="So many quiet windows in a row end it.")] = 5,
    false_alarm_rate: Annotated[
        float | None, typer.Option(help="Share of healthy windows above the threshold. Default: the model's.")
    ] = None,
    drift_hours: Annotated[
        float,
        typer.Option(min=0, help="Slow drifts: at most one false alarm in so many hours on average; 0 for no rule."),
    ] = 1000.0,
    before: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Sound kept before an alarm.")] = 10.0,
    after: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Sound kept after it.")] = 5.0,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Every window and event as JSON lines; - for standard output.")
    ] = None,
    webhook: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Call this for alarms; signed with $AUSCULT_WEBHOOK_SECRET. Repeatable."),
    ] = None,
    mqtt: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Publish at mqtt://HOST/TOPIC. Repeatable.")
    ] = None,
    prometheus: Annotated[
        int | None, typer.Option(min=0, max=65535, metavar="PORT", help="Metrics at http://127.0.0.1:PORT/metrics.")
    ] = None,
    pcm: Annotated[str, typer.Option(metavar="RATE[:CHANNELS[:FORMAT]]", help="How raw samples are written.")] = (
        "16000:1:s16le"
    ),
    real_time: Annotated[bool, typer.Option("--real-time", help="Hear a file at the pace it was recorded.")] = False,
    keep_days: Annotated[float, typer.Option(min=0, help="Delete what is older from the history.")] = 365.0,
    keep_megabytes: Annotated[float, typer.Option(min=1, help="Keep the history smaller than this.")] = 2048.0,
) -> None:
    """Listen to a machine and raise alarms, until Ctrl-C."""
    from auscult.model import load
    from auscult.monitor.program import Outputs, parse_alarm, watch
    from auscult.monitor.recorder import Retention
    from auscult.monitor.rules import Thresholds
    from auscult.monitor.source import PCM
    from auscult.monitor.watch import WatchSettings

    for output in (history, json):
        if output is not None and str(output) != "-":
            check_output(output)
    least, of = parse_alarm(alarm)
    fitted = load(model)
    settings = WatchSettings(
        machine=machine or model.stem,
        window=window,
        hop=hop,
        clip=fitted.machine(machine_type, machine_id),
        thresholds=Thresholds(false_alarm_rate, least, of, release),
        drift_hours=drift_hours or None,
        before=before,
        after=after,
        retention=Retention(keep_days, keep_megabytes),
    )
    outputs = Outputs(history, json, tuple(webhook or ()), tuple(mqtt or ()), prometheus)
    if not fitted.calibration.promised:
        tell(fitted.calibration.promise)
    done = watch(fitted, model, source, settings, outputs, pcm=PCM.parse(pcm), real_time=real_time)
    counts = done.counts
    tell(
        f"{counted(counts['windows'], 'window')} judged, {counted(counts['alarms'], 'alarm')}, "
        f"{counted(counts['gaps'], 'gap')}; "
        f"real-time factor {done.real_time_factor:.4f}"
    )


@app.command(epilog="Example: [bold]auscult recalibrate pump.auscult --history pump.sqlite -o pump2.auscult[/]")
def recalibrate(
    model: ModelFile,
    history: Annotated[Path, typer.Option(metavar="FILE", help="The history that `auscult monitor` keeps.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The new model file.")],
    machine: Annotated[str | None, typer.Option(help="Only this machine's part of the history.")] = None,
    ordinary: Annotated[
        bool, typer.Option("--ordinary", help="Take the scores of times without alarm for healthy ones too.")
    ] = False,
    false_alarm_rate: Annotated[float | None, typer.Option(help="Another rate. Default: the model's.")] = None,
) -> None:
    """Set the threshold anew, by what was said of alarms."""
    check_output(output)
    from auscult.model import load
    from auscult.monitor.history import History
    from auscult.monitor.recalibration import lessons
    from auscult.monitor.recalibration import recalibrate as run_recalibrate

    fitted = load(model)
    with History(history, create=False) as held:
        found = lessons(held, fitted, machine)
    anew = run_recalibrate(fitted, found, ordinary=ordinary, rate=false_alarm_rate)
    anew.save(output)
    said = [f"{len(found.false_alarms)} false alarms"]
    said += [f"{len(found.ordinary)} ordinary windows"] if ordinary else []
    before, now = (
        "none" if t is None else f"{t:.4g}" for t in (fitted.calibration.threshold, anew.calibration.threshold)
    )
    print(f"Threshold {before} → {now}, from {' and '.join(said)}: {output}")
    if anew.calibration.promised:
        print(anew.calibration.promise[0].upper() + anew.calibration.promise[1:])
    else:
        tell(anew.calibration.promise)
    if found.n_confirmed:
        tell(f"{found.n_confirmed} confirmed alarms were left out: nothing of them is healthy")


@app.command(
    epilog="Examples: [bold]auscult serve pump.auscult --history pump.sqlite[/] · "
    "[bold]auscult serve pump.auscult --host 0.0.0.0 --tokens tokens.txt[/]"
)
def serve(
    models: Annotated[
        list[Path] | None, typer.Argument(metavar="MODEL…", help="Model files written by `auscult fit`.")
    ] = None,
    history: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Show the machines that `auscult monitor` keeps there.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; others than this computer's need tokens.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8600,
    token: Annotated[
        str | None,
        typer.Option(envvar="AUSCULT_TOKEN", help="Who knows it may ask. Others see arguments: rather --tokens."),
    ] = None,
    tokens: Annotated[Path | None, typer.Option(metavar="FILE", help="Hashes of tokens, a line each.")] = None,
    new_token: Annotated[
        str | None, typer.Option(metavar="NAME", help="Make a token, add its hash to --tokens, print it, and end.")
    ] = None,
    upload_megabytes: Annotated[float, typer.Option(min=0.1, help="The largest request.")] = 64.0,
    clip_seconds: Annotated[float, typer.Option(min=1, help="The longest clip.")] = 300.0,
    workers: Annotated[int, typer.Option(min=1, help="Clips judged at once.")] = 2,
    requests_a_minute: Annotated[int, typer.Option(min=1, help="Of one address.")] = 600,
) -> None:
    """Judge clips over HTTP, and show machines in a browser, until Ctrl-C."""
    from auscult.service.program import load_models, run_new_token
    from auscult.service.program import serve as run_serve
    from auscult.service.settings import Limits, allowed, check_address

    if new_token is not None:
        print(run_new_token(tokens, new_token))
        return
    known = allowed(tokens, token)
    check_address(host, known)
    limits = Limits(
        upload_bytes=round(upload_megabytes * 2**20),
        clip_seconds=clip_seconds,
        workers=workers,
        requests_a_minute=requests_a_minute,
    )
    run_serve(load_models(models or []), host=host, port=port, history=history, tokens=known, limits=limits)


@app.command(epilog="Example: [bold]auscult export pump.auscult -o pump.onnx[/]")
def export(
    model: ModelFile,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The ONNX file. Default: named after MODEL.")
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Recordings to compare on. Default: those kept for calibration."),
    ] = None,
    machine_type: MachineType = None,
    machine_id: MachineID = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="A file for clips of this length. Default: any, where possible.")
    ] = None,
) -> None:
    """Write a model as ONNX, for devices with nothing but onnxruntime."""
    target = output or Path(f"{model.stem}.onnx")
    check_output(target)
    from auscult.export import clips_to_compare
    from auscult.export import export as run_export
    from auscult.exported import load as load_exported
    from auscult.model import load

    fitted = load(model)
    clip = fitted.machine(machine_type, machine_id)
    compared = run_export(fitted, target, clips_to_compare(fitted, check), clip=clip, seconds=seconds)
    detector = load_exported(target).detector
    length = "any length" if detector.exactly is None else f"{detector.exactly / detector.rate:.6g} s"
    print(f"{target}: {detector.name}, clips of {length}; {counted(compared, 'clip')} judged as by the model")
