"""Invertible layers: exact log-determinants, inverses both ways, and what they begin with."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from auscult.nn.flows import (
    ActNorm,
    Chain,
    Coupling,
    Flow,
    FlowBatchNorm,
    Gaussianise,
    InvertibleConv,
    ZeroConv,
    limited,
    nll_per_dimension,
    squeeze,
    unsqueeze,
)

IMAGE = (4, 3, 2)
"""Channels, height, width of a toy."""

FLOWS: dict[str, Callable[[], Flow]] = {
    "actnorm": lambda: ActNorm(4),
    "1x1 convolution": lambda: InvertibleConv(4),
    "affine coupling": lambda: Coupling(4, 8, "affine"),
    "additive coupling": lambda: Coupling(4, 8, "additive"),
    "chain": lambda: Chain(ActNorm(4), InvertibleConv(4), Coupling(4, 8), InvertibleConv(4), Coupling(4, 8)),
}


def shaken(module: nn.Module, size: float = 0.3) -> nn.Module:
    """The module with parameters as after training: none of them zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def trained(name: str, size: float = 0.3) -> nn.Module:
    torch.manual_seed(0)
    return shaken(FLOWS[name](), size)


def jacobian(flow: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    """Of one example, shape (n, n)."""
    return torch.autograd.functional.jacobian(lambda v: flow(v[None]).flatten(), values).reshape(values.numel(), -1)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", FLOWS)
def test_log_determinants_are_those_of_the_jacobian(name: str) -> None:
    flow = trained(name)
    values = torch.randn(3, *IMAGE, generator=torch.Generator().manual_seed(1))
    _, log_det = flow(values)
    assert log_det.shape == (3,)
    assert log_det.dtype == torch.float32
    for example, claimed in zip(values, log_det.detach(), strict=True):
        _, true = torch.linalg.slogdet(jacobian(lambda v: flow(v)[0], example))
        assert float(claimed) == pytest.approx(float(true), abs=1e-4)


@pytest.mark.parametrize("name", FLOWS)
def test_there_and_back_and_back_and_there(name: str) -> None:
    flow = trained(name, 0.1)
    assert isinstance(flow, Flow)
    values = torch.randn(5, *IMAGE, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(flow.inverse(flow(values)[0]), values, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(flow(flow.inverse(values))[0], values, atol=1e-4, rtol=1e-4)


def test_a_split_is_normalised_by_its_context() -> None:
    split = shaken(Gaussianise(2, 3))
    assert isinstance(split, Gaussianise)
    values, context = torch.randn(4, 3, 2, 2), torch.randn(4, 2, 2, 2)
    latents, log_det = split(values, context)
    for k in range(4):
        full = jacobian(lambda v, k=k: split(v, context[k : k + 1])[0], values[k])
        assert float(log_det[k].detach()) == pytest.approx(float(torch.linalg.slogdet(full)[1]), abs=1e-4)
    torch.testing.assert_close(split.inverse(latents, context), values, atol=1e-4, rtol=1e-4)
    other, _ = split(values, context + 1)
    assert not torch.allclose(other, latents)


def test_batch_normalisation_counts_and_remembers() -> None:
    torch.manual_seed(0)
    norm = FlowBatchNorm(8)
    with torch.no_grad():
        norm.log_gain.uniform_(-0.5, 0.5)
        norm.shift.normal_()
    values = 3 * torch.randn(200, 8) + torch.arange(8)
    latents, log_det = norm.train()(values)
    torch.testing.assert_close(latents.mean(0), norm.shift.detach(), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std(0, correction=0), norm.log_gain.detach().exp(), atol=1e-3, rtol=1e-3)
    scale = norm.log_gain.detach().exp() / (values.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(log_det, scale.log().sum().expand(200))
    torch.testing.assert_close(norm.running_mean, 0.1 * values.mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * values.var(0, correction=0))

    norm.eval()
    kept = norm.running_mean.clone()
    latents, log_det = norm(values)
    assert torch.equal(norm.running_mean, kept)
    torch.testing.assert_close(norm(values[:1])[0], latents[:1])
    true = torch.linalg.slogdet(jacobian(lambda v: norm(v)[0], values[0]))[1]
    assert float(log_det[0].detach()) == pytest.approx(float(true), abs=1e-4)
    torch.testing.assert_close(norm.inverse(latents), values, atol=1e-3, rtol=1e-4)


def test_actnorm_is_set_by_the_first_training_batch_alone() -> None:
    torch.manual_seed(0)
    first, second = 5 * torch.randn(16, 4, 6, 6) + 2, torch.randn(16, 4, 6, 6)
    norm = ActNorm(4)
    untouched, log_det = norm.eval()(first)
    assert torch.equal(untouched, first)
    assert not log_det.any()
    latents, _ = norm.train()(first)
    std, mean = torch.std_mean(latents, dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(std, torch.ones(4), atol=1e-5, rtol=0)
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    norm(second)
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())

    again = ActNorm(4)
    again.load_state_dict(before)
    again.train()(second)
    assert torch.equal(again.shift, norm.shift), "a run that goes on must not set it anew"


def test_actnorm_leaves_a_channel_that_does_not_vary_as_it_is() -> None:
    norm = ActNorm(2).train()
    values = torch.randn(8, 2, 4, 4)
    values[:, 1] = 7.0
    latents, _ = norm(values)
    assert norm.log_gain[1].item() == 0
    assert latents[:, 1].abs().max() < 1e-6


def test_a_1x1_convolution_begins_as_a_rotation() -> None:
    conv = InvertibleConv(6)
    torch.testing.assert_close(conv.weight() @ conv.weight().T, torch.eye(6), atol=1e-5, rtol=1e-5)
    _, log_det = conv(torch.randn(2, 6, 3, 3))
    assert log_det.abs().max() < 1e-4


def test_couplings_begin_without_a_shift_and_never_touch_what_they_look_at() -> None:
    values = torch.randn(2, 4, 3, 3)
    additive, affine = Coupling(4, 8, "additive"), Coupling(4, 8, "affine")
    assert torch.equal(additive(values)[0], values)
    assert not additive(values)[1].any()
    begun = affine(values)[0]
    torch.testing.assert_close(begun[:, 2:], values[:, 2:] * torch.sigmoid(torch.tensor(2.0)))
    for coupling in (shaken(additive), shaken(affine)):
        assert torch.equal(coupling(values)[0][:, :2], values[:, :2])
    assert not shaken(Coupling(4, 8, "additive"))(values)[1].any()
    assert (shaken(Coupling(4, 8, "affine"))(values)[1] < 0).all(), "a scale is below one"


def test_a_zero_convolution_begins_with_zeros_and_learns() -> None:
    conv = ZeroConv(3, 2)
    images = torch.randn(2, 3, 4, 4)
    assert not conv(images).any()
    conv(images).sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.any()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_squeezing_moves_values_and_nothing_else(batch: int, channels: int, height: int, width: int) -> None:
    images = torch.arange(float(batch * channels * 4 * height * width)).view(batch, channels, 2 * height, 2 * width)
    squeezed = squeeze(images)
    assert squeezed.shape == (batch, 4 * channels, height, width)
    assert torch.equal(unsqueeze(squeezed), images)
    assert torch.equal(squeezed[0, :4, 0, 0], images[0, 0, :2, :2].flatten())


def test_likelihood_is_that_of_the_change_of_variables() -> None:
    torch.manual_seed(0)
    matrix, values = torch.randn(4, 4), torch.randn(6, 4)
    density = torch.distributions.MultivariateNormal(torch.zeros(4), torch.linalg.inv(matrix.T @ matrix))
    latents = values @ matrix.T
    log_det = torch.linalg.slogdet(matrix)[1].expand(6)
    expected = -density.log_prob(values) / 4
    both = nll_per_dimension([latents[:, :1], latents[:, 1:].view(6, 3, 1)], log_det)
    torch.testing.assert_close(both.float(), expected, atol=1e-4, rtol=1e-4)


def test_a_likelihood_beyond_32_bits_is_a_number() -> None:
    nll = nll_per_dimension([torch.full((1, 4), 1e25)], torch.zeros(1))
    assert float(nll) == pytest.approx(0.5e50 + math.log(2 * math.pi) / 2)


def test_logarithms_are_bent_not_cut() -> None:
    logs = torch.linspace(-50, 50, 101, requires_grad=True)
    bent = limited(logs)
    assert bent.abs().max() <= 5
    torch.testing.assert_close(limited(torch.tensor(0.1)), torch.tensor(0.1), atol=1e-4, rtol=0)
    assert limited(torch.tensor(4.0)) < limited(torch.tensor(5.0))


@pytest.mark.parametrize("name", FLOWS)
def test_log_determinants_stay_in_32_bits_under_half_precision(name: str) -> None:
    flow = trained(name)
    values = torch.randn(3, *IMAGE, generator=torch.Generator().manual_seed(3))
    exact = flow(values)[1]
    with torch.autocast("cpu", torch.bfloat16):
        latents, log_det = flow(values)
    assert log_det.dtype == latents.dtype == torch.float32
    torch.testing.assert_close(log_det, exact, atol=0.2, rtol=0.05)
