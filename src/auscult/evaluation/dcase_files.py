"""Scores and decisions as the files that the challenge's evaluators read."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from auscult.errors import AuscultError
from auscult.evaluation.conventions import convention_named
from auscult.evaluation.domains import with_named_domains
from auscult.files import atomic

if TYPE_CHECKING:
    import pandas as pd

_DECISIONS = {"normal": "0", "anomaly": "1"}


def write_submission(folder: str | os.PathLike[str], table: pd.DataFrame, protocol: str) -> list[Path]:
    """Write one file of scores for each machine ID or section (in 2021 also domain), and one of decisions.

    A line holds a clip's file name and its score, or 1 for an anomaly and 0 for a normal clip; no header, lines end
    in LF, sorted by name. Scores read back as the same float64. DCASE 2020 has no decisions; for later years they
    are written for all clips or, where none is recorded, not at all.

    Parameters
    ----------
    folder : path
    table : DataFrame
        As :func:`auscult.evaluation.scores.read_scores` gives it.
    protocol : str
        "dcase2020" to "dcase2025".

    Returns
    -------
    list of Path
        The files written, in order.

    Raises
    ------
    AuscultError
        If the protocol is no challenge's; a clip has no score, or a decision that others have is missing (the
        evaluators match clips by position); a machine has no ID or section of that year, or a name that would lead
        out of the folder; or two clips of a file
        share their name.
    """
    convention = convention_named(protocol)
    if not protocol.startswith("dcase"):
        raise AuscultError(f"no challenge reads files of the protocol {protocol}", "name a year: --protocol dcase2023")
    _check_scores(table)
    keys = ["machine_type", "machine_id"]
    if convention.apart:
        table = with_named_domains(table.assign(condition="normal"), protocol)
        keys.append("domain")
    decided = protocol != "dcase2020" and bool((table["decision"] != "").any())
    texts: dict[str, str] = {}
    for key, clips in table.groupby(keys, sort=False):
        names = dict(zip([Path(path).name for path in clips["path"]], clips.index, strict=True))
        part = _part(protocol, *map(str, key))
        if len(names) < len(clips):
            raise AuscultError(f"two clips of {part} share their name", "write the files of one data set at a time")
        order = clips.loc[[names[name] for name in sorted(names)]]
        texts[f"anomaly_score_{part}.csv"] = _lines(sorted(names), [repr(float(s)) for s in order["score"]])
        if decided:
            texts[f"decision_result_{part}.csv"] = _lines(sorted(names), [_DECISIONS[d] for d in _all_decided(order)])
    return [_write(Path(folder) / name, text) for name, text in texts.items()]


def _check_scores(table: pd.DataFrame) -> None:
    silent = table["path"][table["score"].isna()]
    if len(silent):
        raise AuscultError(
            f"{silent.iloc[0]} has no score: the challenge's evaluators need one for every clip",
            "mend or replace the recording and score it again",
        )


def _all_decided(clips: pd.DataFrame) -> list[str]:
    silent = clips["path"][clips["decision"] == ""]
    if len(silent):
        raise AuscultError(f"{silent.iloc[0]} has no decision, others have", "score all clips with one model")
    return clips["decision"].tolist()


def _part(protocol: str, machine_type: str, machine_id: str, domain: str = "") -> str:
    """What a file's name says of its clips: `fan_id_01`, `fan_section_03_source_test`, `fan_section_03_test`."""
    first = protocol == "dcase2020"
    if not re.fullmatch(r"id_\d\d" if first else r"section_\d\d", machine_id):
        raise AuscultError(
            f"{machine_type}: {machine_id!r} is no {'machine ID' if first else 'section'} of {protocol}",
            f"the layout {protocol} calls them {'id_00' if first else 'section_00'} and the like",
        )
    name = "_".join(filter(None, (machine_type, machine_id, domain, "" if first else "test")))
    if Path(name).name != name or "\0" in name:
        raise AuscultError(f"{name!r} cannot be part of a file's name", "call the machine something else")
    return name


def _lines(names: list[str], values: list[str]) -> str:
    for name in names:
        if any(sign in name for sign in ',"\r\n'):
            raise AuscultError(f"{name!r} has signs that the evaluators cannot read", "rename the clip")
    return "".join(f"{name},{value}\n" for name, value in zip(names, values, strict=True))


def _write(path: Path, text: str) -> Path:
    with atomic(path) as temporary:
        temporary.write_bytes(text.encode())
    return path
