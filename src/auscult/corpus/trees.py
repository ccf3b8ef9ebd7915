"""How clips are arranged in folders, and what their place says of them: one reader for each layout."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from auscult.corpus import words
from auscult.corpus.clip import DEFAULT_ID
from auscult.corpus.section_tree import SHAPE, complete_sections, read_section_clip
from auscult.corpus.truth import LIST_NAMES, find_truth, look_up, read_truth
from auscult.wording import counted

Row = dict[str, str]
"""What is known of one clip: a row of the manifest."""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with recordings.

    Attributes
    ----------
    folders : tuple of str
        Its name and those of all folders above it, outermost first.
    outside : int
        How many of them lead to DATA itself; the others lie inside it.
    """

    folders: tuple[str, ...]
    outside: int

    def above(self, level: int) -> str:
        """The name of the folder `level` steps up from a recording (1: the one it lies in), or ""."""
        return self.folders[-level] if level <= len(self.folders) else ""


@dataclass(frozen=True)
class Layout:
    """One way to arrange clips.

    Attributes
    ----------
    shape : str
        What a path looks like, for people.
    read : callable
        (place, file name) → what they say of the clip; None where the file does not fit the layout.
    ignored : callable
        Whether a folder holds recordings that are no clips of a machine.
    finish : callable
        (folder opened, rows) → notes. Sees all rows once, and may complete them.
    """

    shape: str
    read: Callable[[Place, str], Row | None]
    ignored: Callable[[Place], bool] = lambda _place: False
    finish: Callable[[str, list[Row]], list[str]] = lambda _data, _rows: []


# --- any tree ----------------------------------------------------------------------------------------------


def _read_any(place: Place, name: str) -> Row:
    folder = _folder_says(place)
    stem = name.rpartition(".")[0]
    return {
        "machine_type": folder["machine_type"],
        "machine_id": words.machine_id_in(stem) or folder["machine_id"],
        "split": folder["split"],
        "condition": words.condition_in(stem) or folder["condition"],
    }


@lru_cache(maxsize=1024)
def _folder_says(place: Place) -> Row:
    """What the folders say: the nearest one that says anything is believed.

    The folders above DATA count as long as they are nothing but labels: `pump/id_02/normal`, opened by
    itself, still holds normal clips of pump 02.
    """
    inside = list(place.folders[place.outside :])
    above = list(place.folders[: place.outside])
    labels: list[str] = []
    while above and words.is_label(above[-1]):
        labels.insert(0, above.pop())
    named = [machine for folder in inside if (machine := words.machine_in(folder))]
    nearest_first = [*labels, *inside][::-1]
    return {
        "machine_type": named[0] if named else (above[-1] if above else "machine"),
        "machine_id": _first(words.machine_id_in, nearest_first) or DEFAULT_ID,
        "split": _first(words.split_in, nearest_first) or "unknown",
        "condition": _first(words.condition_in, nearest_first) or "unknown",
    }


def _first(says: Callable[[str], str], folders: list[str]) -> str:
    return next(filter(None, map(says, folders)), "")


def _note_unlabelled(data: str, rows: list[Row]) -> list[str]:
    unknown = sum(row["condition"] == "unknown" for row in rows)
    if unknown == len(rows):
        return [f"{data}: nothing says which clips are healthy: no name speaks of normal or anomaly"]
    if unknown:
        return [f"{data}: the names of {counted(unknown, 'clip')} of {len(rows)} do not say whether they are normal"]
    return []


# --- DCASE 2020 Task 2 -------------------------------------------------------------------------------------

_DCASE_2020_NAME = re.compile(r"(?:(normal|anomaly)_)?(id_\d\d)_\d+\.\w+")
_DCASE_2020_PART = re.compile(r"(dev|eval|add)(?:elopment|uation|itional)?(?:[_\- ].*)?", re.IGNORECASE)


def _read_dcase2020(place: Place, name: str) -> Row | None:
    match = _DCASE_2020_NAME.fullmatch(name)
    split = place.above(1).lower()
    if match is None or split not in ("train", "test") or (split == "train" and match[1] != "normal"):
        return None
    return {
        "machine_type": place.above(2) or "machine",
        "machine_id": match[2],
        "split": split,
        "condition": match[1] or "unknown",
        "subset": _subset(place.above(3), split),
    }


def _subset(folder: str, split: str) -> str:
    part = _DCASE_2020_PART.fullmatch(folder)
    if part is None:
        return ""
    if part[1].lower() == "dev":
        return "dev"
    return "additional" if split == "train" else "eval"


