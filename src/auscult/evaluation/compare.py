"""Is one system better than another? Paired tests on the same clips, by the conventions of `evaluate`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auscult.errors import AuscultError
from auscult.evaluation import metrics
from auscult.evaluation.cells import Curve
from auscult.evaluation.conventions import Convention, convention_named
from auscult.evaluation.domains import DOMAINS, domain_curves, with_named_domains
from auscult.evaluation.paired import Shared, delong, shared_curves
from auscult.evaluation.ranking import own_seed

if TYPE_CHECKING:
    import pandas as pd

_OWN: dict[str, Curve] = {"own": ([("", "normal")], [("", "anomaly")])}


@dataclass(frozen=True)
class Difference:
    """How a system's figure differs from the reference's.

    Attributes
    ----------
    machine_type, machine_id : str or None
        None where the figure is of all of them.
    figure : {"auc", "pauc", "official_score"}
    system : str
    reference, value, difference : float
    interval : tuple of float
        95 %, percentiles of the difference over resamples of the clips.
    p_value : float
        Two-sided, by the same resamples: how far the difference is from none.
    p_delong : float or None
        Two-sided, after DeLong; of AUCs and their arithmetic means.
    """

    machine_type: str | None
    machine_id: str | None
    figure: str
    system: str
    reference: float
    value: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    p_delong: float | None


@dataclass(frozen=True)
class Comparison:
    """Systems compared with the first of them.

    Attributes
    ----------
    systems : tuple of str
    differences : tuple of Difference
        Overall first, then types and their IDs in the order of the first table.
    convention, protocol : str
    notes : tuple of str
    """

    systems: tuple[str, ...]
    differences: tuple[Difference, ...]
    convention: str
    protocol: str
    notes: tuple[str, ...]

    def json(self) -> str:
        """The comparison as JSON text."""
        told = {**asdict(self), "reference": self.systems[0]}
        return json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False)


def compare(
    tables: Mapping[str, pd.DataFrame], *, protocol: str = "dcase2020", resamples: int = 2000, seed: int = 0
) -> Comparison:
    """Compare systems with the first of them, on the clips that all of them judged.

    Parameters
    ----------
    tables : mapping of name to DataFrame
        Scores as :func:`auscult.evaluation.scores.read_scores` gives them. Clips are the same where machine type,
        machine ID and path agree, or else the file name.
    protocol : str
        A name in :data:`auscult.evaluation.conventions.CONVENTIONS`.
    resamples, seed : int
        Of the bootstrap.

    Raises
    ------
    AuscultError
        If there are fewer than two systems, they share no clips of both conditions, or disagree about a condition.

    References
    ----------
    E. R. DeLong et al., Biometrics 44(3), 1988; B. Efron, R. J. Tibshirani, "An Introduction to the Bootstrap", 1993.
    """
    convention = convention_named(protocol)
    if len(tables) < 2:
        raise AuscultError("one system cannot be compared", "name two tables of scores or more")
    if resamples < 1 or seed < 0:
        raise AuscultError(f"resamples is {resamples} and seed {seed}", "give at least 1, and at least 0")
    names = list(tables)
    clips, notes = _same_clips(tables)
    if convention.type_from == "domains":
        clips = with_named_domains(clips.assign(score=0.0), protocol)
    units = _units(clips, convention, names, resamples, seed)
    if not units:
        raise AuscultError("no machine has both normal and anomalous clips that all systems judged", "see `evaluate`")
    alone = [u for u in units if any(u.sizes[side] == 1 for side in ("normal", "anomaly"))]
    if alone:
        notes.append(f"{_name(alone[0])} has one clip of a condition: no resampling can tell how it would vary")
    differences: list[Difference] = []
    for machine_type, machine_id in _lines(units):
        own = [u for u in units if machine_type in (None, u.machine_type) and machine_id in (None, u.machine_id)]
        differences += _differences(own, machine_type, machine_id, convention, names)
    return Comparison(tuple(names), tuple(differences), convention.sentence, protocol, tuple(notes))


@dataclass(frozen=True)
class _Unit:
    """The clips of a machine that are ranked together."""

    machine_type: str
    machine_id: str | None
    curves: dict[str, Shared]
    delong: tuple[metrics.Floats, metrics.Floats] | None
    sizes: dict[str, int]


def _same_clips(tables: Mapping[str, pd.DataFrame]) -> tuple[pd.DataFrame, list[str]]:
    """One row a clip: what is known of it, and the score of each system."""
    first, *others = tables.items()
    joined = first[1].assign(**{f"score {first[0]}": first[1]["score"]})
    for name, table in others:
        keys = _keys(joined, table)
        mine = table.assign(
            _key=_key(table, keys), **{f"score {name}": table["score"], "_condition": table["condition"]}
        )
        joined = joined.assign(_key=_key(joined, keys)).merge(
            mine[["_key", f"score {name}", "_condition"]], on="_key", how="inner"
        )
        told = (joined["condition"] != "unknown") & (joined["_condition"] != "unknown")
        odd = joined["path"][told & (joined["condition"] != joined["_condition"])]
        if len(odd):
            raise AuscultError(f"{first[0]} and {name} disagree about the condition of {odd.iloc[0]}", "give --truth")
        joined["condition"] = joined["condition"].where(joined["condition"] != "unknown", joined["_condition"])
        joined = joined.drop(columns=["_condition", "_key"])
    judged = joined[
        joined[[f"score {name}" for name in tables]].notna().all(axis=1) & (joined["condition"] != "unknown")
    ]
    most = max(map(len, tables.values()))
    notes = [f"compared on the {len(judged)} clips of {most} that all systems judged"] if len(judged) < most else []
    return judged.sort_values(["machine_type", "machine_id", "path"], kind="stable"), notes


def _keys(one: pd.DataFrame, other: pd.DataFrame) -> str:
    """What tells a clip: its path, or its file name where paths are written otherwise."""
    if set(one["path"]) & set(other["path"]):
        return "path"
    for table in (one, other):
        if _key(table, "name").duplicated().any():
            raise AuscultError("the tables write paths otherwise, and file names are not unique", "score in one place")
    return "name"


def _key(table: pd.DataFrame, by: str) -> pd.Series:
    last = table["path"] if by == "path" else table["path"].map(lambda path: Path(path).name)
    key: pd.Series = table["machine_type"] + "\0" + table["machine_id"] + "\0" + last
    return key


def _units(clips: pd.DataFrame, convention: Convention, names: Sequence[str], resamples: int, seed: int) -> list[_Unit]:
    keys = ["machine_type"] if convention.type_from == "clips" else ["machine_type", "machine_id"]
    parted = convention.type_from == "domains"
    units = []
    for key, own in clips.groupby(keys, sort=False):
        scores = own[[f"score {name}" for name in names]].to_numpy()
        conditions = own["condition"].to_numpy()
        domains = own["domain"].to_numpy() if parted else np.full(len(own), "")
        cells = {
            (domain, condition): scores[(domains == domain) & (conditions == condition)]
            for domain in (DOMAINS if parted else ("",))
            for condition in ("normal", "anomaly")
        }
        curves = shared_curves(
            cells,
            domain_curves(convention) if parted else _OWN,
            resamples=resamples,
            seed=own_seed(seed, *map(str, key)),
        )
        if not curves:
            continue
        sides = [cells.get(("", condition), np.empty((0, 0))) for condition in ("normal", "anomaly")]
        law = delong(sides[0].T, sides[1].T) if min(map(len, sides)) > 1 else None
        sizes = {c: int((conditions == c).sum()) for c in ("normal", "anomaly")}
        units.append(_Unit(str(key[0]), str(key[1]) if len(key) > 1 else None, curves, law, sizes))
    return units


def _name(unit: _Unit) -> str:
    return " ".join(filter(None, (unit.machine_type, unit.machine_id)))


def _lines(units: Sequence[_Unit]) -> list[tuple[str | None, str | None]]:
    lines: list[tuple[str | None, str | None]] = [(None, None)]
    for machine_type in dict.fromkeys(unit.machine_type for unit in units):
        lines.append((machine_type, None))
        lines += [(machine_type, u.machine_id) for u in units if u.machine_type == machine_type and u.machine_id]
    return lines


def _differences(
    units: Sequence[_Unit],
    machine_type: str | None,
    machine_id: str | None,
    convention: Convention,
    names: Sequence[str],
) -> list[Difference]:
    found = []
    for figure in ("auc", "pauc", "official_score") if convention.type_from == "domains" else ("auc", "pauc"):
        values, draws = _mean(units, figure, convention)
        law = _law_of_mean(units, convention) if figure == "auc" else None
        for k, name in enumerate(names[1:], start=1):
            spread = draws[k] - draws[0]
            low, high = (float(np.quantile(spread, q)) for q in (0.025, 0.975))
            difference = float(values[k] - values[0])
            found.append(
                Difference(
                    machine_type,
                    machine_id,
                    figure,
                    name,
                    float(values[0]),
                    float(values[k]),
                    difference,
                    (min(low, difference), max(high, difference)),
                    _p_of_draws(spread),
                    None if law is None else _p_of_law(difference, law, k),
                )
            )
    return found


def _mean(units: Sequence[_Unit], figure: str, convention: Convention) -> tuple[metrics.Floats, metrics.Floats]:
    """A figure of all units for each system, and in every resample."""
    if convention.type_from == "domains":
        parts = [pair for unit in units for pair in _parts(unit, figure, convention)]
        return convention.mean(np.array([v for v, _ in parts])), convention.mean(np.array([d for _, d in parts]))
    by_type: dict[str, list[tuple[metrics.Floats, metrics.Floats]]] = {}
    for unit in units:
        by_type.setdefault(unit.machine_type, []).append(_of(unit.curves["own"], figure))
    means = [tuple(convention.mean(np.array(side)) for side in zip(*pairs, strict=True)) for pairs in by_type.values()]
    values, draws = (convention.mean(np.array(side)) for side in zip(*means, strict=True))
    return values, draws


def _parts(unit: _Unit, figure: str, convention: Convention) -> list[tuple[metrics.Floats, metrics.Floats]]:
    """What a section adds to a mean over sections and domains."""
    aucs = [_of(unit.curves[d], "auc") for d in DOMAINS if d in unit.curves]
    paucs = [_of(unit.curves[c], "pauc") for c in (DOMAINS if convention.apart else ("all",)) if c in unit.curves]
    return {"auc": aucs, "pauc": paucs, "official_score": [*aucs, *paucs]}[figure]


def _of(shared: Shared, figure: str) -> tuple[metrics.Floats, metrics.Floats]:
    return (shared.auc, shared.aucs) if figure == "auc" else (shared.pauc, shared.paucs)


def _law_of_mean(units: Sequence[_Unit], convention: Convention) -> metrics.Floats | None:
    """The covariance of the systems' mean AUCs: units are independent of one another."""
    laws = [unit.delong for unit in units]
    if convention.type_from == "domains" or any(law is None for law in laws):
        return None
    sizes = {t: sum(u.machine_type == t for u in units) for t in {u.machine_type for u in units}}
    weights = [1 / (len(sizes) * sizes[unit.machine_type]) for unit in units]
    total: Any = sum(w**2 * law[1] for w, law in zip(weights, laws, strict=True) if law is not None)
    return np.asarray(total, dtype=np.float64)


def _p_of_draws(spread: metrics.Floats) -> float:
    tails = [(1 + np.count_nonzero(side)) / (1 + len(spread)) for side in (spread <= 0, spread >= 0)]
    return float(min(1.0, 2 * min(tails)))


def _p_of_law(difference: float, covariance: metrics.Floats, k: int) -> float:
    from scipy.special import ndtr

    variance = covariance[0, 0] + covariance[k, k] - 2 * covariance[0, k]
    if variance <= 1e-15:
        return 1.0 if abs(difference) < 1e-12 else 0.0
    return float(2 * ndtr(-abs(difference) / np.sqrt(variance)))
