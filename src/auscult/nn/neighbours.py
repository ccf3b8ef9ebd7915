"""Embeddings of healthy segments, and how far from the nearest of its class another is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Neighbours:
    """Embeddings that are known, of several classes.

    Attributes
    ----------
    embeddings : Tensor, shape (n_segments, width)
    classes, clips : Tensor of int, shape (n_segments,)
        The class of each, and the number of the clip it is from.
    """

    embeddings: torch.Tensor
    classes: torch.Tensor
    clips: torch.Tensor

    @classmethod
    def of(cls, embeddings: Sequence[torch.Tensor], classes: Sequence[int]) -> Neighbours:
        """Gather those of clips, each (n_segments, width), with the classes of the clips."""
        counts = torch.tensor([len(some) for some in embeddings])
        numbers = torch.arange(len(counts))
        return cls(
            torch.cat(list(embeddings)),
            torch.tensor(list(classes)).repeat_interleave(counts),
            numbers.repeat_interleave(counts),
        )

    def squared_distances(self, embeddings: torch.Tensor, own: int, *, learnt: bool = False) -> torch.Tensor:
        """Squared distance to the nearest of a class, shape (batch,); differentiable.

        Parameters
        ----------
        embeddings : Tensor, shape (batch, width)
            All of one clip.
        own : int
            The class.
        learnt : bool
            Whether the clip may be among those known. The one nearest to it, which is then itself, is left out; if
            there is no other, all distances are 0.
        """
        mine = self.classes == own
        known, clips = self.embeddings[mine], self.clips[mine]
        squares = (embeddings[:, None] - known[None]).square().sum(-1)
        if learnt:
            itself = clips[squares.amin(0).argmin()]
            squares = squares[:, clips != itself]
            if squares.shape[1] == 0:
                return embeddings.new_zeros(len(embeddings))
        return squares.amin(1)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of it, by name."""
        return {"embeddings": self.embeddings, "classes": self.classes, "clips": self.clips}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> Neighbours:
        """What `tensors` gave.

        Raises
        ------
        KeyError
            If one is missing.
        """
        return cls(tensors["embeddings"], tensors["classes"], tensors["clips"])
