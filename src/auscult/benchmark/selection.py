"""Which clips of an experiment a run is about: small enough to be sent anywhere, the same clips everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from auscult.corpus import Manifest

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Selection:
    """Clips of some machines.

    Attributes
    ----------
    split : {"train", "test"}
        Of the train split, only those that are not known to be anomalous.
    subsets : tuple of str
        Parts of the data that they are taken from.
    machine_types : tuple of str or None
        None: all.
    machine_id : str or None
        None: all.
    without : tuple of (str, str)
        Machines, by type and ID, that are left out.
    """

    split: str
    subsets: tuple[str, ...]
    machine_types: tuple[str, ...] | None = None
    machine_id: str | None = None
    without: tuple[tuple[str, str], ...] = ()

    def rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of a table of clips that are meant, in their order."""
        chosen = (table["split"] == self.split) & table["subset"].isin(self.subsets)
        if self.split == "train":
            chosen &= table["condition"] != "anomaly"
        if self.machine_types is not None:
            chosen &= table["machine_type"].isin(self.machine_types)
        if self.machine_id is not None:
            chosen &= table["machine_id"] == self.machine_id
        for machine_type, machine_id in self.without:
            chosen &= (table["machine_type"] != machine_type) | (table["machine_id"] != machine_id)
        return table[chosen]

    def of(self, manifest: Manifest) -> Manifest:
        """The clips themselves."""
        return Manifest(self.rows(manifest.table).reset_index(drop=True), manifest.root)


@lru_cache(maxsize=4)
def read_clips_of(manifest: Path, _changed_ns: int) -> Manifest:
    """The clips of an experiment; a worker that has done a run of it has read them already."""
    return Manifest.read(manifest)
