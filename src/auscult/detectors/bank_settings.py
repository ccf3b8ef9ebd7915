"""Settings of the memory bank."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator, model_validator

from auscult.detectors.bank_views import VIEWS
from auscult.detectors.base import DetectorConfig


class BankConfig(DetectorConfig):
    """Settings of the memory bank. All defaults are ours, chosen on synthetic machines (see docs/bank.md).

    Attributes
    ----------
    views : str
        Ways of summing up a clip, joined by "+": level, peak, loudest, quietest, spread, jumps, rhythm.
    bands : int
        Bands in which neighbours are looked for; at most the mel bands there are.
    band_weights : tuple of float, optional
        How much each band counts, from the lowest to the highest; 0 leaves it out. Default: all alike.
    neighbours : {"both", "overall", "bands"}
        Distance to the clip nearest in all bands together; to those nearest in each band; or the mean of the two.
    k : int
        Neighbours whose mean distance counts.
    whitening : bool
        Whether statistics are whitened within each band, or only scaled. Tokens are always only scaled.
    normalisation : {"excess", "ratio", "raw"}
        What a distance becomes, by the distances of the bank's own clips when left out: log(1 + exp z), where z is
        how many of their standard deviations it lies above their mean; its ratio to their mean; itself.
    fusion : {"rms", "mean", "max"}
        From views to the clip's score.
    folds : int
        In how many groups clips are left out.
    most_clips : int
        Clips that are kept at most, drawn at random.
    domains : {"auto", "off"}
        Whether the training clips' domains, where they have several, are judged each by its own usual distance.
    encoder : str, optional
        Path of an encoder file (`auscult convert-encoder`): its tokens are heard instead of log-mels, in the views
        content and events; `views` is then of no use.
    encoder_layer : int, optional
        Blocks of the encoder after which tokens are taken. Default: half of them, as GenRep (2024) found the
        fourth and fifth of twelve to tell most; chosen neither on test clips nor on ours.
    """

    views: str = Field(
        default="level+loudest+quietest+spread+jumps+rhythm", description="ways of summing up a clip, joined by +"
    )
    bands: PositiveInt = Field(default=16, description="bands in which neighbours are looked for")
    band_weights: tuple[NonNegativeFloat, ...] | None = Field(
        default=None, description="how much each band counts, from the lowest up; null for all alike"
    )
    neighbours: Literal["both", "overall", "bands"] = Field(
        default="both", description="nearest in all bands together, in each band, or the mean of the two"
    )
    k: PositiveInt = Field(default=1, description="neighbours averaged")
    whitening: bool = Field(default=True, description="whether statistics are whitened within each band")
    normalisation: Literal["excess", "ratio", "raw"] = Field(
        default="excess", description="what a distance becomes by those of the bank's own clips"
    )
    fusion: Literal["rms", "mean", "max"] = Field(default="rms", description="from views to the score")
    folds: int = Field(default=20, ge=2, description="in how many groups the bank's clips are left out")
    most_clips: PositiveInt = Field(default=500, description="clips that are kept at most, drawn at random")
    domains: Literal["auto", "off"] = Field(
        default="auto",
        description="judge each domain of the training clips by its own distances, where there are several",
    )
    encoder: str | None = Field(
        default=None, description="an encoder file (`auscult convert-encoder`) to listen with; null for log-mels"
    )
    encoder_layer: NonNegativeInt | None = Field(
        default=None, description="blocks of the encoder after which tokens are taken; null for half of them"
    )

    @field_validator("views")
    @classmethod
    def _views_exist(cls, views: str) -> str:
        names = views.split("+")
        if len(set(names)) < len(names) or not set(names) <= VIEWS.keys():
            raise ValueError(f"views are {', '.join(VIEWS)}, each at most once, joined by +")
        return views

    @field_validator("encoder")
    @classmethod
    def _encoder_is_found_from_everywhere(cls, encoder: str | None) -> str | None:
        return encoder and str(Path(encoder).expanduser().absolute())

    @model_validator(mode="after")
    def _weights_fit(self) -> BankConfig:
        if self.band_weights is not None and (len(self.band_weights) != self.bands or not any(self.band_weights)):
            raise ValueError(f"band_weights are {self.bands} numbers, one for each band, not all of them 0")
        return self
