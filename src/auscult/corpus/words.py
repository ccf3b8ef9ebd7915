"""What the name of a file or folder says of a recording: its condition, its split, its machine."""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W\d_]+|\d+")
_MACHINE_ID = re.compile(r"(?<![^\W_])id[_\- ]?(\d{1,4})(?!\d)", re.IGNORECASE)
_DATE = re.compile(r"(19|20)\d\d[-_.]?[01]\d([-_.]?[0-3]\d)?")
_SEPARATORS = "_-. "

_NORMAL = {"ok", "healthy"}
_ANOMALY = {"nok", "ng", "faulty", "broken", "unhealthy", "defect", "defects", "defective"}
_NEGATIONS = {"no", "not", "non", "n"}
_OPPOSITE = {"normal": "anomaly", "anomaly": "normal"}

_SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
    "val": "unknown",
    "valid": "unknown",
    "validation": "unknown",
}
_FILLERS = _NEGATIONS.union(
    ("free", "source", "target", "machine", "data", "dataset", "set", "files", "samples", "wav", "wavs"),
    ("audio", "clip", "clips", "recording", "recordings", "sound", "sounds"),
)
"""Words that may stand beside a label without turning it into a name ("normal_sounds", "source_test")."""


def condition_in(name: str) -> str:
    """The condition that a name states.

    Words are what stands between signs and digits; `normal…`, `ok`, `healthy` speak for normal,
    `abnormal…`, `anomal…`, `faulty`, `broken`, `defect`, `nok`, `ng` and the like for anomaly; "not ok"
    and "defect-free" mean the opposite. A *normalised* recording says nothing of the machine.

    Returns
    -------
    {"normal", "anomaly", ""}
        Empty where the name says nothing, or both.
    """
    words = _words(name)
    said = {
        _OPPOSITE[meaning] if before in _NEGATIONS or after == "free" else meaning
        for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False)
        if (meaning := _meaning(word))
    }
    return said.pop() if len(said) == 1 else ""


def split_in(folder: str) -> str:
    """The split that a folder is named after: "train", "test", "unknown" (a validation set), or "".

    Only a name made of nothing but labels counts: `train`, `source_test` and `train_normal` are splits,
    `test_bench` is a place.
    """
    if not is_label(folder):
        return ""
    said = {_SPLITS[word] for word in _words(folder) if word in _SPLITS}
    return said.pop() if len(said) == 1 else ""


def machine_id_in(name: str) -> str:
    """The `id_NN` in a name, or "". Longer numbers than four digits count clips, not machines."""
    match = _MACHINE_ID.search(name)
    return f"id_{match[1]}" if match else ""


def is_label(folder: str) -> bool:
    """Whether a folder's name says only condition, split or ID, and so cannot be a machine's name."""
    words = _words(_MACHINE_ID.sub(" ", folder))
    labelled = [word for word in words if word in _SPLITS or _meaning(word)]
    others = [word for word in words if word not in labelled and word not in _FILLERS and not word.isdigit()]
    return not others and (bool(labelled) or bool(machine_id_in(folder)))


def machine_in(folder: str) -> str:
    """The machine that a folder is named after: its name without condition and ID, or "" (labels, dates)."""
    if is_label(folder) or _DATE.fullmatch(folder):
        return ""
    name = _MACHINE_ID.sub("", folder)
    if condition_in(folder):
        name = _WORD.sub(lambda word: "" if _meaning(word[0].lower()) else word[0], name)
    return re.sub(f"([{re.escape(_SEPARATORS)}])[{re.escape(_SEPARATORS)}]+", r"\1", name).strip(_SEPARATORS)


def _words(name: str) -> list[str]:
    return _WORD.findall(name.lower())


def _meaning(word: str) -> str:
    if word in _NORMAL or (word.startswith("normal") and not word.startswith(("normalis", "normaliz"))):
        return "normal"
    if word in _ANOMALY or word.startswith(("abnormal", "anomal")):
        return "anomaly"
    return ""
