"""Masked autoregressive flow over four frames, one for all machines, told which machine it hears."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import nn

from auscult.corpus.clip import Clip
from auscult.detectors.base import DetectorConfig
from auscult.detectors.crops import Crops
from auscult.detectors.flow import FlowConfig, FlowDetector, Latents
from auscult.detectors.registry import register
from auscult.errors import AuscultError
from auscult.nn.flows import FlowBatchNorm, Transformed, limited, nll_per_dimension
from auscult.nn.masked import MaskedLinear, cycled_degrees, made_masks
from auscult.store import LogMels
from auscult.training import Examples

Machine = tuple[str, str]
"""Machine type and ID."""

_PAPERS_MACHINES = 41
"""IDs in the development and additional training data of DCASE 2020; what is counted before there are any data."""


class MAFConfig(FlowConfig):
    """Settings of the masked autoregressive flow.

    Attributes
    ----------
    frames : int
        Frames in a window.
    blocks : int
        Autoregressive blocks, each in the opposite order of the one before.
    hidden : int
        Units in a hidden layer; fewer than there are values in a window leave some values unheard.
    depth : {"program", "literal"}
        The paper says one hidden layer a block. The program whose words it uses builds one hidden layer and
        another after it: "program" has two, "literal" one.
    order : {"frames", "bands"}
        Whether a value depends on all bands of the frames before it, or on all frames of the bands below it.
    """

    front_end: str = Field(default="proxy-outlier", description="how a waveform becomes a log-mel")
    weight_decay: float = Field(default=1e-6, ge=0, description="of Adam")
    blocks: PositiveInt = Field(default=4, description="autoregressive blocks")
    hidden: PositiveInt = Field(default=2048, description="units in a hidden layer")
    depth: Literal["program", "literal"] = Field(default="program", description="two hidden layers a block, or one")
    order: Literal["frames", "bands"] = Field(default="frames", description="what comes first: time or frequency")


@register
class MAF(FlowDetector):
    """Density of four frames given the machine; what is unlikely of this machine is strange.

    One model for all machines, conditioned on a one-hot machine ID. Four blocks, each a MADE (512 values; hidden
    layers of 2048 units; the ID enters the first, unmasked) that shifts and scales every value by what came
    before it, in sequential order, reversed in each block; after each a batch normalisation that counts in the
    likelihood: 29 720 576 parameters for 41 machines, 12 935 168 with `depth="literal"`. Adam 1e-4, weight decay
    1e-6, batches of 512 windows from anywhere in the clips, 100 epochs, gradients no longer than 5.

    Score: negative log-likelihood per value, averaged over the non-overlapping windows (78 in ten seconds; the
    frames left over at the end are not judged). Map: half the squared latent of each bin, how far it lies from
    where all before it in the window say it should.

    A machine is its type and ID. One that was not in training is judged with no ID at all (all zeros), which is
    not what training has seen: expect higher scores. Fitted on one machine, it has no condition, and judges any clip.

    References
    ----------
    Primus, Haunschmid, Praher, Widmer, "Anomalous sound detection as a simple binary classification problem with
    careful selection of proxy outlier examples", DCASE 2020 workshop, 4.3.2. Papamakarios, Pavlakou, Murray,
    "Masked autoregressive flow for density estimation", NeurIPS 2017.

    Notes
    -----
    The paper does not give training, order within a window, or standardisation; these are ours.
    Two guards are ours: the logarithm of a scale is bent to stay within 5 of zero, and standardised values lie
    within 50 of it.
    """

    name = "maf"
    paper = "Primus et al., DCASE 2020 workshop (Papamakarios et al., 2017)"
    exports = True
    Config: ClassVar[type[DetectorConfig]] = MAFConfig
    config: MAFConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        # Ours: a minute or two on one core. A quarter of the paper's units, as few as let every value of 512 be
        # heard; ten times its rate, since there are a thousand steps and not hundreds of thousands.
        "quick": {"hidden": 512, "batch_size": 128, "learning_rate": 1e-3, "epochs": 1000, "max_steps": 1000},
    }

    def __init__(self, config: DetectorConfig | None = None) -> None:
        super().__init__(config)
        self.machines: list[Machine] | None = None

    def n_conditions(self) -> int:
        """Machines to be told apart: one need not be told."""
        n_machines = _PAPERS_MACHINES if self.machines is None else len(self.machines)
        return n_machines if n_machines > 1 else 0

    def flow(self) -> nn.Module:
        """A new flow, for as many machines as there are."""
        config = self.config
        hidden_layers = 2 if config.depth == "program" else 1
        shape = (config.frames, self.front_end.n_mels)
        by_bands = config.order == "bands"
        return MAFNetwork(shape, config.hidden, hidden_layers, config.blocks, self.n_conditions(), by_bands)

    def examples(self, logmels: LogMels) -> Examples[Any]:
        """Windows, each with its machine."""
        self.machines = sorted({_machine(clip) for clip in logmels.clips})
        crops = Crops(logmels.spectra, self.config.frames, self.examples_a_step)
        return _WithMachine(crops, torch.stack([self._one_hot(clip) for clip in logmels.clips]))

    def loss(self, network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Mean negative log-likelihood per value, each window given its machine."""
        windows, machines = batch
        return nll_per_dimension(*network(windows, machine=machines)).mean()

    def score_of(self, clip: Clip, logmel: torch.Tensor) -> float:
        """Score given the clip's machine."""
        return self._score(logmel, machine=self._one_hot(clip))

    def map_of(self, clip: Clip, logmel: torch.Tensor) -> torch.Tensor:
        """Map given the clip's machine."""
        return self._map(logmel, machine=self._one_hot(clip))

    def starts(self, n_frames: int) -> list[int]:
        """Non-overlapping windows; a rest at the end is left out."""
        return list(range(0, n_frames - self.config.frames + 1, self.config.frames))

    def place(self, squares: Latents) -> torch.Tensor:
        """Latents are where their values were."""
        return squares[0]

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The flow's weights, and the machines it knows."""
        return super().state()[0], {"machines": [list(machine) for machine in self.machines or []]}

    def restore(self, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Load weights into a new network for the machines it was fitted on; see `FlowDetector.restore`."""
        try:
            self.machines = [(str(kind), str(number)) for kind, number in facts["machines"]]
        except (KeyError, TypeError, ValueError) as error:
            raise AuscultError(
                "the model's tensors do not fit maf: it does not say which machines", "fit it again"
            ) from error
        super().restore(tensors, facts)

    def _one_hot(self, clip: Clip) -> torch.Tensor:
        """Which machine a clip is of, shape (n_conditions,); zeros for one never heard in training."""
        machine = torch.zeros(self.n_conditions())
        if len(machine) and self.machines and _machine(clip) in self.machines:
            machine[self.machines.index(_machine(clip))] = 1
        return machine


class _WithMachine:
    """Windows with the machine they were recorded of."""

    def __init__(self, crops: Crops, machines: torch.Tensor) -> None:
        self.crops, self.machines = crops, machines

    def __len__(self) -> int:
        return len(self.crops)

    def gather(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.crops.gather(indices), self.machines[self.crops.owners(indices)]


class MAFNetwork(nn.Module):
    """Blocks of MADE and batch normalisation, in alternating order.

    Parameters
    ----------
    shape : (int, int)
        Frames and bands of a window.
    hidden, hidden_layers : int
    n_blocks : int
    n_conditions : int
        Length of the condition; 0 for none.
    by_bands : bool
        Whether the order runs through all frames of a band first.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        hidden: int,
        hidden_layers: int,
        n_blocks: int,
        n_conditions: int = 0,
        by_bands: bool = False,
    ) -> None:
        super().__init__()
        n_values = shape[0] * shape[1]
        # Ranks, not values, are put in order: a latent keeps the place of its value.
        ranks = torch.arange(1, n_values + 1)
        if by_bands:
            ranks = ranks.view(shape[1], shape[0]).T.flatten()
        orders = (ranks, n_values + 1 - ranks)
        self.shape = shape
        self.blocks = nn.ModuleList(
            MADE(orders[block % 2], hidden, hidden_layers, n_conditions) for block in range(n_blocks)
        )
        self.norms = nn.ModuleList(FlowBatchNorm(n_values) for _ in range(n_blocks))

    def forward(self, windows: torch.Tensor, machine: torch.Tensor | None = None) -> tuple[Latents, torch.Tensor]:
        """Latents and log-determinants.

        Parameters
        ----------
        windows : Tensor, shape (batch, frames, n_mels)
        machine : Tensor, shape (batch, n_conditions) or (n_conditions,), optional
            Default: no machine, all zeros.

        Returns
        -------
        list of one Tensor, shape (batch, frames, n_mels)
        Tensor, shape (batch,)
        """
        values = windows.flatten(1)
        log_det = values.new_zeros(len(values), dtype=torch.float32)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            values, from_block = block(values, machine)
            values, from_norm = norm(values)
            log_det = log_det + from_block + from_norm
        return [values.view(-1, *self.shape)], log_det

    def inverse(self, latents: Latents, machine: torch.Tensor | None = None) -> torch.Tensor:
        """Windows that have these latents, in evaluation mode; one pass for each value and block."""
        values = latents[0].flatten(1)
        for block, norm in zip(reversed(self.blocks), reversed(self.norms), strict=True):
            assert isinstance(block, MADE)
            assert isinstance(norm, FlowBatchNorm)
            values = block.inverse(norm.inverse(values), machine)
        return values.view(-1, *self.shape)


