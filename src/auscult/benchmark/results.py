"""Finished runs become figures: ours with an interval, beside the published ones.

A figure of a machine type is the mean over its IDs, the row's figure the mean over types (or over all IDs, where the
source averages so), and both are then averaged over seeds. The interval has two parts, joined as independent errors
are (root of the sum of squares): how the figure would move with other test clips, from each ID's bootstrap, averaged
over seeds since all seeds judge the same clips; and how the mean over seeds would move with other seeds, a
t-interval. Of a single seed only the first is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import hypot, sqrt
from statistics import fmean, stdev
from typing import Any

from auscult.benchmark.experiment import Experiment, Pair, Row
from auscult.benchmark.plan import Plan, Run
from auscult.benchmark.running import read_metrics

MEASURES = {"ranking": ("auc", "pauc"), "reconstruction": ("reconstruction",)}
"""What the tables of an experiment hold, by its `measure`."""


@dataclass(frozen=True)
class Estimate:
    """A figure, and how far it might lie too high and too low."""

    value: float
    down: float = 0.0
    up: float = 0.0

    @staticmethod
    def mean(parts: Sequence[Estimate]) -> Estimate:
        """The mean of figures of independent clips."""
        n = len(parts)
        return Estimate(
            fmean(p.value for p in parts),
            sqrt(sum(p.down**2 for p in parts)) / n,
            sqrt(sum(p.up**2 for p in parts)) / n,
        )

    @staticmethod
    def over_seeds(parts: Sequence[Estimate]) -> Estimate:
        """The mean of figures of the same clips from different trainings."""
        n = len(parts)
        spread = _t_quantile(n - 1) * stdev(p.value for p in parts) / sqrt(n) if n > 1 else 0.0
        return Estimate(
            fmean(p.value for p in parts),
            hypot(fmean(p.down for p in parts), spread),
            hypot(fmean(p.up for p in parts), spread),
        )


@dataclass(frozen=True)
class Cell:
    """One figure of the table, in percent or dB squared.

    Attributes
    ----------
    value, low, high : float or None
        Ours and its 95 % interval; None where there is none, and `why` then says why.
    n_seeds : int
    published : float or None
    spread, published_spread : float or None
        Standard deviations over clips, of a reconstruction error.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n_seeds: int = 0
    published: float | None = None
    why: str = ""
    spread: float | None = None
    published_spread: float | None = None

    @property
    def differs(self) -> str:
        """Where ours lies ("above", "below") if the published figure is outside our interval; else empty."""
        if self.value is None or self.published is None or self.low is None or self.high is None:
            return ""
        if self.published < self.low:
            return "above"
        return "below" if self.published > self.high else ""


@dataclass
class RowResult:
    """A row of the table, filled in.

    Attributes
    ----------
    row : Row
    status : str
        Why the row, or a part of it, was not run; empty if all of it was.
    cells : dict of (measure, machine type or "", machine ID or "") to Cell
        ("auc", "", "") is the mean.
    parameters : tuple of int
        The fewest and the most trainable parameters of its models.
    fit_seconds, score_seconds : float or None
        Mean time of a run to learn, and to judge a clip.
    n_runs, n_done : int
    notes : list of str
    """

    row: Row
    status: str = ""
    cells: dict[tuple[str, str, str], Cell] = field(default_factory=dict)
    parameters: tuple[int, ...] = ()
    fit_seconds: float | None = None
    score_seconds: float | None = None
    n_runs: int = 0
    n_done: int = 0
    notes: list[str] = field(default_factory=list)

    def cell(self, measure: str, machine_type: str = "", machine_id: str = "") -> Cell:
        """A cell, empty if there is none."""
        return self.cells.get((measure, machine_type, machine_id), Cell())


@dataclass
class Results:
    """All rows of an experiment, filled in.

    Attributes
    ----------
    experiment : Experiment
    machine_types : tuple of str
        The columns, whether there are clips of them or not.
    rows : list of RowResult
    notes : list of str
    """

    experiment: Experiment
    machine_types: tuple[str, ...]
    rows: list[RowResult]
    notes: list[str] = field(default_factory=list)

    @property
    def measures(self) -> tuple[str, ...]:
        """What the tables hold."""
        return MEASURES[self.experiment.measure]

    def groups(self) -> dict[str, list[RowResult]]:
        """The rows under their headings."""
        found: dict[str, list[RowResult]] = {}
        for result in self.rows:
            found.setdefault(result.row.group, []).append(result)
        return found


def gather(plan: Plan, broken: dict[str, str] | None = None) -> Results:
    """Read what the runs of a plan left.

    Parameters
    ----------
    plan : Plan
    broken : dict of str to str, optional
        Runs that failed, by name, and why.
    """
    experiment = plan.experiment
    rows = []
    for row in experiment.rows:
        runs = plan.of(row)
        result = RowResult(row, plan.left_out.get(row.name, ""), n_runs=len(runs))
        _fill(result, runs, experiment)
        result.notes += [f"{run.name} broke: {broken[run.name]}" for run in runs if broken and run.name in broken]
        rows.append(result)
    return Results(experiment, tuple(experiment.machine_types), rows, list(plan.notes))


def _fill(result: RowResult, runs: list[Run], experiment: Experiment) -> None:
    facts = {run.name: read_metrics(run.job.folder) for run in runs}
    done = [run for run in runs if facts[run.name].get("identity") == run.job.identity]
    result.n_done = len(done)
    _costs(result, [facts[run.name] for run in done])
    for measure in MEASURES[experiment.measure]:
        _figures(result, measure, runs, {run.name: facts[run.name] for run in done}, experiment)
    for run in done:
        said = [*facts[run.name].get("said", ()), *facts[run.name].get("notes", ())]
        result.notes += [f"{run.name}: {word}" for word in said]


