"""The clips and tensors of a bank: which clips it keeps, what distances are usual, whether tensors are a bank's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

_PRIOR_CLIPS = 10
_PRIOR_VARIATION = 0.15
"""How much a few clips' distances scatter says little: it is averaged with a share of their mean (as that of a
distance in two dozen dimensions), which counts for as much as so many clips. Ours."""


def drawn(n_clips: int, most: int, seed: int, groups: torch.Tensor | None = None) -> list[int]:
    """Draw clips that are kept, all if there are no more than `most`.

    At random, and not by how much of the healthy range they cover: those would lie further from one another than
    new healthy clips do from them, and what is usual be overestimated. Of groups each is drawn equally often,
    so that small ones are kept whole.

    Parameters
    ----------
    n_clips, most, seed : int
    groups : Tensor of int64, shape (n_clips,), optional

    Returns
    -------
    list of int
        Numbers of clips, rising.
    """
    shuffled = np.random.default_rng(seed).permutation(n_clips)
    if groups is not None:
        own = groups.numpy()[shuffled]
        turn = np.array([np.count_nonzero(own[:k] == group) for k, group in enumerate(own)])
        shuffled = shuffled[turn.argsort(kind="stable")]
    return sorted(shuffled[:most].tolist())


def usual(distances: torch.Tensor) -> torch.Tensor:
    """Mean (not below 0.001) and spread of left-out clips' distances, (n_clips, ...): (2, ...); 1 of none."""
    n = len(distances)
    mean = distances.mean(0) if n else torch.ones(distances.shape[1:], dtype=torch.float64)
    mean = mean.clamp(min=1e-3)
    variance = distances.var(0, correction=0) if n else torch.zeros_like(mean)
    prior = (_PRIOR_VARIATION * mean).square()
    return torch.stack([mean, ((n * variance + _PRIOR_CLIPS * prior) / (n + _PRIOR_CLIPS)).sqrt()])


def is_bank(
    tensors: Mapping[str, torch.Tensor], view: str, of_a_clip: tuple[int, int], whitening: tuple[int, ...]
) -> bool:
    """Whether the tensors are those of a bank.

    Parameters
    ----------
    tensors : mapping of str to Tensor
    view : str
        Name of the view that is looked at.
    of_a_clip, whitening : tuple of int
        Shapes that a clip's statistics and what whitens them must have.
    """
    parts = ("statistics", "whitening", "usual_overall", "usual_by_band", "usual_joined")
    if not {"left_out_scores", *(f"{view}.{part}" for part in parts)} <= tensors.keys():
        return False
    return tensors[f"{view}.statistics"].shape[1:] == of_a_clip and tensors[f"{view}.whitening"].shape == whitening
