"""Whether anomaly maps point at the fault: pixel AUC of every detector on the faults of the synthetic benchmark.

auscult benchmark synthetic -o bench
python benchmarks/maps.py bench                   # every model there is, seed 0
python benchmarks/maps.py bench --row ae --row auddsr

Of each faulty test clip whose fault has a place (a band, moments, or both) the pixel AUC is the chance that a bin of
that place has a larger value than a bin elsewhere in the same clip; 50 % is none the wiser. *Clip AUC* is that of the
clips' scores, healthy ones against those with the fault. Maps are those that people are shown: over what is usual in
a band.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from auscult.corpus.synthetic import Region
from auscult.errors import AuscultError
from auscult.model import Model, load

Places = dict[str, tuple[str, list[Region]]]
Table = dict[str, dict[str, list[float]]]


def places(plant: Path) -> Places:
    """By the path of a faulty clip: its fault, and where it is heard."""
    found: Places = {}
    with (plant / "faults.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            region = Region(*(float(row[key]) for key in ("start_s", "end_s", "low_hz", "high_hz")))
            found.setdefault(row["path"], (row["fault"], []))[1].append(region)
    return found


def pixels(regions: list[Region], shape: tuple[int, int], model: Model) -> np.ndarray:
    """Bins under a fault, bool, (n_mels, n_frames)."""
    front_end = model.detector.front_end
    hz, seconds = front_end.band_centres(), np.arange(shape[1]) * front_end.hop_length / front_end.sample_rate
    under = np.zeros(shape, dtype=bool)
    for region in regions:
        band = (hz >= region.low) & (hz <= region.high)
        under |= band[:, None] & ((seconds >= region.start) & (seconds < region.end))[None]
    return under


def runs(root: Path, rows: list[str]) -> Iterator[tuple[str, str, Path]]:
    """Row, machine type and folder of the finished runs of seed 0."""
    for metrics in sorted(root.glob("runs/synthetic/*/*/0/metrics.json")):
        row, unit = metrics.parts[-4:-2]
        if (not rows or row in rows) and (metrics.parent / "model.auscult").exists():
            yield row, unit.split("-")[0], metrics.parent


def judged(folder: Path, faults: Places) -> Iterator[tuple[str, float, float | None]]:
    """Fault, clip AUC (share of the machine's healthy clips below it) and pixel AUC of each faulty clip of a run."""
    model = load(folder / "model.auscult")
    with (folder / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row["condition"] != "anomaly":
            continue
        fault, regions = faults["/".join(Path(row["path"]).parts[-3:])]
        healthy = np.array(
            [
                float(other["score"])
                for other in rows
                if other["condition"] == "normal" and other["machine_id"] == row["machine_id"]
            ]
        )
        score = float(row["score"])
        above = float(np.mean(score > healthy) + np.mean(score == healthy) / 2)
        values = model.relative_map(row["path"])
        under = pixels(regions, values.shape, model)
        placed = under.any() and not under.all()
        yield fault, above, float(roc_auc_score(under.ravel(), values.ravel())) if placed else None


def show(title: str, table: Table) -> None:
    """Means in percent, a row each, a column each fault."""
    names = sorted({fault for found in table.values() for fault in found})
    print(f"\n| {title} | {' | '.join(names)} | mean |\n|{'---|' * (len(names) + 2)}")
    for row, found in table.items():
        means = [100 * float(np.mean(found[name])) if found[name] else float("nan") for name in names]
        print(f"| {row} | {' | '.join(f'{mean:.0f}' for mean in means)} | {np.nanmean(means):.1f} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the folder given to `auscult benchmark synthetic -o`")
    parser.add_argument("--row", action="append", default=[], help="only this row of the experiment; repeatable")
    arguments = parser.parse_args()
    faults = places(arguments.output / "plants" / "synthetic")
    clips: Table = defaultdict(lambda: defaultdict(list))
    bins: Table = defaultdict(lambda: defaultdict(list))
    for row, machine_type, folder in runs(arguments.output, arguments.row):
        try:
            for fault, above, area in judged(folder, faults):
                clips[row][f"{machine_type} {fault}"].append(above)
                if area is not None:
                    bins[row][f"{machine_type} {fault}"].append(area)
        except AuscultError as error:
            print(f"{row}, {machine_type}: {error}")
    show("clip AUC", clips)
    show("pixel AUC", bins)


if __name__ == "__main__":
    main()
