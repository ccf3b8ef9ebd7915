"""From an experiment to its runs: row by unit by seed, each with what determines it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from auscult.benchmark.corpus import Corpus
from auscult.benchmark.experiment import Experiment, Row
from auscult.benchmark.running import Job, is_done
from auscult.benchmark.selection import Selection
from auscult.detectors import registry
from auscult.detectors.base import Detector, Needs
from auscult.errors import AuscultError

FORMAT = 1
"""Changes whenever the same experiment on the same clips would have to be run anew."""


@dataclass(frozen=True)
class Run:
    """One run of a plan.

    Attributes
    ----------
    row : Row
    unit : str
        The machine type, the machine, or "all".
    machine_types : tuple of str
        That it judges.
    machines : tuple of (str, str)
        Type and ID of those it judges.
    seed : int
    n_train, n_test : int
        Clips.
    job : Job
    done : bool
        Whether its folder holds it already.
    """

    row: Row
    unit: str
    machines: tuple[tuple[str, str], ...]
    seed: int
    n_train: int
    n_test: int
    job: Job
    done: bool = False

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{self.row.name}, {self.unit}, seed {self.seed}"


@dataclass
class Plan:
    """The runs of an experiment.

    Attributes
    ----------
    experiment : Experiment
    runs : list of Run
        Those that lend their models first.
    left_out : dict of str to str
        The rows that are not run, by name, and why.
    notes : list of str
    """

    experiment: Experiment
    runs: list[Run] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def todo(self) -> list[Run]:
        """The runs that are not done."""
        return [run for run in self.runs if not run.done]

    def of(self, row: Row) -> list[Run]:
        """The runs of a row."""
        return [run for run in self.runs if run.row.name == row.name]

    def lacking(self, row: Row) -> list[str]:
        """What is not to be had here, and without which runs of a row would break."""
        jobs = [run.job for run in self.of(row) if not run.done and run.job.model_of is None]
        asked = {(job.detector, job.preset, _text(job.settings)) for job in jobs}
        return sorted({_lacking(*one) for one in asked} - {""})


def make_plan(
    experiment: Experiment,
    corpus: Corpus,
    home: Path,
    clips: Path,
    *,
    device: str = "auto",
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> Plan:
    """Lay out the runs of an experiment; see `with_every_detector` for those of rows that it does not list.

    Parameters
    ----------
    experiment : Experiment
    corpus : Corpus
    home : Path
        The folder of the experiment's runs.
    clips : Path
        Where the corpus's manifest is written.
    device : str
        Where to train.
    only : sequence of str
        Names of rows: of the others only what is done already is in the plan.
    seeds : sequence of int
        Those to plan for, besides what is done already. By default all that the experiment names.

    Raises
    ------
    AuscultError
        If a setting is unknown or wrong, a row takes another's models without being able to, or `only` names no row, or
        `seeds` a seed that no row has.
    """
    wanted = _wanted(experiment, only)
    _check_seeds(experiment, seeds)
    plan = Plan(experiment, notes=list(corpus.notes))
    planner = _Planner(experiment, corpus, home, clips, device)
    lenders: dict[tuple[str, str, int], Run] = {}
    for row in experiment.rows:
        reason = _why_not(row, corpus) or plan.left_out.get(row.model_of or "", "")
        runs = [] if reason else list(planner.runs(row, lenders))
        asked = [run for run in runs if run.done or (row.name in wanted and (not seeds or run.seed in seeds))]
        if not asked:
            unasked = row.name not in wanted or runs
            plan.left_out[row.name] = reason or ("not asked for" if unasked else "the data hold no clips for it")
            continue
        lenders |= {(row.name, run.unit, run.seed): run for run in asked}
        plan.runs += asked
    plan.runs.sort(key=lambda run: run.job.model_of is not None)
    return plan


def with_every_detector(experiment: Experiment) -> Experiment:
    """The experiment with a row for each detector that none of its rows names, if it asks for that."""
    if not experiment.every_detector:
        return experiment
    named = {row.detector for row in experiment.rows}
    more = [Row(name=name, system=name, detector=name) for name in registry.detectors() if name not in named]
    kinds = registry.detectors()
    rows = [row.model_copy(update={"outliers": "all-types"}) if _wants_others(kinds, row) else row for row in more]
    return experiment.model_copy(update={"rows": [*experiment.rows, *rows]})


def _wants_others(kinds: dict[str, type[Detector]], row: Row) -> bool:
    return bool(kinds[row.detector].needs & {Needs.OUTLIERS, Needs.MACHINE_IDS})


def _wanted(experiment: Experiment, only: Sequence[str]) -> set[str]:
    rows = {row.name: row for row in experiment.rows}
    for name in only:
        if name not in rows:
            raise AuscultError(f"{experiment.name} has no row {name!r}", f"it has {', '.join(rows)}")
    # A row that lends its models is needed by those that borrow them.
    lenders = {lender for name in only if (lender := rows[name].model_of)}
    return {*only, *lenders} if only else set(rows)


def _check_seeds(experiment: Experiment, seeds: Sequence[int]) -> None:
    there = {*experiment.seeds, *(seed for row in experiment.rows for seed in row.seeds or ())}
    for seed in seeds:
        if seed not in there:
            raise AuscultError(f"{experiment.name} has no seed {seed}", f"it has {', '.join(map(str, sorted(there)))}")


def _why_not(row: Row, corpus: Corpus) -> str:
    """Why a row cannot be run at all, or empty."""
    if row.detector and row.detector not in registry.detectors():
        return f"not available: auscult has no detector {row.detector} yet"
    if row.unavailable:
        return f"not available: {row.unavailable}"
    if isinstance(row.outliers, list):
        types = set(corpus.table["machine_type"])
        lacking = [name for name in row.outliers if name not in types]
        if lacking == row.outliers:
            return f"not available: needs the recordings {', '.join(lacking)} (--with {lacking[0]}=FOLDER)"
    return ""


class _Planner:
    """Makes the runs of one row after another."""

    def __init__(self, experiment: Experiment, corpus: Corpus, home: Path, clips: Path, device: str) -> None:
        self.experiment, self.corpus, self.home, self.clips, self.device = experiment, corpus, home, clips, device
        self.changed_ns = clips.stat().st_mtime_ns
        there = set(corpus.table["machine_type"])
        self.machine_types = [t for t in experiment.machine_types if t in there]

    def runs(self, row: Row, lenders: dict[tuple[str, str, int], Run]) -> Iterator[Run]:
        """The runs of a row."""
        for unit, machine_type, train, test in self._units(row):
            learnt, n_train = self.corpus.digest(train)
            judged, n_test = self.corpus.digest(test)
            if not (n_train and n_test):
                continue
            machines = self.corpus.machines(test)
            outliers = self._outliers(row, machine_type, train)
            others, _ = self.corpus.digest(outliers) if outliers else ("", 0)
            preset = row.preset or self.experiment.preset
            settings = row.settings_for(machine_type)
            for seed in row.seeds or self.experiment.seeds:
                lender = lenders.get((row.model_of or "", unit, seed))
                if row.model_of and lender is None:
                    continue
                job = Job(
                    self.home / row.name / unit / str(seed),
                    self.clips,
                    self.changed_ns,
                    "",
                    row.detector,
                    preset,
                    settings,
                    seed,
                    train,
                    test,
                    outliers,
                    reconstruction_error=self.experiment.measure == "reconstruction",
                    device=self.device,
                    facts=self._facts(row, unit, seed),
                )
                what = [learnt, judged, others, _resolved(row.detector, preset, _text(settings))]
                if lender:
                    job = self._borrowing(job, lender)
                    what.append(lender.job.identity)
                job = replace(job, identity=_identity(job, what))
                yield Run(row, unit, tuple(machines), seed, n_train, n_test, job, is_done(job.folder, job.identity))

    def _units(self, row: Row) -> Iterator[tuple[str, str, Selection, Selection]]:
        """Name, machine type, and clips to learn from and to judge, of each model of a row."""
        types = tuple(t for t in self.machine_types if row.machine_types is None or t in row.machine_types)
        train, test = tuple(row.train), tuple(row.test)
        if row.scope == "all":
            yield "all", "", Selection("train", train, types), Selection("test", test, types)
            return
        for machine_type in types:
            learnt, judged = Selection("train", train, (machine_type,)), Selection("test", test, (machine_type,))
            if row.scope == "type":
                yield _folder_name(machine_type), machine_type, learnt, judged
                continue
            for _, one in self.corpus.machines(judged):
                unit = _folder_name(f"{machine_type}-{one}")
                yield unit, machine_type, replace(learnt, machine_id=one), replace(judged, machine_id=one)

    def _outliers(self, row: Row, machine_type: str, train: Selection) -> Selection | None:
        """The clips of other machines that a model is given besides."""
        which = row.outliers_for(machine_type)
        if which == "none":
            return None
        own = tuple(self.corpus.machines(train))
        everywhere = tuple(row.outliers_from)
        if which == "same-type":
            return Selection("train", everywhere, (machine_type,), without=own)
        if which == "all-types":
            return Selection("train", everywhere, tuple(self.experiment.machine_types), without=own)
        return Selection("train", (*everywhere, *self.corpus.also), tuple(which), without=own)

    def _borrowing(self, job: Job, lender: Run) -> Job:
        """The job with another run's model, and the settings by which the two differ."""
        theirs = _config(lender.job.detector, lender.job.preset, _text(lender.job.settings))
        ours = _config(job.detector, job.preset, _text(job.settings))
        changed = {name: value for name, value in ours.items() if theirs[name] != value}
        barred = sorted(changed.keys() - registry.get(job.detector).scorings)
        if barred:
            raise AuscultError(
                f"{job.facts['row']} takes the models of {lender.row.name}, but differs in {', '.join(barred)}",
                "give it models of its own (no model_of)",
            )
        return replace(job, model_of=lender.job.folder, settings=changed)

    def _facts(self, row: Row, unit: str, seed: int) -> dict[str, Any]:
        return {
            "detector": " ".join(filter(None, [row.system, f"({row.group})" if row.group else ""])),
            "experiment": self.experiment.name,
            "row": row.name,
            "registered_as": row.detector,
            "unit": unit,
            "run_seed": seed,
        }


def _identity(job: Job, what: list[str]) -> str:
    parts = [str(FORMAT), *what, str(job.seed), str(job.reconstruction_error)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _text(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


@lru_cache(maxsize=4096)
def _resolved(detector: str, preset: str, settings: str) -> str:
    """Everything that a detector with these settings is, as text."""
    made = registry.create(detector, preset, json.loads(settings))
    return "\n".join([made.name, made.config.model_dump_json(), made.front_end.model_dump_json()])


def _lacking(detector: str, preset: str, settings: str) -> str:
    """What a detector says that it needs and does not find, or empty."""
    try:
        registry.create(detector, preset, json.loads(settings)).depends_on()
    except AuscultError as error:
        return str(error)
    return ""


@lru_cache(maxsize=4096)
def _config(detector: str, preset: str, settings: str) -> dict[str, Any]:
    return registry.create(detector, preset, json.loads(settings)).config.model_dump(mode="json")


def _folder_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", text).lstrip(".") or "_"
