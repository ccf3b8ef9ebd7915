"""An evaluation as a table: for the terminal, in Markdown, or as CSV."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from auscult.evaluation.metrics import Figure, Rate
from auscult.evaluation.results import Evaluation, Line

if TYPE_CHECKING:
    from rich.table import Table

MISSING = "–"
CSV_COLUMNS = (
    "level",
    "machine_type",
    "machine_id",
    *(f"{figure}{part}" for figure in ("auc", "pauc") for part in ("", "_low", "_high")),
    "n_normal",
    "n_anomaly",
    "n_unknown",
    "n_unjudged",
    *(f"{figure}{part}" for figure in ("false_alarm_rate", "detection_rate") for part in ("", "_low", "_high")),
    "reconstruction_error",
    "reconstruction_error_std",
    "why",
    "notes",
)
DOMAIN_COLUMNS = (
    *(f"official_score{part}" for part in ("", "_low", "_high")),
    *(
        f"{domain}_{figure}"
        for domain in ("source", "target")
        for figure in ("auc", "auc_low", "auc_high", "pauc", "pauc_low", "pauc_high", "precision", "recall", "f1")
    ),
)
"""What follows in conventions that part domains."""


def lines(evaluation: Evaluation) -> list[Line]:
    """The rows of every table: each type's IDs and the type itself; IDs learnt from and others apart; overall."""
    rows: list[Line] = []
    for machine_type in evaluation.by_type:
        rows += [line for line in evaluation.by_id if line.machine_type == machine_type.machine_type]
        rows.append(machine_type)
    return [*rows, *evaluation.by_group, evaluation.overall]


def to_rich(evaluation: Evaluation) -> Table:
    """A table for the terminal: figures in %, with 95 % intervals."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # Narrow enough for 80 columns; where that does not do, a name is folded sooner than a figure.
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    header, *rows = _cells(evaluation)
    for title in header:
        name, figure = title in header[:2], "AUC" in title
        table.add_column(title, justify="left" if name else "right", no_wrap=figure, overflow="fold")
    for line, row in zip(lines(evaluation), rows, strict=True):
        summary = _level(line) != "id"
        # Text, because names may hold what rich would take for markup.
        table.add_row(*(Text(cell) for cell in row), style="bold" if summary else "", end_section=summary)
    return table


def to_text(evaluation: Evaluation) -> str:
    """The same table as plain text, with the notes and the convention below it."""
    from rich.console import Console

    stream = io.StringIO()
    console = Console(file=stream, width=1000, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(to_rich(evaluation))
    table = "\n".join(line.rstrip() for line in stream.getvalue().strip("\n").splitlines())
    return "\n".join([table, "", *notes(evaluation), evaluation.convention]) + "\n"


def to_markdown(evaluation: Evaluation) -> str:
    """The same table in Markdown, with the notes and the convention below it."""
    header, *rows = _cells(evaluation)
    body = []
    for line, row in zip(lines(evaluation), rows, strict=True):
        cells = [cell.replace("|", "\\|") for cell in row]
        body.append([f"**{c}**" if c and _level(line) != "id" else c for c in cells])
    rule = [":--", ":--", *["--:"] * (len(header) - 2)]
    table = ["| " + " | ".join(row) + " |" for row in (header, rule, *body)]
    return "\n".join([*table, "", *(f"- {note}" for note in notes(evaluation)), "", evaluation.convention]) + "\n"


def to_csv(evaluation: Evaluation) -> str:
    """The same rows as CSV: figures as fractions in full precision, empty where there is none."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    parted = any(line.domains for line in lines(evaluation))
    writer.writerow([*CSV_COLUMNS, *(DOMAIN_COLUMNS if parted else ())])
    for line in lines(evaluation):
        whys = (line.why, line.why_no_rates)
        writer.writerow(
            [
                _level(line),
                line.machine_type or "",
                line.machine_id or "",
                *_numbers(line.auc),
                *_numbers(line.pauc),
                line.n_normal,
                line.n_anomaly,
                line.n_unknown,
                line.n_unjudged,
                *_numbers(line.false_alarms),
                *_numbers(line.detections),
                *([line.reconstruction.mean, line.reconstruction.std] if line.reconstruction else ["", ""]),
                "; ".join(why for why in whys if why),
                "; ".join(line.notes),
                *(_of_domains(line) if parted else ()),
            ]
        )
    return stream.getvalue()


def notes(evaluation: Evaluation) -> list[str]:
    """Everything that a reader of the table should know, each note named after its line."""
    told = list(evaluation.notes)
    for line in lines(evaluation):
        whys = [f"no AUC, no pAUC: {line.why}"] if line.why else []
        told += [f"{line.name}: {note}" for note in (*whys, *line.notes)]
    return told


def _cells(evaluation: Evaluation) -> list[list[str]]:
    """The header and the rows as a reader sees them."""
    rows = lines(evaluation)
    decided = any(line.false_alarms or line.detections for line in rows)
    header = ["machine type", "ID", "AUC %", "pAUC %", "normal +anomaly"]
    cells = [
        [
            _level(line) if line.machine_type is None else line.machine_type,
            line.machine_id if line.machine_id is not None else "all",
            _figure(line.auc),
            _figure(line.pauc),
            f"{line.n_normal}+{line.n_anomaly}",
        ]
        for line in rows
    ]
    if any(line.domains for line in rows):
        header += ["source AUC %", "target AUC %", "official %"]
        for line, row in zip(rows, cells, strict=True):
            row += [_bare(own.auc) for own in line.domains] + [_figure(line.official)]
    if decided:
        header += ["false alarms %", "detected %"]
        for line, row in zip(rows, cells, strict=True):
            row += [_percent(line.false_alarms), _percent(line.detections)]
    if any(line.reconstruction for line in rows):
        header += ["error of normals, dB²"]
        for line, row in zip(rows, cells, strict=True):
            row += [
                f"{line.reconstruction.mean:.1f} ± {line.reconstruction.std:.1f}" if line.reconstruction else MISSING
            ]
    return [header, *cells]


def _level(line: Line) -> str:
    if line.machine_type is None:
        return line.group or "overall"
    return "type" if line.machine_id is None else "id"


def _figure(figure: Figure | None) -> str:
    if figure is None:
        return MISSING
    low, high = figure.interval()
    return f"{100 * figure.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _bare(figure: Figure | None) -> str:
    return MISSING if figure is None else f"{100 * figure.value:.1f}"


def _of_domains(line: Line) -> list[str]:
    """What `DOMAIN_COLUMNS` names."""
    cells = _numbers(line.official)
    for own in line.domains:
        cells += [*_numbers(own.auc), *_numbers(own.pauc)]
        cells += ["" if value is None else repr(value) for value in (own.precision, own.recall, own.f1)]
    return cells


def _percent(rate: Rate | None) -> str:
    return f"{100 * rate.value:.1f}" if rate else MISSING


def _numbers(figure: Figure | Rate | None) -> list[str]:
    """The figure and the ends of its interval, as text that reads back as the same float64."""
    if figure is None:
        return ["", "", ""]
    interval = figure.interval if isinstance(figure, Rate) else figure.interval()
    return [repr(float(number)) for number in (figure.value, *interval)]
