"""A benchmark from end to end: plan, run what is not done, read all, write the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from auscult.benchmark import costs, tables
from auscult.benchmark.corpus import Corpus, open_corpus
from auscult.benchmark.experiment import Experiment
from auscult.benchmark.page import to_html
from auscult.benchmark.plan import Plan, Run, make_plan, with_every_detector
from auscult.benchmark.results import Results, gather
from auscult.benchmark.running import is_done, note_failure, run_one, tidy
from auscult.benchmark.smoke import few, smoke, write_small_plant
from auscult.benchmark.watch import watch
from auscult.corpus import Manifest
from auscult.engines import Engine, open_engine
from auscult.engines.base import Work
from auscult.engines.choice import check_engine
from auscult.errors import AuscultError, TrainingInterrupted
from auscult.files import atomic, check_writable
from auscult.parallel import available_cores
from auscult.wording import counted

_PATIENCE = 5.0
"""Seconds to wait for another benchmark in the same folder: one that was just killed may still be ending."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes
    ----------
    experiment : Experiment
    out : Path
        Folder of runs and tables.
    data : Path, optional
        The data folder, where the experiment needs one.
    also : mapping of str to Path
        Additional recordings by name.
    engine : {"local", "ray"}
    workers : int, optional
        Runs at once.
    address : str, optional
        Of a Ray cluster.
    device : {"auto", "cpu", "cuda"}
    smoke : bool
        The experiment's smoke form.
    only : sequence of str
        Rows; default all.
    plan_only : bool
        Show the plan, run nothing.
    """

    experiment: Experiment
    out: Path
    data: Path | None = None
    also: Mapping[str, Path] = field(default_factory=dict)
    engine: str = "local"
    workers: int | None = None
    address: str | None = None
    device: str = "auto"
    smoke: bool = False
    only: Sequence[str] = ()
    seeds: Sequence[int] = ()
    plan_only: bool = False


@dataclass(frozen=True)
class Summary:
    """How a benchmark ended.

    Attributes
    ----------
    results : Results or None
        None where nothing was to be run.
    broken : dict of str to str
        Runs that failed, and why.
    n_unjudged : int
        Clips without a score, over the runs done now.
    files : tuple of Path
        The tables.
    """

    results: Results | None = None
    broken: dict[str, str] = field(default_factory=dict)
    n_unjudged: int = 0
    files: tuple[Path, ...] = ()


def conduct(request: Request, tell: Callable[[str], None] = print, work: Work = run_one) -> Summary:
    """Do what is asked for; what is done already is not done again.

    Parameters
    ----------
    request : Request
    tell : callable
        Takes the plan, and what happens, a line or a few at a time.
    work : callable
        Does one run.

    Raises
    ------
    AuscultError
        If the request cannot be carried out. A run that breaks is no reason: the summary names it.
    TrainingInterrupted
        If it was stopped; the same command goes on.
    """
    check_engine(request.engine, request.address)
    experiment = with_every_detector(request.experiment)
    experiment = smoke(experiment) if request.smoke else experiment
    home = request.out / "runs" / experiment.name
    check_writable(home / "clips.parquet")
    with _alone(request.out):
        make_plant = write_small_plant if request.smoke else None
        corpus = open_corpus(experiment, request.out, request.data, request.also, make_plant)
        corpus = few(corpus) if request.smoke else corpus
        clips = _write_clips(corpus, home)
        plan = make_plan(experiment, corpus, home, clips, device=request.device, only=request.only, seeds=request.seeds)
        workers = request.workers or available_cores()
        expected = costs.estimates(plan, request.device)
        tell(describe(plan, expected, workers, request.engine))
        if request.plan_only:
            return Summary()
        try:
            broken, n_unjudged = _carry_out(plan, request, expected, workers, tell, work)
        except KeyboardInterrupt:
            raise TrainingInterrupted("stopped", "the same command goes on where this one was") from None
        plan = _looked_at_again(plan)
        results = gather(plan, broken)
        return Summary(results, broken, n_unjudged, write_tables(results, request.out))


def write_tables(results: Results, out: Path) -> tuple[Path, ...]:
    """Write the tables of an experiment.

    Returns
    -------
    tuple of Path
        `<experiment>.md`, `.tex`, `.csv`, `.html` and `-costs.csv`, in `out`.
    """
    name = results.experiment.name
    texts = {
        f"{name}.md": tables.to_markdown(results),
        f"{name}.tex": tables.to_latex(results),
        f"{name}.csv": tables.to_csv(results),
        f"{name}-costs.csv": tables.costs_csv(results),
        f"{name}.html": to_html(results),
    }
    for file, text in texts.items():
        with atomic(out / file) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")
    return tuple(out / file for file in texts)


def describe(plan: Plan, expected: Mapping[str, float | None], workers: int, engine: str = "local") -> str:
    """The plan in words: rows, runs, what is done, what is left out, and how long the rest will take."""
    lines = [plan.experiment.title, ""]
    for row in plan.experiment.rows:
        runs = plan.of(row)
        label = f"  {row.name:<28}"
        if row.name in plan.left_out:
            lines.append(f"{label} {plan.left_out[row.name]}")
            continue
        done = sum(run.done for run in runs)
        left = [expected[run.name] for run in runs if not run.done]
        seconds, unknown = sum(s for s in left if s is not None), sum(s is None for s in left)
        time = f", about {costs.in_words(seconds)} of one core" if seconds else ""
        time += ", time unknown" if unknown and not seconds else ""
        lines.append(f"{label} {counted(len(runs), 'run')}, {done} done{time}")
        lines += [f"  {'':<28} will break here: {what}" for what in plan.lacking(row)]
    left = [expected[run.name] for run in plan.todo]
    wall, unknown = costs.total(left, workers)
    about = f"about {costs.in_words(wall)} with {workers} workers" if wall else "time unknown"
    more = f", and {unknown} runs of which nothing is known yet" if unknown and wall else ""
    rest = f"{about}{more} (rough; engine {engine})" if left else "nothing left to do"
    lines += ["", f"{counted(len(plan.runs), 'run')}, {len(plan.runs) - len(left)} done, {len(left)} to do: {rest}"]
    return "\n".join(lines)


def _carry_out(
    plan: Plan,
    request: Request,
    expected: Mapping[str, float | None],
    workers: int,
    tell: Callable[[str], None],
    work: Work,
) -> tuple[dict[str, str], int]:
    """Run what is not done: models first, then those that borrow them, the longest first."""
    broken: dict[str, str] = {}
    if not plan.todo:
        return broken, 0
    n_unjudged = 0
    gpus = 1.0 if request.device == "cuda" else 0.0
    with (
        watch([expected[run.name] for run in plan.todo], workers) as ended,
        open_engine(request.engine, workers=request.workers, address=request.address, gpus=gpus) as engine,
    ):
        for borrowing in (False, True):
            stage = [run for run in plan.todo if (run.job.model_of is not None) == borrowing]
            stage.sort(key=lambda run: -(expected[run.name] or 0.0))
            for run, error, unjudged in _ended(engine, work, stage):
                n_unjudged += unjudged
                if error:
                    broken[run.name] = error
                    tell(f"{run.name} broke: {error}")
                ended(expected[run.name], run.name, bool(error))
    return broken, n_unjudged


def _ended(engine: Engine, work: Work, runs: list[Run]) -> Iterator[tuple[Run, str, int]]:
    """Each run as it ends: why it broke if it did, and how many clips it could not judge."""
    by_folder = {run.job.folder: run for run in runs}
    for outcome in engine.run(work, [run.job for run in runs]):
        run, error = by_folder[outcome.job.folder], outcome.error
        if not error and not is_done(run.job.folder, run.job.identity):
            error = "its folder is not to be seen here — give -o a folder that all nodes share"
        if error:
            note_failure(run.job.folder, error, outcome.details)
        yield run, error, int(getattr(outcome.result, "unjudged", 0) or 0)


def _looked_at_again(plan: Plan) -> Plan:
    runs = [run if run.done else replace(run, done=is_done(run.job.folder, run.job.identity)) for run in plan.runs]
    for run in runs:
        if run.done:
            tidy(run.job.folder)
    return replace(plan, runs=runs)


def _write_clips(corpus: Corpus, home: Path) -> Path:
    """Keep the clips of the experiment where workers read them; left alone if they are there already."""
    file = home / "clips.parquet"
    if file.exists():
        try:
            there = Manifest.read(file)
        except AuscultError:
            there = None
        if there is not None and _same(there, corpus.manifest):
            return file
    corpus.manifest.write(file)
    return file


def _same(one: Manifest, other: Manifest) -> bool:
    a, b = (m.table.assign(path=[str((m.root / p).absolute()) for p in m.table["path"]]) for m in (one, other))
    return bool(a.equals(b))


@contextmanager
def _alone(out: Path) -> Iterator[Any]:
    """One benchmark at a time in a folder; the lock of a killed one is let go by the system."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".benchmark.lock", timeout=_PATIENCE):
            yield
    except Timeout:
        raise AuscultError(f"another benchmark is at work in {out}", "wait for it, or choose another -o") from None
