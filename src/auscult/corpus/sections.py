"""The names of DCASE 2021 to 2025: section, domain, split, condition, number and attributes."""

from __future__ import annotations

import re
from dataclasses import dataclass

NO_ATTRIBUTE = "noAttribute"
"""What stands in place of attributes that the organisers keep to themselves (since 2024)."""

_LABELLED = re.compile(
    r"section_(?P<section>\d\d)_(?P<domain>source|target)_(?P<split>train|test)_(?P<condition>normal|anomaly)_"
    r"(?P<number>\d+)(?:_(?P<attributes>.+))?"
)
_ANONYMOUS = re.compile(r"section_(?P<section>\d\d)_(?:(?P<domain>source|target)_)?(?:test_)?(?P<number>\d+)")
_SUPPLEMENTAL = re.compile(
    r"section_(?P<section>\d\d)_(?P<words>[A-Za-z]+(?:_[A-Za-z]+)*)_(?P<number>\d+)(?:_(?P<attributes>.+))?"
)


@dataclass(frozen=True, slots=True)
class SectionName:
    """What a file's name says of a clip.

    Attributes
    ----------
    section : str
        Two digits: "00".
    domain : {"source", "target", ""}
    split : {"train", "test", ""}
        Empty for supplemental recordings.
    condition : {"normal", "anomaly", ""}
    number : int
        Counts the clips of a section (and domain).
    attributes : str
        As the manifest holds them: "vel=25;loc=A".
    recorded : {"", "machine", "noise"}
        Of supplemental recordings: the machine without noise, or the noise without the machine.
    """

    section: str
    domain: str
    split: str
    condition: str
    number: int
    attributes: str = ""
    recorded: str = ""


def parse(name: str, *, supplemental: bool = False) -> SectionName | None:
    """Read a file's name, with or without its ending; None where it is not of these years.

    Three kinds are known: with the label, `section_00_source_train_normal_0012_vel_25_loc_A.wav`; without it,
    `section_03_0005.wav`, which documentation writes `section_03_test_0005.wav`, or in 2021
    `section_03_source_test_0005.wav`; and, asked for with `supplemental`,
    `section_00_machine_source_0000_noAttribute.wav`.
    """
    stem = _stem(name)
    if supplemental:
        return _supplemental(stem)
    if match := _LABELLED.fullmatch(stem):
        said = match.groupdict(default="")
        return SectionName(
            said["section"],
            said["domain"],
            said["split"],
            said["condition"],
            int(said["number"]),
            attributes_in(said["attributes"]),
        )
    if match := _ANONYMOUS.fullmatch(stem):
        said = match.groupdict(default="")
        return SectionName(said["section"], said["domain"], "test", "", int(said["number"]))
    return None


def spellings(name: str) -> list[str]:
    """All names under which a truth list may have an unlabelled clip; the first is the same for all of them.

    Lists say `section_03_0005.wav` where documentation says `section_03_test_0005.wav`. A name of another kind has
    one spelling, its own.
    """
    stem = _stem(name)
    match = _ANONYMOUS.fullmatch(stem)
    if match is None:
        return [name]
    said = match.groupdict(default="")
    head = "_".join(["section", said["section"], *([said["domain"]] if said["domain"] else [])])
    ending = name[len(stem) :]
    return [f"{head}_{said['number']}{ending}", f"{head}_test_{said['number']}{ending}"]


def attributes_in(text: str) -> str:
    """The attributes at the end of a name as the manifest holds them: `vel_25_loc_A` is "vel=25;loc=A"."""
    if not text or text == NO_ATTRIBUTE:
        return ""
    words = text.split("_")
    pairs = [f"{key}={value}" for key, value in zip(words[::2], words[1::2], strict=False)]
    return ";".join([*pairs, *words[2 * len(pairs) :]])


def _supplemental(stem: str) -> SectionName | None:
    match = _SUPPLEMENTAL.fullmatch(stem)
    if match is None:
        return None
    words = match["words"].lower().split("_")
    domain = next((word for word in words if word in ("source", "target")), "")
    recorded = "noise" if "noise" in words else "machine"
    condition = "normal" if recorded == "machine" and "anomaly" not in words else ""
    attributes = attributes_in(match["attributes"] or "")
    return SectionName(match["section"], domain, "", condition, int(match["number"]), attributes, recorded)


def _stem(name: str) -> str:
    """The name without its ending; what follows a dot inside an attribute (`ac_0.03`) is no ending."""
    stem, dot, ending = name.rpartition(".")
    return stem if dot and ending.isalnum() and not ending.isdecimal() else name
