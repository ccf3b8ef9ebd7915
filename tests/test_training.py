"""The loop: order, budget, interruption, resumption bit for bit, and refusal of nonsense."""

import functools
import math
import operator
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from auscult import training
from auscult.errors import AuscultError, TrainingInterrupted
from auscult.nn.clipping import AutoClip
from auscult.training import Plan, Run, train


class Rows:
    """Examples that remember who asked for them."""

    def __init__(self, n: int, width: int = 4) -> None:
        self.values = torch.randn(n, width, generator=torch.Generator().manual_seed(1))
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.values)

    def gather(self, indices: torch.Tensor) -> torch.Tensor:
        self.asked.append(indices.tolist())
        return self.values[indices]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 4))


def loss(net: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    noisy = batch + 0.01 * torch.randn_like(batch)
    return nn.functional.mse_loss(net(noisy), batch)


def convolution() -> nn.Module:
    """Parameters that lie in memory channels last, which a checkpoint does not keep."""
    torch.manual_seed(0)
    layers = nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2, padding=1), nn.ReLU(), nn.Conv2d(3, 1, 2), nn.Flatten()
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def run_training(
    plan: Plan,
    rows: Rows | None = None,
    run: Run | None = None,
    seed: int = 3,
    build: Callable[[], nn.Module] = network,
) -> tuple[nn.Module, training.TrainingLog]:
    net = build()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, fused=True)
    log = train(net, loss, rows or Rows(50), optimizer, plan, seed=seed, run=run)
    return net, log


def test_every_example_once_an_epoch_in_another_order() -> None:
    rows = Rows(50)
    _, log = run_training(Plan(3, 16), rows)
    assert log.steps == 12
    assert len(log.losses) == 3
    assert log.losses[-1] < log.losses[0]
    epochs = [functools.reduce(operator.iadd, rows.asked[4 * e : 4 * e + 4], []) for e in range(3)]
    assert all(sorted(e) == list(range(50)) for e in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_last_batch_of_one_is_left_out() -> None:
    rows = Rows(33)
    assert run_training(Plan(2, 16), rows)[1].steps == 4
    assert {len(batch) for batch in rows.asked} == {16}


def test_same_seed_same_network_and_the_callers_randomness_is_untouched() -> None:
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    first = run_training(Plan(2, 16))[0]
    state = torch.get_rng_state()
    second = run_training(Plan(2, 16))[0]
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    other = run_training(Plan(2, 16), seed=4)[0]
    assert not torch.equal(other[0].weight, first[0].weight)
    torch.manual_seed(123)
    assert torch.equal(torch.rand(3), expected)
    assert state is not None


@pytest.mark.parametrize("stop_at", [1, 3, 4, 7, 11])
@pytest.mark.parametrize("build", [network, convolution])
def test_resumption_is_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int, build: Callable[[], nn.Module]
) -> None:
    def plan() -> Plan:
        return Plan(3, 16, schedule=lambda step: min(1.0, step / 5), clip=AutoClip(10))

    whole, whole_log = run_training(plan(), build=build)
    checkpoint = tmp_path / "model.checkpoint"
    save, steps = training._Loop._save, []

    def step_and_stop(self: training._Loop, indices: torch.Tensor) -> float:
        value = step(self, indices)
        steps.append(value)
        if len(steps) == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return value

    step = training._Loop._step
    monkeypatch.setattr(training._Loop, "_step", step_and_stop)
    with pytest.raises(TrainingInterrupted, match=f"step {stop_at} of 12.*--resume"):
        run_training(plan(), run=Run(checkpoint=checkpoint, identity="x"), build=build)
    monkeypatch.setattr(training._Loop, "_step", step)
    assert checkpoint.exists()
    assert save is training._Loop._save
    resumed, log = run_training(plan(), run=Run(checkpoint=checkpoint, resume=True, identity="x"), build=build)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert log.losses == whole_log.losses
    assert log.steps == 12


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = tmp_path / "c"
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setenv("AUSCULT_CHECKPOINT_SECONDS", "0")
    run_training(Plan(3, 16), run=Run(checkpoint=checkpoint, identity="one"))
    assert checkpoint.exists()
    with pytest.raises(AuscultError, match="other data, settings or seed"):
        run_training(Plan(3, 16), run=Run(checkpoint=checkpoint, resume=True, identity="two"))
    checkpoint.write_bytes(b"nonsense")
    with pytest.raises(AuscultError, match="no checkpoint of auscult"):
        run_training(Plan(3, 16), run=Run(checkpoint=checkpoint, resume=True, identity="one"))


def test_limits() -> None:
    assert run_training(Plan(100, 16, max_steps=7))[1].stopped == "steps"
    assert run_training(Plan(100, 16, max_steps=7))[1].steps == 7
    assert run_training(Plan(2, 16, max_steps=700))[1].stopped == "finished"
    log = run_training(Plan(10**6, 16, budget=0.3))[1]
    assert log.stopped == "budget"
    assert 0.3 <= log.seconds < 3


def test_a_loss_that_is_no_number_stops_with_an_explanation() -> None:
    class Bad(Rows):
        def gather(self, indices: torch.Tensor) -> torch.Tensor:
            batch = super().gather(indices)
            return batch * math.nan if len(self.asked) == 3 else batch

    with pytest.raises(AuscultError, match=r"step 3: the loss is nan.*learning_rate"):
        run_training(Plan(2, 16), Bad(50))


def test_too_few_examples() -> None:
    with pytest.raises(AuscultError, match="too few training windows"):
        run_training(Plan(1, 16), Rows(1))


def test_devices() -> None:
    assert training.choose_device("cpu") == "cpu"
    assert training.choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(AuscultError, match="no device 'tpu'"):
        training.choose_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none() -> None:
    with pytest.raises(AuscultError, match="no CUDA device"):
        run_training(Plan(1, 16), run=Run(device="cuda"))


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    outcome: list[int] = []
    thread = threading.Thread(target=lambda: outcome.append(run_training(Plan(1, 16))[1].steps))
    thread.start()
    thread.join()
    assert outcome == [4]


def test_a_fixed_norm_is_kept_to() -> None:
    net = network()
    norms = []

    class Watch(torch.optim.SGD):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            norms.append(float(nn.utils.get_total_norm([p.grad for p in net.parameters()])))
            super().step()

    train(net, loss, Rows(50), Watch(net.parameters(), lr=0.1), Plan(1, 16, clip=0.05), seed=0)
    assert max(norms) <= 0.05 * 1.001
