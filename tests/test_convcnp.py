"""The convolutional neural process: what it hears, what it must not hear, and what it shares with `anp`."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from auscult.corpus import Clip
from auscult.detectors.anp_base import NeuralProcess
from auscult.detectors.convcnp import ConvCNP
from auscult.detectors.registry import create
from auscult.errors import AuscultError
from auscult.nn import masks
from auscult.nn.hidden_bins import at
from auscult.nn.masks import Partition
from auscult.nn.mixture import Mixture
from auscult.nn.set_convolution import SetConvolution
from auscult.nn.unet import BandUNet
from auscult.store import Store
from conftest import machine_sound

RATE = 16_000
TINY = {"kernels": 2, "widths": [4, 6, 4]}
SCORINGS = list(product(("rrc", "idnn", "boot"), ("likelihood", "mse", "surprise")))


def clip(samples: np.ndarray, name: str = "clip") -> Clip:
    return Clip(name, samples=samples.astype(np.float32), rate=RATE)


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    """Every weight moved: blocks that start as the identity would hide mistakes."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return network


def untrained(**settings: object) -> ConvCNP:
    torch.manual_seed(0)
    detector = create("convcnp", "paper", {**TINY, **settings})
    assert isinstance(detector, ConvCNP)
    detector.network = shaken(detector.build()).eval()
    return detector


def sound(n_frames: int, seed: int = 0) -> torch.Tensor:
    """A log-mel in dB about 0, shape (n_frames, 128)."""
    return torch.randn(n_frames, 128, generator=torch.Generator().manual_seed(seed)) * 2


# The set convolution ------------------------------------------------------------------------------------


