"""Published data sets: which archives they are made of, where those lie, and under which licence."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from auscult.corpus.download_checksums import MD5
from auscult.errors import AuscultError

BASELINE = "nttcslab/dcase2023_task2_baseline_ae@9b64dc42276a64f65b7cbf2761d3c9ec525cff94"
EVALUATOR_2022 = "Kota-Dohi/dcase2022_evaluator@9785ae5c63f6308c699b8b82cff3bfcd08667df3"

_DCASE_LICENCE = "CC BY-NC-SA 4.0"
_TRUTH_LICENCE = "see the licence of the repository it comes from"


@dataclass(frozen=True)
class Part:
    """One part of a data set: archives, or files, of one record.

    Attributes
    ----------
    name : str
        What `--part` takes: "dev", "additional", "eval", "truth", or the noise level of MIMII.
    record : str
        A Zenodo record's number, or "owner/repository@commit/folder" on GitHub.
    pattern : str
        What its files are called; `{t}` stands for the machine type, `#` for a number. Of an archive that has later
        revisions, `…_r2.zip`, the last is meant.
    folder : str
        Where its content goes, below the data set's folder.
    machines : tuple of str
        Machine types; empty for files that hold for all.
    licence : str
        As published.
    """

    name: str
    record: str
    pattern: str
    folder: str
    machines: tuple[str, ...] = ()
    licence: str = _DCASE_LICENCE

    def regex(self, machine: str) -> re.Pattern[str]:
        """What the file of a machine type is called, whatever its revision."""
        name = re.escape(self.pattern).replace(r"\{t\}", re.escape(machine)).replace(r"\#", r"\d+")
        return re.compile(re.sub(r"\\\.zip$", r"(?:_r(?P<revision>\\d+))?\\.zip", name))


@dataclass(frozen=True)
class Corpus:
    """A published data set."""

    name: str
    title: str
    parts: tuple[Part, ...]
    md5: dict[str, str] = field(default_factory=dict)

    @property
    def machines(self) -> list[str]:
        """All machine types, in the order of the parts."""
        return list(dict.fromkeys(machine for part in self.parts for machine in part.machines))

    def choose(self, machines: Sequence[str], parts: Sequence[str]) -> list[tuple[Part, list[str]]]:
        """The parts asked for, each with its machine types; everything where nothing is named.

        Raises
        ------
        AuscultError
            If there is no such machine type or part, or the parts hold none of the machines.
        """
        for what, asked, known in (
            ("machine type", machines, self.machines),
            ("part", parts, [part.name for part in self.parts]),
        ):
            for name in asked:
                if name not in known:
                    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                    meant = f"did you mean {near[0]!r}? " if near else ""
                    raise AuscultError(f"{self.name} has no {what} {name!r}", f"{meant}it has {', '.join(known)}")
        chosen = []
        for part in self.parts:
            own = [machine for machine in part.machines if not machines or machine in machines]
            if (not parts or part.name in parts) and (own or not part.machines):
                chosen.append((part, own))
        if not chosen:
            raise AuscultError(f"{self.name}: these parts hold none of {', '.join(machines)}", "name other parts")
        return chosen


_SHIFTED = ("bearing", "fan", "gearbox", "slider", "valve", "ToyCar", "ToyTrain")

MACHINES: dict[int, tuple[str, ...]] = {
    2020: ("fan", "pump", "slider", "valve", "ToyCar", "ToyConveyor"),
    2021: ("fan", "gearbox", "pump", "slider", "valve", "ToyCar", "ToyTrain"),
    **dict.fromkeys((2022, 2023, 2024, 2025), _SHIFTED),
}
"""Machine types of the development data by year."""

EVALUATION_MACHINES: dict[int, tuple[str, ...]] = {
    **{year: MACHINES[year] for year in (2020, 2021, 2022)},
    2023: ("bandsaw", "grinder", "shaker", "ToyDrone", "ToyNscale", "ToyTank", "Vacuum"),
    2024: (
        *("3DPrinter", "AirCompressor", "BrushlessMotor", "HairDryer", "HoveringDrone", "RoboticArm", "Scanner"),
        *("ToothBrush", "ToyCircuit"),
    ),
    2025: (
        *("AutoTrash", "BandSealer", "CoffeeGrinder", "HomeCamera", "Polisher", "ScrewFeeder", "ToyPet", "ToyRCCar"),
    ),
}
"""Machine types of the evaluation data and its training data by year."""

_RECORDS = {
    2020: ("3678171", "3727685", "3841772"),
    2021: ("4562016", "4660992", "4884786"),
    2022: ("6355122", "6462969", "6586456"),
    2023: ("7882613", "7830345", "7860847"),
    2024: ("10902294", "11259435", "11363076"),
    2025: ("15097779", "15392814", "15519362"),
}
"""Development, additional training and evaluation data on Zenodo. (Of 2024's training data, an earlier record with
faulty clips of 3DPrinter and RoboticArm was withdrawn.)"""


def _patterns(year: int) -> tuple[str, str, str]:
    if year == 2020:
        return "dev_data_{t}.zip", "eval_data_train_{t}.zip", "eval_data_test_{t}.zip"
    return "dev_data_{t}.zip" if year == 2021 else "dev_{t}.zip", "eval_data_{t}_train.zip", "eval_data_{t}_test.zip"


def _truth(year: int) -> tuple[Part, ...]:
    if year == 2020:
        return (Part("truth", "3951620", "eval_data_list.csv", "eval_data"),)
    if year == 2022:  # the baseline's list is wrong for two machine types
        machines = EVALUATION_MACHINES[year]
        return tuple(
            Part(
                "truth",
                f"{EVALUATOR_2022}/{folder}",
                "ground_truth_{t}_section_#_test.csv",
                f"eval_data/{folder}",
                machines,
                _TRUTH_LICENCE,
            )
            for folder in ("ground_truth_data", "ground_truth_domain")
        )
    name = f"eval_data_list_{year}.csv"
    return (Part("truth", f"{BASELINE}/datasets", name, "eval_data", (), _TRUTH_LICENCE),)


def _dcase(year: int) -> Corpus:
    machines = (MACHINES[year], EVALUATION_MACHINES[year], EVALUATION_MACHINES[year])
    folders = ("dev_data", "eval_data", "eval_data")
    rows = zip(("dev", "additional", "eval"), _RECORDS[year], _patterns(year), folders, machines, strict=True)
    parts = [Part(name, record, pattern, folder, own) for name, record, pattern, folder, own in rows]
    md5 = MD5.get(year, {})
    return Corpus(f"dcase{year}", f"DCASE {year} Challenge Task 2", (*parts, *_truth(year)), md5)


CORPORA = {
    corpus.name: corpus
    for corpus in (
        *map(_dcase, _RECORDS),
        Corpus(
            "mimii",
            "MIMII, industrial machines at three noise levels",
            tuple(
                Part(
                    f"{snr}dB",
                    "3384388",
                    f"{snr}_dB_{{t}}.zip",
                    f"{snr}_dB_{{t}}",
                    ("fan", "pump", "slider", "valve"),
                    "CC BY-SA 4.0",
                )
                for snr in ("-6", "0", "6")
            ),
        ),
        Corpus(
            "toyadmos",
            "ToyADMOS, miniature machines",
            (
                Part(
                    "all",
                    "3351307",
                    "{t}.7z.#",
                    "",
                    ("ToyCar", "ToyConveyor", "ToyTrain"),
                    "its own: see LICENSE.pdf in the record",
                ),
            ),
        ),
    )
}
"""The data sets that `auscult download` knows."""


def corpus_named(name: str) -> Corpus:
    """Find a data set.

    Raises
    ------
    AuscultError
        If there is none of that name.
    """
    if name not in CORPORA:
        near = difflib.get_close_matches(name.lower(), CORPORA, n=1, cutoff=0.4)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise AuscultError(f"there is no data set {name!r}", f"{meant}there are {', '.join(CORPORA)}")
    return CORPORA[name]
