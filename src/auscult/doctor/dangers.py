"""What in recordings could mislead a detector, or whoever reads its results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from auscult.doctor.listening import Heard

_FEWEST = 5
"""Clips on each side of a comparison."""

_LOUDER_DB = 3.0
_TELLING = 0.8
"""AUC from which a plain figure tells conditions, or machines, apart too well to be overlooked."""

_FULL_SHARE = 1e-3
_STRANGERS = 0.3
"""Share of healthy test clips, of which a twentieth should lie so far out, from which they are called strange."""


def dangers(heard: Sequence[Heard]) -> list[str]:
    """What could mislead, one line each, with what follows from it."""
    return [
        *_clipped(heard),
        *_told_by_a_figure(heard, "loudness", lambda one: one.level),
        *_told_by_a_figure(heard, "length", lambda one: round(one.seconds, 2)),
        *_louder_in_test(heard),
        *_strange_in_test(heard),
        *_ids_by_loudness(heard),
        *_ids_alike(heard),
    ]


def _clipped(heard: Sequence[Heard]) -> list[str]:
    full = [one for one in heard if one.clipped > _FULL_SHARE]
    if not full:
        return []
    return [
        f"{len(full)} of {len(heard)} clips listened to are clipped (first: {full[0].clip.path}): turn the gain down; "
        "what is cut off sounds like a fault, or hides one"
    ]


def _told_by_a_figure(heard: Sequence[Heard], name: str, figure: Callable[[Heard], float]) -> list[str]:
    """Machines whose anomalies one plain figure of the clip tells from their normal clips."""
    said = []
    for machine, its in by_machine(heard):
        normal, anomalous = (_of(its, split="test", condition=c) for c in ("normal", "anomaly"))
        area = _area([figure(one) for one in normal], [figure(one) for one in anomalous])
        if area is not None and max(area, 1 - area) >= _TELLING:
            said.append(f"{machine} (AUC {100 * max(area, 1 - area):.0f} %)")
    if not said:
        return []
    return [
        f"{name} alone tells anomalies from normal clips of {_list(said)}: a detector that measured nothing else would "
        "seem to work; see that the conditions were recorded alike"
    ]


def _louder_in_test(heard: Sequence[Heard]) -> list[str]:
    said = []
    for machine, its in by_machine(heard):
        train, test = _of(its, split="train"), _healthy_test(its)
        if min(len(train), len(test)) >= _FEWEST:
            apart = float(np.median([one.level for one in test]) - np.median([one.level for one in train]))
            if abs(apart) >= _LOUDER_DB:
                said.append(f"{machine} ({abs(apart):.0f} dB {'louder' if apart > 0 else 'quieter'})")
    if not said:
        return []
    return [
        f"test clips are louder or quieter than those for training: {_list(said)}: was the gain or the place changed? "
        "Healthy clips then raise alarms"
    ]


def _strange_in_test(heard: Sequence[Heard]) -> list[str]:
    """Machines whose healthy test clips lie farther from the training clips than these from one another."""
    said = []
    for machine, its in by_machine(heard):
        train, test = _of(its, split="train"), _of(its, split="test", condition="normal")
        if min(len(train), len(test)) < _FEWEST:
            continue
        known = np.stack([one.spectrum for one in train])
        usual = np.quantile(_nearest(known, known, own=True), 0.95)
        strangers = float(np.mean(_nearest(np.stack([one.spectrum for one in test]), known) > usual))
        if strangers >= _STRANGERS:
            said.append(f"{machine} ({100 * strangers:.0f} % of them, where 5 % would be expected)")
    if not said:
        return []
    return [
        f"healthy test clips are unlike the training clips: {_list(said)}: no promised false-alarm rate can hold; "
        "train on recordings of all the conditions that the machine will run in"
    ]


def _ids_by_loudness(heard: Sequence[Heard]) -> list[str]:
    said = []
    for kind, its in _several_ids(heard):
        right, chance = _recognised(its, lambda one: np.array([one.level]))
        if right >= (1 + chance) / 2:
            said.append(f"{kind} ({100 * right:.0f} % right, {100 * chance:.0f} % by guessing)")
    if not said:
        return []
    return [
        f"loudness alone tells the machine IDs of {_list(said)}: a classifier of IDs (id-classifier, stgram) may "
        "learn the gain of the microphones instead of the machines"
    ]


def _ids_alike(heard: Sequence[Heard]) -> list[str]:
    said = []
    for kind, its in _several_ids(heard):
        right, chance = _recognised(its, lambda one: one.spectrum)
        if right < (1 + chance) / 2:
            said.append(f"{kind} ({100 * right:.0f} % right by their spectra, {100 * chance:.0f} % by guessing)")
    if not said:
        return []
    return [
        f"the machine IDs of {_list(said)} sound alike: a classifier of IDs would guess; use a detector that needs "
        "no IDs, or take them for one machine"
    ]


# Figures -------------------------------------------------------------------------------------------------


def by_machine(heard: Sequence[Heard]) -> Iterator[tuple[str, list[Heard]]]:
    """Clips of each machine, with its name."""
    machines: dict[tuple[str, str], list[Heard]] = {}
    for one in heard:
        machines.setdefault((one.clip.machine_type, one.clip.machine_id), []).append(one)
    return ((" ".join(machine), its) for machine, its in machines.items())


def for_training(heard: Sequence[Heard]) -> list[Heard]:
    """The clips that a detector would learn from: normal ones of the train split, else all normal ones."""
    splits = any(one.clip.split == "train" for one in heard)
    return [o for o in heard if o.clip.condition != "anomaly" and (o.clip.split == "train" or not splits)]


def _several_ids(heard: Sequence[Heard]) -> Iterator[tuple[str, list[Heard]]]:
    """Training clips of each machine type of which several IDs have enough."""
    types: dict[str, dict[str, list[Heard]]] = {}
    for one in for_training(heard):
        types.setdefault(one.clip.machine_type, {}).setdefault(one.clip.machine_id, []).append(one)
    for kind, machines in types.items():
        enough = [its for its in machines.values() if len(its) >= _FEWEST]
        if len(enough) > 1:
            yield kind, [one for its in enough for one in its]


def _of(heard: Sequence[Heard], *, split: str, condition: str = "") -> list[Heard]:
    return [o for o in heard if o.clip.split == split and (not condition or o.clip.condition == condition)]


def _healthy_test(heard: Sequence[Heard]) -> list[Heard]:
    """Normal test clips, or all where nobody says which are."""
    return _of(heard, split="test", condition="normal") or _of(heard, split="test", condition="unknown")


def _area(normal: Sequence[float], anomalous: Sequence[float]) -> float | None:
    if min(len(normal), len(anomalous)) < _FEWEST:
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.repeat([0, 1], [len(normal), len(anomalous)]), [*normal, *anomalous]))


def _nearest(points: np.ndarray, known: np.ndarray, *, own: bool = False) -> np.ndarray:
    """Distance to the nearest known point, without the point itself where it is one of them (`own`)."""
    from scipy.spatial.distance import cdist

    distances = cdist(points, known)
    if own:
        np.fill_diagonal(distances, np.inf)
    return np.asarray(distances.min(axis=1))


def _recognised(heard: Sequence[Heard], figure: Callable[[Heard], np.ndarray]) -> tuple[float, float]:
    """Share of clips whose nearest other clip is of the same machine ID, and what guessing would get."""
    from scipy.spatial.distance import cdist

    points = np.stack([figure(one) for one in heard])
    names = np.array([one.clip.machine_id for one in heard])
    distances = cdist(points, points)
    np.fill_diagonal(distances, np.inf)
    right = float(np.mean(names[distances.argmin(axis=1)] == names))
    return right, float(np.unique(names, return_counts=True)[1].max() / len(names))


def _list(said: Sequence[str]) -> str:
    more = f" and {len(said) - 3} more" if len(said) > 3 else ""
    return ", ".join(said[:3]) + more
