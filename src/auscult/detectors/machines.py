"""What detectors share that learn to tell machines apart: which machines there are, and whose a clip is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from auscult.corpus.clip import Clip
from auscult.detectors.base import DetectorConfig
from auscult.detectors.network import NetworkDetector
from auscult.errors import AudioError, AuscultError

Machine = tuple[str, str]
"""Machine type and ID."""


class MachineDetector(NetworkDetector):
    """A network that tells machines apart.

    Attributes
    ----------
    machines : list of (str, str)
        Those it has learnt, sorted; empty until fitted.
    """

    def __init__(self, config: DetectorConfig | None = None) -> None:
        super().__init__(config)
        self.machines: list[Machine] = []

    def class_of(self, clip: Clip) -> int:
        """The number of a clip's machine.

        Raises
        ------
        AudioError
            If there was no such machine in training.
        """
        machine = machine_of(clip)
        if machine not in self.machines:
            known = ", ".join(" ".join(one) for one in self.machines)
            raise AudioError(
                f"{clip.path}: {self.name} has not learnt a machine {' '.join(machine)}",
                f"say which of {known} it is, in a manifest, or fit with its clips too",
            )
        return self.machines.index(machine)

    def several_machines(self, clips: Sequence[Clip]) -> list[Machine]:
        """The machines of some clips, sorted.

        Raises
        ------
        AuscultError
            If there is only one: there is nothing to tell apart.
        """
        machines = sorted({machine_of(clip) for clip in clips})
        if len(machines) < 2:
            raise AuscultError(
                f"{self.name} learns what tells machine IDs apart, and all {len(clips)} clips are of one",
                "give clips of several IDs (in a manifest, or with --outliers DATA); knn, ae and pae need one only",
            )
        return machines

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The network's weights, and the machines it knows."""
        return super().state()[0], {"machines": [list(machine) for machine in self.machines]}

    def restore(self, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Load weights into a new network for the machines it was fitted on; see `NetworkDetector.restore`."""
        try:
            self.machines = [(str(kind), str(number)) for kind, number in facts["machines"]]
        except (KeyError, TypeError, ValueError) as error:
            raise AuscultError(f"the model's tensors do not fit {self.name}", "fit it again") from error
        super().restore(tensors, facts)


def machine_of(clip: Clip) -> Machine:
    """Type and ID of a clip's machine."""
    return clip.machine_type, clip.machine_id
