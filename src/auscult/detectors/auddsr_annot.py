"""AudDSR that is shown other machines' recordings too: what sounds like them is no healthy clip of this one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from auscult.corpus.clip import Clip
from auscult.detectors.auddsr import AudDSR, AudDSRConfig
from auscult.detectors.base import DetectorConfig, Needs
from auscult.detectors.registry import register
from auscult.errors import AuscultError


class AudDSRAnnotConfig(AudDSRConfig):
    """Settings of AudDSR with annotations.

    Attributes
    ----------
    outlier_types : {"same", "all"}
        Whether outliers that nobody names are clips of other IDs of the same type (the paper's: one model for an ID),
        or of all other machines, other types too: one model for a type has no others. Ours.
    outlier_share : float
        Share of a batch that is outliers, rounded up; half is healthy, the rest has simulated anomalies. The paper does
        not state it; a quarter makes both kinds of anomaly as frequent.
    """

    outlier_types: Literal["same", "all"] = Field(
        default="same", description="whose clips are outliers: of other IDs of the type, or of other types too"
    )
    outlier_share: float = Field(default=0.25, gt=0, lt=0.5, description="share of a batch that is outliers")


@register
class AudDSRAnnot(AudDSR):
    """As `auddsr`; recordings of other machines, anomalous from end to end, are shown to it besides.

    The U-Net is to mark them everywhere; the machine's own decoder does not learn from them. Of a batch of 16, eight
    clips are healthy, four have simulated anomalies, four are of other machines: shares that are ours, since the paper
    gives none.

    References
    ----------
    See `auddsr`; section 4.2, AudDSR_annot.
    """

    name = "auddsr-annot"
    needs = frozenset({Needs.NORMALS, Needs.OUTLIERS})
    Config: ClassVar[type[DetectorConfig]] = AudDSRAnnotConfig
    config: AudDSRAnnotConfig

    @property
    def outliers_of_all_types(self) -> bool:
        """As `outlier_types` says."""
        return self.config.outlier_types == "all"

    def outliers_in_a_batch(self) -> int:
        """As `outlier_share` says."""
        return math.ceil(self.config.outlier_share * self.config.batch_size)

    def chosen(self, train: Sequence[Clip], outliers: Sequence[Clip]) -> list[Clip]:
        """The outliers but test clips and healthy ones of the machine itself.

        Raises
        ------
        AuscultError
            If there are none.
        """
        machines = {(clip.machine_type, clip.machine_id) for clip in train}
        chosen = [
            clip
            for clip in outliers
            if clip.split != "test"
            and not (clip.condition == "normal" and (clip.machine_type, clip.machine_id) in machines)
        ]
        if not chosen:
            raise AuscultError(
                f"{self.name} learns from recordings of other machines too, and there are none",
                "give some (--outliers DATA), or use auddsr, which needs none",
            )
        return chosen