def _complete_dcase2020(data: str, rows: list[Row]) -> list[str]:
    """Take the conditions of the evaluation clips from the ground-truth list, where it lies with them."""
    unknown = [row for row in rows if row["condition"] == "unknown"]
    if not unknown:
        return []
    source = find_truth(data)
    if source is None:
        return [
            f"{data}: {counted(len(unknown), 'clip')} for evaluation have no condition: {LIST_NAMES[0]} "
            "(Zenodo record 3951620), put into eval_data, would tell it"
        ]
    truth = read_truth(source)
    for row in unknown:
        row["condition"] = look_up(truth, row["machine_type"], row["path"]) or "unknown"
    still = sum(row["condition"] == "unknown" for row in unknown)
    notes = [f"{data}: the condition of {counted(len(unknown) - still, 'clip')} for evaluation is taken from {source}"]
    return notes + [f"{source}: does not list {counted(still, 'clip')} for evaluation"] * (still > 0)


# --- MIMII -------------------------------------------------------------------------------------------------

_MIMII_CONDITIONS = {"normal": "normal", "abnormal": "anomaly"}
_MIMII_SNR = re.compile(r"(-?\d+)_?dB(?:_(.+))?", re.IGNORECASE)


def _read_mimii(place: Place, name: str) -> Row | None:
    condition = _MIMII_CONDITIONS.get(place.above(1).lower())
    machine_id, machine_type = place.above(2), place.above(3)
    numbered = name.rpartition(".")[0].isdecimal() and re.fullmatch(r"id_\d\d", machine_id)
    if condition is None or not numbered:
        return None
    if words.split_in(machine_type) or words.split_in(place.above(4)):
        return None  # split by hand, which the layout "folder" understands
    snr, machine_type = _mimii_snr(machine_type, place.above(4))
    return {
        "machine_type": machine_type or "machine",
        "machine_id": machine_id,
        "split": "unknown",
        "condition": condition,
        "attributes": f"snr={snr}dB" if snr else "",
    }


def _mimii_snr(folder: str, parent: str) -> tuple[str, str]:
    """The SNR and the machine: of `-6_dB_fan`, as downloaded, or of `-6_dB_fan/fan`, as unpacked."""
    if match := _MIMII_SNR.fullmatch(folder):
        return match[1], match[2] or ""
    if match := _MIMII_SNR.fullmatch(parent):
        return match[1], folder
    return "", folder


# --- ToyADMOS ----------------------------------------------------------------------------------------------

_TOYADMOS_FOLDER = re.compile(r"(normal|anomalous)sound(?:_(?:ind|cnt))?", re.IGNORECASE)
_TOYADMOS_NAME = re.compile(
    r"(?:\d+_)?(?P<type>Toy[A-Za-z]+)_(?P<case>case\w*?)_(?P<state>[A-Za-z]+\d*)_(?P<recorded>IND|CNT)"
    r"(?:_ch(?P<channel>\d+))?(?:_\d+)?\.\w+",
    re.IGNORECASE,
)


def _read_toyadmos(place: Place, name: str) -> Row | None:
    folder = _TOYADMOS_FOLDER.fullmatch(place.above(1))
    file = _TOYADMOS_NAME.fullmatch(name)
    if folder is None or file is None:
        return None
    known = {"anomaly": file["state"], "recorded": file["recorded"], "channel": file["channel"]}
    normal = folder[1].lower() == "normal"
    if normal:
        known["anomaly"] = None
    return {
        "machine_type": file["type"],
        "machine_id": file["case"],
        "split": "unknown",
        "condition": "normal" if normal else "anomaly",
        "attributes": ";".join(f"{key}={value}" for key, value in known.items() if value),
    }


def _is_toyadmos_noise(place: Place) -> bool:
    return place.above(1).lower().startswith("environmentalnoise")


def _note_channels(data: str, rows: list[Row]) -> list[str]:
    takes = {re.sub(r"_ch\d+", "", row["path"]) for row in rows}
    if len(takes) == len(rows):
        return []
    return [
        f"{data}: {len(rows)} clips are {len(takes)} takes, a clip for each channel (named in attributes): "
        "clips of one take are not independent"
    ]


# --- all layouts -------------------------------------------------------------------------------------------

_SECTIONS = Layout(SHAPE, lambda place, name: read_section_clip(place.folders, name), finish=complete_sections)

LAYOUTS = {
    "dcase2020": Layout(
        "[dev_data/|eval_data/]pump/train/normal_id_00_00000000.wav, …/test/anomaly_id_00_00000000.wav or "
        "…/test/id_01_00000000.wav",
        _read_dcase2020,
        finish=_complete_dcase2020,
    ),
    **dict.fromkeys((f"dcase{year}" for year in range(2021, 2026)), _SECTIONS),
    "mimii": Layout("[0_dB_]pump/id_00/normal/00000000.wav, …/abnormal/00000000.wav", _read_mimii),
    "toyadmos": Layout(
        "ToyCar/case1/NormalSound_IND/1100010001_ToyCar_case1_normal_IND_ch1_0001.wav, "
        "…/AnomalousSound_IND/1200010001_ToyCar_case1_ab01_IND_ch1_0001.wav",
        _read_toyadmos,
        ignored=_is_toyadmos_noise,
        finish=_note_channels,
    ),
    "folder": Layout("any tree of recordings", _read_any, finish=_note_unlabelled),
}
"""The layouts by the name that `--layout` takes. A new one is a row here."""