def _costs(result: RowResult, facts: list[dict[str, Any]]) -> None:
    if facts:
        counts = [int(one.get("parameters", 0)) for one in facts]
        result.parameters = tuple(sorted({min(counts), max(counts)}))
        result.fit_seconds = fmean(float(one.get("fit_seconds", 0.0)) for one in facts)
        clips = sum(int(one.get("scored_clips", 0)) for one in facts)
        result.score_seconds = sum(float(one.get("score_seconds", 0.0)) for one in facts) / max(clips, 1)


def _figures(
    result: RowResult, measure: str, runs: list[Run], facts: dict[str, dict[str, Any]], experiment: Experiment
) -> None:
    """Fill in the cells of one measure: IDs, types, mean."""
    published = result.row.published
    by_seed: dict[int, dict[tuple[str, str], Estimate]] = {}
    whys: dict[tuple[str, str], str] = {}
    spreads: dict[str, float] = {}
    machines = list(dict.fromkeys(machine for run in runs for machine in run.machines))
    for run in runs:
        for line in facts.get(run.name, {}).get("by_id", ()):
            machine = (str(line["machine_type"]), str(line["machine_id"]))
            estimate = _estimate(line, measure)
            if estimate is not None:
                by_seed.setdefault(run.seed, {})[machine] = estimate
            else:
                whys[machine] = str(line.get("why", "it has no figure"))
        if measure == "reconstruction":
            for line in facts.get(run.name, {}).get("by_type", ()):
                if line.get("reconstruction_error"):
                    spreads[str(line["machine_type"])] = float(line["reconstruction_error"]["std"])
    # An ID whose test clips allow no figure has none in any run, and is left out of all means.
    expected = [machine for machine in machines if machine not in whys]

    def averaged(groups: Iterable[Sequence[tuple[str, str]]]) -> tuple[Estimate | None, int]:
        """The mean over groups of the mean over their machines, over the seeds that have all of them."""
        groups = [group for group in groups if group]
        whole = [s for s in by_seed.values() if groups and all(m in s for group in groups for m in group)]
        parts = [Estimate.mean([Estimate.mean([s[m] for m in group]) for group in groups]) for s in whole]
        return (Estimate.over_seeds(parts), len(parts)) if parts else (None, 0)

    types = list(dict.fromkeys(machine_type for machine_type, _ in machines))
    of_type = {t: [machine for machine in expected if machine[0] == t] for t in types}
    for machine_type in dict.fromkeys([*experiment.machine_types, *types]):
        ours = averaged([of_type.get(machine_type, [])])
        theirs = published.figures.get(machine_type) if published else None
        cell = _cell(measure, ours, theirs, _why(result, machine_type, types, whys), spreads.get(machine_type))
        result.cells[measure, machine_type, ""] = cell
        ids = published.by_id.get(machine_type, {}) if published else {}
        for machine in [m for m in machines if m[0] == machine_type]:
            why = whys.get(machine, "its run is not done")
            result.cells[measure, *machine] = _cell(measure, averaged([[machine]]), ids.get(machine[1]), why)
    over_ids = published is not None and published.mean_over == "ids"
    ours = averaged([expected] if over_ids else of_type.values())
    theirs = published.mean if published else None
    complete = set(types) >= _columns(result.row, experiment)
    result.cells[measure, "", ""] = _cell(measure, ours, theirs if complete or ours[0] is None else None, "")


def _columns(row: Row, experiment: Experiment) -> set[str]:
    return set(row.machine_types or experiment.machine_types)


def _why(result: RowResult, machine_type: str, types: list[str], whys: dict[tuple[str, str], str]) -> str:
    if result.status:
        return result.status
    if machine_type not in types:
        return "no clips of it"
    return next((why for (t, _), why in whys.items() if t == machine_type), "not all of its runs are done")


def _estimate(line: dict[str, Any], measure: str) -> Estimate | None:
    """One machine's figure in one run; of an error, in dB squared, the others in percent."""
    if measure == "reconstruction":
        error = line.get("reconstruction_error")
        if not error:
            return None
        wide = 1.96 * float(error["std"]) / sqrt(int(error["n"]))
        return Estimate(float(error["mean"]), wide, wide)
    value, interval = line.get(measure), line.get(f"{measure}_ci")
    if value is None or interval is None:
        return None
    low, high = interval
    return Estimate(100 * value, 100 * (value - low), 100 * (high - value))


def _cell(
    measure: str, ours: tuple[Estimate | None, int], theirs: Pair | None, why: str, spread: float | None = None
) -> Cell:
    estimate, n_seeds = ours
    published = theirs[1 if measure == "pauc" else 0] if theirs else None
    published_spread = theirs[1] if theirs and measure == "reconstruction" else None
    if estimate is None:
        return Cell(published=published, why=why, published_spread=published_spread)
    top = float("inf") if measure == "reconstruction" else 100.0
    low, high = max(estimate.value - estimate.down, 0.0), min(estimate.value + estimate.up, top)
    return Cell(
        estimate.value,
        low,
        high,
        n_seeds,
        published,
        spread=spread,
        published_spread=published_spread,
    )


def _t_quantile(freedom: int) -> float:
    """97.5 % of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))
