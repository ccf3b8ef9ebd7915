"""Integrated gradients: the axioms they are known for."""

import pytest
import torch
from torch import nn

from auscult.nn.attribution import integrated_gradients


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Softplus(), nn.Linear(16, 1), nn.Flatten(0)).eval()


def test_shares_sum_to_the_difference_of_scores() -> None:
    net, inputs, baseline = network(), 3 * torch.randn(5, 12), torch.randn(12)
    shares = integrated_gradients(net, inputs, baseline, steps=32)
    assert shares.shape == inputs.shape
    torch.testing.assert_close(shares.sum(1), (net(inputs) - net(baseline[None])).detach(), rtol=1e-4, atol=1e-4)


def test_a_kinked_network_is_complete_in_the_limit() -> None:
    """ReLU and maxima: gradients jump along the line, and more points catch the jumps."""
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64))
    inputs, baseline = torch.randn(20, 12), torch.zeros(12)

    def score(x: torch.Tensor) -> torch.Tensor:
        return layers(x).amax(1)

    def gap(steps: int) -> float:
        apart = integrated_gradients(score, inputs, baseline, steps).sum(1) - score(inputs) + score(baseline[None])
        return float(apart.detach().abs().max())

    gaps = [gap(steps) for steps in (4, 16, 64)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[1] < 0.05


def test_of_a_quadratic_form_it_is_exact() -> None:
    """For x'Ax + b'x the integral is known: (x - x0) (A (x + x0) + b), with A symmetric."""
    torch.manual_seed(2)
    a, b = torch.randn(6, 6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    a = a + a.T
    inputs, baseline = torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    shares = integrated_gradients(lambda x: ((x @ a) * x).sum(1) + x @ b, inputs, baseline, steps=2)
    torch.testing.assert_close(shares, (inputs - baseline) * ((inputs + baseline) @ a + b))


def test_what_does_not_matter_or_does_not_differ_has_no_share() -> None:
    net = network()
    with torch.no_grad():
        net[0].weight[:, 3] = 0
    inputs, baseline = torch.randn(4, 12), torch.randn(12)
    inputs[:, 7] = baseline[7]
    shares = integrated_gradients(net, inputs, baseline)
    assert not shares[:, [3, 7]].any()
    assert shares[:, :3].all()


def test_an_input_is_explained_alone_and_from_inference_mode() -> None:
    net, inputs, baseline = network(), torch.randn(4, 12), torch.randn(12)
    together = integrated_gradients(net, inputs, baseline)
    with torch.inference_mode():
        alone = integrated_gradients(net, inputs[2:3] * 1, baseline * 1)
    torch.testing.assert_close(alone, together[2:3])
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_of_a_linear_score_any_number_of_points_will_do(steps: int) -> None:
    weights, inputs = torch.randn(2, 5), torch.randn(3, 2, 5)
    shares = integrated_gradients(lambda x: (x * weights).sum((1, 2)), inputs, torch.zeros(2, 5), steps)
    torch.testing.assert_close(shares, inputs * weights)
