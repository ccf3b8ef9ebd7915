"""The predictive autoencoder, its schedule and its standardisation, against slow references."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auscult.corpus import Clip
from auscult.detectors.pae import PAE, PredictiveAutoencoder
from auscult.detectors.registry import create
from auscult.errors import AuscultError
from auscult.features import FrontEnd
from auscult.nn.schedules import noam, warm_up
from auscult.nn.standardise import Standardise, band_statistics
from auscult.store import LogMels, Store
from conftest import machine_sound

RATE = 16_000
SMALL = {"frames": 5, "encoder_blocks": 1, "decoder_blocks": 1, "width": 32, "heads": 4, "feed_forward": 64}
QUICK = {**SMALL, "max_steps": 20, "batch_size": 32}


def clip(samples: np.ndarray, name: str = "clip") -> Clip:
    return Clip(name, samples=samples.astype(np.float32), rate=RATE)


def swelling_noise(n: int) -> list[Clip]:
    """Noise whose level rises and falls by 15 dB twice a second or so: frames tell of their neighbours' level."""
    rng = np.random.default_rng(0)
    time = np.arange(2 * RATE) / RATE
    levels = [15 * np.sin(2 * np.pi * ((1.5 + 0.1 * k) * time + rng.random())) for k in range(n)]
    return [clip(0.02 * 10 ** (level / 20) * rng.standard_normal(len(time)), f"c{k}") for k, level in enumerate(levels)]


def untrained(**values: object) -> PAE:
    """A detector with random weights and statistics."""
    torch.manual_seed(0)
    detector = create("pae", "paper", values)
    assert isinstance(detector, PAE)
    network = detector.build().eval()
    assert isinstance(network, PredictiveAutoencoder)
    network.standardise.mean.normal_(-40, 5)
    network.standardise.std.uniform_(2, 8)
    detector.network = network
    return detector


# The detector -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "count"),
    [
        # 4 blocks of 198 272 (attention 66 048, hidden layer 131 712, norms 512), embedding and prediction of
        # 16 512 each, the unseen token's 128, and 128 for each position.
        ({}, 4 * 198_272 + 2 * 16_512 + 128 + 9 * 128),
        ({"frames": 33}, 4 * 198_272 + 2 * 16_512 + 128 + 33 * 128),
        ({"bottleneck": 8}, 4 * 198_272 + 2 * 16_512 + 128 + 9 * 128 + 128 * 8 + 8 + 8 * 128 + 128),
        ({"encoder_blocks": 1, "decoder_blocks": 3}, 827_392),
    ],
)
def test_parameter_counts(values: dict[str, object], count: int) -> None:
    assert create("pae", "paper", values).n_parameters() == count


def test_the_default_settings() -> None:
    config = create("pae").config.model_dump()
    assert (config["frames"], config["encoder_blocks"], config["decoder_blocks"], config["heads"]) == (9, 2, 2, 8)
    assert (config["width"], config["feed_forward"], config["bottleneck"]) == (128, 512, None)
    assert (config["learning_rate"], config["warm_up_steps"]) == (1e-3, 4000)
    assert (config["batch_size"], config["epochs"], config["max_steps"], config["autoclip"]) == (512, 100, None, None)


