"""How far the items of a bank are from one another: what a distance to one of them is judged by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

Metric = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Distances between rows, (..., n, width) and (..., m, width): (..., n, m)."""

Form = Literal["ratio", "difference"]
"""Whether what is usual divides a distance or is taken off it."""

_LEAST_SHARE = 0.1
"""Of the median: copies of a clip have no distance from one another, and dividing by next to nothing would make
everything near them the strangest of all. Ours."""

_NOTHING = 1e-6
"""A distance of less than so much of the longest is none: it is left of rounding."""

_ROWS = 256


def local_distances(bank: torch.Tensor, parts: torch.Tensor, k: int, metric: Metric) -> torch.Tensor:
    """Mean distance of each item to its k nearest others: long where a bank is sparse, short where it is dense.

    A distance to an item, judged by the item's own (see `normalised`), means the same in all parts of a bank:
    local-density normalisation.

    Parameters
    ----------
    bank : Tensor, shape (..., n_items, width)
    parts : Tensor of int64, shape (n_items, n_parts)
        The clips that each item is from. Items that share one are no neighbours.
    k : int
        At most; fewer where there are not so many others.
    metric : callable

    Returns
    -------
    Tensor, shape (..., n_items)
        Above 0, and not far below the median; the median for an item without others; 1 if no item is apart from others.

    References
    ----------
    Wilkinghoff et al., "Local density-based anomaly score normalization for domain generalization", 2025
    (arXiv 2509.10951). The floor is ours.
    """
    return floored(nearest_others(bank, parts, k, metric))


def nearest_others(
    bank: torch.Tensor, parts: torch.Tensor, k: int, metric: Metric, groups: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean distance of each item to its k nearest others, (..., n_items); NaN where it has none.

    Parameters
    ----------
    bank, parts, k, metric
        As for `local_distances`.
    groups : Tensor of int64, shape (n_items,), optional
        Neighbours are looked for within an item's group only.
    """
    found = []
    for rows in torch.split(torch.arange(len(parts)), _ROWS):
        out = related(parts[rows], parts)
        if groups is not None:
            out |= groups[rows, None] != groups
        distances = metric(bank[..., rows, :], bank).masked_fill(out, torch.inf)
        nearest = distances.topk(min(k, len(parts)), largest=False).values
        there = nearest.isfinite()
        found.append(torch.where(there, nearest, 0).sum(-1) / there.sum(-1))
    return torch.cat(found, dim=-1)


def related(some: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
    """Whether items, (n, n_parts), and others, (m, n_parts), have a clip in common: (n, m)."""
    return (some[:, None, :, None] == parts[None, :, None, :]).any(3).any(2)


def floored(distances: torch.Tensor) -> torch.Tensor:
    """Distances that can be divided by, (..., n); NaN, which is an unknown one, becomes the median.

    None is less than a tenth of the median, which is that of those above 0; where there are none of these all are 1.
    """
    longest = distances.nan_to_num(nan=0.0).amax(-1, keepdim=True)
    real = distances.where(distances > _NOTHING * longest, torch.nan)
    median = real.nanmedian(-1, keepdim=True).values.nan_to_num(nan=1.0)
    some = real.isfinite().any(-1, keepdim=True)
    return torch.where(some & distances.isfinite(), distances, median).clamp(min=_LEAST_SHARE * median)


def normalised(distances: torch.Tensor, usual: torch.Tensor, form: Form = "ratio") -> torch.Tensor:
    """Distances to items, (..., n), in multiples of what is usual of each, or in excess of it."""
    return distances - usual if form == "difference" else distances / usual
