"""What `multires` compares a clip with: the embeddings that are known of its machine type, in their domains."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from auscult.corpus.clip import Clip
from auscult.detectors.multires_settings import MultiresConfig
from auscult.nn.balancing import balance
from auscult.nn.density import related
from auscult.nn.domains import Reference, groups_of, usual_distances

_HELD = 0.1
_FEWEST_TO_HOLD = 5
"""A tenth of a class's clips is held back, unless there are fewer clips than these."""

_LEAST = 1e-12
"""Distances of a network that has hardly learnt are this small."""

_TAUGHT_ASKED = 50
"""Clips that taught the networks, of which it is asked how far they lie from the others."""

_PRIOR_CLIPS = 10
_PRIOR_SPREAD = 0.5
"""A spread of logarithms, and as how many clips' it counts: few clips say little of their own. Ours, as two thirds of
the synthetic machines' clips lie within a factor of e^0.5 of their mean."""


@dataclass
class Known:
    """Embeddings of training clips, and whose they are.

    Attributes
    ----------
    embeddings : Tensor, shape (n_known, n_networks, width)
        Directions of the clips' crops.
    owners : Tensor of int64, shape (2, n_known)
        The number of each one's machine type, and of its clip.
    types : list of str
        The machine types.
    clips, domains : list of str
        The path of each clip, and its domain: empty where none is told.
    held : frozenset of str
        The paths of those that taught the networks nothing.
    """

    embeddings: torch.Tensor
    owners: torch.Tensor
    types: list[str]
    clips: list[str]
    domains: list[str]
    held: frozenset[str] = frozenset()
    _usual: dict[tuple[str, MultiresConfig], torch.Tensor] = field(default_factory=dict, repr=False)
    _references: dict[tuple[str, MultiresConfig], Reference] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, clips: Sequence[Clip], embedded: Sequence[torch.Tensor], held: frozenset[str] = frozenset()) -> Known:
        """Gather what is known of clips, their crops embedded to (n_crops, n_networks, width) each."""
        types = sorted({clip.machine_type for clip in clips})
        counts = torch.tensor([len(one) for one in embedded])
        numbers = torch.arange(len(clips)).repeat_interleave(counts)
        kinds = torch.tensor([types.index(clip.machine_type) for clip in clips]).repeat_interleave(counts)
        return cls(
            torch.cat(list(embedded)).clone(),
            torch.stack([kinds, numbers]),
            types,
            [clip.path for clip in clips],
            [clip.domain for clip in clips],
            held,
        )

    def nearest(self, clip: Clip, embedded: torch.Tensor, config: MultiresConfig, *, learnt: bool) -> torch.Tensor:
        """Distance of a clip's crops to the nearest known of the same type, (n_crops, n_networks).

        Parameters
        ----------
        clip : Clip
        embedded : Tensor, shape (n_crops, n_networks, width)
        config : MultiresConfig
            What it is judged by.
        learnt : bool
            Whether the clip may be among those known. It is left out then, unless there is no other.
        """
        reference = self.reference(clip.machine_type, config)
        if learnt and clip.path in self.clips:
            reference = self._without(self.clips.index(clip.path), reference, config)
        return reference.nearest(embedded.transpose(0, 1), apart).T

    def usual(self, kind: str, config: MultiresConfig) -> torch.Tensor:
        """Mean and spread, (2,), of the logarithm of left-out distances of a machine type's clips.

        Of those held back, if there are any: those that taught the networks mostly lie nearer to one another than new
        clips do to them. Yet the few that are held back may be twins of others: the mean is not below that of those
        that taught. The spread is that of both, each about its own mean. Ours.
        """
        key = (kind if kind in self.types else "", config)
        if key not in self._usual:
            own = sorted(set(self.owners[1][self.own(kind)].tolist()))
            held = [clip for clip in own if self.clips[clip] in self.held]
            taught = [clip for clip in own if self.clips[clip] not in self.held]
            reference = self.reference(kind, config)
            groups = [
                torch.stack([self._left_out(clip, reference, config) for clip in group])
                for group in (held, taught[:: max(1, len(taught) // _TAUGHT_ASKED)])
                if group and len(own) > 1
            ]
            self._usual[key] = _usual(groups)
        return self._usual[key]

    def _left_out(self, clip: int, reference: Reference, config: MultiresConfig) -> torch.Tensor:
        """Logarithm of the mean distance of a known clip's crops to the others."""
        own = self.embeddings[self.owners[1] == clip].transpose(0, 1)
        return logarithm(self._without(clip, reference, config).nearest(own, apart).double().mean())

    def reference(self, kind: str, config: MultiresConfig) -> Reference:
        """What clips of a machine type are compared with: all that is known where the type is not."""
        key = (kind if kind in self.types else "", config)
        if key not in self._references:
            # Also for maps, whose gradients want none of the tensors that are made in inference mode.
            with torch.inference_mode(False), torch.no_grad():
                self._references[key] = self._make(self.own(kind), config)
        return self._references[key]

    def own(self, kind: str) -> torch.Tensor:
        """Which embeddings a clip of a machine type is compared with, (n_known,)."""
        if kind not in self.types:
            return torch.ones(self.owners.shape[1], dtype=torch.bool)
        return self.owners[0] == self.types.index(kind)

    def _make(self, own: torch.Tensor, config: MultiresConfig) -> Reference:
        embeddings, clips = self.embeddings[own], self.owners[1][own]
        items, parts = embeddings.transpose(0, 1), clips[:, None].expand(-1, 2)
        groups = groups_of([self.domains[clip] for clip in clips.tolist()]) if config.domains == "auto" else None
        if groups is not None:
            between = balance(items, parts, groups, apart)
            items = normalize(between.grown(embeddings), dim=2).transpose(0, 1)
            parts, groups = between.grown_parts(parts, groups)
        usual = usual_distances(items, parts, groups, apart, k=1, density=config.density)
        return Reference(items, parts, usual, config.density_form)

    def _without(self, clip: int, reference: Reference, config: MultiresConfig) -> Reference:
        kept = ~related(torch.tensor([[clip]]), reference.parts)[0]
        return reference.only(kept, apart, density=config.density) if kept.any() else reference

    def tensors(self) -> dict[str, torch.Tensor]:
        """What is kept in a model, by name."""
        return {"known.embeddings": self.embeddings, "known.owners": self.owners}

    def facts(self) -> dict[str, Any]:
        """What else is kept; domains where there are any."""
        told: dict[str, Any] = {"domains": self.domains} if any(self.domains) else {}
        told |= {"held": sorted(self.held)} if self.held else {}
        return {"types": self.types, "learnt": self.clips, **told}

    @classmethod
    def restored(cls, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> Known:
        """What `tensors` and `facts` gave.

        Raises
        ------
        KeyError, TypeError, ValueError
            If something is missing, or is not what it should be.
        """
        clips = [str(path) for path in facts["learnt"]]
        domains = [str(domain) for domain in facts.get("domains", [""] * len(clips))]
        if len(domains) != len(clips):
            raise ValueError("clips and their domains are not as many")
        types = [str(kind) for kind in facts["types"]]
        held = frozenset(str(path) for path in facts.get("held", []))
        return cls(tensors["known.embeddings"], tensors["known.owners"], types, clips, domains, held)


def chosen(clips: Sequence[Clip], most: int, seed: int) -> list[Clip]:
    """So many clips of each machine type at the most, drawn by a seed; of each type in their order."""
    rng = np.random.default_rng(seed)
    kinds = np.array([clip.machine_type for clip in clips])
    kept = (
        sorted(rng.permutation(np.flatnonzero(kinds == kind))[:most].tolist()) for kind in sorted(set(kinds.tolist()))
    )
    return [clips[k] for some in kept for k in some]


def held_back(labels: Sequence[Hashable], seed: int) -> list[int]:
    """Numbers of clips of which the networks are taught nothing: a tenth of each class, of five clips or more."""
    by_class: dict[Hashable, list[int]] = {}
    for number, label in enumerate(labels):
        by_class.setdefault(label, []).append(number)
    rng = np.random.default_rng(seed)
    held = [
        rng.choice(own, max(1, round(_HELD * len(own))), replace=False)
        for own in by_class.values()
        if len(own) >= _FEWEST_TO_HOLD
    ]
    return sorted(np.concatenate(held).tolist()) if held else []


def logarithm(distance: torch.Tensor) -> torch.Tensor:
    """Of a distance: how large it is differs by orders of magnitude from one network and machine to the next."""
    return distance.clamp(min=_LEAST).log()


def _usual(groups: Sequence[torch.Tensor]) -> torch.Tensor:
    """Greatest of the groups' means, and their spread about these, (2,); nothing is far where there is no group."""
    mean = torch.stack([group.mean() for group in groups]).amax() if groups else torch.zeros((), dtype=torch.float64)
    squares = torch.cat([*(group - group.mean() for group in groups), mean.new_zeros(0)]).square()
    prior = _PRIOR_CLIPS * _PRIOR_SPREAD**2
    return torch.stack([mean, ((squares.sum() + prior) / (len(squares) + _PRIOR_CLIPS)).sqrt()])


def apart(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """One minus the cosine between directions, (…, n, width) and (…, m, width): (…, n, m).

    By their differences: a product of nearly equal directions is 1 in 32 bits, whatever their angle.
    """
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist").square() / 2
