"""Faults made by arithmetic, put into real recordings of healthy machines: the tables in docs/bank.md.

python benchmarks/real_faults.py ../shared/data/machining ../shared/data/mimii0dB
python benchmarks/real_faults.py --detectors bank bank:views=level knn -- ../shared/data/machining

Of the healthy clips to learn from of each folder, a third drawn at random is held back. Judged are these, as they are
and with each fault put into it, in an octave of the clip drawn at random; test clips and their labels have no part in
this. Three draws; three severities, by which what a fault adds is multiplied. AUC in percent; 95 % intervals over the
choice of the clips held back, which are weighed anew, alike for all detectors.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", AUSCULT_THREADS="1")

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from numpy.random import Generator

from auscult.corpus import Clip, open_data
from auscult.corpus.synthetic_sounds import RATE, Wave, band, cycle, gate, noise, ring, strikes, turns
from auscult.detectors.registry import create
from auscult.store import Store

DRAWS = (0, 1, 2)
SEVERITIES = (0.5, 1.0, 2.0)
RESAMPLES = 1000


@dataclass(frozen=True)
class Octave:
    """What a clip sounds like between two frequencies.

    Attributes
    ----------
    low, high : float
        Hz.
    sound : ndarray, shape (n,)
        The clip's waveform there.
    level : float
        Its RMS.
    """

    low: float
    high: float
    sound: Wave
    level: float

    @classmethod
    def drawn(cls, rng: Generator, samples: Wave) -> Octave:
        """One around 150 to 5 000 Hz."""
        centre = np.exp(rng.uniform(np.log(150), np.log(5000)))
        low, high = float(centre / 2**0.5), float(centre * 2**0.5)
        hertz = np.fft.rfftfreq(len(samples), 1 / RATE)
        sound = np.fft.irfft(np.fft.rfft(samples) * ((hertz >= low) & (hertz < high)), len(samples))
        return cls(low, high, sound, float(np.sqrt(np.mean(np.square(sound)))) + 1e-12)

    @property
    def centre(self) -> float:
        """Hz."""
        return (self.low * self.high) ** 0.5

    def noise(self, rng: Generator) -> Wave:
        """Steady noise as loud as the clip is here."""
        return self.level * noise(rng, len(self.sound), band(self.low, self.high))


# What a fault adds to a clip ---------------------------------------------------------------------------


def whine(rng: Generator, octave: Octave) -> Wave:
    """A tone, 3 dB below the clip."""
    rotation = turns(rng, len(octave.sound), octave.centre, 0.0005)
    return octave.level * cycle(rotation)


def hiss(rng: Generator, octave: Octave) -> Wave:
    """Steady noise, as loud as the clip."""
    return octave.noise(rng)


def flutter(rng: Generator, octave: Octave) -> Wave:
    """The same in pulses, 3 to 14 a second."""
    pulses = cycle(turns(rng, len(octave.sound), rng.uniform(3, 14)))
    return 2.0 * octave.noise(rng) * np.maximum(pulses, 0)


def knock(rng: Generator, octave: Octave) -> Wave:
    """Ringing blows, 2 to 10 a second."""
    seconds = len(octave.sound) / RATE
    every = 1 / rng.uniform(2, 10)
    times = np.arange(rng.uniform(0, min(every, seconds)), seconds, every)
    blow = ring(octave.centre, 0.006)
    return 4.0 * octave.level * strikes(len(octave.sound), blow, times, rng.uniform(0.5, 1.0, len(times)))


def burst(rng: Generator, octave: Octave) -> Wave:
    """Noise 6 dB above the clip, once or twice for 0.1 to 0.25 s."""
    seconds = len(octave.sound) / RATE
    starts = rng.uniform(0, max(seconds - 0.25, 0), rng.integers(1, 3))
    spans = [(start, start + rng.uniform(0.1, 0.25)) for start in starts]
    return 2.0 * octave.noise(rng) * gate(len(octave.sound), spans, edge=0.03)


def dull(rng: Generator, octave: Octave) -> Wave:  # noqa: ARG001
    """The octave is 4 dB fainter."""
    return (10 ** (-4 / 20) - 1) * octave.sound


def waver(rng: Generator, octave: Octave) -> Wave:
    """The octave is up to 4 dB louder and fainter in turn, 0.7 to 2.5 times a second."""
    course = cycle(turns(rng, len(octave.sound), rng.uniform(0.7, 2.5)))
    return (10 ** (4 * course / 20) - 1) * octave.sound


FAULTS: dict[str, Callable[[Generator, Octave], Wave]] = {
    made.__name__: made for made in (whine, hiss, flutter, knock, burst, dull, waver)
}


def with_fault(clip: Clip, fault: str, severity: float) -> Clip:
    """The clip as if the machine were failing; always in the same way."""
    samples = clip.waveform(RATE, 0)
    rng = np.random.default_rng(crc32(f"{Path(clip.path).name} {fault}".encode()))
    added = FAULTS[fault](rng, Octave.drawn(rng, samples))
    faulty = (samples + severity * added).astype(np.float32)
    return replace(clip, path=f"{clip.path} {fault}", samples=faulty, rate=RATE, condition="anomaly")


# How well it is heard ----------------------------------------------------------------------------------


def areas(healthy: np.ndarray, faulty: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUC in percent from scores of the clips held back, (n,), and of the same with faults, (..., n).

    Returns
    -------
    ndarray, shape (..., n_resamples)
        One for each of the clips' `weights`, (n_resamples, n).
    """
    # Not of a clip and itself: in a plant, too, healthy and failing are two recordings.
    others = 1.0 - np.eye(len(healthy))
    wins = np.heaviside(faulty[..., None] - healthy, 0.5) * others
    pairs = np.einsum("ri,ij,rj->r", weights, others, weights)
    found: np.ndarray = 100 * np.einsum("ri,...ij,rj->...r", weights, wins, weights, optimize=True) / pairs
    return found