@pytest.mark.parametrize("frames", [3, 5, 9, 13])
@pytest.mark.parametrize("bottleneck", [None, 4])
@pytest.mark.parametrize("training", [True, False])
def test_the_masked_frame_leaks_nowhere(frames: int, bottleneck: int | None, training: bool) -> None:
    detector = untrained(**{**SMALL, "frames": frames, "bottleneck": bottleneck})
    network = detector.network
    assert network is not None
    network.train(training)
    windows = torch.randn(6, frames * 128) * 10 - 40
    middle = slice(frames // 2 * 128, (frames // 2 + 1) * 128)
    prediction, centre = network(windows)
    changed = windows.clone()
    changed[:, middle] += 100 * torch.randn(6, 128)
    same, other = network(changed)
    assert torch.equal(prediction, same)
    assert not torch.isclose(centre, other).any()
    # And by the gradient: none with respect to the centre, some with respect to every other frame.
    windows.requires_grad_()
    network(windows)[0].square().sum().backward()
    assert windows.grad is not None
    assert not windows.grad[:, middle].any()
    others = windows.grad.view(6, frames, 128).abs().sum(dim=(0, 2))
    assert (others > 0).sum() == frames - 1


def test_the_order_of_the_context_matters() -> None:
    """Positions are told apart: the frames around the centre are not a bag."""
    detector = untrained(**SMALL)
    windows = torch.randn(3, 5, 128) * 10 - 40
    assert detector.network is not None
    here = detector.network(windows.flatten(1))[0]
    there = detector.network(windows[:, [1, 0, 2, 3, 4]].flatten(1))[0]
    assert not torch.allclose(here, there)


@pytest.mark.parametrize("frames", [5, 9])
def test_score_and_map_equal_a_slow_reference(frames: int) -> None:
    """Window by window, block by block, in plain tensor arithmetic."""
    detector = untrained(**{**SMALL, "frames": frames, "bottleneck": 6})
    network = detector.network
    assert isinstance(network, PredictiveAutoencoder)
    logmel = detector.logmel(clip(machine_sound(1, seconds=0.6)))
    n, middle = len(logmel), frames // 2
    z = (logmel - network.standardise.mean) / network.standardise.std
    errors = []
    with torch.inference_mode():
        for start in range(n - frames + 1):
            tokens = [network.embed(z[start + k]) if k != middle else network.unseen for k in range(frames)]
            x = torch.stack(tokens) + network.positions
            for block in network.encoder:
                x = slow_block(block, x)
            x = network.bottleneck(x)
            for block in network.decoder:
                x = slow_block(block, x)
            errors.append((network.predict(x[middle]) - z[start + middle]) ** 2)
        expected = torch.stack([errors[min(max(t - middle, 0), len(errors) - 1)] for t in range(n)])
        score = float(torch.stack(errors).double().mean())
        assert detector.score_logmel(logmel) == pytest.approx(score, rel=1e-4)
        torch.testing.assert_close(detector.map_logmel(logmel), expected, rtol=1e-3, atol=1e-3)


def slow_block(block: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """One transformer block of 4 heads, normalised after each sum, over (frames, width)."""
    attention = block.self_attn
    q, k, v = (attention.in_proj_weight @ x.T + attention.in_proj_bias[:, None]).T.chunk(3, dim=1)
    heads = []
    for head in range(4):
        mine = slice(head * 8, (head + 1) * 8)
        weights = (q[:, mine] @ k[:, mine].T / 8**0.5).softmax(dim=1)
        heads.append(weights @ v[:, mine])
    x = block.norm1(x + attention.out_proj(torch.cat(heads, dim=1)))
    return block.norm2(x + block.linear2(torch.nn.functional.gelu(block.linear1(x))))


def test_it_predicts_better_than_the_mean(tmp_path: Path) -> None:
    """Of standardised frames the mean has an error of one; of noise that swells, the neighbours tell the level."""
    clips = swelling_noise(8)
    detector = create("pae", "quick", {**SMALL, "max_steps": 150, "batch_size": 64, "warm_up_steps": 30})
    log = detector.fit(clips[:-1], store=Store(tmp_path))
    assert log.losses[-1] < 0.5
    assert detector.score(clips[-1:])[0] < 0.5


def test_the_statistics_come_from_the_training_clips(tmp_path: Path) -> None:
    clips = [clip(machine_sound(k, seconds=0.5 + 0.1 * k), f"c{k}") for k in range(4)]
    detector = create("pae", "quick", QUICK)
    detector.fit(clips, store=Store(tmp_path))
    frames = torch.cat([detector.logmel(c) for c in clips]).double()
    tensors, facts = detector.state()
    torch.testing.assert_close(tensors["standardise.mean"].double(), frames.mean(0), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(
        tensors["standardise.std"].double(), frames.std(0, correction=0).clamp(min=1), rtol=1e-4, atol=1e-4
    )
    again = create("pae", "quick", QUICK)
    again.restore(tensors, facts)
    np.testing.assert_array_equal(again.score(clips), detector.score(clips))


@pytest.mark.parametrize(
    "samples",
    [
        np.sign(np.sin(np.arange(RATE) * 0.1)),
        np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE),
        np.r_[np.zeros(RATE // 2), machine_sound(5, seconds=0.5)],
    ],
    ids=["square wave", "pure tone", "half silent"],
)
def test_extreme_training_clips_give_finite_scores(samples: np.ndarray, tmp_path: Path) -> None:
    detector = create("pae", "quick", QUICK)
    log = detector.fit([clip(samples, "extreme")], store=Store(tmp_path))
    assert np.isfinite(log.losses).all()
    assert all(torch.isfinite(tensor).all() for tensor in detector.state()[0].values())
    judged = [clip(samples), clip(machine_sound(1)), clip(np.zeros(RATE))]
    assert np.isfinite(detector.score(judged)).all()


def test_a_constant_band_in_training_gives_finite_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bin that never changes among others that do."""
    collect = Store.collect

    def flattened(self: Store, clips: Sequence[Clip], front_end: FrontEnd) -> LogMels:
        logmels = collect(self, clips, front_end)
        spectra = [np.where(np.arange(128) == 60, np.float32(-160), spectrum) for spectrum in logmels.spectra]
        return LogMels(logmels.clips, spectra)

    monkeypatch.setattr(Store, "collect", flattened)
    detector = create("pae", "quick", QUICK)
    log = detector.fit([clip(machine_sound(1))], store=Store(tmp_path))
    assert np.isfinite(log.losses).all()
    assert np.isfinite(detector.score([clip(machine_sound(2))])).all()
    assert np.isfinite(detector.anomaly_map(clip(machine_sound(2)))).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frames": 4}, "frames.*odd"),
        ({"frames": 1}, "frames.*odd"),
        ({"heads": 7}, "heads=7 does not divide width=128"),
        ({"warm_up_steps": 0}, "warm_up_steps"),
        ({"bottleneck": 0}, "bottleneck"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(AuscultError, match=message):
        create("pae", "paper", values)


# Schedules ----------------------------------------------------------------------------------------------


@given(steps=st.integers(1, 10_000))
def test_noam_peaks_at_the_base_rate(steps: int) -> None:
    factor = noam(steps)
    assert factor(steps) == 1.0
    assert max(factor(s) for s in {1, max(1, steps - 1), steps, steps + 1, 10 * steps}) == 1.0
    # The published formula, scaled: d^-0.5 min(s^-0.5, s steps^-1.5) over its peak.
    for s in (1, steps, 3 * steps + 7):
        assert factor(s) == pytest.approx(min(s**-0.5, s * steps**-1.5) * steps**0.5)


def test_warm_up_rises_and_stays() -> None:
    factor = warm_up(4000)
    assert [factor(s) for s in (1, 2000, 4000, 4001, 10**6)] == [1 / 4000, 0.5, 1.0, 1.0, 1.0]


def test_the_schedule_is_the_one_trained_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    plain = torch.optim.Adam.step

    def step(self: torch.optim.Adam, *args: object, **more: object) -> object:
        rates.append(self.param_groups[0]["lr"])
        return plain(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    detector = create("pae", "quick", {**QUICK, "max_steps": 6, "warm_up_steps": 4})
    detector.fit([clip(machine_sound(1))], store=Store(tmp_path))
    assert rates == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3])


# Standardisation ----------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6), level=st.floats(-1e4, 1e4), seed=st.integers(0, 99)
)
def test_streamed_statistics_equal_those_of_everything_at_once(lengths: list[int], level: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    spectra = [(level + rng.standard_normal((n, 3)) * [0.01, 1, 0]).astype(np.float32) for n in lengths]
    mean, std = band_statistics(spectra)
    everything = np.concatenate(spectra).astype(np.float64)
    np.testing.assert_allclose(mean, everything.mean(0), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(std, everything.std(0), rtol=1e-8, atol=1e-9)


def test_long_recordings_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.default_rng(0).standard_normal((100, 4)).astype(np.float32)
    monkeypatch.setattr("auscult.nn.standardise._FRAMES_AT_ONCE", 7)
    mean, std = band_statistics([frames])
    np.testing.assert_allclose(mean, frames.mean(0, dtype=np.float64), rtol=1e-10)
    np.testing.assert_allclose(std, frames.std(0, dtype=np.float64), rtol=1e-10)


def test_a_constant_band_is_divided_by_one_decibel() -> None:
    layer = Standardise(2)
    layer.learn([np.column_stack([np.full(50, -80.0), np.linspace(-50, -30, 50)]).astype(np.float32)])
    assert layer.std[0] == 1
    assert layer.std[1] > 5
    out = layer(torch.tensor([[-80.0, -40.0, -77.0, -40.0]]))
    assert out.shape == (1, 2, 2)
    torch.testing.assert_close(out[0], torch.tensor([[0.0, 0.0], [3.0, 0.0]]), atol=1e-5, rtol=0)
