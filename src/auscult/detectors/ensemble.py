"""Several detectors as one: their scores brought to one scale by what healthy clips get, then combined."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch.nn.functional import interpolate

from auscult.corpus.clip import Clip
from auscult.detectors import registry, stages
from auscult.detectors.base import Detector, DetectorConfig, require_fitted
from auscult.detectors.registry import register
from auscult.errors import AudioError, AuscultError
from auscult.features import FrontEnd
from auscult.nn.fusion import Fusion
from auscult.parallel import map_in_order
from auscult.store import Store, require_clips
from auscult.training import Run, TrainingLog

_MAPS_FOR_LEVEL = 16
"""Healthy clips whose maps tell a member's usual level."""

EVERY = "all"
"""The one group there is where clips of all machines are scaled alike."""


class Member(BaseModel):
    """A detector of an ensemble, by name, and the settings in which it differs from the preset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    detector: str
    settings: dict[str, Any] = Field(default_factory=dict)


class EnsembleConfig(DetectorConfig):
    """Settings of an ensemble.

    Attributes
    ----------
    members : sequence of name or {"detector": name, "settings": {...}}
        What it is made of. By default two that differ much, a memory that compares clips and an autoencoder that judges
        frames; ours.
    members_preset : {"quick", "paper"}
        Of the members.
    scaling : {"gamma", "rank", "raw"}
    rule : {"probability", "mean", "product", "max"}
        See `auscult.nn.fusion.Fusion`. Gamma law and probability aggregation are the paper's; "rank" with "mean" is the
        rank mean.
    scaled_by : {"all", "machine-type", "machine"}
        Whether one law scales a member's scores of all machines (machine-independent, in the paper 2 to 7 % better),
        or each machine type or machine has its own.
    """

    members: tuple[Member, ...] = Field(
        default=(Member(detector="bank"), Member(detector="ae")), min_length=1, description="what it is made of"
    )
    members_preset: Literal["quick", "paper"] = Field(default="paper", description="preset of the members")
    scaling: Literal["gamma", "rank", "raw"] = Field(default="gamma", description="how scores are brought to one scale")
    rule: Literal["probability", "mean", "product", "max"] = Field(
        default="probability", description="how scaled scores are combined"
    )
    scaled_by: Literal["all", "machine-type", "machine"] = Field(
        default="all", description="which clips one scale is made of"
    )

    @field_validator("members", mode="before")
    @classmethod
    def _names_are_members(cls, members: Any) -> Any:
        if isinstance(members, str):
            members = [name.strip() for name in members.split(",")]
        return [{"detector": one} if isinstance(one, str) else one for one in members]

    @model_validator(mode="after")
    def _no_ensembles_inside(self) -> Self:
        if any(member.detector == Ensemble.name for member in self.members):
            raise ValueError("an ensemble has no ensembles inside; name their members")
        return self


@register
class Ensemble(Detector):
    """Detectors that judge together: what several find strange, each by its own lights, is stranger.

    Each member learns from the same clips. A member's score of a clip becomes the probability f that a healthy
    clip's is lower, by a gamma law fitted to healthy clips, and the members' are combined to 1 - prod (1 - f). Scores
    are kept as -log(1 - f) throughout, which neither saturates nor ties. Fitted as one detector, the law is that of
    the training clips, as in the paper (each judged as if it had not been learnt from, where a member can); put
    together from model files by `auscult ensemble`, it is that of clips that no member has learnt from.

    Map: the members' maps, each over its usual level, averaged.

    References
    ----------
    Inoue, Vinayavekhin, Morikuni, Wang, Trong, Wood, Tatsubori, Tachibana, "Detection of anomalous sounds for machine
    condition monitoring using classification confidence", DCASE 2020 workshop: section 3.3, equations 5 and 6, and
    4.1.5, systems (i) and (ii).
    """

    name = "ensemble"
    family = "ensemble"
    paper = "Inoue et al., DCASE 2020 workshop, 3.3"
    why_no_export = "gamma laws are looked up by a library outside of torch; export its members"
    scorings = frozenset({"scaling", "rule", "scaled_by"})
    Config: ClassVar[type[DetectorConfig]] = EnsembleConfig
    config: EnsembleConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {}, "quick": {"members_preset": "quick"}}

    def __init__(self, config: DetectorConfig | None = None) -> None:
        super().__init__(config)
        preset = self.config.members_preset
        self.members = [registry.create(m.detector, preset, m.settings) for m in self.config.members]
        self.needs = frozenset().union(*(member.needs for member in self.members))
        self.front_end = self.members[0].front_end
        self.reference: np.ndarray | None = None
        self.machines: list[tuple[str, str]] = []
        self.levels = np.ones(len(self.members))
        self.fusions: dict[str, Fusion] = {}

    def depends_on(self) -> str:
        """What the members do; see `Detector.depends_on`."""
        return " ".join(filter(None, (member.depends_on() for member in self.members)))

    def make_ready(self) -> None:
        """Let every member look for what it needs; see `Detector.make_ready`."""
        for member in self.members:
            member.make_ready()

    @classmethod
    def of(cls, members: Sequence[Detector], clips: Sequence[Clip], scores: np.ndarray, **settings: Any) -> Ensemble:
        """Put fitted detectors together.

        Parameters
        ----------
        members : sequence of Detector
            Fitted; none an ensemble (see `flat`).
        clips : sequence of Clip
            Healthy clips, best such as no member has learnt from; what scores are relative to.
        scores : ndarray of float64, shape (n_members, n_clips)
            The members' scores of these.
        **settings
            `scaling`, `rule`, `scaled_by`.

        Raises
        ------
        AuscultError
            If a setting is not possible, or there is no clip.
        """
        described = [{"detector": m.name, "settings": m.config.model_dump(mode="json")} for m in members]
        made = cls(registry.validate(cls, {"members": described, "members_preset": "paper", **settings}))
        made.members, made.front_end = list(members), members[0].front_end
        made.refer_to(clips, scores)
        return made

    @property
    def outliers_of_all_types(self) -> bool:
        """Whether a member's are."""
        return any(member.outliers_of_all_types for member in self.members)

    @property
    def min_frames(self) -> int:
        """What the most demanding member needs."""
        return max(member.min_frames for member in self.members)

    def n_parameters(self) -> int:
        """All members' together."""
        return sum(member.n_parameters() for member in self.members)

    # Learning -----------------------------------------------------------------------------------

    def fit(
        self,
        train: Sequence[Clip],
        *,
        outliers: Sequence[Clip] | None = None,
        store: Store,
        budget: float | None = None,
        seed: int = 0,
        run: Run | None = None,
    ) -> TrainingLog:
        """Fit one member after the other, each with its share of the time that is left; see `Detector.fit`."""
        begun, logs = time.monotonic(), []
        for number, member in enumerate(list(self.members)):
            left = None if budget is None else max(0.0, budget - (time.monotonic() - begun))
            share = None if left is None else left / (len(self.members) - number)
            self.members[number], log = stages.fitted_along(
                member, train, store, share, seed, run, f"member{number}", outliers
            )
            logs.append(log)
        stages.forget(run, *(f"member{number}" for number in range(len(self.members))))
        logmels = store.collect(train, self.front_end)
        require_clips(logmels)
        known = [c for c, s in zip(logmels.clips, logmels.spectra, strict=True) if len(s) >= self.min_frames]
        self.refer_to(known, np.stack([member.score_learnt(known) for member in self.members]))
        return TrainingLog(
            steps=sum(log.steps for log in logs),
            seconds=sum(log.seconds for log in logs),
            losses=tuple(loss for log in logs for loss in log.losses),
            stopped="budget" if any(log.stopped == "budget" for log in logs) else "finished",
        )

    def refer_to(self, clips: Sequence[Clip], scores: np.ndarray) -> None:
        """Take the members' scores of healthy clips, (n_members, n_clips), for what others are relative to."""
        if not len(clips):
            raise AuscultError("there is no healthy clip to bring the members to one scale", "name some: --data DATA")
        self.reference = np.asarray(scores, dtype=np.float64)
        self.machines = [(clip.machine_type, clip.machine_id) for clip in clips]
        some = clips[:: max(1, len(clips) // _MAPS_FOR_LEVEL)][:_MAPS_FOR_LEVEL]
        for number, member in enumerate(self.members):
            maps = map_in_order(member.anomaly_map, some)
            self.levels[number] = max(float(np.mean([one.mean() for one in maps])), 1e-12)
        self._scale()

    def _scale(self) -> None:
        assert self.reference is not None
        groups = np.array([self._group(*machine) for machine in self.machines])
        self.fusions = {g: self._fusion(self.reference[:, groups == g]) for g in np.unique(groups)}

    def _fusion(self, reference: np.ndarray) -> Fusion:
        return Fusion(list(reference), self.config.scaling, self.config.rule)

    def _group(self, machine_type: str, machine_id: str) -> str:
        if self.config.scaled_by == "all":
            return EVERY
        return machine_type if self.config.scaled_by == "machine-type" else f"{machine_type} {machine_id}"

    # Judging ------------------------------------------------------------------------------------

    def score_of(self, clip: Clip, logmel: torch.Tensor) -> float:
        """What all members together say of the clip."""
        require_fitted(self.reference, self.name)
        group = self._group(clip.machine_type, clip.machine_id)
        if group not in self.fusions:
            raise AudioError(
                f"{clip.path}: the ensemble has no scale for {group}",
                f"it has one for {', '.join(self.fusions)}; --set scaled_by=all scales all machines alike",
            )
        heard = [member.score_of(clip, own) for member, own in self._heard(clip, logmel)]
        return float(self.fusions[group](np.array(heard, dtype=np.float64)[:, None])[0])

    def score_logmel(self, logmel: torch.Tensor) -> float:
        """The same of a log-mel alone, where no member must know whose it is and all scores have one scale."""
        require_fitted(self.reference, self.name)
        heard = [member.score_logmel(logmel) for member in self.members]
        return float(self.fusions[EVERY](np.array(heard, dtype=np.float64)[:, None])[0])

    def score_learnt(self, clips: Sequence[Clip]) -> np.ndarray:
        """Each member's as if it had not learnt from a clip; the scale is that of all."""
        require_fitted(self.reference, self.name)
        scores = np.stack([member.score_learnt(clips) for member in self.members])
        groups = np.array([self._group(clip.machine_type, clip.machine_id) for clip in clips])
        fused = np.empty(len(clips))
        for group, fusion in self.fusions.items():
            fused[groups == group] = fusion(scores[:, groups == group])
        return fused

    def reference_scores(self) -> np.ndarray:
        """Score of each healthy clip referred to, on the scale that the others of them make.

        What a threshold is set by: were a clip scaled by itself among others, it would seem less strange than a new
        one.

        Returns
        -------
        ndarray of float64, shape (n_clips,)
        """
        require_fitted(self.reference, self.name)
        assert self.reference is not None
        groups = np.array([self._group(*machine) for machine in self.machines])
        scores = np.empty(len(groups))
        for k, group in enumerate(groups):
            others = (groups == group) & (np.arange(len(groups)) != k)
            own = others if others.any() else groups == group
            scores[k] = self._fusion(self.reference[:, own])(self.reference[:, [k]])[0]
        return scores

    def map_of(self, clip: Clip, logmel: torch.Tensor) -> torch.Tensor:
        """Mean of the members' maps over their usual levels, aligned with the first member's log-mel."""
        maps = [member.map_of(clip, own) for member, own in self._heard(clip, logmel)]
        return self._average(maps, logmel)

    def map_logmel(self, logmel: torch.Tensor) -> torch.Tensor:
        """The same of a log-mel alone."""
        return self._average([member.map_logmel(logmel) for member in self.members], logmel)

    def _average(self, maps: Sequence[torch.Tensor], logmel: torch.Tensor) -> torch.Tensor:
        relative = (own.float() / level for own, level in zip(maps, self.levels.tolist(), strict=True))
        return torch.stack([_fitted_to(one, logmel) for one in relative]).mean(0)

    def findings(self, clip: Clip) -> tuple[str, ...]:
        """What the members find, each under its name."""
        return tuple(f"{member.name}: {one}" for member in self.members for one in member.findings(clip))

    def _heard(self, clip: Clip, logmel: torch.Tensor) -> list[tuple[Detector, torch.Tensor]]:
        """Each member with the log-mel that it hears; computed once for all that hear the same."""
        known = {self.front_end.model_dump_json(): logmel}
        heard = []
        for member in self.members:
            key = member.front_end.model_dump_json()
            if key not in known:
                known[key] = member.logmel(clip)
            if len(known[key]) < member.min_frames:
                raise member.too_short(clip, len(known[key]))
            heard.append((member, known[key]))
        return heard

    # Keeping ------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The members' states, and their scores of healthy clips."""
        require_fitted(self.reference, self.name)
        tensors = {"reference": torch.from_numpy(self.reference), "levels": torch.from_numpy(self.levels)}
        facts: dict[str, Any] = {"machines": [list(machine) for machine in self.machines], "members": []}
        for number, member in enumerate(self.members):
            own, about = member.state()
            tensors |= {f"{number}.{name}": tensor for name, tensor in own.items()}
            front_end = member.front_end.model_dump(mode="json")
            settings = member.config.model_dump(mode="json")
            facts["members"].append({"facts": about, "front_end": front_end, "settings": settings})
        return tensors, facts

    def restore(self, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Take over members and scores.

        Raises
        ------
        AuscultError
            If they do not fit.
        """
        try:
            members = []
            for number, (described, about) in enumerate(zip(self.config.members, facts["members"], strict=True)):
                members.append(_restored(described.detector, number, tensors, about))
            self.members, self.front_end = members, members[0].front_end
            self.reference, self.levels = tensors["reference"].numpy(), tensors["levels"].numpy()
            self.machines = [(str(kind), str(number)) for kind, number in facts["machines"]]
            if self.reference.shape != (len(members), len(self.machines)):
                raise ValueError(self.reference.shape)
        except (KeyError, TypeError, ValueError) as error:
            raise AuscultError(f"the model's tensors do not fit {self.name}", "fit it again") from error
        self._scale()


def flat(detectors: Sequence[Detector]) -> list[Detector]:
    """The same detectors, with the members of ensembles in their place."""
    return [inner for one in detectors for inner in (one.members if isinstance(one, Ensemble) else [one])]


def _restored(name: str, number: int, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> Detector:
    kind = registry.get(name)
    member = kind(registry.validate(kind, about["settings"]))
    member.front_end = FrontEnd.model_validate(about["front_end"])
    prefix = f"{number}."
    own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    member.restore(own, about["facts"])
    return member


def _fitted_to(anomaly_map: torch.Tensor, logmel: torch.Tensor) -> torch.Tensor:
    """A map stretched to the shape of a log-mel, if its member hears the clip in another resolution."""
    if anomaly_map.shape == logmel.shape:
        return anomaly_map
    return interpolate(anomaly_map[None, None], size=tuple(logmel.shape), mode="bilinear", align_corners=False)[0, 0]
