"""Every detector on the shared real recordings, three seeds: the table in docs/results.md.

python benchmarks/real.py ../shared/data --detectors ae idnn knn > table.md
python benchmarks/real.py ../shared/data --detectors proxy-outlier --outliers esc10 --set frames=32

Nothing is chosen by these figures: each detector runs once with its quick preset's defaults.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from auscult.corpus import Clip, open_data
from auscult.detectors.base import Needs
from auscult.detectors.registry import detectors, get
from auscult.evaluation.protocol import evaluate
from auscult.fitting import fit, training_clips
from auscult.scoring import score_table
from auscult.store import Store

SETS = ("machining/lathe", "mimii0dB/fan", "dcase2020/pump", "motors/bldc")
OTHERS = {"machining/lathe": "mimii0dB/fan", "mimii0dB/fan": "dcase2020/pump"}
"""Whose training clips serve as outliers for a detector that needs some; for the rest it is the fan."""


def outliers_of(home: Path, name: str, asked: list[str]) -> list[Clip]:
    """Clips of the sets asked for: what is for training where splits are known; never the set's own."""
    sets = asked or [OTHERS.get(name, "mimii0dB/fan")]
    return [clip for one in sets if one != name for clip in training_clips(home / one)]


def scores(
    home: Path, name: str, detector: str, seed: int, store: Store, settings: dict[str, str], outliers: list[str]
) -> tuple[pd.DataFrame, float]:
    """Fit on the train split, score the test split; also the seconds of processor time that fitting took."""
    others = outliers_of(home, name, outliers) if Needs.OUTLIERS in get(detector).needs else None
    start = time.process_time()
    model = fit(home / name, detector, settings=settings, outliers=others, seed=seed, store=store)
    seconds = time.process_time() - start
    return score_table(model, open_data(home / name).for_scoring()), seconds


def main() -> None:
    """Print one row a data set and detector."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the shared recordings")
    parser.add_argument("--detectors", nargs="+", default=sorted(detectors()))
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--outliers", nargs="+", default=[], help="sets that serve as outliers")
    parser.add_argument("--set", dest="settings", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    settings = dict(pair.split("=", 1) for pair in asked.settings)
    how = [" ".join(asked.outliers)] * bool(asked.outliers) + asked.settings
    label = f" ({', '.join(how)})" if how else ""
    head = ["data", "normal + anomalous", "detector", "AUC by seed, %", "mean", "95 % interval", "pAUC, %", "fit, s"]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        for detector in asked.detectors:
            for name in asked.sets:
                runs = [
                    scores(asked.data, name, detector, seed, store, settings, asked.outliers)
                    for seed in range(asked.seeds)
                ]
                results = [evaluate(table, seed=seed).overall for seed, (table, _) in enumerate(runs)]
                each = [100 * r.auc.value for r in results if r.auc]
                low = np.mean([100 * r.auc.interval()[0] for r in results if r.auc])
                high = np.mean([100 * r.auc.interval()[1] for r in results if r.auc])
                partial = np.mean([100 * r.pauc.value for r in results if r.pauc])
                print(
                    f"| {name} | {results[0].n_normal} + {results[0].n_anomaly} | {detector}{label} "
                    f"| {', '.join(f'{a:.1f}' for a in each)} | {np.mean(each):.1f} | {low:.1f}–{high:.1f} "
                    f"| {partial:.1f} | {np.mean([s for _, s in runs]):.0f} |",
                    flush=True,
                )
                sys.stderr.write(f"{name} {detector} done\n")


if __name__ == "__main__":
    main()
