"""How long a run will take: from runs that were measured, else from a table of what each detector costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isnan, nan

from auscult.benchmark.plan import Plan, Run
from auscult.benchmark.running import read_metrics
from auscult.detectors import registry
from auscult.detectors.base import DetectorConfig

_OVERHEAD = 1.0
"""Seconds of a run besides learning and judging: reading, evaluating, writing."""


@dataclass(frozen=True)
class Cost:
    """Processor time of one thread, for clips of ten seconds.

    Attributes
    ----------
    window : float
        Seconds for each example of a training step.
    clip : float
        Seconds for each training clip, besides.
    windows : int
        Examples that a clip gives in an epoch.
    judging : float
        Seconds to judge a clip.
    """

    window: float
    clip: float
    windows: int
    judging: float


_UNKNOWN = Cost(nan, nan, 1, nan)

COSTS: dict[tuple[str, str], Cost] = {
    ("ae", "quick"): Cost(9.1e-05, 0.00138, 309, 0.0049),
    ("ae", "paper"): Cost(0.000118, 0.0012, 309, 0.00565),
    ("anp", "quick"): Cost(0.00269, 0.00174, 309, 0.705),
    ("anp", "paper"): Cost(0.0354, 0.00111, 309, 3.2),
    ("auddsr", "quick"): Cost(0.142, 0, 1, 0.095),
    ("auddsr", "paper"): Cost(2.89, 0, 1, 0.95),
    ("auddsr-annot", "quick"): Cost(0.142, 0, 1, 0.095),
    ("auddsr-annot", "paper"): Cost(2.89, 0, 1, 0.95),
    ("augmentation-classifier", "quick"): Cost(0.00291, 0.00458, 48, 0.356),
    ("augmentation-classifier", "paper"): Cost(0.015, 0.0128, 48, 0.507),
    ("bank", "quick"): Cost(0, 0.0249, 0, 0.00837),
    ("bank", "paper"): Cost(0, 0.0248, 0, 0.00932),
    ("convcnp", "quick"): Cost(0.00243, 0.00205, 309, 0.122),
    ("convcnp", "paper"): Cost(0.0182, 0.00352, 309, 1.86),
    ("geco", "quick"): Cost(0.09, 0, 1, 0.087),
    ("glow", "quick"): Cost(0.00541, 0.00144, 18, 0.0334),
    ("glow", "paper"): Cost(0.0699, 0.00947, 18, 0.355),
    ("glow-aff", "quick"): Cost(0.00558, 0.00341, 36, 0.0328),
    ("glow-aff", "paper"): Cost(0.0691, 0.0101, 36, 0.345),
    ("group-made", "quick"): Cost(0.000289, 0.00178, 309, 0.0111),
    ("group-made", "paper"): Cost(0.000291, 0.00183, 309, 0.0107),
    ("id-classifier", "quick"): Cost(0.0021, 0.012, 5, 0.016),
    ("id-classifier", "paper"): Cost(0.00223, 0.0102, 5, 0.00795),
    ("idnn", "quick"): Cost(9.58e-05, 0.0013, 309, 0.00362),
    ("idnn", "paper"): Cost(0.000107, 0.00129, 309, 0.00376),
    ("knn", "quick"): Cost(0, 0.000953, 0, 0.00139),
    ("knn", "paper"): Cost(0, 0.0009, 0, 0.00143),
    ("maf", "quick"): Cost(0.00075, 0.00343, 78, 0.0145),
    ("maf", "paper"): Cost(0.00567, 0.0168, 78, 0.0831),
    ("mobilenetv2", "quick"): Cost(0.00399, 0.00283, 32, 0.0216),
    ("mobilenetv2", "paper"): Cost(0.00439, 0.00166, 32, 0.272),
    ("multires", "quick"): Cost(0.079, 0.11, 1, 0.094),
    ("pae", "quick"): Cost(0.000899, 0.00249, 305, 0.0848),
    ("pae", "paper"): Cost(0.00147, 0.000422, 305, 0.115),
    ("proxy-outlier", "quick"): Cost(0.0115, 0.000267, 2, 0.0638),
    ("proxy-outlier", "paper"): Cost(0.0624, 0.0154, 2, 0.891),
    ("stgram", "quick"): Cost(0.0311, 0.00384, 1, 0.0472),
    ("stgram", "paper"): Cost(0.191, 0.215, 1, 0.0378),
    ("vqvae", "quick"): Cost(0.018, 0, 1, 0.014),
    ("vqvae", "paper"): Cost(0.322, 0, 1, 0.121),
}
"""By detector and preset; measured by `python benchmarks/costs.py` on one busy core of an AMD EPYC (Zen 4). Training of
`auddsr`, `auddsr-annot` and `vqvae`, whose examples are images: by `python benchmarks/auddsr.py`; of `geco` and
`multires`: from their runs of the experiment `synthetic`."""


def estimate(run: Run, device: str = "cpu") -> float | None:
    """Seconds that a run will take on one core; None if nothing is known of its detector.

    Rough: a factor of two either way, more on another processor. The preset's costs are taken whatever settings
    change the size of the network.
    """
    if device == "cuda":
        return None
    config = registry.create(run.job.detector, run.job.preset, run.job.settings).config
    learning, judging = _seconds(run.job.detector, run.job.preset, config, run.n_train)
    # Besides the test clips, those kept for calibration are judged, and some are mapped.
    n_judged = run.n_test + 0.15 * run.n_train + min(64, run.n_train)
    seconds = _OVERHEAD + n_judged * judging + (0.0 if run.job.model_of else learning)
    return None if isnan(seconds) else seconds


def _seconds(detector: str, preset: str, config: DetectorConfig, n_train: int) -> tuple[float, float]:
    """To learn, with the models that a detector learns first, and to judge a clip; NaN where nothing is known."""
    parts = [_seconds(*part, n_train) for part in _parts(config)]
    if detector == "ensemble":
        return sum(learning for learning, _ in parts), sum(judging for _, judging in parts)
    cost = COSTS.get((detector, preset), _UNKNOWN)
    batch = int(getattr(config, "batch_size", 1))
    epochs, limit = getattr(config, "epochs", None), getattr(config, "max_steps", None)
    steps = limit or 0 if epochs is None else int(epochs) * ceil(n_train * cost.windows / batch)
    steps = min(steps, limit) if limit else steps
    networks = int(getattr(config, "seeds", 1))
    learning = networks * steps * batch * cost.window + n_train * cost.clip
    return learning + sum(first for first, _ in parts), networks * cost.judging


def _parts(config: DetectorConfig) -> list[tuple[str, str, DetectorConfig]]:
    """The models that a detector fits on its way, as detector, preset and settings: its members, its first stage."""
    preset = getattr(config, "members_preset", "")
    described = [(one.detector, preset, one.settings) for one in getattr(config, "members", ())]
    for field_name, detector in {"stage1": "vqvae", "pae": "pae"}.items():
        its_preset = getattr(config, f"{field_name}_preset", None)
        if its_preset is not None and getattr(config, field_name, None) is None:
            described.append((detector, its_preset, getattr(config, f"{field_name}_settings")))
    return [(name, its_preset, registry.create(name, its_preset, some).config) for name, its_preset, some in described]


def estimates(plan: Plan, device: str = "cpu") -> dict[str, float | None]:
    """Seconds of each run that is yet to be done, by name: as the row's finished runs took, else by the table."""
    measured: dict[str, list[float]] = {}
    for run in plan.runs:
        if run.done:
            facts = read_metrics(run.job.folder)
            seconds = float(facts.get("fit_seconds", 0.0)) + float(facts.get("score_seconds", 0.0))
            measured.setdefault(run.row.name, []).append(seconds)
    known = {name: sum(seconds) / len(seconds) for name, seconds in measured.items()}
    cache: dict[tuple[str, str], float | None] = {}
    found: dict[str, float | None] = {}
    for run in plan.todo:
        key = (run.row.name, run.unit)
        if key not in cache:
            cache[key] = known[run.row.name] if run.row.name in known else estimate(run, device)
        found[run.name] = cache[key]
    return found


def total(seconds: Sequence[float | None], workers: int) -> tuple[float, int]:
    """Seconds of wall time with so many workers, and how many runs nothing is known of.

    Runs are begun longest first, so the whole takes hardly longer than its share of each worker, or than its longest.
    """
    known = [s for s in seconds if s is not None]
    wall = max(sum(known) / max(workers, 1), max(known, default=0.0))
    return wall, len(seconds) - len(known)


def in_words(seconds: float) -> str:
    """A duration for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
