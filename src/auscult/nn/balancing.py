"""New items between those of a small group, so that a bank knows a little more of it than the few clips there are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from auscult.nn.density import Metric, related

RATIO = 0.2
"""A group is brought up to so much of the largest; ASDKit's value."""

NEIGHBOURS = 2
"""So many of an item's nearest are partners for it; ASDKit's value."""


@dataclass(frozen=True)
class Between:
    """Places between pairs of items.

    Attributes
    ----------
    pairs : Tensor of int64, shape (n_new, 2)
        Numbers of two items.
    shares : Tensor of float64, shape (n_new,)
        How far each new item lies on the way from the first to the second.
    """

    pairs: torch.Tensor
    shares: torch.Tensor

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """What new items have of something that items have, (n_items, ...): (n_new, ...)."""
        first, second = values[self.pairs[:, 0]], values[self.pairs[:, 1]]
        shares = self.shares.to(values.dtype).view(-1, *[1] * (values.dim() - 1))
        return first + shares * (second - first)

    def grown(self, values: torch.Tensor) -> torch.Tensor:
        """The same of items and new ones, one after the other: (n_items + n_new, ...)."""
        return torch.cat([values, self.of(values)])

    def grown_parts(self, parts: torch.Tensor, groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The clips that items, then new ones, are from, (n_items + n_new, 2), and their groups.

        Parameters
        ----------
        parts : Tensor of int64, shape (n_items, 2)
            The clip that each item is from, twice.
        groups : Tensor of int64, shape (n_items,)
        """
        return torch.cat([parts, parts[self.pairs, 0]]), torch.cat([groups, groups[self.pairs[:, 0]]])


def balance(
    bank: torch.Tensor,
    parts: torch.Tensor,
    groups: torch.Tensor,
    metric: Metric,
    *,
    keys: torch.Tensor | None = None,
    ratio: float = RATIO,
    neighbours: int = NEIGHBOURS,
    seed: int = 0,
) -> Between:
    """Where to put new items so that no group has less than a share of the largest: SMOTE.

    Each lies at a random place between an item of its group and one of that item's nearest from other clips; the items
    of a group are taken in turn. A group in which all is from one clip gets none.

    Parameters
    ----------
    bank : Tensor, shape (..., n_items, width)
    parts : Tensor of int64, shape (n_items, n_parts)
        The clips that each item is from.
    groups : Tensor of int64, shape (n_items,)
    metric : callable
        Its distances are averaged over leading dimensions of the bank.
    keys : Tensor, shape (n_items, ...), optional
        Items are put in order by these before anything is drawn, so that the order given does not matter. By default
        the bank's rows, which should not depend on that order, not even by rounding.
    ratio : float
        Of the size of the largest group.
    neighbours : int
    seed : int

    References
    ----------
    Chawla et al., "SMOTE: synthetic minority over-sampling technique", JAIR 2002. For the few target clips: Fujimura et
    al., "ASDKit", 2025 (arXiv 2507.10264).
    """
    rows = bank.movedim(-2, 0) if keys is None else keys
    order = torch.from_numpy(np.lexsort(rows.flatten(1).numpy().T[::-1]))
    generator = torch.Generator().manual_seed(seed)
    sizes = groups.bincount()
    pairs, shares = [torch.zeros(0, 2, dtype=torch.int64)], [torch.zeros(0, dtype=torch.float64)]
    for group, size in enumerate(sizes.tolist()):
        n_new = round(ratio * int(sizes.max())) - size
        if n_new <= 0:
            continue
        own = order[groups[order] == group]
        near, counts = _nearest(bank[..., own, :], parts[own], metric, neighbours)
        able = counts.nonzero()[:, 0]
        if not len(able):
            continue
        first = able[torch.arange(n_new) % len(able)]
        drawn = torch.rand(2, n_new, generator=generator, dtype=torch.float64)
        second = near[first, (drawn[0] * counts[first]).long()]
        pairs.append(torch.stack([own[first], own[second]], 1))
        shares.append(drawn[1])
    return Between(torch.cat(pairs), torch.cat(shares))


def _nearest(
    bank: torch.Tensor, parts: torch.Tensor, metric: Metric, neighbours: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of each item's nearest from other clips, (n, at most neighbours), and how many there are, (n,)."""
    distances = metric(bank, bank)
    distances = distances.reshape(-1, len(parts), len(parts)).mean(0).masked_fill(related(parts, parts), torch.inf)
    nearest = distances.topk(min(neighbours, len(parts)), largest=False)
    return nearest.indices, nearest.values.isfinite().sum(1)