class MADE(nn.Module):
    """Shift and scale each value by what the values of lower rank say (Germain et al., ICML 2015).

    Parameters
    ----------
    ranks : Tensor of int, shape (n_values,)
        Place of each value in the order, from 1.
    hidden, hidden_layers : int
    n_conditions : int
        Length of the condition, which every unit may see; 0 for none.
    """

    def __init__(self, ranks: torch.Tensor, hidden: int, hidden_layers: int, n_conditions: int = 0) -> None:
        super().__init__()
        degrees = [cycled_degrees(hidden, len(ranks))] * hidden_layers
        first, *between, last = [
            MaskedLinear(mask.shape[1], mask.shape[0], mask) for mask in made_masks(ranks, degrees, ranks.repeat(2))
        ]
        self.register_buffer("turn", ranks.argsort(), persistent=False)
        self.first = first
        self.condition = nn.Linear(n_conditions, hidden, bias=False) if n_conditions else None
        self.rest = nn.Sequential(nn.ReLU(), *(part for layer in between for part in (layer, nn.ReLU())), last)

    def forward(self, values: torch.Tensor, condition: torch.Tensor | None = None) -> Transformed:
        """Map rows, shape (batch, n_values), to latents and log-determinants."""
        mean, log_scale = self._predict(values, condition)
        return (values - mean) * (-log_scale).exp(), -log_scale.sum(1)

    def inverse(self, latents: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """Find the values one rank after another."""
        turn = self.get_buffer("turn")
        values = torch.zeros_like(latents)
        for place in turn:
            mean, log_scale = self._predict(values, condition)
            values[:, place] = latents[:, place] * log_scale[:, place].exp() + mean[:, place]
        return values

    def _predict(self, values: torch.Tensor, condition: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.first(values)
        if self.condition is not None and condition is not None:
            hidden = hidden + self.condition(condition)
        mean, log_scale = self.rest(hidden).float().chunk(2, dim=1)
        return mean, limited(log_scale)


def _machine(clip: Clip) -> Machine:
    return clip.machine_type, clip.machine_id
