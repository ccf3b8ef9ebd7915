"""Ground truth of DCASE 2021 to 2025: the condition, the domain and the attributes of clips handed out without."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from auscult.corpus.scan import absolute
from auscult.corpus.sections import parse, spellings
from auscult.errors import AuscultError

TRUTH_FILE = re.compile(r"ground_truth_(?P<type>.+)_section_\d\d_(?:(?P<domain>source|target)_)?test\.csv")
"""The evaluators' lists, one for each machine type and section (in 2021 also domain)."""

DATA_FOLDER, DOMAIN_FOLDER, ATTRIBUTE_FOLDER = (f"ground_truth_{kind}" for kind in ("data", "domain", "attributes"))

_LIST = re.compile(r"eval_data_list_202[1-9]\.csv")
_CONDITIONS = {"0": "normal", "1": "anomaly"}
_DOMAINS = {"0": "source", "1": "target"}


@dataclass(frozen=True, slots=True)
class Told:
    """What a ground truth tells of a clip; empty where it is silent."""

    condition: str = ""
    domain: str = ""
    attributes: str = ""


Tellings = dict[tuple[str, str], Told]
"""(machine type, name) → what is told. Names as :func:`auscult.corpus.sections.spellings` puts them first."""


def read_sections(path: str | os.PathLike[str]) -> Tellings:
    """Read the ground truth of one of the years 2021 to 2025.

    Three kinds are understood: a list `eval_data_list_20*.csv` of the challenge's baseline (a line with the machine
    type, then `section_00_0005.wav,section_00_source_test_anomaly_0005_vel_15.wav` for each of its clips); one file
    `ground_truth_<type>_section_<NN>_test.csv` of an evaluator (`section_00_0005.wav,1`); or a folder of such
    files, or of `ground_truth_data`, `ground_truth_domain` and `ground_truth_attributes` beside one another.

    Returns
    -------
    dict of (machine type, name) to Told

    Raises
    ------
    AuscultError
        If it cannot be read, contradicts itself, or holds the labels of 2022 that belong to other clips.
    """
    source = Path(path)
    told = _read_folder(source) if source.is_dir() else _read_file(source)
    if not told:
        raise AuscultError(f"{source}: the ground truth names no clips", "is it the right file or folder?")
    return told


def is_section_truth(path: str | os.PathLike[str]) -> bool:
    """Whether a file or folder is called as the ground truth of these years is."""
    source = Path(path)
    return source.is_dir() or bool(TRUTH_FILE.fullmatch(source.name) or _LIST.fullmatch(source.name))


def tell(tellings: Mapping[tuple[str, str], Told], machine_type: str, path: str) -> Told:
    """What a ground truth tells of a clip: matched on machine type, section, domain if named, and number."""
    return tellings.get((machine_type, spellings(Path(path).name)[0]), Told())


def find_sections(root: str | os.PathLike[str]) -> Path | None:
    """The ground truth that belongs to a folder of recordings, or None.

    It is looked for in the folder, in its `eval_data`, and up to two levels above the machine's folder. The
    evaluators' files come before the baseline's list: that of 2022 is wrong for two machine types.
    """
    home = absolute(root)
    if home.name in ("train", "test", "source_test", "target_test", "supplemental"):
        home = home.parent
    for folder in (home, home / "eval_data", home.parent, home.parent.parent):
        if any((folder / DATA_FOLDER).glob("ground_truth_*.csv")):
            return folder
        lists = sorted(file for file in folder.glob("eval_data_list_202*.csv") if _LIST.fullmatch(file.name))
        if len(lists) == 1:
            return lists[0]
    return None


def _read_folder(source: Path) -> Tellings:
    data = source / DATA_FOLDER if (source / DATA_FOLDER).is_dir() else source
    beside = data.parent if data.name == DATA_FOLDER else source
    told: Tellings = {}
    for file in _truth_files(data):
        _merge(told, _read_file(file), file)
    if not told:
        for file in sorted(source.glob("eval_data_list_202*.csv")):
            _merge(told, _read_file(file), file)
    for file in _truth_files(beside / DOMAIN_FOLDER):
        for key, value in _rows_of(file, _DOMAINS):
            _add(told, key, Told(domain=value), file)
    for file in _truth_files(beside / ATTRIBUTE_FOLDER):
        for key, said in _read_attributes(file):
            _add(told, key, said, file)
    return told


