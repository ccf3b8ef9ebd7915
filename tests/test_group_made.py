"""Group MADE, its masks and its densities, against Jacobians and slow references."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auscult.corpus import Clip
from auscult.detectors.group_made import GroupMADE, GroupMADEConfig, GroupMADENetwork
from auscult.detectors.registry import create
from auscult.errors import AuscultError
from auscult.features import FrontEnd
from auscult.nn.masked import MaskedLinear, cycled_degrees, hidden_mask, made_masks, output_mask
from auscult.nn.mixture import Mixture, n_outputs
from auscult.store import LogMels, Store
from conftest import machine_sound

RATE = 16_000
QUICK: dict[str, object] = {"width": 64, "max_steps": 20, "batch_size": 32, "components": 3}
OUTPUTS = ("gaussian", "mixture")


def clip(samples: np.ndarray, name: str = "clip") -> Clip:
    return Clip(name, samples=samples.astype(np.float32), rate=RATE)


def swelling_noise(n: int) -> list[Clip]:
    """Noise whose level rises and falls by 15 dB twice a second or so: frames tell of their neighbours' level."""
    rng = np.random.default_rng(0)
    time = np.arange(2 * RATE) / RATE
    levels = [15 * np.sin(2 * np.pi * ((1.5 + 0.1 * k) * time + rng.random())) for k in range(n)]
    return [clip(0.02 * 10 ** (level / 20) * rng.standard_normal(len(time)), f"c{k}") for k, level in enumerate(levels)]


def untrained(**values: object) -> GroupMADE:
    """A detector with random weights and statistics."""
    torch.manual_seed(0)
    detector = create("group-made", "paper", {"width": 64, "components": 3, **values})
    assert isinstance(detector, GroupMADE)
    network = detector.build().eval()
    assert isinstance(network, GroupMADENetwork)
    network.standardise.mean.normal_(-40, 5)
    network.standardise.std.uniform_(2, 8)
    detector.network = network
    return detector


def sees(config: GroupMADEConfig, n_mels: int = 3) -> np.ndarray:
    """Which frame's outputs depend on which frame's inputs, by the Jacobian, shape (frames, frames)."""
    torch.manual_seed(0)
    network = GroupMADENetwork(n_mels, config).double()
    # ReLU units may be off at a point: a union over several points.
    total = torch.zeros(config.frames, config.frames, dtype=torch.float64)
    for point in torch.randn(5, 1, config.frames * n_mels, dtype=torch.float64):
        jacobian = torch.autograd.functional.jacobian(lambda x: network(x)[0], point)
        total += jacobian.abs().view(config.frames, -1, config.frames, n_mels).sum(dim=(1, 3))
    return total.numpy() > 0


# Masks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("hidden_layers", [1, 3])
def test_the_centre_sees_the_other_four_and_the_first_sees_nothing(output: str, hidden_layers: int) -> None:
    config = GroupMADEConfig(width=32, output=output, components=2, hidden_layers=hidden_layers)  # type: ignore[arg-type]
    assert config.ranks().tolist() == [1, 2, 5, 3, 4]
    expected = np.zeros((5, 5), bool)
    expected[2, [0, 1, 3, 4]] = True
    expected[1, [0]] = True
    expected[3, [0, 1]] = True
    expected[4, [0, 1, 3]] = True
    np.testing.assert_array_equal(sees(config), expected)


@settings(max_examples=20, deadline=None)
@given(data=st.data(), frames=st.sampled_from([3, 5, 7]), layers=st.integers(1, 3))
def test_any_order_sees_exactly_what_comes_before(data: st.DataObject, frames: int, layers: int) -> None:
    order = tuple(data.draw(st.permutations(range(frames))))
    config = GroupMADEConfig(frames=frames, order=order, width=48, hidden_layers=layers)
    ranks = config.ranks().numpy()
    assert [order[rank - 1] for rank in ranks] == list(range(frames))
    np.testing.assert_array_equal(sees(config), ranks[None, :] < ranks[:, None])


def test_the_default_order_given_by_hand_is_the_same() -> None:
    assert torch.equal(GroupMADEConfig(order=(0, 1, 3, 4, 2)).ranks(), GroupMADEConfig().ranks())


def test_masks_by_degrees() -> None:
    degrees = cycled_degrees(6, 5)
    assert degrees.tolist() == [1, 2, 3, 4, 1, 2]
    ranks = torch.tensor([1, 5, 2])
    assert hidden_mask(ranks, degrees)[1].tolist() == [True, False, True]
    assert output_mask(degrees, ranks).tolist() == [
        [False] * 6,
        [True] * 6,
        [True, False, False, False, True, False],
    ]


