"""Banks of several domains: many clips of the usual conditions, and few of those that a machine was moved to.

A new clip's domain is not known. In each it is as far from the nearest items as it is, measured by how far that
domain's own clips are from one another; the domain in which it is least strange is believed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from auscult.nn.density import Form, Metric, floored, local_distances, nearest_others, normalised

_PRIOR_CLIPS = 2
"""What so few clips say of their domain's usual distance counts for as much as the largest domain's. A distance
scatters around its domain's mean by about as much as, or less than, the means of two domains differ. Ours."""


def groups_of(domains: Sequence[str]) -> torch.Tensor | None:
    """The number of each clip's domain, (n_clips,) int64; None where there are not several.

    A clip of which no domain is told counts with the most frequent one.
    """
    told = Counter(domain for domain in domains if domain)
    if len(told) < 2:
        return None
    names = sorted(told)
    most = max(names, key=lambda name: told[name])
    return torch.tensor([names.index(domain or most) for domain in domains])


@dataclass(frozen=True)
class Reference:
    """Items of a bank, and what distances to them are judged by.

    Attributes
    ----------
    items : Tensor, shape (..., n_items, width)
    parts : Tensor of int64, shape (n_items, 2)
        The clips that each is from; two different ones if it lies between items of two clips.
    usual : Tensor, shape (..., n_items), or None
        The distance that is usual where each lies; None where plain distances count.
    form : {"ratio", "difference"}
        Whether it divides a distance or is taken off.
    """

    items: torch.Tensor
    parts: torch.Tensor
    usual: torch.Tensor | None = None
    form: Form = "ratio"

    def nearest(self, rows: torch.Tensor, metric: Metric) -> torch.Tensor:
        """The least of the judged distances of rows, (..., n, width), to the items: (..., n)."""
        distances = metric(rows, self.items)
        if self.usual is not None:
            distances = normalised(distances, self.usual[..., None, :], self.form)
        return distances.amin(-1)

    def __getitem__(self, place: int) -> Reference:
        """One of several banks that lie along the first dimension."""
        items = self.items[place].clone(memory_format=torch.contiguous_format)
        return Reference(items, self.parts, None if self.usual is None else self.usual[place], self.form)

    def only(self, kept: torch.Tensor, metric: Metric, *, density: int) -> Reference:
        """Some of the items, (n_items,) of bool, as if there were no others.

        The usual distances of whole domains, to which one clip adds little, stay as they are.
        """
        items, parts = self.items[..., kept, :], self.parts[kept]
        usual = None if self.usual is None else self.usual[..., kept]
        return Reference(items, parts, local_distances(items, parts, density, metric) if density else usual, self.form)


def usual_distances(
    items: torch.Tensor, parts: torch.Tensor, groups: torch.Tensor | None, metric: Metric, *, k: int, density: int
) -> torch.Tensor | None:
    """The distance that is usual where each item lies, (..., n_items): around itself, in its domain, or None."""
    if density:
        return local_distances(items, parts, density, metric)
    if groups is None:
        return None
    return usual_by_group(nearest_others(items, parts, k, metric, groups), parts, groups)[..., groups]


def usual_by_group(nearest: torch.Tensor, parts: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Mean left-out distance of each group's clips, that of few clips drawn to that of the largest group.

    Parameters
    ----------
    nearest : Tensor, shape (..., n_items)
        The distance of each item to the nearest of other clips in its group; NaN where there is none.
    parts : Tensor of int64, shape (n_items, 2)
    groups : Tensor of int64, shape (n_items,)

    Returns
    -------
    Tensor, shape (..., n_groups)
        Above 0.
    """
    # A place between two clips is no clip, and nearer to others than clips are.
    counts = nearest.isfinite().reshape(-1, len(groups)).all(0) & (parts[:, 0] == parts[:, 1])
    own = [counts & (groups == group) for group in range(int(groups.max()) + 1)]
    sizes = torch.tensor([len(set(parts[mine, 0].tolist())) for mine in own])
    means = torch.stack([nearest[..., mine].mean(-1) for mine in own], dim=-1)
    # Where even the largest domain is a single clip, nothing is known, and all domains are alike.
    common = means[..., [int(sizes.argmax())]].nan_to_num(nan=1.0)
    drawn = (sizes * means.nan_to_num() + _PRIOR_CLIPS * common) / (sizes + _PRIOR_CLIPS)
    return floored(drawn)