def resampled(n: int) -> np.ndarray:
    """Weights of n clips, (1 + RESAMPLES, n): first all alike, then of a Bayesian bootstrap, fit for four clips."""
    drawn = np.random.default_rng(0).dirichlet(np.ones(n), RESAMPLES)
    return np.vstack([np.full(n, 1 / n), drawn])


def drawn(folder: Path, seed: int) -> tuple[list[Clip], list[Clip]]:
    """Two thirds of a folder's clips to learn from, and the rest."""
    every = [clip for clip in open_data(folder).clips() if clip.split == "train"]
    order = np.random.default_rng(seed).permutation(len(every))
    kept = len(every) - len(every) // 3
    return [every[k] for k in order[:kept]], [every[k] for k in order[kept:]]


def heard(rival: str, folder: Path, store: Store) -> np.ndarray:
    """Mean over the draws of a detector's AUC, (n_severities, n_faults, 1 + RESAMPLES)."""
    name, _, how = rival.partition(":")
    found = []
    for seed in DRAWS:
        sys.stderr.write(f"{folder.name}, {rival}, draw {seed}\n")
        train, held_back = drawn(folder, seed)
        detector = create(name, "quick", dict(one.split("=", 1) for one in how.split(",") if one))
        detector.fit(train, store=store, seed=seed)
        faulty = np.array(
            [
                [detector.score([with_fault(c, fault, severity) for c in held_back], workers=1) for fault in FAULTS]
                for severity in SEVERITIES
            ]
        )
        found.append(areas(detector.score(held_back, workers=1), faulty, resampled(len(held_back))))
    mean: np.ndarray = np.mean(found, axis=0)
    return mean


def print_table(title: str, columns: list[str], rows: dict[str, np.ndarray]) -> None:
    """Of AUCs, (n_columns, 1 + RESAMPLES), with their mean and how far it lies from that of the first row."""
    first = next(iter(rows))
    print(f"\n| {title} | {' | '.join(columns)} | mean | 95 % | against {first} |")
    print(f"|{'---|' * (len(columns) + 4)}")
    for name, each in rows.items():
        mean, gap = each.mean(0), (each - rows[first]).mean(0)
        low, high, less, more = (np.percentile(some[1:], q) for some in (mean, gap) for q in (2.5, 97.5))
        against = "" if name == first else f"{gap[0]:+.1f} ({less:+.1f} to {more:+.1f})"
        cells = [*(f"{one:.1f}" for one in each[:, 0]), f"{mean[0]:.1f}", f"{low:.1f}–{high:.1f}", against]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Print a table by fault for each severity, and one by folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="recordings with a train split")
    parser.add_argument(
        "--detectors",
        nargs="+",
        default=["bank", "bank:views=level", "knn", "knn:distance=mahalanobis", "ae", "idnn"],
        metavar="NAME[:SETTING=VALUE,…]",
        help="quick presets",
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        every = {
            rival: np.stack([heard(rival, folder, Store(scratch)) for folder in asked.folders])
            for rival in asked.detectors
        }
    for number, severity in enumerate(SEVERITIES):
        by_fault = {rival: found[:, number].mean(0) for rival, found in every.items()}
        print_table(f"severity {severity:g}", list(FAULTS), by_fault)
    by_folder = {rival: found.mean((1, 2)) for rival, found in every.items()}
    print_table("all severities", [folder.name for folder in asked.folders], by_folder)


if __name__ == "__main__":
    main()