def _truth_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("ground_truth_*.csv") if TRUTH_FILE.fullmatch(file.name))


def _read_file(source: Path) -> Tellings:
    match = TRUTH_FILE.fullmatch(source.name)
    if match is None:
        return _read_list(source)
    told: Tellings = {}
    for key, condition in _rows_of(source, _CONDITIONS):
        _add(told, key, Told(condition, match["domain"] or ""), source)
    return told


def _read_list(source: Path) -> Tellings:
    told: Tellings = {}
    machine_type = ""
    for name, *rest in _rows(source):
        said = [cell for cell in rest if cell]
        if not said:
            machine_type = name
            continue
        full = parse(said[0])
        if full is None or not full.condition:
            raise _odd(source, ",".join([name, *said]))
        _refuse_shuffled(source, machine_type, name, said[0])
        _add(told, _key(machine_type, name), Told(full.condition, full.domain, full.attributes), source)
    return told


def _refuse_shuffled(source: Path, machine_type: str, name: str, labelled: str) -> None:
    """In the baseline's list of 2022, 608 labels of ToyCar and ToyTrain differ from the evaluator's.

    It is known by its labelled names, which carry another clip's number. (2021 has the domain in its names, and
    these types are not evaluated after 2022.)
    """
    short, full = parse(name), parse(labelled)
    if machine_type not in ("ToyCar", "ToyTrain") or short is None or full is None:
        return
    if not short.domain and short.number != full.number:
        raise AuscultError(
            f"{source}: its labels of ToyCar and ToyTrain are wrong: it says of {name} what belongs to number "
            f"{full.number}, a known fault of the list of 2022",
            "use ground_truth_data and ground_truth_domain of the evaluator of 2022: "
            "`auscult download dcase2022 --part truth` fetches them",
        )


def _read_attributes(source: Path) -> Iterable[tuple[tuple[str, str], Told]]:
    match = TRUTH_FILE.fullmatch(source.name)
    assert match is not None
    for name, *rest in _rows(source):
        full = parse(rest[0] if rest else "")
        if full is None:
            raise _odd(source, ",".join([name, *rest]))
        yield _key(match["type"], name), Told(full.condition, full.domain, full.attributes)


def _rows_of(source: Path, meanings: Mapping[str, str]) -> Iterable[tuple[tuple[str, str], str]]:
    """Each clip of an evaluator's list, and what its 0 or 1 means."""
    match = TRUTH_FILE.fullmatch(source.name)
    assert match is not None
    for name, *rest in _rows(source):
        if len(rest) != 1 or rest[0] not in meanings:
            raise _odd(source, ",".join([name, *rest]))
        yield _key(match["type"], name), meanings[rest[0]]


def _rows(source: Path) -> list[list[str]]:
    try:
        with open(source, encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is no text table"
        raise AuscultError(f"{source}: cannot be read as a ground-truth list ({reason.lower()})") from error
    return [row for row in rows if any(row)]


def _key(machine_type: str, name: str) -> tuple[str, str]:
    return machine_type, spellings(Path(name).name)[0]


def _merge(told: Tellings, more: Tellings, source: Path) -> None:
    for key, said in more.items():
        _add(told, key, said, source)


def _add(told: Tellings, key: tuple[str, str], said: Told, source: Path) -> None:
    """Take up what is said of a clip; two sources may complete, not contradict each other."""
    known = told.get(key, Told())
    for field in ("condition", "domain", "attributes"):
        new, old = getattr(said, field), getattr(known, field)
        if new and old and new != old:
            raise AuscultError(f"{source}: {key[1]} of {key[0]} is {old} and {new}", "which of the lists is right?")
        if new:
            known = replace(known, **{field: new})
    told[key] = known


def _odd(source: Path, line: str) -> AuscultError:
    return AuscultError(
        f"{source}: cannot tell what the line {line!r} says",
        "a line holds a clip's name and 0 or 1, or its name and its labelled name",
    )
