"""Examples made of others: waveforms mixed, branches of embeddings exchanged."""

from __future__ import annotations

import torch


def mixed(waves: torch.Tensor, labels: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix some waveforms, and their labels, with others of the batch in random proportions (mixup, Zhang et al., 2018).

    Parameters
    ----------
    waves : Tensor, shape (batch, n_samples)
    labels : Tensor, shape (batch, n_classes)
    share : float
        Probability of each to be mixed; drawn from torch's global generator, on the CPU.
    """
    batch = len(waves)
    own = torch.where(torch.rand(batch) < share, torch.rand(batch), torch.ones(batch)).to(waves.device)[:, None]
    others = torch.randperm(batch).to(waves.device)
    return own * waves + (1 - own) * waves[others], own * labels + (1 - own) * labels[others]


def exchanged(embedded: torch.Tensor, labels: torch.Tensor, first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Give half of the embeddings the first branch of another clip; labels become thrice as wide (FeatEx).

    Parameters
    ----------
    embedded : Tensor, shape (batch, width)
    labels : Tensor, shape (batch, n_classes)
    first : int
        Width of the first branch.

    Returns
    -------
    Tensor, shape (batch, width)
    Tensor, shape (batch, 3 * n_classes)
        What was left alone is of the first classes; what was exchanged half of the second, by whose branch it got, half
        of the third, by whose it kept.
    """
    batch = len(embedded)
    others = torch.randperm(batch).to(embedded.device)
    chosen = (torch.rand(batch) < 0.5).to(embedded.device)[:, None]
    mixed_up = torch.cat([embedded[others, :first], embedded[:, first:]], dim=1)
    alone = torch.cat([labels, torch.zeros_like(labels), torch.zeros_like(labels)], dim=1)
    both = torch.cat([torch.zeros_like(labels), 0.5 * labels[others], 0.5 * labels], dim=1)
    return torch.where(chosen, mixed_up, embedded), torch.where(chosen, both, alone)
