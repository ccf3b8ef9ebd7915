"""Progress of a whole plan where nobody watches: lines in a log."""

from __future__ import annotations

import sys

import pytest

from auscult.benchmark import watch as watching
from auscult.benchmark.watch import PAUSE, watch


class _Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(watching, "time", clock)
    return clock


def test_a_log_has_a_line_now_and_then(clock: _Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with watch([10.0, None, 20.0, 10.0], workers=2) as ended:
        for seconds, estimate, name, broke in (
            (PAUSE / 2, 10.0, "ae", False),
            (PAUSE, 20.0, "knn", True),
            (PAUSE + 1, None, "pae", False),
            (3 * PAUSE, 10.0, "bank", False),
        ):
            clock.now = seconds
            ended(estimate, name, broke)
    # After a minute 30 of 53 seconds' work are done; the last run is told of by the command itself.
    assert capsys.readouterr().err == "2/4 runs, 1 broke, about 47 s left · knn\n"


def test_a_bar_on_a_terminal(
    clock: _Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with watch([10.0, 10.0], workers=1) as ended:
        clock.now = 5.0
        ended(10.0, "ae", False)
    assert "1/2 runs, about 5 s left · ae" in capsys.readouterr().err