@settings(max_examples=40, deadline=None)
@given(ranks=st.permutations(range(1, 7)), width=st.integers(5, 30), layers=st.integers(0, 3))
def test_masks_of_a_plain_made_connect_what_is_earlier_and_only_that(ranks: list[int], width: int, layers: int) -> None:
    """The product of the masks counts the paths: above zero exactly where the input is earlier."""
    order = torch.tensor(ranks)
    masks = made_masks(order, [cycled_degrees(width, 6)] * layers, order)
    paths = torch.eye(6, dtype=torch.int64)
    for mask in masks:
        paths = mask.long() @ paths
    assert torch.equal(paths > 0, order[:, None] > order)


def test_a_masked_layer_is_a_linear_layer_with_holes() -> None:
    torch.manual_seed(0)
    mask = torch.rand(7, 5) > 0.5
    layer = MaskedLinear(5, 7, mask)
    x = torch.randn(4, 5)
    torch.testing.assert_close(layer(x), x @ (layer.weight * mask).T + layer.bias)
    torch.testing.assert_close(layer(x, slice(2, 5)), layer(x)[:, 2:5])
    layer(x).square().sum().backward()
    assert layer.weight.grad is not None
    assert not layer.weight.grad[~mask].any()
    assert set(layer.state_dict()) == {"weight", "bias"}
    with pytest.raises(ValueError, match="shape"):
        MaskedLinear(7, 5, mask)


# Densities ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("components", [1, 4])
def test_likelihoods_equal_torchs(components: int) -> None:
    from torch.distributions import Categorical, MixtureSameFamily, Normal

    torch.manual_seed(0)
    outputs, values = torch.randn(50, n_outputs(components)) * 2, torch.randn(50) * 3
    mixture = Mixture.read(outputs, components)
    parts = outputs.split(components, dim=1)
    normal = Normal(parts[0], parts[1].clamp(-5, 5).exp())
    weights = Categorical(logits=parts[2] if components > 1 else torch.zeros(50, 1))
    expected = -MixtureSameFamily(weights, normal).log_prob(values)
    torch.testing.assert_close(mixture.nll(values), expected, rtol=1e-4, atol=1e-4)


def test_a_gaussians_surprise_is_half_the_squared_distance_in_sigmas() -> None:
    means, log_sigmas, values = torch.randn(3, 40).unbind()
    gaussian = Mixture.read(torch.stack([means, log_sigmas], dim=1), 1)
    expected = (values - means) ** 2 / (2 * log_sigmas.exp() ** 2)
    torch.testing.assert_close(gaussian.surprise(values), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        gaussian.surprise(values), gaussian.nll(values) - gaussian.nll(means), rtol=1e-4, atol=1e-5
    )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), components=st.integers(1, 6), scale=st.floats(0.1, 20))
def test_surprise_is_never_negative_and_orders_values_as_likelihood_does(
    seed: int, components: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(1, n_outputs(components), generator=generator) * scale
    values = torch.linspace(-30, 30, 41)
    mixture = Mixture.read(outputs.expand(41, -1), components)
    nll, surprise = mixture.nll(values), mixture.surprise(values)
    assert (surprise >= 0).all()
    difference = nll - surprise
    torch.testing.assert_close(difference, difference[:1].expand(41), rtol=1e-4, atol=1e-3 * float(nll.abs().max()))


def test_equal_components_are_one_gaussian() -> None:
    one = Mixture.read(torch.tensor([[0.5, -1.0]]), 1)
    three = Mixture.read(torch.tensor([[0.5, 0.5, 0.5, -1.0, -1.0, -1.0, 0.0, 2.0, -3.0]]), 3)
    value = torch.tensor([0.9])
    torch.testing.assert_close(one.nll(value), three.nll(value))
    torch.testing.assert_close(one.surprise(value), three.surprise(value))


@pytest.mark.parametrize("components", [1, 3])
def test_densities_stay_finite_at_the_limits(components: int) -> None:
    for log_sigma in (-1e6, 1e6):
        outputs = torch.zeros(4, n_outputs(components))
        outputs[:, components : 2 * components] = log_sigma
        outputs.requires_grad_()
        mixture = Mixture.read(outputs, components)
        values = torch.tensor([0.0, 1e-3, 300.0, -300.0])
        nll = mixture.nll(values)
        assert torch.isfinite(nll).all()
        assert torch.isfinite(mixture.surprise(values)).all()
        nll.sum().backward()
        assert outputs.grad is not None
        assert torch.isfinite(outputs.grad).all()


# The detector -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({}, 640 * 512 + 512 + 2 * (512 * 512 + 512) + 512 * 1280 + 1280),
        ({"output": "mixture"}, 640 * 512 + 512 + 2 * (512 * 512 + 512) + 512 * 19_200 + 19_200),
        ({"hidden_layers": 4}, 640 * 512 + 512 + 3 * (512 * 512 + 512) + 512 * 1280 + 1280),
    ],
)
def test_parameter_counts(values: dict[str, object], count: int) -> None:
    assert create("group-made", "paper", values).n_parameters() == count


