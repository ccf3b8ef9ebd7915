"""Settings of the multi-resolution embedding."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from auscult.detectors.base import DetectorConfig
from auscult.nn.density import Form


class MultiresConfig(DetectorConfig):
    """Settings of the multi-resolution embedding.

    Attributes
    ----------
    seconds : float
        Length that is heard at once: shorter clips are repeated, of longer ones several crops are judged.
    labels : {"machine", "attributes"}
        Whether a class is a machine, or a machine with its attributes where the manifest has any.
    loss : {"scac", "adaproj"}
        Sub-cluster AdaCos, or AdaProj.
    centres : int
        Of each class.
    trainable : bool
        Whether they move.
    mixup : float
        Probability that a clip is mixed with another, in a random proportion.
    feature_exchange : bool
        Whether half of the embeddings get another clip's branch, which is a class of its own (FeatEx).
    density : int
        A distance is judged by the mean distance of the known clip to so many of its own neighbours, which helps where
        some conditions are scarce; 0 for none.
    density_form : {"ratio", "difference"}
        Whether that distance divides or is taken off.
    domains : {"auto", "off"}
        Whether the domains of a machine type's known clips, where they have several, are judged each by its own usual
        distance (unless `density` says otherwise), and small ones are given clips in between (SMOTE).
    seeds : int
        Networks, whose distances are averaged.
    bank : bool
        Whether a memory bank of each machine type judges too (see `bank`): it hears what tells no machines apart. Ours.
    known_clips : int
        Training clips of a machine type whose embeddings are kept.
    epochs, batch_size, learning_rate, max_steps : training
    """

    seconds: PositiveFloat = Field(default=11.0, ge=1.0, description="seconds heard at once")
    labels: Literal["machine", "attributes"] = Field(default="attributes", description="what makes a class")
    loss: Literal["scac", "adaproj"] = Field(default="scac", description="sub-cluster AdaCos, or AdaProj")
    centres: PositiveInt = Field(default=16, description="directions of each class")
    trainable: bool = Field(default=True, description="whether the directions are learnt")
    mixup: float = Field(default=0.5, ge=0, le=1, description="share of clips mixed with another")
    feature_exchange: bool = Field(
        default=False, description="exchange a branch between clips, as classes of their own"
    )
    density: int = Field(default=0, ge=0, description="neighbours by whose distance a distance is judged; 0: none")
    density_form: Form = Field(default="ratio", description="whether that distance divides or is taken off")
    domains: Literal["auto", "off"] = Field(
        default="auto", description="judge each domain of the known clips by its own distances, where there are several"
    )
    seeds: PositiveInt = Field(default=1, description="networks that are averaged")
    bank: bool = Field(default=False, description="whether a memory bank of each machine type judges too")
    known_clips: PositiveInt = Field(default=2000, description="training clips of a type that are kept")
    epochs: PositiveInt = Field(default=16, description="passes over the training clips")
    batch_size: int = Field(default=64, ge=4, description="clips in a training step")
    learning_rate: PositiveFloat = Field(default=1e-3, description="of AdamW")
    max_steps: PositiveInt | None = Field(default=None, description="end after so many steps")

    @model_validator(mode="after")
    def _a_bank_wants_ratios(self) -> MultiresConfig:
        if self.bank and self.density_form == "difference":
            raise ValueError("density_form=difference gives distances below zero: use ratio, or bank=false")
        return self
