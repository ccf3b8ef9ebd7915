"""The layout of DCASE 2021 to 2025: sections, domains, attributes, one test folder or two."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path

from auscult.corpus.section_truth import find_sections, read_sections, tell
from auscult.corpus.sections import NO_ATTRIBUTE, parse
from auscult.errors import AuscultError
from auscult.wording import counted

Row = dict[str, str]

SHAPE = (
    "[dev_data/|eval_data/]fan/train/section_00_source_train_normal_0000_m-n_X.wav, "
    "…/test/section_00_target_test_anomaly_0000_m-n_Y.wav (in 2021 …/source_test/ and …/target_test/) or "
    "…/test/section_03_0000.wav"
)

_FOLDERS = {
    "train": ("train", ""),
    "test": ("test", ""),
    "source_test": ("test", "source"),
    "target_test": ("test", "target"),
}
"""Folder → split, and the domain that all its clips are of."""

_PART = re.compile(r"(dev|eval|add)(?:elopment|uation|itional)?(?:[_\- ].*)?", re.IGNORECASE)


def read_section_clip(folders: tuple[str, ...], name: str) -> Row | None:
    """What a clip's folders (outermost first) and its name say; None where they do not fit the layout."""
    folder, machine_type = _above(folders, 1).lower(), _above(folders, 2) or "machine"
    supplemental = folder == "supplemental"
    said = parse(name, supplemental=supplemental)
    if said is None or (folder not in _FOLDERS and not supplemental):
        return None
    split, domain = _FOLDERS.get(folder, ("unknown", ""))
    if said.split not in ("", split) or ("" not in (domain, said.domain) and domain != said.domain):
        return None
    if split == "train" and said.condition != "normal":
        return None
    attributes = [said.attributes, f"recorded={said.recorded}" if said.recorded else ""]
    return {
        "machine_type": machine_type,
        "machine_id": f"section_{said.section}",
        "split": split,
        "condition": said.condition or "unknown",
        "section": said.section,
        "domain": said.domain or domain,
        "attributes": ";".join(filter(None, attributes)),
        "subset": "supplemental" if supplemental else _subset(folders, split),
    }


def complete_sections(data: str, rows: list[Row]) -> list[str]:
    """Take attributes from the tables beside the clips, and what evaluation clips hide from the ground truth."""
    return [*_take_attributes(rows), *_take_truth(data, rows)]


def _above(folders: tuple[str, ...], level: int) -> str:
    return folders[-level] if level <= len(folders) else ""


def _subset(folders: tuple[str, ...], split: str) -> str:
    """The part of the data set: "dev", "additional" or "eval"; the baseline's tree has a folder `raw` between."""
    above = _above(folders, 4) if _above(folders, 3) == "raw" else _above(folders, 3)
    part = _PART.fullmatch(above)
    if part is None:
        return ""
    if part[1].lower() == "dev":
        return "dev"
    return "additional" if split == "train" else "eval"


def _take_truth(data: str, rows: list[Row]) -> list[str]:
    unlabelled = [row for row in rows if row["condition"] == "unknown" and row["split"] == "test"]
    if not unlabelled:
        return []
    count = counted(len(unlabelled), "clip")
    source = find_sections(data)
    if source is None:
        return [
            f"{data}: {count} for evaluation have no condition: the ground truth, put into eval_data, would tell it "
            "(`auscult download NAME --part truth` fetches it)"
        ]
    try:
        told = read_sections(source)
    except AuscultError as error:
        return [f"{count} for evaluation have no condition: {error}"]
    for row in unlabelled:
        said = tell(told, row["machine_type"], row["path"])
        row["condition"] = said.condition or "unknown"
        row["domain"] = row["domain"] or said.domain
        row["attributes"] = row["attributes"] or said.attributes
    still = sum(row["condition"] == "unknown" for row in unlabelled)
    known = len(unlabelled) - still
    notes = [f"{data}: the condition of {counted(known, 'clip')} for evaluation is taken from {source}"]
    return notes + [f"{source}: does not list {still} of the clips for evaluation"] * (still > 0)


def _take_attributes(rows: Iterable[Row]) -> list[str]:
    """Complete clips whose name tells no attributes from `attributes_<NN>.csv` in the machine's folder."""
    tables: dict[Path, dict[str, str]] = {}
    notes = []
    for row in rows:
        if row["attributes"]:
            continue
        path = Path(row["path"])
        table = path.parent.parent / f"attributes_{row['section']}.csv"
        if table not in tables:
            try:
                tables[table] = _read_attributes(table)
            except (OSError, UnicodeDecodeError, csv.Error) as error:
                tables[table] = {}
                if not isinstance(error, FileNotFoundError | NotADirectoryError):
                    notes.append(f"{table}: cannot be read: its attributes are left out")
        row["attributes"] = tables[table].get(path.name, "")
    return notes


def _read_attributes(table: Path) -> dict[str, str]:
    """File name → attributes: the columns d1p, d2p, … name them, d1v, d2v, … hold their values."""
    with open(table, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    known = {}
    for row in rows:
        names = [key for key in row if key and re.fullmatch(r"d\d+p", key)]
        pairs = [(row[key] or "", row.get(f"{key[:-1]}v") or "") for key in names]
        told = [f"{name}={value}" for name, value in pairs if name and value and NO_ATTRIBUTE not in (name, value)]
        known[Path(row.get("file_name") or "").name] = ";".join(told)
    return known
