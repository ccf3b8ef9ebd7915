"""An experiment: a table of a paper as a file, with what was published in it and how to make it again."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from auscult.errors import AuscultError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("a name names a folder: letters, digits, '.', '_' and '-', the first a letter or digit")
    return name


Name = Annotated[str, AfterValidator(_check_name)]
Pair = tuple[float | None, float | None]
"""AUC and pAUC in percent; or mean and standard deviation of an error. None where the source has none."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Published(_Part):
    """What a paper says of a row.

    Attributes
    ----------
    source : str
        Where the figures stand.
    figures : mapping of machine type to pair
    by_id : mapping of machine type to (mapping of machine ID to pair)
    mean : pair, optional
        As the source averages.
    mean_over : {"types", "ids"}
        What the source's average is over; ours is then over the same.
    note : str
        What a reader must know to compare.
    """

    source: str
    figures: dict[str, Pair] = Field(default_factory=dict)
    by_id: dict[str, dict[str, Pair]] = Field(default_factory=dict)
    mean: Pair | None = None
    mean_over: Literal["types", "ids"] = "types"
    note: str = ""


class Special(_Part):
    """What is different for one machine type."""

    settings: dict[str, Any] = Field(default_factory=dict)
    outliers: list[str] | Literal["none", "same-type", "all-types"] | None = None


class Row(_Part):
    """One line of the table.

    Attributes
    ----------
    name : str
        Names the folder of its runs.
    system : str
        What the paper calls it.
    detector : str
        Name in the registry. One that this auscult does not have is left out, its published figures are not.
    preset : str, optional
        Instead of the experiment's.
    settings : mapping
        What differs from the preset.
    scope : {"type", "id", "all"}
        What one model is learnt from: a machine type, a machine ID, everything.
    machine_types : list of str, optional
        Only these.
    train, test : list of str
        Which subsets ("dev", "eval") are learnt from and judged.
    outliers : "none", "same-type", "all-types", or a list of machine types or of names of additional recordings
        Which other machines' training clips are given besides; never those of a machine that is learnt from.
    outliers_from : list of str
        The subsets that these are taken from.
    by_type : mapping of machine type to Special
    model_of : str, optional
        The row whose models are judged by, with other scoring settings or on other clips: nothing is learnt anew.
    group : str
        Heading under which the row stands.
    seeds : list of int, optional
        Instead of the experiment's.
    unavailable : str
        Why auscult cannot run this row; its published figures are shown all the same.
    published : Published, optional
    note : str
    """

    name: Name
    system: str
    detector: str = ""
    preset: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    scope: Literal["type", "id", "all"] = "type"
    machine_types: list[str] | None = None
    train: list[str] = Field(default_factory=lambda: ["dev"])
    test: list[str] = Field(default_factory=lambda: ["dev"])
    outliers: list[str] | Literal["none", "same-type", "all-types"] = "none"
    outliers_from: list[str] = Field(default_factory=lambda: ["dev", "eval"])
    by_type: dict[str, Special] = Field(default_factory=dict)
    model_of: str | None = None
    group: str = ""
    seeds: list[int] | None = None
    unavailable: str = ""
    published: Published | None = None
    note: str = ""

    @model_validator(mode="after")
    def _runs_or_says_why(self) -> Row:
        if not self.detector and not self.unavailable:
            raise ValueError(f"the row {self.name} names no detector, nor why it is unavailable")
        if self.by_type and self.scope == "all":
            raise ValueError(f"the row {self.name} has one model for all types, but settings by type")
        return self

    def settings_for(self, machine_type: str) -> dict[str, Any]:
        """The settings of one machine type's models."""
        special = self.by_type.get(machine_type)
        return {**self.settings, **(special.settings if special else {})}

    def outliers_for(self, machine_type: str) -> list[str] | str:
        """The outliers given to one machine type's models."""
        special = self.by_type.get(machine_type)
        return special.outliers if special and special.outliers is not None else self.outliers


class Plant(_Part):
    """A synthetic plant; see `auscult.corpus.synthetic.write_plant`."""

    machine_types: list[str] | None = None
    ids: int = Field(default=2, ge=1)
    train: int = Field(default=60, ge=1)
    test_normal: int = Field(default=20, ge=1)
    test_anomaly: int = Field(default=20, ge=1)
    severity: float = 1.0
    snr_db: float = 6.0
    seed: int = Field(default=0, ge=0)


