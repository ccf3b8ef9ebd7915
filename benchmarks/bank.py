"""The memory bank, taken apart, on synthetic machines: the tables in docs/bank.md.

python benchmarks/bank.py --seed 11                                  # what its settings were chosen on
python benchmarks/bank.py --seed 12                                  # new clips of those machines
python benchmarks/bank.py --seed 12 --ids id_90 id_92                # new clips of new machines
python benchmarks/bank.py --seed 12 --ids id_90 id_92 --networks 600 --no-ablation

Six types, two machines each, made in memory: 60 clips of each machine to learn from, 20 healthy and 20 faulty ones
to judge, at the default severity and noise. One model a type, as in DCASE 2020; the AUC of a type is the mean over its
machines. Intervals: 95 %, over the choice of test clips, which are resampled alike for all rows.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", AUSCULT_THREADS="1")

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from auscult.corpus import Clip
from auscult.corpus.synthetic import MACHINE_TYPES, machine_ids
from auscult.detectors.bank import Bank
from auscult.detectors.bank_settings import BankConfig
from auscult.detectors.bank_views import VIEWS
from auscult.detectors.registry import create
from auscult.store import LogMels, Store
from machines import clips

COUNTS = {("train", "normal"): 60, ("test", "normal"): 20, ("test", "anomaly"): 20}
FEW = 6
"""Clips of each machine in the rows that learn from a dozen."""

DEFAULT = BankConfig().views.split("+")


@dataclass
class Unit:
    """The clips of one machine type, and what the views say of them."""

    machine_type: str
    train: list[Clip]
    test: list[Clip]
    train_views: list[dict[str, torch.Tensor]]
    test_views: list[dict[str, torch.Tensor]]
    clip_scores: dict[str, np.ndarray]

    def few(self) -> list[int]:
        """Numbers of the first clips of each machine."""
        seen: dict[str, int] = {}
        chosen = []
        for number, clip in enumerate(self.train):
            seen[clip.machine_id] = seen.get(clip.machine_id, 0) + 1
            if seen[clip.machine_id] <= FEW:
                chosen.append(number)
        return chosen


def make(machine_type: str, ids: Sequence[str], seed: int) -> tuple[list[Clip], list[Clip]]:
    """Clips to learn from, and to judge."""
    parts: dict[str, list[Clip]] = {"train": [], "test": []}
    for machine_id in ids:
        for (split, condition), count in COUNTS.items():
            parts[split] += clips(machine_type, machine_id, split, condition, count, seed=seed)
    return parts["train"], parts["test"]


class Ready(Store):
    """Log-mels that were computed beforehand, for all detectors of a unit."""

    def __init__(self, logmels: LogMels) -> None:
        super().__init__()
        self.by_path = dict(zip([c.path for c in logmels.clips], logmels.spectra, strict=True))

    def collect(self, some: Sequence[Clip], front_end: object) -> LogMels:  # noqa: ARG002
        """Those of `some`."""
        return LogMels(list(some), [self.by_path[clip.path] for clip in some])


def prepare(machine_type: str, ids: Sequence[str], seed: int, networks: int) -> Unit:
    """Make the clips of a type, describe them, and score them with the detectors that the bank is compared with."""
    train, test = make(machine_type, ids, seed)
    bank = Bank(BankConfig(views="+".join(VIEWS)))
    with tempfile.TemporaryDirectory() as folder:
        ready = Ready(Store(folder).collect([*train, *test], bank.front_end))
    views = [bank.describe(torch.tensor(ready.by_path[clip.path])) for clip in (*train, *test)]
    unit = Unit(machine_type, train, test, views[: len(train)], views[len(train) :], {})
    judged = [torch.tensor(ready.by_path[clip.path]) for clip in test]
    rivals: list[tuple[str, str, dict[str, object], list[Clip]]] = [
        ("knn", "knn", {}, train),
        ("knn, a dozen clips", "knn", {}, [train[i] for i in unit.few()]),
        ("knn, whitened", "knn", {"distance": "mahalanobis"}, train),
    ]
    if networks:
        rivals += [(f"{n}, {networks} steps", n, {"max_steps": networks}, train) for n in ("ae", "idnn")]
    for title, name, settings, learnt in rivals:
        detector = create(name, "quick", settings)
        detector.fit(learnt, store=ready)
        with torch.inference_mode():
            unit.clip_scores[title] = np.array([detector.score_logmel(x) for x in judged])
    for part in (train, test):
        part[:] = [Clip(c.path, None, c.machine_type, c.machine_id, c.split, c.condition) for c in part]
    return unit


def bank_scores(unit: Unit, few: bool = False, **settings: object) -> dict[str, np.ndarray]:
    """Scores of the test clips, (n_clips,), and for `views` those of each view, (n_clips, n_views)."""
    bank = Bank(BankConfig.model_validate(settings))
    learnt = [unit.train_views[i] for i in unit.few()] if few else unit.train_views
    with torch.inference_mode():
        bank.learn({view.name: torch.stack([clip[view.name] for clip in learnt]) for view in bank.views})
        by_view = [bank.view_scores({view.name: clip[view.name] for view in bank.views}) for clip in unit.test_views]
        each = torch.stack(by_view)
        return {"score": bank.fuse(each.T).numpy(), "views": each.numpy()}


def with_settings(few: bool = False, **settings: object) -> Callable[[Unit], np.ndarray]:
    """The bank's scores of a unit, with these settings."""
    return lambda unit: bank_scores(unit, few, **settings)["score"]


