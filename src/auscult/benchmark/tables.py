"""Results as tables: Markdown and LaTeX to read, CSV to compute with; ours beside the published figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from auscult.benchmark.costs import in_words
from auscult.benchmark.results import Cell, Results, RowResult

MISSING = "–"
TITLES = {"auc": "AUC, %", "pauc": "pAUC, %", "reconstruction": "mean squared error of normal clips, dB²"}
_ARROWS = {"above": "↑", "below": "↓", "": ""}
_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "²": r"$^2$",
    "→": r"$\to$",
    "\u00a0": "~",
}

CSV_COLUMNS = (
    *("experiment", "group", "row", "system", "detector", "level", "machine_type", "machine_id", "measure"),
    *("ours", "low", "high", "seeds", "published", "ours_is", "published_in", "why"),
)


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes
    ----------
    title : str
    header : list of str
    rows : list of list of str
    """

    title: str
    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """As Markdown."""
        lines = [self.header, [":--", *["--:"] * (len(self.header) - 1)], *self.rows]
        text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"**{self.title}**\n\n{text}\n"

    def latex(self) -> str:
        """As LaTeX, of the package booktabs."""
        lines = [" & ".join(_escaped(cell) for cell in line) + r" \\" for line in (self.header, *self.rows)]
        columns = "l" + "r" * (len(self.header) - 1)
        body = [lines[0], r"\midrule", *lines[1:]]
        return "\n".join(
            [
                r"\begin{table*}",
                rf"\caption{{{_escaped(self.title)}}}",
                rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table*}",
            ]
        )


def figures(results: Results) -> list[Table]:
    """One table a heading and measure: systems by machine types, ours [interval] beside the published figure."""
    tables = []
    for group, rows in results.groups().items():
        for measure in results.measures:
            title = f"{group}: {TITLES[measure]}" if group else TITLES[measure]
            header = ["system", *results.machine_types, "mean"]
            body = [
                [
                    row.row.system,
                    *(shown(row.cell(measure, column), measure) for column in (*results.machine_types, "")),
                ]
                for row in rows
            ]
            tables.append(Table(title, header, body))
    return tables


def by_machine(results: Results) -> list[Table]:
    """One table a machine type: systems by machine IDs."""
    tables = []
    for measure in results.measures:
        for machine_type in results.machine_types:
            ids = sorted(
                {i for row in results.rows for (m, t, i) in row.cells if (m, t) == (measure, machine_type) and i}
            )
            if not ids:
                continue
            body = [
                [_full(row), *(shown(row.cell(measure, machine_type, i), measure) for i in ids)]
                for row in results.rows
                if any(row.cell(measure, machine_type, i).value is not None for i in ids)
            ]
            tables.append(Table(f"{machine_type}: {TITLES[measure]}", ["system", *ids], body))
    return tables


def leaderboard(results: Results) -> Table:
    """All rows that have a mean, the best first; ours counts, and is shown with what was published."""
    first, *others = results.measures
    sign = -1.0 if first == "reconstruction" else 1.0
    ranked = sorted(
        (row for row in results.rows if row.cell(first).value is not None),
        key=lambda row: sign * (row.cell(first).value or 0.0),
        reverse=True,
    )
    header = ["system", "detector", *(f"mean {TITLES[m]}" for m in results.measures), "parameters"]
    rows = [
        [_full(row), row.row.detector, *(shown(row.cell(m), m) for m in (first, *others)), parameters(row)]
        for row in ranked
    ]
    return Table("Leaderboard", header, rows)


def costs(results: Results) -> Table:
    """What each row took: parameters, and wall time of one run. Differs from one execution to the next."""
    header = ["system", "runs", "parameters", "learning, a run", "judging, a clip"]
    rows = [
        [
            _full(row),
            f"{row.n_done} of {row.n_runs}" if row.n_runs else MISSING,
            parameters(row),
            _learning(row),
            MISSING if row.score_seconds is None else f"{1000 * row.score_seconds:.1f} ms",
        ]
        for row in results.rows
    ]
    return Table("Wall time and parameters", header, rows)


def remarks(results: Results) -> list[str]:
    """What a reader of the tables must know."""
    told = [f"{_full(row)}: {row.status}" for row in results.rows if row.status and row.status != "not asked for"]
    told += [
        f"{_full(row)}: {row.n_done} of {row.n_runs} runs are done" for row in results.rows if row.n_done < row.n_runs
    ]
    told += [note for row in results.rows for note in row.notes]
    told += [f"{_full(row)}: {row.row.note}" for row in results.rows if row.row.note]
    told += [f"{_full(row)}, published: {_source(row)}" for row in results.rows if row.row.published]
    return [*told, *results.notes]


