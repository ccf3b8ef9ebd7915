"""Aggregation, clipping and dense layers against slow references."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auscult.nn.aggregation import aggregate, check_aggregation
from auscult.nn.clipping import AutoClip
from auscult.nn.dense import dense_stack

scores = st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=40)


@settings(max_examples=100, deadline=None)
@given(values=scores, k=st.integers(1, 50), share=st.floats(0.5, 100), power=st.floats(0.5, 20))
def test_aggregation_is_its_definition(values: list[float], k: int, share: float, power: float) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    down = sorted((float(v) for v in tensor), reverse=True)
    assert aggregate(tensor) == pytest.approx(np.mean(down), rel=1e-9)
    assert aggregate(tensor, "max") == down[0]
    assert aggregate(tensor, f"top-{k}") == pytest.approx(np.mean(down[:k]), rel=1e-9)
    n = max(1, round(len(down) * float(f"{share:.2f}") / 100))
    assert aggregate(tensor, f"top-{share:.2f}%") == pytest.approx(np.mean(down[:n]), rel=1e-9)
    p = float(f"{power:.3f}")
    scaled = np.array(down) / (down[0] or 1)
    assert aggregate(tensor, f"power-{p}") == pytest.approx(down[0] * np.mean(scaled**p) ** (1 / p), rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(values=scores, rule=st.sampled_from(["mean", "max", "top-3", "top-20%", "power-4"]))
def test_aggregates_lie_within_the_scores_and_ignore_order(values: list[float], rule: str) -> None:
    tensor = torch.tensor(values)
    value = aggregate(tensor, rule)
    assert min(values) * (1 - 1e-6) <= value <= max(values) * (1 + 1e-6)
    assert aggregate(tensor.flip(0), rule) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("rule", ["", "median", "top-0", "top-", "top-0%", "top-101%", "power-0", "mean "])
def test_rules_that_are_none(rule: str) -> None:
    with pytest.raises(ValueError, match=r"aggregation|power"):
        check_aggregation(rule)


def test_autoclip_is_the_percentile_of_all_norms_so_far() -> None:
    rng = np.random.default_rng(0)
    norms = rng.lognormal(size=200)
    clip = AutoClip(10)
    for i, norm in enumerate(norms):
        assert clip.threshold(float(norm)) == pytest.approx(np.percentile(norms[: i + 1], 10))


def test_autoclip_clips_and_survives_a_checkpoint() -> None:
    parameter = torch.nn.Parameter(torch.zeros(4))
    clip = AutoClip(10)
    for norm in (1.0, 2.0, 3.0):
        clip.threshold(norm)
    again = AutoClip(10)
    again.restore(clip.state())
    parameter.grad = torch.full((4,), 5.0)
    again([parameter])
    assert float(parameter.grad.norm()) == pytest.approx(np.percentile([1, 2, 3, 10], 10), rel=1e-4)


def test_dense_stack_is_the_baselines() -> None:
    torch.manual_seed(0)
    stack = dense_stack(640, [128] * 4 + [8] + [128] * 4, 640)
    assert sum(p.numel() for p in stack.parameters()) == 267_928
    assert sum(b.numel() for n, b in stack.named_buffers() if "running" in n) == 269_992 - 267_928
    norms = [m for m in stack if isinstance(m, torch.nn.BatchNorm1d)]
    assert {(m.momentum, m.eps) for m in norms} == {(0.01, 1e-3)}
    first = stack[0].weight
    assert float(first.detach().abs().max()) == pytest.approx((6 / (640 + 128)) ** 0.5, rel=1e-3)
    assert not stack[0].bias.any()
    per_id = dense_stack(640, [128] * 3 + [8] + [128] * 3, 640, "xavier-relu")
    assert sum(p.numel() for p in per_id.parameters()) == 234_392
    assert torch.equal(per_id[0].bias, torch.full((128,), 0.01))