class Source(_Part):
    """What an experiment runs on: one of these.

    Attributes
    ----------
    layout : str
        The data folder holds a data set in this layout.
    sets : mapping of machine type to folder
        The data folder holds these folders, each with the recordings of one machine type.
    plant : Plant
        Made for the purpose; no data folder is asked for.
    also : mapping of name to description
        Additional recordings that some rows want, given by `--with NAME=FOLDER`.
    """

    layout: str | None = None
    sets: dict[str, str] | None = None
    plant: Plant | None = None
    also: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_of_them(self) -> Source:
        if sum(kind is not None for kind in (self.layout, self.sets, self.plant)) != 1:
            raise ValueError("data names one of layout, sets and plant")
        return self


class Experiment(_Part):
    """A table to be made.

    Attributes
    ----------
    name, title, about, source : str
        What it is called, in a word, a line and a paragraph; and the paper it stands in.
    data : Source
    machine_types : list of str
        The columns.
    preset : str
    seeds : list of int
    measure : {"ranking", "reconstruction"}
        AUC and pAUC; or mean and standard deviation of the squared error of normal clips, dB squared.
    every_detector : bool
        Add a row for each detector that no row names.
    rows : list of Row
    """

    name: Name
    title: str
    about: str = ""
    source: str = ""
    data: Source
    machine_types: list[str]
    preset: str = "paper"
    seeds: list[int] = Field(default_factory=lambda: [0, 1, 2], min_length=1)
    measure: Literal["ranking", "reconstruction"] = "ranking"
    every_detector: bool = False
    rows: list[Row] = Field(default_factory=list)

    @model_validator(mode="after")
    def _rows_fit_together(self) -> Experiment:
        known: dict[str, Row] = {}
        for row in self.rows:
            if row.name in known:
                raise ValueError(f"two rows are called {row.name}")
            if row.model_of is not None:
                self._check_borrower(row, known.get(row.model_of))
            strangers = {*(row.machine_types or ()), *row.by_type} - set(self.machine_types)
            if strangers:
                raise ValueError(f"the row {row.name} is of {', '.join(sorted(strangers))}, which are no columns")
            known[row.name] = row
        return self

    def _check_borrower(self, row: Row, owner: Row | None) -> None:
        if owner is None or owner.model_of is not None:
            raise ValueError(f"the row {row.name} takes the models of {row.model_of}, no row above with its own")
        if (row.detector, row.scope, row.train) != (owner.detector, owner.scope, owner.train):
            raise ValueError(f"the row {row.name} differs from {owner.name} in detector, scope or train")


def experiment_names() -> list[str]:
    """The experiments that come with auscult."""
    return sorted(item.name.removesuffix(".yaml") for item in _shipped().iterdir() if item.name.endswith(".yaml"))


def read_experiment(which: str | os.PathLike[str]) -> Experiment:
    """Read an experiment.

    Parameters
    ----------
    which : path-like or str
        A YAML file, or the name of an experiment that comes with auscult.

    Raises
    ------
    AuscultError
        If there is none, it is no YAML, or a field is wrong; the message names the field.
    """
    name, text = _text(which)
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise AuscultError(f"{name}: is no YAML ({' '.join(str(error).split())})", "mend it there") from error
    if not isinstance(content, Mapping):
        raise AuscultError(f"{name}: describes no experiment", "see the docs on experiments")
    try:
        return Experiment.model_validate(dict(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the experiment"
        raise AuscultError(
            f"{name}: {where}: {first['msg'].removeprefix('Value error, ')}", "see the docs on experiments"
        ) from error


def _text(which: str | os.PathLike[str]) -> tuple[str, str]:
    """What to call the file when complaining, and what it holds."""
    path = Path(which)
    if path.is_file():
        try:
            return str(path), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise AuscultError(f"{path}: cannot be read ({error})", "give a text file") from error
    known = experiment_names()
    if str(which) in known:
        return str(which), (_shipped() / f"{which}.yaml").read_text(encoding="utf-8")
    near = difflib.get_close_matches(path.stem, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise AuscultError(f"{which}: there is no such experiment", f"{hint}give a file, or one of {', '.join(known)}")


def _shipped() -> Any:
    return files("auscult.benchmark").joinpath("experiments")
