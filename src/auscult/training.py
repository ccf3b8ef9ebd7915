"""The training loop, and nothing about any one detector.

Batches are drawn by a permutation that only the seed and the epoch determine, so a run that was stopped
goes on exactly where it was. Checkpoints are safetensors files: tensors and JSON, nothing pickled.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from auscult.errors import AuscultError, TrainingInterrupted
from auscult.files import atomic
from auscult.nn.clipping import AutoClip
from auscult.parallel import torch_threads
from auscult.progress import progress

CHECKPOINT_SECONDS = 5.0
"""At most so much work is lost to a power cut; saving takes at most a fiftieth of the time. The environment
variable AUSCULT_CHECKPOINT_SECONDS overrides it."""


Batch = TypeVar("Batch")
BatchRead = TypeVar("BatchRead", covariant=True)


class Examples(Protocol[BatchRead]):
    """Training examples that can be gathered by number."""

    def __len__(self) -> int: ...

    def gather(self, indices: torch.Tensor) -> BatchRead:
        """Return the examples with these numbers as one batch: a tensor, or a tuple of tensors."""
        ...


@dataclass(frozen=True)
class Run:
    """Circumstances of one training run, which do not change what is learnt.

    Attributes
    ----------
    device : {"auto", "cpu", "cuda"}
    threads : int
        Torch threads on the CPU.
    checkpoint : Path or None
        Where to leave the state of an unfinished run.
    resume : bool
        Whether to go on from that file if it is there.
    identity : str
        What the run is (data, settings, seed): a checkpoint of another run is refused.
    """

    device: str = "cpu"
    threads: int = 1
    checkpoint: Path | None = None
    resume: bool = False
    identity: str = ""

    def part(self, number: int) -> Run:
        """The circumstances of one of several trainings that make a run: a checkpoint of its own."""
        if self.checkpoint is None:
            return self
        return replace(self, checkpoint=self._of_part(number), identity=f"{self.identity} {number}")

    def forget_parts(self, count: int) -> None:
        """Delete the checkpoints of so many parts, once all are done."""
        for number in range(count):
            if self.checkpoint is not None:
                self._of_part(number).unlink(missing_ok=True)

    def _of_part(self, number: int) -> Path:
        assert self.checkpoint is not None
        return self.checkpoint.with_name(f"{self.checkpoint.name}.{number}")


@dataclass(frozen=True)
class Plan:
    """What one training run is to do.

    Attributes
    ----------
    epochs : int
        Passes over the examples.
    batch_size : int
    max_steps : int or None
        End after so many steps if the epochs are not done by then.
    budget : float or None
        End after so many seconds.
    schedule : callable or None
        The factor on the learning rate at a step, counted from 1.
    clip : AutoClip or float or None
        Gradient clipping: adaptive, to a fixed norm, or none.
    note : callable or None
        What is shown of the training besides its loss.
    """

    epochs: int
    batch_size: int
    max_steps: int | None = None
    budget: float | None = None
    schedule: Callable[[int], float] | None = None
    clip: AutoClip | float | None = None
    note: Callable[[], str] | None = None


@dataclass(frozen=True)
class TrainingLog:
    """What a training run did.

    Attributes
    ----------
    steps : int
    seconds : float
        Time spent training, over all resumed parts.
    losses : tuple of float
        Mean loss of each epoch, the last one perhaps not whole.
    stopped : {"finished", "steps", "budget"}
        Why it ended.
    figures : dict of str to float
        What else a detector tells of its training.
    """

    steps: int = 0
    seconds: float = 0.0
    losses: tuple[float, ...] = field(default=())
    stopped: str = "finished"
    figures: dict[str, float] = field(default_factory=dict)


def train(
    network: nn.Module,
    loss: Callable[[nn.Module, Batch], torch.Tensor],
    examples: Examples[Batch],
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    *,
    seed: int,
    run: Run | None = None,
) -> TrainingLog:
    """Train `network` in place.

    Parameters
    ----------
    network : nn.Module
    loss : callable
        From the network and a batch to a scalar.
    examples : Examples
    optimizer : Optimizer
        Over the network's parameters.
    plan : Plan
    seed : int
        Decides the order of the examples and any randomness inside `loss`.
    run : Run, optional

    Returns
    -------
    TrainingLog

    Raises
    ------
    AuscultError
        If there are too few examples, the loss becomes NaN or infinite, the device is not there, or the
        checkpoint belongs to another run.
    TrainingInterrupted
        On Ctrl-C or termination, after the checkpoint has been written.
    """
    run = run or Run()
    if len(examples) < 2:
        raise AuscultError("there are too few training windows", "give longer clips, or more of them")
    with torch.random.fork_rng(), torch_threads(run.threads), _stop_on_signal() as stop:
        torch.manual_seed(seed)
        return _Loop(network, loss, examples, optimizer, plan, seed, run).go(stop)


class _Loop:
    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[nn.Module, Any], torch.Tensor],
        examples: Examples[Any],
        optimizer: torch.optim.Optimizer,
        plan: Plan,
        seed: int,
        run: Run,
    ) -> None:
        from lightning_fabric import Fabric

        self.fabric = Fabric(accelerator=choose_device(run.device), devices=1)
        self.network, self.optimizer = self.fabric.setup(network, optimizer)
        self.raw_network, self.raw_optimizer = network, optimizer
        self.loss, self.examples, self.plan, self.seed, self.run = loss, examples, plan, seed, run
        self.base_rates = [group["lr"] for group in optimizer.param_groups]
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        n_batches, rest = divmod(len(examples), plan.batch_size)
        # Batch normalisation needs two examples; a last batch of one is left out.
        self.epoch_steps = n_batches + (rest >= 2)
        total = plan.epochs * self.epoch_steps
        self.total_steps = min(total, plan.max_steps) if plan.max_steps is not None else total
        self.stopped_by = "steps" if self.total_steps < total else "finished"
        self.step = 0
        self.seconds = 0.0
        self.losses: list[float] = []
        self.epoch_loss = 0.0

    def go(self, stop: threading.Event) -> TrainingLog:
        if self.run.resume:
            self._load()
        self.network.train()
        started = saved = time.monotonic()
        before, between = self.seconds, _checkpoint_seconds()
        pause = between
        with progress("Training", self.total_steps) as advance:
            advance(self.step)
            for indices in self._batches():
                value = self._step(indices)
                self.seconds = before + time.monotonic() - started
                advance(note=f"loss {value:.4g}{self._note()}")
                if stop.is_set():
                    self._interrupted()
                if self.plan.budget is not None and self.seconds >= self.plan.budget:
                    self.stopped_by = "budget" if self.step < self.total_steps else self.stopped_by
                    break
                if time.monotonic() - saved > pause:
                    pause = max(between, 50 * self._save())
                    saved = time.monotonic()
        self.network.eval()
        unfinished = self.step % self.epoch_steps
        losses = [*self.losses, self.epoch_loss / unfinished] if unfinished else self.losses
        return TrainingLog(self.step, self.seconds, tuple(losses), self.stopped_by)

    def _batches(self) -> Iterator[torch.Tensor]:
        """The batches still to do: each epoch's permutation is a function of seed and epoch alone."""
        while self.step < self.total_steps:
            epoch, position = divmod(self.step, self.epoch_steps)
            generator = torch.Generator().manual_seed((self.seed << 20) + epoch)
            order = torch.randperm(len(self.examples), generator=generator)
            for batch in range(position, self.epoch_steps):
                if self.step == self.total_steps:
                    return
                yield order[batch * self.plan.batch_size : (batch + 1) * self.plan.batch_size]

    def _step(self, indices: torch.Tensor) -> float:
        if self.plan.schedule is not None:
            factor = self.plan.schedule(self.step + 1)
            for group, rate in zip(self.raw_optimizer.param_groups, self.base_rates, strict=True):
                group["lr"] = rate * factor
        batch = self.fabric.to_device(self.examples.gather(indices))
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.network, batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise AuscultError(
                f"training stopped at step {self.step + 1}: the loss is {value}",
                "look for extreme recordings with `auscult index`, or lower the rate: --set learning_rate=1e-4",
            )
        self.fabric.backward(loss)
        if isinstance(self.plan.clip, AutoClip):
            self.plan.clip(self.parameters)
        elif self.plan.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.plan.clip)
        self.optimizer.step()
        self._count(value)
        return value

    def _note(self) -> str:
        # Counted only where somebody is watching.
        if self.plan.note is None or not sys.stderr.isatty():
            return ""
        return f", {self.plan.note()}"

    def _count(self, value: float) -> None:
        self.step += 1
        self.epoch_loss += value
        if self.step % self.epoch_steps == 0:
            self.losses.append(self.epoch_loss / self.epoch_steps)
            self.epoch_loss = 0.0

    def _interrupted(self) -> None:
        self._save()
        if self.run.checkpoint is None:
            raise TrainingInterrupted(f"stopped at step {self.step} of {self.total_steps}")
        raise TrainingInterrupted(
            f"stopped at step {self.step} of {self.total_steps}", "go on with the same command and --resume"
        )

    def _save(self) -> float:
        """Write the checkpoint, if one is wanted; return the seconds it took."""
        from safetensors.torch import save

        if self.run.checkpoint is None:
            return 0.0
        started = time.monotonic()
        tensors = {f"network.{k}": v for k, v in self.raw_network.state_dict().items()}
        for number, slots in self.raw_optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{k}": torch.as_tensor(v) for k, v in slots.items()}
        tensors["random"] = torch.get_rng_state()
        if isinstance(self.plan.clip, AutoClip):
            tensors["clip"] = self.plan.clip.state()
        counters = {
            "identity": self.run.identity,
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "epoch_loss": self.epoch_loss,
        }
        with atomic(self.run.checkpoint) as temporary:
            unaliased = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
            temporary.write_bytes(save(unaliased, {"auscult": json.dumps(counters)}))
        return time.monotonic() - started

    def _load(self) -> None:
        path = self.run.checkpoint
        if path is None or not path.exists():
            return
        tensors, counters = _read_checkpoint(path)
        if counters["identity"] != self.run.identity:
            raise AuscultError(
                f"{path} belongs to a run with other data, settings or seed",
                "repeat the first command's arguments, or delete the file to begin anew",
            )
        self.raw_network.load_state_dict(
            {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
        )
        slots: dict[int, dict[str, torch.Tensor]] = {}
        optimised = [parameter for group in self.raw_optimizer.param_groups for parameter in group["params"]]
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, number, slot = name.split(".", 2)
                like = optimised[int(number)]
                if value.shape == like.shape:
                    # Fused Adam goes through memory as it lies, and a parameter may lie channels last.
                    value = torch.empty_like(like, device="cpu").copy_(value)
                slots.setdefault(int(number), {})[slot] = value
        state = self.raw_optimizer.state_dict()
        self.raw_optimizer.load_state_dict({**state, "state": slots})
        torch.set_rng_state(tensors["random"])
        if isinstance(self.plan.clip, AutoClip):
            self.plan.clip.restore(tensors["clip"])
        self.step, self.seconds = counters["step"], counters["seconds"]
        self.losses, self.epoch_loss = counters["losses"], counters["epoch_loss"]


def _checkpoint_seconds() -> float:
    asked = os.environ.get("AUSCULT_CHECKPOINT_SECONDS")
    try:
        return CHECKPOINT_SECONDS if not asked else float(asked)
    except ValueError as error:
        raise AuscultError(f"AUSCULT_CHECKPOINT_SECONDS={asked} is no number of seconds", "write it as 5") from error


def _read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            counters = json.loads(file.metadata()["auscult"])
            return {name: file.get_tensor(name) for name in file.keys()}, counters  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise AuscultError(f"{path} is no checkpoint of auscult", "delete it and begin anew") from error


def choose_device(asked: str) -> str:
    """Return "cpu" or "cuda".

    Raises
    ------
    AuscultError
        If CUDA is asked for and not there.
    """
    if asked not in ("auto", "cpu", "cuda"):
        raise AuscultError(f"there is no device {asked!r}", "choose auto, cpu or cuda")
    if asked == "cuda" and not torch.cuda.is_available():
        raise AuscultError("there is no CUDA device here", "use --device cpu")
    return asked if asked != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """Turn Ctrl-C and termination into an event, looked at between steps; a second one ends at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: object) -> None:  # noqa: ARG001
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