def by_rival(title: str) -> Callable[[Unit], np.ndarray]:
    """The scores of a unit by one of the others."""
    return lambda unit: unit.clip_scores[title]


def _which(unit: Unit, machine_id: str, condition: str) -> np.ndarray:
    """Numbers of the test clips of one machine in one condition."""
    return np.flatnonzero([c.machine_id == machine_id and c.condition == condition for c in unit.test])


class Table:
    """AUC by type and overall, and how far it lies from the default's."""

    def __init__(self, units: list[Unit], draws: int = 1000) -> None:
        self.units = units
        random = np.random.default_rng(0)
        self.groups = [
            (number, _which(unit, i, "anomaly"), _which(unit, i, "normal"))
            for number, unit in enumerate(units)
            for i in sorted({c.machine_id for c in unit.test})
        ]
        self.weights = [
            tuple(random.multinomial(len(m), np.full(len(m), 1 / len(m)), draws) / len(m) for m in masks)
            for _, *masks in self.groups
        ]
        self.default: np.ndarray | None = None
        print("| | " + " | ".join(u.machine_type for u in units) + " | mean | 95 % | against the default |")
        print("|---" * (len(units) + 4) + "|")

    def row(self, title: str, score: Callable[[Unit], np.ndarray]) -> None:
        """Score all units and print their figures; the first row is the default."""
        scores = [score(unit) for unit in self.units]
        by_type: dict[int, list[float]] = {}
        drawn = []
        for (number, faulty, normal), (w_faulty, w_normal) in zip(self.groups, self.weights, strict=True):
            a, b = scores[number][faulty][:, None], scores[number][normal]
            wins = (a > b) + 0.5 * (a == b)
            by_type.setdefault(number, []).append(100 * wins.mean())
            drawn.append(100 * np.einsum("da,ab,db->d", w_faulty, wins, w_normal))
        means, draws = [float(np.mean(v)) for v in by_type.values()], np.mean(drawn, axis=0)
        if self.default is None:
            self.default = np.append(draws, np.mean(means))
        low, high = np.percentile(draws, [2.5, 97.5])
        less, more = np.percentile(draws - self.default[:-1], [2.5, 97.5])
        gap = np.mean(means) - self.default[-1]
        against = f"{gap:+.1f} ({less:+.1f} to {more:+.1f})" if gap or less or more else ""
        cells = [*(f"{m:.1f}" for m in means), f"{np.mean(means):.1f}", f"{low:.1f}–{high:.1f}", against]
        print(f"| {title} | " + " | ".join(cells) + " |", flush=True)


def ablate(table: Table) -> None:
    """Each view alone, without each view, and every other choice."""
    everything = {id(u): bank_scores(u, views="+".join([*DEFAULT, "peak"]))["views"] for u in table.units}
    names = [*DEFAULT, "peak"]

    def fused(chosen: Iterable[str]) -> Callable[[Unit], np.ndarray]:
        columns = [names.index(name) for name in chosen]
        fuse = Bank().fuse
        return lambda unit: fuse(torch.from_numpy(everything[id(unit)][:, columns].T)).numpy()

    for name in names:
        table.row(f"only {name}", fused([name]))
    for name in DEFAULT:
        table.row(f"without {name}", fused(n for n in DEFAULT if n != name))
    table.row("with peak", fused(names))
    table.row("views: least", lambda unit: everything[id(unit)][:, : len(DEFAULT)].min(1))
    others: dict[str, dict[str, object]] = {
        "views: largest": {"fusion": "max"},
        "views: mean": {"fusion": "mean"},
        "distances as ratios to the usual": {"normalisation": "ratio"},
        "distances as they are": {"normalisation": "raw"},
        "nearest overall only": {"neighbours": "overall"},
        "nearest by band only": {"neighbours": "bands"},
        "2 neighbours": {"k": 2},
        "8 bands": {"bands": 8},
        "32 bands": {"bands": 32},
        "not whitened": {"whitening": False},
    }
    for title, settings in others.items():
        table.row(title, with_settings(False, **settings))
    table.row("not whitened, a dozen clips", with_settings(few=True, whitening=False))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=12)
    parser.add_argument("--ids", nargs="+", help="machines; default: the first two of each type")
    parser.add_argument("--types", nargs="+", default=list(MACHINE_TYPES))
    parser.add_argument("--networks", type=int, default=0, metavar="STEPS", help="also ae and idnn, so long trained")
    parser.add_argument("--ablation", action=argparse.BooleanOptionalAction, default=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    units = [prepare(t, asked.ids or machine_ids(t, 2), asked.seed, asked.networks) for t in asked.types]
    sys.stderr.write(f"made, described, and scored by the others: {time.perf_counter() - start:.0f} s\n")
    table = Table(units)
    table.row("**bank**", with_settings())
    table.row("bank, a dozen clips", with_settings(few=True))
    for title in units[0].clip_scores:
        table.row(title, by_rival(title))
    if asked.ablation:
        ablate(table)


if __name__ == "__main__":
    main()
