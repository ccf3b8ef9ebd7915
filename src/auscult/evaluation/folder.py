"""What `evaluate -o DIR` keeps: scores, metrics and tables, ready for `report`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auscult.evaluation import tables
from auscult.evaluation.results import Evaluation
from auscult.evaluation.scores import write_scores
from auscult.files import atomic

if TYPE_CHECKING:
    import pandas as pd

_JSON: dict[str, Any] = {"indent": 2, "ensure_ascii": False, "allow_nan": False}


def write_folder(
    folder: str | os.PathLike[str],
    scores: pd.DataFrame,
    evaluation: Evaluation,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write scores.csv, table.md, table.csv and, last, metrics.json: a folder with that file is whole.

    Parameters
    ----------
    folder : path-like
    scores : DataFrame
    evaluation : Evaluation
    facts : mapping, optional
        What metrics.json says besides, such as the name of the detector.

    Raises
    ------
    AuscultError
        If the folder cannot be written to.
    """
    home = Path(folder)
    write_scores(scores, home / "scores.csv")
    texts = {
        "table.md": tables.to_markdown(evaluation),
        "table.csv": tables.to_csv(evaluation),
        "metrics.json": json.dumps({**(facts or {}), **evaluation.as_dict()}, **_JSON) + "\n",
    }
    for name, text in texts.items():
        with atomic(home / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
