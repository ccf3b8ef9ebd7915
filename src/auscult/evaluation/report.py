"""Scores, models and recordings become one page that needs nothing else: no network, no scripts."""

from __future__ import annotations

import base64
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auscult import __version__
from auscult.corpus.clip import Clip
from auscult.errors import AuscultError
from auscult.evaluation import pictures
from auscult.evaluation.protocol import evaluate
from auscult.evaluation.results import Evaluation
from auscult.evaluation.scores import read_scores
from auscult.features import FrontEnd
from auscult.files import atomic, check_writable

if TYPE_CHECKING:
    import pandas as pd

    from auscult.model import Model

MOST_CLIPS = 48
"""So many clips are shown on a page, as long as each machine can show one."""

MEDIA_BUDGET = 7_000_000
"""Bytes of pictures and sound on a page; a mail server takes it."""

LONGEST_SOUND = 12.0
"""Seconds of a clip that can be listened to."""

CHART = (320, 200)
"""Width and height of a chart's plot, in the units of its drawing."""

BARS = 32
_CONDITIONS = ("normal", "anomaly", "unknown")


@dataclass(frozen=True)
class Run:
    """One table of scores, and what lies beside it."""

    folder: Path
    name: str
    table: pd.DataFrame
    model_file: Path | None
    detector: str


@dataclass
class Card:
    """One of the most anomalous clips, as the page shows it."""

    name: str
    machine: str
    condition: str
    decision: str
    verdict: str
    sentence: str = ""
    spectrogram: str = ""
    anomaly_map: str = ""
    brightest: float = 0.0
    box: tuple[float, float, float, float] | None = None
    hertz: list[tuple[float, str]] = field(default_factory=list)
    seconds: list[tuple[float, str]] = field(default_factory=list)
    sound: str = ""
    sound_note: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass
class Chart:
    """Lines or bars in the units of `CHART`, and the numbers under and beside them."""

    title: str
    description: str
    shapes: list[tuple[str, str, str]] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)


@dataclass
class Gallery:
    """The most anomalous clips of one machine type in one run."""

    title: str
    cards: list[Card]


@dataclass
class ModelFacts:
    """What the page tells of a model."""

    run: str
    file: str
    detector: str
    promise: str
    rate: float | None
    details: list[tuple[str, str]]


@dataclass
class System:
    """All runs of one detector: what is judged as one."""

    name: str
    runs: list[Run]
    table: pd.DataFrame
    evaluation: Evaluation
    rocs: list[Chart] = field(default_factory=list)
    histograms: list[Chart] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    models: list[ModelFacts] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def n_judged(self) -> int:
        """Clips with a score."""
        return int(self.table["score"].notna().sum())

    @property
    def n_alarms(self) -> int | None:
        """Clips called anomalous; None where no decision was taken."""
        decisions = self.table["decision"]
        return int((decisions == "anomaly").sum()) if (decisions != "").any() else None

    @property
    def unjudged(self) -> list[tuple[str, str]]:
        """Each clip without a score, and the reason."""
        silent = self.table[self.table["score"].isna()]
        return [(p, e or "no reason is given") for p, e in zip(silent["path"], silent["error"], strict=True)]

    @property
    def promises(self) -> list[str]:
        """What its models promise; which of them, where they differ."""
        said = {model.run: _sentence(model.promise) for model in self.models}
        if len(set(said.values())) == 1:
            return [next(iter(said.values()))]
        return [f"{run}: {promise}" for run, promise in said.items()]

    @property
    def promised_rate(self) -> float | None:
        """The false-alarm rate that all of its models promise; None where there is no such rate."""
        rates = {model.rate for model in self.models}
        return rates.pop() if len(rates) == 1 and len(self.models) == len(self.runs) else None

    @property
    def comparison(self) -> str:
        """How the false alarms counted compare with those promised; empty where either is missing."""
        promised, counted = self.promised_rate, self.evaluation.overall.false_alarms
        if promised is None or counted is None:
            return ""
        low, high = counted.interval
        span = f"{_percent(counted.value)} of the normal clips (95 % interval {_percent(low)} to {_percent(high)})"
        if low > promised:
            return (
                f"More false alarms than promised: {span}, where {100 * promised:.3g} % was promised. These clips "
                "do not sound like those of the calibration: another machine, place, load or microphone?"
            )
        return f"False alarms are in keeping with the {100 * promised:.3g} % promised: {span}."


