"""What a manifest's clips are like, and what about them could mislead a detector or its evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from auscult.audio import LONGEST_CLIP
from auscult.corpus.clip import Clip
from auscult.corpus.manifest import CONDITIONS, Manifest
from auscult.corpus.recordings import Header, copies, probe
from auscult.parallel import available_cores
from auscult.wording import counted

if TYPE_CHECKING:
    import pandas as pd

SAME_LENGTH = 0.01
"""Clips of a machine type that differ in length by less than this share of the median are equally long."""

Read = tuple[Clip, Header]
"""A clip that can be read, and its header."""


@dataclass(frozen=True)
class Summary:
    """Numbers on a manifest, and its problems.

    Attributes
    ----------
    counts : DataFrame
        One row for each `machine_type, machine_id, split`; `normal, anomaly, unknown` count its clips.
    headers : tuple of Header
        One for each clip, in the manifest's order; empty where the files were not opened.
    problems : list of str
        One line each: how many clips or machines, what is the matter, and the first of them.
    notes : tuple of str
        The manifest's own.
    """

    counts: pd.DataFrame
    headers: tuple[Header, ...]
    problems: list[str]
    notes: tuple[str, ...] = ()

    @property
    def n_clips(self) -> int:
        """How many clips there are."""
        return int(self.counts[list(CONDITIONS)].to_numpy().sum())

    @property
    def seconds(self) -> list[float]:
        """The lengths of the clips that can be read."""
        return [header.seconds for header in self.headers if not header.error]

    @property
    def rates(self) -> Counter[int]:
        """How many clips have which sample rate, in Hz."""
        return Counter(header.rate for header in self.headers if not header.error)

    @property
    def channels(self) -> Counter[int]:
        """How many clips have how many channels."""
        return Counter(header.channels for header in self.headers if not header.error)

    def lines(self) -> list[str]:
        """The summary as plain text: totals, counts, the format of the clips, notes, problems."""
        lines = [_totals(self), "", *self.counts.to_string(index=False).splitlines(), ""]
        if self.seconds:
            lines += [
                f"length       {_range(self.seconds)}, median {median(self.seconds):.2f} s",
                f"sample rate  {_spread(self.rates, ' Hz')}",
                f"channels     {_spread(self.channels)}",
                "",
            ]
        lines += [f"note: {note}" for note in self.notes]
        return lines + ([f"problem: {problem}" for problem in self.problems] or ["no problems found"])

    def render(self) -> str:
        """`lines` as one text."""
        return "\n".join(self.lines())


def summarise(manifest: Manifest, *, deep: bool = True) -> Summary:
    """Count a manifest's clips and look for what could mislead a detector or its evaluation.

    Parameters
    ----------
    manifest : Manifest
    deep : bool
        Open the files: their headers, and their content where it may be a copy of another. Without
        it only the table is looked at.

    Returns
    -------
    Summary
        A clip that cannot be read is one of its problems, never an exception.
    """
    clips = manifest.clips()
    headers: tuple[Header, ...] = ()
    problems: list[str] = []
    if deep:
        with ThreadPoolExecutor(2 * available_cores(), thread_name_prefix="auscult") as pool:
            headers = tuple(pool.map(probe, clips))
            groups = copies(clips, headers, pool)
        problems = [*_unreadable(clips, headers), *_copied(groups), *_mixed(clips, headers)]
    problems += [*_unfit_to_train(clips), *_unfit_to_test(clips), *_unlabelled(clips)]
    return Summary(_counts(manifest), headers, problems, manifest.notes)


def _counts(manifest: Manifest) -> pd.DataFrame:
    keys = ["machine_type", "machine_id", "split"]
    sizes = manifest.table.groupby([*keys, "condition"]).size().unstack(fill_value=0)
    return sizes.reindex(columns=list(CONDITIONS), fill_value=0).rename_axis(columns=None).reset_index()


# --- problems of the files ---------------------------------------------------------------------------------


def _unreadable(clips: Sequence[Clip], headers: Sequence[Header]) -> list[str]:
    broken = [f"{c.path}: {h.error}" for c, h in zip(clips, headers, strict=True) if h.error]
    long = [c.path for c, h in zip(clips, headers, strict=True) if h.seconds > LONGEST_CLIP]
    return [
        *_problem(broken, "clip cannot be read", "clips cannot be read"),
        *_problem(long, "clip is longer than an hour", "clips are longer than an hour"),
    ]


def _copied(groups: list[list[Clip]]) -> list[str]:
    """Copies, in three kinds: a leak between the splits, a contradiction, or merely a waste."""
    leaks = [_pair(group, "split", "train", "test") for group in groups]
    clashes = [_pair(group, "condition", "normal", "anomaly") for group in groups]
    spare = [f"{clip.path} equals {group[0].path}" for group in groups for clip in group[1:]]
    return [
        *_problem(
            [pair for pair in leaks if pair],
            "recording is in both train and test, which flatters the result",
            "recordings are in both train and test, which flatters the result",
        ),
        *_problem(
            [pair for pair in clashes if pair],
            "recording is both normal and anomaly, under different names",
            "recordings are both normal and anomaly, under different names",
        ),
        *_problem(
            spare,
            "clip is a copy of another under a different name",
            "clips are copies of others under different names",
        ),
    ]


def _pair(group: list[Clip], column: str, one: str, other: str) -> str:
    """The first clips of a group of copies that have the one and the other value, or ""."""
    first = {value: clip.path for clip in reversed(group) if (value := getattr(clip, column))}
    return f"{first[one]} and {first[other]}" if one in first and other in first else ""


def _mixed(clips: Sequence[Clip], headers: Sequence[Header]) -> list[str]:
    types: dict[str, list[Read]] = {}
    for clip, header in zip(clips, headers, strict=True):
        if not header.error:
            types.setdefault(clip.machine_type, []).append((clip, header))

    def describe(say: Callable[[list[Read]], str]) -> list[str]:
        return [f"{kind}: {said}" for kind, reads in types.items() if (said := say(reads))]

    one, many = "machine type mixes", "machine types mix"
    rates = describe(lambda reads: _values([(clip, header.rate) for clip, header in reads], " Hz"))
    channels = describe(lambda reads: _values([(clip, header.channels) for clip, header in reads]))
    lengths = describe(_lengths)
    return [
        *_problem(rates, f"{one} sample rates", f"{many} sample rates"),
        *_problem(channels, f"{one} numbers of channels", f"{many} numbers of channels"),
        *_problem(lengths, f"{one} lengths", f"{many} lengths"),
    ]


def _values(read: list[tuple[Clip, int]], unit: str = "") -> str:
    counts = Counter(value for _, value in read)
    if len(counts) == 1:
        return ""
    rarest = min(counts, key=lambda value: counts[value])
    example = next(clip.path for clip, value in read if value == rarest)
    return f"{_spread(counts, unit)}; {rarest}{unit} is {example}"


def _lengths(read: list[Read]) -> str:
    seconds = [header.seconds for _, header in read]
    if max(seconds) - min(seconds) <= SAME_LENGTH * median(seconds):
        return ""
    return f"{_range(seconds)}; the shortest is {read[seconds.index(min(seconds))][0].path}"


# --- problems of the table ---------------------------------------------------------------------------------


def _unfit_to_train(clips: Sequence[Clip]) -> list[str]:
    training = any(clip.split == "train" for clip in clips)
    without = [name for name, its in _machines(clips) if not _can_train(its, training)]
    faulty = [clip.path for clip in clips if clip.split == "train" and clip.condition == "anomaly"]
    return [
        *_problem(without, "machine has no normal clip to train on", "machines have no normal clip to train on"),
        *_problem(faulty, "clip for training is an anomaly", "clips for training are anomalies"),
    ]


def _can_train(clips: Sequence[Clip], training: bool) -> bool:
    """Whether a machine has what `fit` would take; without a train split, unlabelled clips may do."""
    if training:
        return any(clip.split == "train" and clip.condition == "normal" for clip in clips)
    return any(clip.split == "test" or clip.condition != "anomaly" for clip in clips)


def _unfit_to_test(clips: Sequence[Clip]) -> list[str]:
    one_sided = []
    for name, its in _machines(clips):
        conditions = {clip.condition for clip in its if clip.split == "test"}
        if conditions in ({"normal"}, {"anomaly"}):
            one_sided.append(f"{name}: only {conditions.pop()}")
    return _problem(
        one_sided,
        "machine has test clips of one condition only, so no AUC",
        "machines have test clips of one condition only, so no AUC",
    )


def _unlabelled(clips: Sequence[Clip]) -> list[str]:
    # Noise recorded without the machine has none to have.
    unknown = [c.path for c in clips if c.condition == "unknown" and "recorded=noise" not in c.attributes]
    return _problem(unknown, "clip has no condition", "clips have no condition")


def _machines(clips: Iterable[Clip]) -> list[tuple[str, list[Clip]]]:
    machines: dict[str, list[Clip]] = {}
    for clip in clips:
        machines.setdefault(f"{clip.machine_type} {clip.machine_id}", []).append(clip)
    return list(machines.items())


# --- words -------------------------------------------------------------------------------------------------


def _problem(cases: Sequence[str], one: str, many: str) -> list[str]:
    """Nothing, or one line with the number of cases and the first."""
    if len(cases) > 1:
        return [f"{len(cases)} {many} (first: {cases[0]})"]
    return [f"1 {one} ({case})" for case in cases]


def _totals(summary: Summary) -> str:
    kinds = summary.counts["machine_type"].nunique()
    machines = len(summary.counts[["machine_type", "machine_id"]].drop_duplicates())
    text = f"{counted(summary.n_clips, 'clip')} of {counted(machines, 'machine')}, {counted(kinds, 'machine type')}"
    return f"{text}, {_duration(sum(summary.seconds))}" if summary.seconds else text


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _range(seconds: Sequence[float]) -> str:
    shortest, longest = f"{min(seconds):.2f}", f"{max(seconds):.2f}"
    return f"{shortest} s" if shortest == longest else f"{shortest} to {longest} s"


def _spread(counts: Counter[int], unit: str = "") -> str:
    """Each value with its number of clips, the most common first; a single value stands alone."""
    if len(counts) == 1:
        return f"{next(iter(counts))}{unit}"
    return ", ".join(f"{value}{unit} ({count})" for value, count in counts.most_common())