def test_the_default_settings() -> None:
    config = create("group-made").config.model_dump()
    assert (config["frames"], config["output"], config["components"], config["score"]) == (5, "gaussian", 10, "centre")
    assert (config["hidden_layers"], config["width"], config["learning_rate"]) == (3, 512, 1e-3)
    assert (config["batch_size"], config["epochs"], config["max_steps"], config["autoclip"]) == (512, 100, None, None)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("score", ["centre", "full"])
def test_score_and_map_equal_a_slow_reference(output: str, score: str) -> None:
    """Window by window, each layer with its mask, each bin's density in plain arithmetic."""
    detector = untrained(output=output, score=score, frames=3)
    network = detector.network
    assert isinstance(network, GroupMADENetwork)
    logmel = detector.logmel(clip(machine_sound(1, seconds=0.3)))
    k = 3 if output == "mixture" else 1
    n, judged = len(logmel), [1] if score == "centre" else [0, 1, 2]
    z = (logmel - network.standardise.mean) / network.standardise.std
    total, count, scores = torch.zeros(n, 128), torch.zeros(n, 1), []
    with torch.inference_mode():
        for start in range(n - 2):
            x = z[start : start + 3].reshape(-1)
            for layer in [*network.hidden, network.density]:
                x = x.relu() if isinstance(layer, torch.nn.ReLU) else (layer.weight * layer.mask) @ x + layer.bias
            numbers = x.view(3, 128, -1)
            nlls = []
            for frame in judged:
                means, log_sigmas = numbers[frame, :, :k], numbers[frame, :, k : 2 * k].clamp(-5, 5)
                weights = numbers[frame, :, 2 * k :].softmax(1) if k > 1 else torch.ones(128, 1)
                sigmas = log_sigmas.exp()
                distances = (z[start + frame][:, None] - means) / sigmas
                peaks = (weights / (sigmas * math.sqrt(2 * math.pi))).log().double()
                log_density = torch.full((128,), -math.inf, dtype=torch.float64)
                for component in range(k):
                    at_value = peaks[:, component] - distances[:, component].double() ** 2 / 2
                    log_density = torch.logaddexp(log_density, at_value)
                nlls.append(-log_density)
                total[start + frame] += (peaks.exp().sum(1).log() - log_density).float()
                count[start + frame] += 1
            scores.append(float(torch.stack(nlls).mean()))
        expected = total / count.clamp(min=1)
        if score == "centre":
            expected[0], expected[-1] = expected[1], expected[-2]
        assert detector.score_logmel(logmel) == pytest.approx(np.mean(scores), rel=1e-4)
        torch.testing.assert_close(detector.map_logmel(logmel), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("output", OUTPUTS)
def test_only_what_is_judged_is_computed_and_it_is_the_same(output: str) -> None:
    network = untrained(output=output).network
    assert isinstance(network, GroupMADENetwork)
    windows = torch.randn(4, 640) * 10 - 40
    outputs, values = network(windows)
    some, some_values = network(windows, range(2, 3))
    assert outputs.shape == (4, 5, 128, n_outputs(3 if output == "mixture" else 1))
    assert some.shape == (4, 1, *outputs.shape[2:])
    torch.testing.assert_close(some, outputs[:, 2:3])
    torch.testing.assert_close(some_values, values[:, 2:3])


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("score", ["centre", "full"])
def test_the_map_is_never_negative_and_the_score_may_be(output: str, score: str, tmp_path: Path) -> None:
    sounds = [clip(machine_sound(k, seconds=0.6), f"c{k}") for k in range(3)]
    detector = create("group-made", "quick", {**QUICK, "output": output, "score": score})
    detector.fit(sounds, store=Store(tmp_path))
    for c in (*sounds, clip(np.zeros(RATE)), clip(machine_sound(9, faulty=True))):
        assert (detector.anomaly_map(c) >= 0).all()


def test_the_score_is_negative_where_the_network_is_sure() -> None:
    detector = untrained()
    network = detector.network
    assert isinstance(network, GroupMADENetwork)
    with torch.no_grad():
        network.density.weight.zero_()
        network.density.bias.copy_(torch.tensor([0.0, -3.0]).repeat(640))
    logmel = network.standardise.mean.expand(20, 128)
    with torch.inference_mode():
        assert detector.score_logmel(logmel) == pytest.approx(math.log(2 * math.pi) / 2 - 3, rel=1e-5)
        torch.testing.assert_close(detector.map_logmel(logmel), torch.zeros(20, 128), atol=1e-5, rtol=0)


@pytest.mark.parametrize("output", OUTPUTS)
def test_it_learns_a_conditional_better_than_the_marginal(output: str, tmp_path: Path) -> None:
    """A standardised Gaussian band has 1.42 nats on its own; of noise that swells, the neighbours tell the level."""
    clips = swelling_noise(8)
    detector = create(
        "group-made", "quick", {"frames": 3, "width": 64, "components": 3, "max_steps": 150, "output": output}
    )
    log = detector.fit(clips[:-1], store=Store(tmp_path))
    assert log.losses[-1] < 1.2
    assert detector.score(clips[-1:])[0] < 1.2


@pytest.mark.parametrize("output", OUTPUTS)
def test_saved_and_restored_it_scores_the_same(output: str, tmp_path: Path) -> None:
    clips = [clip(machine_sound(k, seconds=0.6), f"c{k}") for k in range(3)]
    detector, again = (create("group-made", "quick", {**QUICK, "output": output}) for _ in range(2))
    detector.fit(clips, store=Store(tmp_path))
    again.restore(*detector.state())
    np.testing.assert_array_equal(again.score(clips), detector.score(clips))
    np.testing.assert_array_equal(again.anomaly_map(clips[0]), detector.anomaly_map(clips[0]))


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize(
    "samples",
    [
        np.sign(np.sin(np.arange(RATE) * 0.1)),
        np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE),
        np.r_[np.zeros(RATE // 2), machine_sound(5, seconds=0.5)],
    ],
    ids=["square wave", "pure tone", "half silent"],
)
def test_extreme_training_clips_give_finite_scores(output: str, samples: np.ndarray, tmp_path: Path) -> None:
    """Bands that never change: the densities narrow to their limit and no further."""
    detector = create("group-made", "quick", {**QUICK, "output": output, "max_steps": 60})
    log = detector.fit([clip(samples, "extreme")], store=Store(tmp_path))
    assert np.isfinite(log.losses).all()
    assert all(torch.isfinite(tensor).all() for tensor in detector.state()[0].values())
    judged = [clip(samples), clip(machine_sound(1)), clip(np.zeros(RATE))]
    assert np.isfinite(detector.score(judged)).all()


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_constant_band_in_training_gives_finite_scores(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bin that never changes among others that do."""
    collect = Store.collect

    def flattened(self: Store, clips: Sequence[Clip], front_end: FrontEnd) -> LogMels:
        logmels = collect(self, clips, front_end)
        spectra = [np.where(np.arange(128) == 60, np.float32(-160), spectrum) for spectrum in logmels.spectra]
        return LogMels(logmels.clips, spectra)

    monkeypatch.setattr(Store, "collect", flattened)
    detector = create("group-made", "quick", {**QUICK, "output": output, "max_steps": 60})
    log = detector.fit([clip(machine_sound(1))], store=Store(tmp_path))
    assert np.isfinite(log.losses).all()
    assert np.isfinite(detector.score([clip(machine_sound(2))])).all()
    assert np.isfinite(detector.anomaly_map(clip(machine_sound(2)))).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frames": 4}, "frames.*odd"),
        ({"order": [0, 1, 2, 3]}, "order names each frame from 0 to 4 once"),
        ({"order": "[0,1,2,3,3]"}, "order names each frame from 0 to 4 once"),
        ({"output": "laplace"}, "output"),
        ({"components": 1}, "components"),
        ({"score": "edge"}, "score"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(AuscultError, match=message):
        create("group-made", "paper", values)


def test_the_order_may_come_from_the_command_line() -> None:
    config = create("group-made", "paper", {"order": "[4,3,2,1,0]"}).config
    assert isinstance(config, GroupMADEConfig)
    assert config.ranks().tolist() == [5, 4, 3, 2, 1]
