"""What each detector costs: the table from which `auscult benchmark` estimates before any run has been measured.

python benchmarks/costs.py                  # every detector, both presets
python benchmarks/costs.py anp pae

Processor time of one thread on ten-second clips of a synthetic fan: seconds for each window of a training step, seconds
besides for each training clip, windows of a clip in an epoch, and seconds to judge a clip. Batches are cut to 32
windows, so that large networks fit the patience of a benchmark.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", AUSCULT_THREADS="1")

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from auscult.corpus import Clip, Manifest, open_data
from auscult.corpus.synthetic import write_plant
from auscult.detectors.base import Detector, Needs
from auscult.detectors.registry import create, detectors
from auscult.store import Store
from auscult.training import TrainingLog

BATCH = 36


def fitted(
    name: str, preset: str, clips: list[Clip], store: Store, **settings: Any
) -> tuple[Detector, TrainingLog, float]:
    """A detector, its log, and the seconds of processor time that it took."""
    made = create(name, preset, settings)
    others = [c for c in clips if c.machine_id == "id_02"] if Needs.OUTLIERS in made.needs else None
    train = [c for c in clips if c.machine_id == "id_00"] if others else clips
    start = time.process_time()
    log = made.fit(train, outliers=others, store=store)
    return made, log, time.process_time() - start


def measure(name: str, preset: str, train: Manifest, test: Manifest, store: Store) -> str:
    """One line of the table."""
    clips, config = train.clips(), create(name, preset).config
    if not hasattr(config, "max_steps"):
        fitted(name, preset, clips, store)
        made, _, seconds = fitted(name, preset, clips, store)
        window, clip, windows, batch = 0.0, seconds / len(clips), 0.0, 1
    else:
        batch = min(BATCH, config.batch_size)  # type: ignore[attr-defined]
        fitted(name, preset, clips, store, max_steps=1, batch_size=batch)
        one = fitted(name, preset, clips, store, max_steps=1, batch_size=batch)[2]
        made, log, three = fitted(name, preset, clips, store, max_steps=3, batch_size=batch)
        window = max(three - one, 0.0) / 2 / batch
        clip = max(one - window * batch, 0.0) / len(clips)
        few = [c for c in clips if c.path.endswith(("0.wav", "1.wav"))]
        _, log, _ = fitted(name, "quick", few, store, max_steps=None, epochs=1, batch_size=4)
        n = len(few) / (2 if Needs.OUTLIERS in made.needs else 1)
        windows = log.steps * 4 / n
    judged = []
    for one_clip in test.clips()[:3]:
        start = time.process_time()
        made.score_clip(one_clip)
        judged.append(time.process_time() - start)
    return f'    ("{name}", "{preset}"): Cost({window:.3g}, {clip:.3g}, {windows:.0f}, {min(judged):.3g}),'


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detectors", nargs="*", default=sorted(detectors()))
    parser.add_argument("--presets", nargs="+", default=["quick", "paper"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        plant = Path(folder) / "plant"
        write_plant(plant, machine_types=["fan"], ids=2, train=6, test_normal=2, test_anomaly=2)
        manifest, store = open_data(plant), Store(Path(folder) / "cache")
        for name in asked.detectors:
            for preset in asked.presets:
                print(measure(name, preset, manifest.for_training(), manifest.for_scoring(), store), flush=True)


if __name__ == "__main__":
    main()
