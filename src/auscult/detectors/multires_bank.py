"""What `multires` hears beside its embedding: a memory bank of each machine type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from auscult.corpus.clip import Clip
from auscult.detectors import registry
from auscult.detectors.bank_parts import usual
from auscult.detectors.base import Detector
from auscult.detectors.multires_settings import MultiresConfig
from auscult.nn.tracing import softplus
from auscult.store import Store

_PREFIX = "bank."


@dataclass
class Banks:
    """A memory bank of each machine type.

    Attributes
    ----------
    by_type : dict of str to Detector
        A fitted `bank` each.
    """

    by_type: dict[str, Detector]

    @classmethod
    def fitted(cls, clips: Sequence[Clip], config: MultiresConfig, store: Store, seed: int) -> Banks:
        """Banks of the clips, whose log-mels are in the store."""
        banks = cls({kind: _new(config) for kind in sorted({clip.machine_type for clip in clips})})
        for kind, bank in banks.by_type.items():
            bank.fit([clip for clip in clips if clip.machine_type == kind], store=store, seed=seed)
        return banks

    def of(self, clip: Clip) -> list[Detector]:
        """The bank of a clip's machine type; all where it is not known."""
        own = self.by_type.get(clip.machine_type)
        return list(self.by_type.values()) if own is None else [own]

    def excess(self, clip: Clip, logmel: torch.Tensor) -> torch.Tensor:
        """By how much a clip is stranger than its bank's own clips left out; see `excess`."""
        return torch.stack([_above(bank, bank.score_of(clip, logmel)) for bank in self.of(clip)]).amin()

    def excess_learnt(self, clip: Clip) -> torch.Tensor:
        """The same, of a clip that a bank may hold."""
        return torch.stack([_above(bank, float(bank.score_learnt([clip])[0])) for bank in self.of(clip)]).amin()

    def map(self, clip: Clip, logmel: torch.Tensor) -> torch.Tensor:
        """In multiples of what is usual, (n_frames, n_mels)."""
        return torch.stack([bank.map_of(clip, logmel) for bank in self.of(clip)]).amin(0)

    def findings(self, clip: Clip) -> tuple[str, ...]:
        """What the bank of the clip's machine type says; nothing where that is not known."""
        own = self.by_type.get(clip.machine_type)
        return () if own is None else own.findings(clip)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that the banks hold, by the number of the type and name."""
        banks = enumerate(self.by_type.values())
        return {f"{_PREFIX}{n}.{name}": tensor for n, bank in banks for name, tensor in bank.state()[0].items()}

    @classmethod
    def restored(cls, tensors: Mapping[str, torch.Tensor], types: Sequence[str], config: MultiresConfig) -> Banks:
        """What `tensors` gave, of these machine types.

        Raises
        ------
        AuscultError
            If the tensors are none of such banks.
        """
        banks = cls({kind: _new(config) for kind in types})
        for number, bank in enumerate(banks.by_type.values()):
            prefix = f"{_PREFIX}{number}."
            bank.restore({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}, {})
        return banks

    @staticmethod
    def are_among(name: str) -> bool:
        """Whether a tensor of this name is of a bank."""
        return name.startswith(_PREFIX)


def excess(value: torch.Tensor, usual: torch.Tensor) -> torch.Tensor:
    """log(1 + e^z): z is how many spreads a distance lies above what is usual, mean and spread, (2,)."""
    return softplus((value - usual[0]) / usual[1])


def _above(bank: Detector, score: float) -> torch.Tensor:
    return excess(torch.tensor(score, dtype=torch.float64), usual(bank.state()[0]["left_out_scores"]))


def _new(config: MultiresConfig) -> Detector:
    settings = {"front_end": config.front_end, "channel": config.channel, "domains": config.domains}
    return registry.create("bank", "quick", settings)