def how_to_read(results: Results) -> str:
    """The sentence under every table."""
    n = max((cell.n_seeds for row in results.rows for cell in row.cells.values()), default=0)
    seeds = f"{n} seeds" if n != 1 else "one seed, of whose choice the interval knows nothing"
    if results.experiment.measure == "reconstruction":
        what = "Mean over clips (± standard deviation over clips) [95 % interval of the mean]"
    else:
        what = "Mean over seeds [95 % interval]"
    return (
        f"{what}, then the published figure; ↑ ↓: ours is above or below it, and it lies outside our interval. A "
        "machine type is the mean over its IDs (DCASE 2020). Intervals: bootstrap over test clips and t over seeds "
        f"({seeds})."
    )


def to_markdown(results: Results) -> str:
    """The figures as a page; the same for the same runs, on whatever machine and engine."""
    experiment = results.experiment
    parts = [
        f"# {experiment.title}",
        experiment.about.strip(),
        f"Source: {experiment.source}." * bool(experiment.source),
    ]
    parts += [table.markdown() for table in figures(results)]
    parts += [how_to_read(results), "\n".join(f"- {remark}" for remark in remarks(results))]
    parts += [leaderboard(results).markdown()]
    parts += ["## By machine\n", *(table.markdown() for table in by_machine(results))]
    return "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"


def to_latex(results: Results) -> str:
    """The figures as LaTeX tables, and how to read them as a comment."""
    return "\n\n".join([f"% {how_to_read(results)}", *(table.latex() for table in figures(results))]) + "\n"


def to_csv(results: Results) -> str:
    """Every figure on a line of its own, in percent or dB squared, in full precision."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in results.rows:
        writer.writerows(_csv_lines(results, row))
    return stream.getvalue()


def costs_csv(results: Results) -> str:
    """Wall time and parameters, in full precision."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("row", "runs", "done", "parameters_least", "parameters_most", "fit_seconds", "seconds_a_clip"))
    for row in results.rows:
        least, most = (row.parameters[0], row.parameters[-1]) if row.parameters else ("", "")
        writer.writerow(
            [row.row.name, row.n_runs, row.n_done, least, most, _number(row.fit_seconds), _number(row.score_seconds)]
        )
    return stream.getvalue()


def shown(cell: Cell, measure: str) -> str:
    """A cell as a reader sees it: ours [low, high] / published, with a mark where the two disagree."""
    error = measure == "reconstruction"
    published = ""
    if cell.published is not None:
        spread = f" ± {cell.published_spread:g}" if cell.published_spread is not None else ""
        published = f" / {cell.published:g}{spread}"
    if cell.value is None:
        return f"{MISSING}{published}"
    spread = f" ± {cell.spread:.1f}" if error and cell.spread is not None else ""
    return f"{cell.value:.1f}{spread} [{cell.low:.1f}, {cell.high:.1f}]{published}{_ARROWS[cell.differs]}"


def parameters(row: RowResult) -> str:
    """How many trainable parameters a row's models have."""
    if not row.parameters:
        return MISSING
    return "–".join(f"{count:,}".replace(",", "\u00a0") if count else "none" for count in row.parameters)


def _learning(row: RowResult) -> str:
    if row.fit_seconds is None:
        return MISSING
    return f"as {row.row.model_of}" if row.row.model_of else in_words(row.fit_seconds)


def _full(row: RowResult) -> str:
    return f"{row.row.system} ({row.row.group})" if row.row.group else row.row.system


def _source(row: RowResult) -> str:
    published = row.row.published
    assert published is not None
    over = f"; its mean is over {published.mean_over}, and so is ours" if published.mean else ""
    note = f"; {published.note}" if published.note else ""
    return f"{published.source}{over}{note}"


def _csv_lines(results: Results, row: RowResult) -> Iterator[Sequence[object]]:
    source = row.row.published.source if row.row.published else ""
    for (measure, machine_type, machine_id), cell in row.cells.items():
        level = "id" if machine_id else "type" if machine_type else "mean"
        yield (
            results.experiment.name,
            row.row.group,
            row.row.name,
            row.row.system,
            row.row.detector,
            level,
            machine_type,
            machine_id,
            measure,
            *(_number(number) for number in (cell.value, cell.low, cell.high)),
            cell.n_seeds,
            _number(cell.published),
            cell.differs,
            source if cell.published is not None else "",
            cell.why,
        )


def _number(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)
