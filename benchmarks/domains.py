"""What judging each domain by its own distances does where conditions shift: the table in docs/concepts.md.

python benchmarks/domains.py > table.md

Synthetic machines: 60 healthy clips of the source domain and 6 of the target to learn from, 20 healthy and 20 faulty
ones of each to judge. Four plants a row, seeds 0 to 3; no setting was chosen by them.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace

import numpy as np
from sklearn.metrics import roc_auc_score

from auscult.corpus import Clip
from auscult.detectors.registry import create
from auscult.store import Store
from machines import clips

SEEDS = range(4)
TYPES = ("fan", "slider")
N_SOURCE, N_TARGET, N_TEST = 60, 6, 20
RAISED = 2
"""Healthy clips of the source domain that exceed the threshold: one in ten."""
WAYS = {
    "knn": {"domains": "off"},
    "knn, domains": {},
    "knn, density 4": {"density": 4},
    "bank": {"domains": "off"},
    "bank, domains": {},
}


@dataclass(frozen=True)
class Shift:
    """How the target domain differs."""

    gain: float
    snr_db: float


SHIFTS = {"a third as loud, 6 dB noisier": Shift(0.3, 0.0), "12 dB noisier": Shift(1.0, -6.0)}
SOURCE = Shift(1.0, 6.0)


def heard(kind: str, domain: str, shift: Shift, split: str, condition: str, count: int, seed: int) -> list[Clip]:
    """Some clips of one domain."""
    first = 1000 if domain == "target" else 0
    how = {"severity": 2.0, "snr_db": shift.snr_db, "seconds": 4.0, "seed": seed}
    made = clips(kind, "id_00", split, condition, count, first=first, **how)
    return [replace(clip, samples=clip.samples * np.float32(shift.gain), domain=domain) for clip in made]


def figures(kind: str, target: Shift, seed: int, store: Store) -> dict[str, list[float]]:
    """Of one plant, by way: false alarms in the target domain; AUC of source, of target and of both together."""
    domains = {"source": (SOURCE, N_SOURCE), "target": (target, N_TARGET)}
    train = [c for d, (shift, n) in domains.items() for c in heard(kind, d, shift, "train", "normal", n, seed)]
    test = {
        (d, condition): heard(kind, d, shift, "test", condition, N_TEST, seed)
        for d, (shift, _) in domains.items()
        for condition in ("normal", "anomaly")
    }
    found = {}
    for way, settings in WAYS.items():
        detector = create(way.split(",")[0], settings=settings)
        detector.fit(train, store=store)
        scores = {cell: detector.score(some) for cell, some in test.items()}
        threshold = np.sort(scores["source", "normal"])[-RAISED - 1]
        alarms = float(np.mean(scores["target", "normal"] > threshold))
        found[way] = [alarms, *(_auc(scores, chosen) for chosen in (["source"], ["target"], ["source", "target"]))]
    return found


def _auc(scores: dict[tuple[str, str], np.ndarray], domains: list[str]) -> float:
    normal = np.concatenate([scores[d, "normal"] for d in domains])
    anomalous = np.concatenate([scores[d, "anomaly"] for d in domains])
    return float(roc_auc_score(np.r_[np.zeros(len(normal)), np.ones(len(anomalous))], np.r_[normal, anomalous]))


def main() -> None:
    """Print the table."""
    print("| machine, target domain | | false alarms, target | AUC, source | AUC, target | AUC, both |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind in TYPES:
            for name, shift in SHIFTS.items():
                every = [figures(kind, shift, seed, Store(folder)) for seed in SEEDS]
                for way in WAYS:
                    means = 100 * np.mean([one[way] for one in every], axis=0)
                    cells = " | ".join([f"{means[0]:.0f} %", *(f"{mean:.1f}" for mean in means[1:])])
                    print(f"| {kind}, {name} | {way} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
