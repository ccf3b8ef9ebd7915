"""The renderings of an evaluation tell the same figures, and all its doubts."""

import csv
import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from auscult.evaluation import tables
from auscult.evaluation.protocol import evaluate

LEVELS = ["id", "id", "type", "id", "type", "overall"]


@pytest.fixture(scope="module")
def scores():
    rng = np.random.default_rng(0)
    rows = [
        (f"{machine}_{k}.wav", *machine.split(), condition, rng.normal() + (condition == "anomaly"), "normal")
        for machine in ("fan id_00", "fan id_02", "ToyConveyor id_01")
        for k, condition in enumerate(["normal"] * 30 + ["anomaly"] * 20)
    ]
    columns = ["path", "machine_type", "machine_id", "condition", "score", "decision"]
    table = pd.DataFrame(rows, columns=columns)
    return table[(table["machine_id"] != "id_02") | (table["condition"] == "normal")]


@pytest.fixture(scope="module")
def evaluation(scores):
    return evaluate(scores, resamples=100)


def cells(line):
    low, high = line.auc.interval()
    return f"{100 * line.auc.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def test_rows_are_ids_then_their_type_then_overall(evaluation):
    names = [line.name for line in tables.lines(evaluation)]
    assert names == ["fan id_00", "fan id_02", "fan", "ToyConveyor id_01", "ToyConveyor", "overall"]


def test_text_and_markdown_show_every_figure(evaluation):
    text, markdown = tables.to_text(evaluation), tables.to_markdown(evaluation)
    for shown in (text, markdown):
        rows = [row for row in shown.splitlines() if "+" in row and "normal" not in row]
        assert len(rows) == len(LEVELS)
        for row, line in zip(rows, tables.lines(evaluation), strict=True):
            assert (cells(line) if line.auc else tables.MISSING) in row
            assert f"{line.n_normal}+{line.n_anomaly}" in row
        assert evaluation.convention in shown
        assert "fan id_02: no AUC, no pAUC: no anomalous clip" in shown
        assert "fan: fan id_02 is left out of the mean" in shown


def test_markdown_is_a_table(evaluation):
    rows = [row for row in tables.to_markdown(evaluation).splitlines() if row.startswith("|")]
    assert len(rows) == 2 + len(LEVELS)
    assert len({row.count("|") for row in rows}) == 1
    assert rows[-1].startswith("| **overall** | **all** | **")


def test_csv_gives_the_same_floats(evaluation):
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(evaluation))))
    assert [row["level"] for row in rows] == LEVELS
    assert list(rows[0]) == list(tables.CSV_COLUMNS)
    for row, line in zip(rows, tables.lines(evaluation), strict=True):
        assert row["machine_type"] == (line.machine_type or "")
        assert row["machine_id"] == (line.machine_id or "")
        for name in ("auc", "pauc"):
            figure = getattr(line, name)
            shown = [row[name], row[f"{name}_low"], row[f"{name}_high"]]
            if figure is None:
                assert shown == ["", "", ""]
            else:
                assert [float(s) for s in shown] == [figure.value, *figure.interval()]
        assert float(row["false_alarm_rate"]) == line.false_alarms.value
        assert int(row["n_normal"]) == line.n_normal
    assert rows[1]["why"] == "no anomalous clip among those with a score"
    assert "left out" in rows[2]["notes"]


def test_rates_are_shown_where_decisions_were_recorded(scores, evaluation):
    assert "false alarms %" in tables.to_text(evaluation)
    undecided = evaluate(scores.drop(columns="decision"), resamples=100)
    assert "false alarms" not in tables.to_text(undecided).replace("False-alarm", "")
    assert tables.to_csv(undecided).splitlines()[1].endswith("no decision is recorded for normal or anomalous clips,")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_figure_is_lost_on_a_narrow_terminal(evaluation, width):
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(tables.to_rich(evaluation))
    assert all(len(row) <= width for row in stream.getvalue().splitlines())
    for line in tables.lines(evaluation):
        assert not line.auc or cells(line) in stream.getvalue()


def test_names_that_look_like_markup_are_shown_as_they_are(scores):
    odd = evaluate(scores.assign(machine_type="[red]a|b[/red]"), resamples=100)
    assert tables.to_text(odd).splitlines()[2].startswith("[red]a|b[/red]")
    assert tables.to_markdown(odd).splitlines()[2].startswith("| [red]a\\|b[/red] |")