def slow_set_convolution(kernel: np.ndarray, values: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bin by bin: what share of the kernel lies on given bins, and the mean of their values by its weights."""
    kernel = np.abs(kernel) / np.abs(kernel).sum()
    reach = [size // 2 for size in kernel.shape]
    density, signal = np.zeros_like(values), np.zeros_like(values)
    for frame, band in np.ndindex(*values.shape):
        weights = []
        for f, b in np.ndindex(*kernel.shape):
            i, j = frame + f - reach[0], band + b - reach[1]
            if 0 <= i < values.shape[0] and 0 <= j < values.shape[1] and given[i, j]:
                weights.append((kernel[f, b], values[i, j]))
        density[frame, band] = sum(w for w, _ in weights)
        if weights:
            signal[frame, band] = sum(w * v for w, v in weights) / density[frame, band]
    return density, signal


@pytest.mark.parametrize("size", [(5, 9), (3, 3), (1, 5)])
def test_density_and_signal_equal_a_slow_reference(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = SetConvolution(3, size)
    with torch.no_grad():
        layer.kernels[1] *= -1
    values = torch.randn(2, 1, 5, 14)
    given = (torch.rand(2, 1, 5, 14) < 0.6).float()
    with torch.inference_mode():
        density, signal = layer(values, given)
    for window, kernel in product(range(2), range(3)):
        expected = slow_set_convolution(
            layer.kernels[kernel, 0].detach().numpy(), values[window, 0].numpy(), given[window, 0].numpy()
        )
        np.testing.assert_allclose(density[window, kernel], expected[0], atol=1e-5)
        np.testing.assert_allclose(signal[window, kernel], expected[1], rtol=1e-4, atol=1e-5)


def test_density_is_one_where_all_is_given_and_nothing_where_nothing_is() -> None:
    layer = SetConvolution(4, (5, 9))
    values, given = torch.randn(1, 1, 30, 40), torch.ones(1, 1, 30, 40)
    given[:, :, 15:] = 0
    with torch.inference_mode():
        density, signal = layer(values, given)
        constant = layer(torch.full_like(values, 7.0), given)[1]
    torch.testing.assert_close(density[:, :, 2:13, 4:36], torch.ones(1, 4, 11, 32))
    assert (density[:, :, 17:] == 0).all()
    assert (signal[:, :, 17:] == 0).all()
    # A mean of sevens is seven, at the edges and beside what is hidden too.
    torch.testing.assert_close(constant[:, :, :17], torch.full((1, 4, 17, 40), 7.0))


# The network --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_bands", [128, 40, 13, 5])
def test_the_u_net_takes_any_number_of_bands_and_reaches_across_them(n_bands: int) -> None:
    torch.manual_seed(0)
    network = shaken(BandUNet([4, 4, 6, 6, 8, 8]))
    maps = torch.randn(2, 4, 5, n_bands)
    moved = maps.clone()
    moved[0, :, :, 0] += 10
    with torch.inference_mode():
        before, after = network(maps), network(moved)
    assert before.shape == maps.shape
    assert (before[0, :, :, -1] != after[0, :, :, -1]).any()
    assert torch.equal(before[1], after[1])


def test_hidden_bins_leak_nowhere() -> None:
    network = untrained().network
    assert network is not None
    for mask in (masks.centre_frame(5, 128), *masks.fixed_rows_and_columns(5, 128), masks.three_of_eight(5, 128)):
        window = sound(5).flatten()[None]
        sides = Partition.of(mask)
        with torch.inference_mode():
            before = network(window, sides.context, sides.target)
            for poison in (50.0, torch.nan):
                changed = window.clone()
                changed[:, mask.flatten()] += poison
                after = network(changed, sides.context, sides.target)
                assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
            given = window.clone()
            given[:, sides.context[0]] += 50
            moved = network(given, sides.context, sides.target)
        assert not torch.equal(before[1], moved[1])


def test_what_is_no_context_is_not_heard_even_if_it_is_no_target() -> None:
    network = untrained().network
    assert network is not None
    context, target = torch.arange(0, 640, 3), torch.arange(1, 640, 3)
    window = sound(5).flatten()[None]
    changed = window.clone()
    changed[:, 1::3] += 50
    changed[:, 2::3] += 50
    with torch.inference_mode():
        before, after = network(window, context, target), network(changed, context, target)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_a_shift_in_time_shifts_the_prediction() -> None:
    """Away from the ends: the kernels reach 2 frames, the one block of a U-Net of one level 2 more."""
    detector = untrained(frames=21, widths=[4])
    network = detector.network
    assert network is not None
    long = sound(24)
    mask = torch.zeros(24, 128, dtype=torch.bool)
    mask[10] = mask[:, 40] = True
    everything = torch.arange(21 * 128)
    found = []
    for first in (0, 3):
        window = long[first : first + 21].reshape(1, -1)
        context = Partition.of(mask[first : first + 21]).context
        with torch.inference_mode():
            found.append([part.view(21, 128) for part in network(window, context, everything)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one[7:17], other[4:14], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[0][1][0], found[1][1][0])


@pytest.mark.parametrize("mixture", [1, 3])
def test_a_shared_partition_equals_the_same_for_each_window(mixture: int) -> None:
    network = untrained(mixture=mixture).network
    assert network is not None
    windows = sound(20).view(4, 640)
    mask = masks.random_rows_and_columns(5, 128)
    shared, each = Partition.of(mask), Partition.of(mask.expand(4, -1, -1))
    with torch.inference_mode():
        one = network(windows, shared.context, shared.target)
        other = network(windows, each.context, each.target)
    for a, b in zip(one, other, strict=True):
        assert a.shape == (4, int(mask.sum()), mixture)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_standardised_bands_come_back_in_decibels() -> None:
    """The same network, told that the bands lie 30 dB lower and spread thrice as far."""
    network = untrained().network
    assert network is not None
    sides = Partition.of(masks.centre_frame(5, 128))
    window = sound(5).flatten()[None]
    with torch.inference_mode():
        _, means, sigmas = network(window, sides.context, sides.target)
        network.standardise.mean.fill_(-30)
        network.standardise.std.fill_(3)
        _, scaled, same = network(3 * window - 30, sides.context, sides.target)
    torch.testing.assert_close(scaled, 3 * means - 30, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(same, sigmas, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mixture", [1, 2])
def test_gradients_reach_every_weight(mixture: int) -> None:
    detector = untrained(mixture=mixture)
    network = detector.network
    assert network is not None
    detector.loss(network, sound(20).view(4, 640)).backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0, name


# Training -----------------------------------------------------------------------------------------------


def test_every_window_of_a_batch_has_a_mask_of_its_own_and_all_hide_equally_much() -> None:
    detector = untrained()
    torch.manual_seed(1)
    seen = set()
    for _ in range(30):
        sides = detector.training_partition(64)
        hidden = torch.zeros(64, 640, dtype=torch.bool).scatter(1, sides.target, True).view(64, 5, 128)
        assert not hidden.view(64, -1).gather(1, sides.context).any()
        assert sides.context.shape[1] + sides.target.shape[1] == 640
        frames, bands = hidden.all(dim=2), hidden.all(dim=1)
        assert torch.equal(hidden, frames[:, :, None] | bands[:, None, :])
        counts = {(int(f), int(b)) for f, b in zip(frames.sum(1), bands.sum(1), strict=True)}
        assert len(counts) == 1
        assert len(hidden.flatten(1).unique(dim=0)) > 1
        seen |= counts
    assert seen == set(product((1, 2), (0, 1, 2)))


def test_the_loss_is_the_likelihood_of_what_is_hidden() -> None:
    detector = untrained()
    network = detector.network
    assert network is not None
    windows = sound(20).view(4, 640)
    torch.manual_seed(8)
    loss = float(detector.loss(network, windows).detach())
    torch.manual_seed(8)
    sides = detector.training_partition(4)
    with torch.inference_mode():
        predicted = Mixture(*network(windows, sides.context, sides.target))
        assert loss == pytest.approx(float(predicted.nll(at(windows, sides.target)).mean()), rel=1e-5)


@pytest.mark.parametrize("settings", [{}, {"mixture": 2}])
def test_training_lowers_the_loss(settings: dict[str, object], tmp_path: Path) -> None:
    small = {**TINY, **settings, "frames": 3, "epochs": 10, "batch_size": 4, "warm_up_steps": 5}
    detector = create("convcnp", "paper", {**small, "learning_rate": 1e-2})
    log = detector.fit([clip(machine_sound(1, seconds=0.5))], store=Store(tmp_path))
    assert log.losses[-1] < log.losses[0] - 0.1


# What it shares with the attentive one --------------------------------------------------------------------


def test_training_is_as_of_anp_and_the_paper_is_not_said_to_have_it() -> None:
    detector, other = create("convcnp", "paper"), create("anp", "paper")
    assert isinstance(detector, NeuralProcess)
    assert isinstance(other, NeuralProcess)
    shared = ("epochs", "batch_size", "learning_rate", "warm_up_steps", "autoclip", "masking", "score_by", "score_hop")
    for setting in shared:
        assert getattr(detector.config, setting) == getattr(other.config, setting)
    assert detector.paper.startswith("ours")
    assert detector.n_parameters() == 2_496_722


def test_one_fitted_network_has_many_scores() -> None:
    fitted = untrained()
    logmel = sound(12, seed=2)
    with torch.inference_mode():
        scores = {m: fitted.rescored(masking=m[0], score_by=m[1]).score_logmel(logmel) for m in SCORINGS}
        sides = Partition.of(masks.centre_frame(5, 128))
        errors = []
        for first in range(8):
            window = logmel[first : first + 5]
            _, means, _ = fitted.network(window.reshape(1, -1), sides.context, sides.target)
            errors.append(float((window[2] - means[0, :, 0]).square().mean()))
    assert len(set(scores.values())) == len(SCORINGS)
    assert np.isfinite(list(scores.values())).all()
    assert scores["idnn", "mse"] == pytest.approx(np.mean(errors), rel=1e-4)


def test_any_mask_over_a_clip() -> None:
    detector = untrained()
    c = clip(machine_sound(3, seconds=0.6))
    shape = detector.anomaly_map(c).shape
    found = detector.predict_hidden(c, "bands:60-61,frames:7")
    mask = masks.hide(shape[1], shape[0], bands=[60, 61], frames=[7]).T.numpy()
    for values in (found.mean, found.std, found.surprise):
        np.testing.assert_array_equal(np.isfinite(values), mask)
    assert (detector.anomaly_map(c) >= 0).all()
    np.testing.assert_array_equal(detector.map_with_mask(c, mask)[mask], found.surprise[mask])


@pytest.mark.parametrize(
    "settings", [{"frames": 4}, {"near_frames": 2}, {"near_bands": 4}, {"widths": []}, {"widths": [4, 0]}]
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(AuscultError, match=f"convcnp.*{next(iter(settings))}"):
        create("convcnp", "paper", {**TINY, **settings})