def write_report(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    top: int = 8,
    load_model: Callable[[Path], Model] | None = None,
) -> None:
    """Write everything that is known of the scores below a folder as one self-contained page.

    Parameters
    ----------
    folder : path-like
        Holds, anywhere below it, one or more `scores.csv`; a `*.auscult` model and a `metrics.json` beside
        one are used where they are there.
    output : path-like
        The page, HTML.
    data : path-like, optional
        Folder, or manifest in the folder, from which the clips' paths start, where they start neither
        from the working directory nor from the scores.
    top : int
        How many of the most anomalous clips of each machine to show; fewer where there are many machines.
    load_model : callable, optional
        Reads a model file; by default `auscult.model.load`.

    Raises
    ------
    AuscultError
        If there are no readable scores below the folder, or the page cannot be written.
    """
    if top < 0:
        raise AuscultError(f"top is {top}", "give the number of clips to show, 0 or more")
    if data is not None and not Path(data).exists():
        raise AuscultError(f"{data}: there is no such folder or manifest", "name the folder that holds the clips")
    check_writable(output)
    root = Path(folder)
    load = load_model or _load_model
    runs, notes = _find_runs(root)
    runs = [run if run.detector else replace(run, detector=_detector(run, load)) for run in runs]
    systems = _systems(runs)
    budget = _Budget(MEDIA_BUDGET)
    n_groups = sum(run.table["machine_type"].nunique() for run in runs)
    each = min(top, max(1, MOST_CLIPS // n_groups))
    for system in systems:
        _fill(system, each, Path(data) if data else None, load, budget)
    if budget.exceeded:
        notes.append("To keep the page small, some of the clips below are listed without picture and sound.")
    page = _render(root, systems, notes)
    with atomic(output) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")


# What there is ----------------------------------------------------------------------------------


def _find_runs(root: Path) -> tuple[list[Run], list[str]]:
    remedy = "name the folder that `auscult score … -o FOLDER/scores.csv` or `auscult benchmark` wrote to"
    if not root.is_dir():
        raise AuscultError(f"{root}: there is no such folder", remedy)
    tables = sorted(root.rglob("scores.csv"))
    if not tables:
        raise AuscultError(f"{root}: there is no scores.csv in this folder or below it", remedy)
    runs, failures = [], []
    for file in tables:
        try:
            runs.append(_run(root, file))
        except AuscultError as error:
            failures.append(error)
    if not runs:
        raise failures[0]
    return runs, [f"Left out: {_sentence(str(error))}" for error in failures]


def _run(root: Path, scores: Path) -> Run:
    home = scores.parent
    models = sorted(home.glob("*.auscult"))
    plain = [model for model in models if model.name == "model.auscult"] or models
    return Run(
        folder=home,
        name=home.relative_to(root).as_posix() if home != root else root.absolute().name,
        table=read_scores(scores),
        model_file=plain[0] if len(plain) == 1 else None,
        detector=_recorded_detector(home / "metrics.json"),
    )


def _recorded_detector(metrics: Path) -> str:
    """The detector's name as a run of the benchmark records it; else empty."""
    try:
        facts = json.loads(metrics.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    name = facts.get("detector") if isinstance(facts, dict) else None
    return name if isinstance(name, str) else ""


def _systems(runs: Sequence[Run]) -> list[System]:
    """Group runs by detector; runs that judge the same machine (seeds, settings) stay apart."""
    import pandas as pd

    systems = []
    for name, members in _named(runs).items():
        table = pd.concat([run.table for run in members], ignore_index=True)
        systems.append(System(name, members, table, evaluate(table)))
    return systems


def _named(runs: Sequence[Run]) -> dict[str, list[Run]]:
    names: tuple[Callable[[Run], str], ...] = (
        lambda run: run.detector,
        lambda run: f"{run.detector}, {run.folder.name}",
        lambda run: f"{run.detector}, {run.name}",
    )
    for name in names:
        groups: dict[str, list[Run]] = {}
        for run in runs:
            groups.setdefault(name(run), []).append(run)
        if not any(_overlap(members) for members in groups.values()):
            break
    return groups


def _detector(run: Run, load: Callable[[Path], Model]) -> str:
    model, _ = _load(run, load)
    return model.detector.name if model else f"an unnamed detector ({run.name})"


def _overlap(runs: Sequence[Run]) -> bool:
    machines = Counter(
        pair for run in runs for pair in set(zip(run.table["machine_type"], run.table["machine_id"], strict=True))
    )
    return any(count > 1 for count in machines.values())


def _load_model(file: Path) -> Model:
    from auscult.model import load

    return load(file)


# What the page shows of it ----------------------------------------------------------------------


class _Budget:
    """Bytes that pictures and sound may still take."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.exceeded = False

    def admits(self, size: int) -> bool:
        if size > self.left:
            self.exceeded = True
            return False
        self.left -= size
        return True


def _fill(system: System, each: int, data: Path | None, load: Callable[[Path], Model], budget: _Budget) -> None:
    system.rocs = list(_roc_charts(system.table))
    types = Counter(t for run in system.runs for t in run.table["machine_type"].unique())
    for run in system.runs:
        model, note = _load(run, load)
        if note:
            system.notes.append(note)
        if model is not None and run.model_file is not None:
            system.models.append(_model_facts(run, model))
        for machine_type, clips in run.table.groupby("machine_type", sort=False):
            judged = clips[clips["score"].notna()]
            if judged.empty:
                continue
            title = str(machine_type) if types[machine_type] == 1 else f"{machine_type}, {run.name}"
            system.histograms.append(_histogram(title, judged))
            chosen = judged.sort_values("score", ascending=False, kind="stable").head(each)
            rows: Any = chosen.to_dict("records")
            cards = [_card(row, run, model, data, budget) for row in rows]
            if cards:
                system.galleries.append(Gallery(title, cards))


def _load(run: Run, load: Callable[[Path], Model]) -> tuple[Model | None, str]:
    if run.model_file is None:
        return None, (
            f"No model file lies beside the scores in {run.name}: its clips are shown without anomaly map. "
            "Put the model (*.auscult) that gave the scores into that folder to see where they are strange."
        )
    try:
        return load(run.model_file), ""
    except AuscultError as error:
        return (
            None,
            f"The model of {run.name} could not be read, its clips are shown without anomaly map: {error}",
        )


def _model_facts(run: Run, model: Model) -> ModelFacts:
    front = model.detector.front_end
    calibration = model.calibration
    details = [
        ("Threshold", "none" if calibration.threshold is None else f"{calibration.threshold:.6g}"),
        (
            "Front end",
            f"{front.n_mels} mel bands, {front.fmin:g}–{front.fmax:g} Hz, at {front.sample_rate} Hz; "
            f"frames of {front.n_fft} samples every {front.hop_length}",
        ),
        *((str(key).replace("_", " "), _plain(value)) for key, value in model.provenance.items()),
    ]
    file = run.model_file.name if run.model_file else ""
    rate = calibration.false_alarm_rate if calibration.promised else None
    return ModelFacts(run.name, file, model.detector.name, calibration.promise, rate, details)


def _plain(value: object) -> str:
    """What was recorded, readable; of a long list the beginning."""
    if isinstance(value, list) and len(value) > 6:
        return ", ".join(_plain(item) for item in value[:5]) + f", … ({len(value)} in all)"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 1000 else f"{text[:1000]} …"


def _card(row: dict[str, Any], run: Run, model: Model | None, data: Path | None, budget: _Budget) -> Card:
    threshold, p_value = (float(row[key]) if np.isfinite(row[key]) else None for key in ("threshold", "p_value"))
    card = Card(
        name=row["path"],
        machine=f"{row['machine_type']} {row['machine_id']}",
        condition=row["condition"],
        decision=row["decision"],
        verdict=_sentence(pictures.verdict(float(row["score"]), threshold, p_value)),
    )
    if budget.exceeded:
        return card
    file = _find_clip(row["path"], run.folder, data)
    if file is None:
        card.notes.append(
            "The recording was not found, so there is neither picture nor sound; "
            "run the report with --data FOLDER, the folder that its path starts from."
        )
        return card
    clip = Clip(
        path=row["path"], file=file, machine_type=row["machine_type"], machine_id=row["machine_id"],
        condition=row["condition"],
    )  # fmt: skip
    shown = Card(**{**vars(card), "notes": []})
    try:
        _illustrate(shown, clip, model)
    except AuscultError as error:
        card.notes.append(_sentence(str(error)))
        return card
    size = len(shown.spectrogram) + len(shown.anomaly_map) + len(shown.sound)
    return shown if budget.admits(size) else card


def _find_clip(path: str, folder: Path, data: Path | None) -> Path | None:
    """As the path is, else from the scores' folder, else from the data."""
    places = [Path(path), folder / path]
    if data is not None:
        places.append((data if data.is_dir() else data.parent) / path)
    return next((place for place in places if _is_file(place)), None)


def _is_file(place: Path) -> bool:
    try:
        return place.is_file()
    except (OSError, ValueError):
        # A name that no file can have.
        return False


def _illustrate(card: Card, clip: Clip, model: Model | None) -> None:
    front = model.detector.front_end if model else FrontEnd()
    wave = clip.waveform(front.sample_rate, front.channel)
    logmel = np.asarray(model.logmel(clip)) if model else front.logmel(wave).numpy().T
    n_frames = logmel.shape[1]
    hop = front.hop_length / front.sample_rate
    card.spectrogram = _data_uri("image/png", pictures.spectrogram_png(logmel))
    card.hertz = [((p + 0.5) / front.n_mels, text) for p, text in pictures.frequency_ticks(front, apart=0.16)]
    card.seconds = [((s / hop + 0.5) / n_frames, f"{s:g} s") for s in _round_numbers(0, n_frames * hop, 6)]
    middle = 0.0
    if model:
        relative = np.asarray(model.relative_map(clip))
        region = pictures.strangest_region(relative, front)
        card.anomaly_map = _data_uri("image/png", pictures.map_png(relative))
        card.brightest = pictures.map_ceiling(relative)
        card.sentence = pictures.describe(region, relative)
        card.box = (
            region.frames.start / n_frames,
            1 - region.bands.stop / front.n_mels,
            (region.frames.stop - region.frames.start) / n_frames,
            (region.bands.stop - region.bands.start) / front.n_mels,
        )
        middle = (region.start + region.stop) / 2
    card.sound, card.sound_note = _sound(wave, front.sample_rate, middle)


def _sound(wave: np.ndarray, rate: int, middle: float) -> tuple[str, str]:
    """Encode the seconds around `middle` so that a browser plays them, and say what was done to them."""
    import soundfile

    length = round(LONGEST_SOUND * rate)
    start = int(np.clip(round(middle * rate) - length // 2, 0, max(0, len(wave) - length)))
    cut = wave[start : start + length]
    notes = []
    if len(cut) < len(wave):
        notes.append(f"seconds {start / rate:.0f}–{(start + len(cut)) / rate:.0f} of {len(wave) / rate:.0f}")
    peak = float(np.abs(cut).max())
    gain = min(0.7 / peak, 100.0) if peak > 0 else 1.0
    if gain > 1.26:
        notes.append(f"played {20 * np.log10(gain):.0f} dB louder than recorded")
        cut = cut * np.float32(gain)
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate, 1, format="OGG", subtype="VORBIS") as file:
        # libsndfile's Vorbis encoder keeps what it is given at once on the stack.
        for block in range(0, len(cut), 1 << 14):
            file.write(cut[block : block + (1 << 14)])
    return _data_uri("audio/ogg", buffer.getvalue()), ", ".join(notes)


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


# Charts: the template draws what is computed here --------------------------------------------------


def _roc_charts(table: pd.DataFrame) -> Iterator[Chart]:
    """For each machine type a curve per machine ID, and their mean at equal false-alarm rate."""
    from sklearn.metrics import roc_curve

    known = table[table["score"].notna() & (table["condition"] != "unknown")]
    grid = np.linspace(0, 1, 201)
    for machine_type, clips in known.groupby("machine_type", sort=False):
        curves = []
        for machine_id, own in clips.groupby("machine_id", sort=False):
            truth = (own["condition"] == "anomaly").to_numpy()
            if truth.any() and not truth.all():
                rates = roc_curve(truth, own["score"].to_numpy())
                curves.append((str(machine_id), rates[0], rates[1]))
        if not curves:
            continue
        chart = Chart(str(machine_type), f"ROC curves of {machine_type}: {len(curves)} machine IDs")
        for name, false_alarms, hits in curves:
            kind = "one" if len(curves) > 1 else "mean"
            chart.shapes.append((kind, _points(false_alarms, hits), name))
        if len(curves) > 1:
            mean = np.mean([np.interp(grid, f, h) for _, f, h in curves], axis=0)
            chart.shapes.append(("mean", _points(np.append(0, grid), np.append(0, mean)), "mean"))
        yield chart


def _points(x: np.ndarray, y: np.ndarray) -> str:
    """A line from shares to the units of a chart; y grows upwards."""
    width, height = CHART
    places = (f"{px * width:.1f},{(1 - py) * height:.1f}" for px, py in zip(x, y, strict=True))
    return " ".join(dict.fromkeys(places))


def _histogram(title: str, judged: pd.DataFrame) -> Chart:
    """Scores by condition, each condition's bars relative to its own highest one."""
    scores = judged["score"].to_numpy()
    limits = [float(t) for t in judged["threshold"].unique() if np.isfinite(t)][:3]
    low, high = _score_range(scores, limits)
    chart = Chart(title, f"Scores of {title} from {low:.3g} to {high:.3g}, by condition")
    edges = np.linspace(low, high, BARS + 1)
    for condition in _CONDITIONS:
        own = scores[(judged["condition"] == condition).to_numpy()]
        if len(own):
            counts = np.histogram(np.clip(own, low, high), edges)[0]
            label = f"{condition}, {len(own)}"
            chart.shapes.append((condition, _steps(counts / counts.max()), label))
    chart.marks = [((m - low) / (high - low), f"{m:g}") for m in _round_numbers(low, high, 5)]
    chart.limits = [(limit - low) / (high - low) for limit in limits]
    return chart


def _score_range(scores: np.ndarray, limits: Sequence[float]) -> tuple[float, float]:
    """From the least score to the greatest, except that a few far ones end up in the last bar."""
    middle, upper = np.quantile(scores, (0.5, 0.95))
    high = min(scores.max(), middle + 3 * (upper - middle)) if upper > middle else scores.max()
    low, high = float(min(scores.min(), *limits, high)), float(max(high, *limits, scores.min()))
    spare = 0.03 * (high - low) or max(abs(low), 1.0) * 0.05
    return low - spare, high + spare


def _steps(heights: np.ndarray) -> str:
    """The outline of bars."""
    edges = np.repeat(np.linspace(0, 1, len(heights) + 1), 2)
    tops = np.concatenate([[0], np.repeat(heights, 2), [0]])
    return _points(edges, 0.94 * tops)


def _round_numbers(low: float, high: float, most: int) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    numbers = MaxNLocator(most, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(number) for number in numbers if low <= number <= high]


# The page -----------------------------------------------------------------------------------------


def _render(root: Path, systems: list[System], notes: list[str]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["sentence"] = _sentence
    template = files("auscult.evaluation").joinpath("templates", "report.html.j2").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        title=root.absolute().name,
        systems=systems,
        notes=notes,
        chart=CHART,
        ramp=_ramp(),
        version=__version__,
        now=datetime.now().astimezone(),
    )
    return page.lstrip()


def _ramp() -> str:
    """The map's colours, from as healthy to strangest, for the key under it."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return ", ".join(to_hex(colour) for colour in colormaps[pictures.MAP_COLOURS](np.linspace(0, 1, 9)))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
