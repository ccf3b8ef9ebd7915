"""Window scores become a clip's score: one definition for scoring, maps and monitoring."""

from __future__ import annotations

import re

import torch

from auscult.nn.tracing import is_traced, number

_FORMS = "mean, max, top-K (top-5), top-P% (top-10%), power-P (power-4)"
_PATTERN = re.compile(r"mean|max|top-(?P<k>[1-9]\d*)|top-(?P<share>\d+(\.\d+)?)%|power-(?P<power>\d+(\.\d+)?)")


def check_aggregation(rule: str) -> str:
    """Return `rule` if it is one.

    Raises
    ------
    ValueError
        If it is none; the message lists the forms.
    """
    match = _PATTERN.fullmatch(rule)
    if not match or (match["share"] and not 0 < float(match["share"]) <= 100):
        raise ValueError(f"an aggregation is one of {_FORMS}")
    if match["power"] and float(match["power"]) == 0:
        raise ValueError("the power of a power mean is not 0")
    return rule


def aggregate(scores: torch.Tensor, rule: str = "mean") -> float:
    """One score for a clip from the scores of its windows.

    Parameters
    ----------
    scores : Tensor, shape (n_windows,)
        Larger is more anomalous.
    rule : str
        "mean"; "max"; "top-5", the mean of the five largest; "top-10%", of the largest tenth (at least one);
        "power-4", the power mean (for scores that are not negative).

    Returns
    -------
    float
        Computed in 64 bits.
    """
    values = scores.double()
    match = _PATTERN.fullmatch(check_aggregation(rule))
    assert match is not None
    if rule == "max":
        return number(values.max())
    if match["power"]:
        power = float(match["power"])
        largest = values.clamp(min=0).max()
        # Scaled by the largest value: a high power of a large error would overflow.
        if is_traced():
            largest = torch.where(largest > 0, largest, 1.0)  # all are 0 then, and their mean too
        elif not largest:
            return 0.0
        return number(largest * (values.clamp(min=0) / largest).pow(power).mean().pow(1 / power))
    if match["k"] or match["share"]:
        k = int(match["k"]) if match["k"] else max(1, round(len(values) * float(match["share"]) / 100))
        values = values.topk(min(k, len(values))).values
    return number(values.mean())
