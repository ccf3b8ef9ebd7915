"""Glow: its likelihood, where its map points, and how outliers enter."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from auscult import fitting
from auscult.corpus import Clip
from auscult.detectors.glow import Glow, GlowAff, GlowNetwork, OutlierTerm
from auscult.detectors.registry import create
from auscult.errors import AuscultError
from auscult.nn.flows import ActNorm, nll_per_dimension
from auscult.store import Store
from auscult.training import Run, TrainingLog
from conftest import machine_sound

RATE = 16_000
SMALL: dict[str, Any] = {"levels": 2, "steps": 1, "width": 8, "batch_size": 8, "epochs": 50, "max_steps": 8}
KINDS = ("affine", "additive")


def clip(samples: np.ndarray, machine_id: str = "id_00") -> Clip:
    return Clip("clip", samples=samples.astype(np.float32), rate=RATE, machine_id=machine_id)


def humming(n: int, pitch: float = 180.0, first: int = 0) -> list[Clip]:
    return [clip(machine_sound(first + k, pitch=pitch)) for k in range(n)]


def glow(name: str = "glow", **changed: object) -> Glow:
    detector = create(name, "quick", SMALL | changed)
    assert isinstance(detector, Glow)
    return detector


def shaken(network: GlowNetwork, size: float = 0.1) -> GlowNetwork:
    """A network as after training: nothing about it is zero or one."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return network.eval()


# Likelihood ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coupling", KINDS)
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_log_determinants_are_those_of_the_jacobian(coupling: Any, levels: int) -> None:
    torch.manual_seed(0)
    network = shaken(GlowNetwork(levels, 2, 6, coupling))
    windows = torch.randn(2, 8, 8)
    latents, log_det = network(windows)
    assert sum(latent[0].numel() for latent in latents) == 64
    for window, claimed in zip(windows, log_det.detach(), strict=True):

        def flat(values: torch.Tensor) -> torch.Tensor:
            return torch.cat([latent.flatten() for latent in network(values[None])[0]])

        full = torch.autograd.functional.jacobian(flat, window).reshape(64, 64)  # type: ignore[no-untyped-call]
        assert float(claimed) == pytest.approx(float(torch.linalg.slogdet(full)[1]), abs=1e-3)


@pytest.mark.parametrize("coupling", KINDS)
def test_there_and_back_and_back_and_there(coupling: Any) -> None:
    torch.manual_seed(0)
    network = shaken(GlowNetwork(3, 4, 16, coupling), 0.03)
    windows = torch.randn(3, 32, 128)
    with torch.no_grad():
        latents, log_det = network(windows)
        back = network.inverse(latents)
        torch.testing.assert_close(back, windows, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(network(back)[1], log_det, atol=0.05, rtol=1e-4)
        drawn = [torch.randn_like(latent) for latent in latents]
        for latent, again in zip(drawn, network(network.inverse(drawn))[0], strict=True):
            torch.testing.assert_close(again, latent, atol=1e-3, rtol=1e-3)


def test_shapes_of_the_papers_latents() -> None:
    latents, log_det = GlowNetwork(3, 1, 8).eval()(torch.zeros(5, 32, 128))
    assert [tuple(latent.shape) for latent in latents] == [(5, 2, 64, 16), (5, 4, 32, 8), (5, 16, 16, 4)]
    assert log_det.shape == (5,)


def test_the_first_batch_sets_every_actnorm_and_the_model_remembers(tmp_path: Path) -> None:
    detector = glow()
    assert not any(v.any() for k, v in detector.build().state_dict().items() if k.endswith("initialised"))
    detector.fit(humming(2), store=Store(tmp_path))
    flags = [v for k, v in detector.state()[0].items() if k.endswith("initialised")]
    assert len(flags) == 3
    assert all(flags)
    again = glow()
    again.restore(*detector.state())
    assert again.network is not None
    before = {k: v.clone() for k, v in again.network.state_dict().items()}
    again.network.train()(torch.randn(4, 32 * 128))
    assert all(torch.equal(v, before[k]) for k, v in again.network.state_dict().items())


def test_log_determinants_stay_in_32_bits_under_half_precision() -> None:
    torch.manual_seed(0)
    network = shaken(GlowNetwork(2, 2, 8))
    windows = torch.randn(2, 32, 128)
    with torch.no_grad():
        exact = nll_per_dimension(*network(windows))
        with torch.autocast("cpu", torch.bfloat16):
            latents, log_det = network(windows)
    assert {log_det.dtype, *(latent.dtype for latent in latents)} == {torch.float32}
    torch.testing.assert_close(nll_per_dimension(latents, log_det), exact, atol=0.02, rtol=0)


# Settings -----------------------------------------------------------------------------------------------


def test_the_papers_settings() -> None:
    for name in ("glow", "glow-aff"):
        config = create(name, "paper").config.model_dump()
        assert (config["frames"], config["hop"], config["levels"], config["steps"]) == (32, 16, 3, 12)
        assert (config["width"], config["coupling"], config["batch_size"]) == (128, "affine", 64)
        assert (config["epochs"], config["learning_rate"], config["clip_norm"]) == (100, 1e-4, 5.0)
    assert (config["outlier_weight"], config["temperature"], config["warm_up"]) == (1.0, 1.0, 0.1)


def test_windows_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(AuscultError, match="divisible by 8"):
        create("glow", "paper", {"frames": 36})
    with pytest.raises(AuscultError, match="cannot halve 128 mel bands"):
        create("glow", "paper", {"levels": 8, "frames": 256}).n_parameters()


def test_additive_couplings_have_half_the_outputs() -> None:
    assert glow(coupling="additive").n_parameters() < glow().n_parameters()


# Scores and maps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_frames", "n_windows"), [(32, 1), (33, 2), (48, 2), (49, 3), (313, 19), (344, 21)])
def test_windows_cover_the_clip_to_its_end(n_frames: int, n_windows: int) -> None:
    starts = create("glow").starts(n_frames)  # type: ignore[attr-defined]
    assert len(starts) == n_windows
    assert starts[0] == 0
    assert starts[-1] == n_frames - 32
    assert all(0 < b - a <= 16 for a, b in pairwise(starts))


def test_score_and_map_equal_a_slow_reference() -> None:
    torch.manual_seed(0)
    detector = glow()
    network = detector.build()
    network.flow = shaken(network.flow)  # type: ignore[arg-type]
    detector.network = network.eval()
    c = clip(machine_sound(3, seconds=1.7))
    logmel = detector.logmel(c)
    assert (len(logmel) - 32) % 16, "the last window is out of step"
    scores, total, count = [], np.zeros((128, len(logmel))), np.zeros(len(logmel))
    with torch.inference_mode():
        for start in (0, 16, len(logmel) - 32):
            latents, log_det = detector.network(logmel[start : start + 32].reshape(1, -1))
            squares = [latent[0].double().numpy() ** 2 / 2 for latent in latents]
            energy = sum(s.sum() for s in squares)
            scores.append((energy - float(log_det[0])) / 4096 + np.log(2 * np.pi) / 2)
            window = np.zeros((128, 32))
            for side, s in zip((2, 4), squares, strict=True):
                for (_, band, frame), value in np.ndenumerate(s):
                    window[side * band : side * (band + 1), side * frame : side * (frame + 1)] += value / side**2
            assert window.sum() == pytest.approx(energy), "the map shares out the likelihood's quadratic part"
            total[:, start : start + 32] += window
            count[start : start + 32] += 1
    assert detector.score([c])[0] == pytest.approx(np.mean(scores), rel=1e-6)
    np.testing.assert_allclose(detector.anomaly_map(c), total / count, rtol=1e-4, atol=1e-6)


def test_a_change_shows_where_it_is() -> None:
    """Before training a latent hears only its own place, so bins more than that apart stay as they were."""
    torch.manual_seed(0)
    detector = glow(levels=3)
    detector.network = detector.build().eval()
    logmel = detector.logmel(clip(machine_sound(1, seconds=1.0)))
    assert len(logmel) == 32
    changed = logmel.clone()
    changed[21, 77] += 40
    with torch.inference_mode():
        difference = (detector.map_logmel(changed) - detector.map_logmel(logmel)).abs()
    frames, bands = difference.nonzero(as_tuple=True)
    assert (frames.min() >= 16, frames.max() < 24, bands.min() >= 72, bands.max() < 80) == (True,) * 4


# Outliers -----------------------------------------------------------------------------------------------


def test_the_outlier_term_is_bounded_and_gentle() -> None:
    term = OutlierTerm(weight=2.0, margin=1.0, temperature=0.5)
    for value in (1.0, 3.0):
        term.note(torch.full((4,), value, dtype=torch.float64))
    assert float(term.usual) == pytest.approx(2.0), "a mean at first"
    nll = torch.tensor([-5.0, 3.0, 50.0], dtype=torch.float64, requires_grad=True)
    costs = torch.stack([term(n[None]) for n in nll])
    expected = 2 * torch.log1p(((3.0 - nll.detach()) / 0.5).exp())
    torch.testing.assert_close(costs.detach(), expected)
    assert float(costs[2].detach()) < 1e-6, "an outlier that is unlikely enough costs nothing"
    costs.sum().backward()
    assert nll.grad is not None
    assert (nll.grad <= 0).all()
    assert nll.grad.abs().max() <= 2 / 0.5


def test_outliers_leave_the_warm_up_alone(tmp_path: Path) -> None:
    one, other = glow("glow-aff", warm_up=1), glow("glow-aff", warm_up=1)
    one.fit(humming(3), outliers=humming(2, 400), store=Store(tmp_path))
    other.fit(humming(3), outliers=humming(2, 900), store=Store(tmp_path))
    assert all(torch.equal(v, other.state()[0][k]) for k, v in one.state()[0].items())
    third = glow("glow-aff", warm_up=0.5)
    third.fit(humming(3), outliers=humming(2, 900), store=Store(tmp_path))
    assert not all(torch.equal(v, other.state()[0][k]) for k, v in third.state()[0].items())


def test_outliers_become_less_likely_and_targets_stay_likely(tmp_path: Path) -> None:
    """Outliers that one would hardly tell from the targets: a hum a little higher."""
    targets, others = humming(8), humming(8, 200)
    settings = {"max_steps": 60, "batch_size": 16}
    plain, taught = glow(**settings), glow("glow-aff", **settings)
    plain.fit(targets, store=Store(tmp_path))
    taught.fit(targets, outliers=others, store=Store(tmp_path))
    held_out = humming(4, first=100), humming(4, 200, first=100)
    (plain_normal, plain_other), (normal, other) = ([d.score(h) for h in held_out] for d in (plain, taught))
    assert (other - normal).min() > 0.5 > plain_other.mean() - plain_normal.mean()
    assert normal.mean() < plain_normal.mean() + 0.5


def test_without_outliers_it_says_so_and_names_a_detector_that_would_do(tmp_path: Path) -> None:
    for outliers in (None, []):
        with pytest.raises(AuscultError, match=r"other machines.*use glow"):
            glow("glow-aff").fit(humming(2), outliers=outliers, store=Store(tmp_path))


def test_the_other_ids_of_a_type_serve_as_outliers(tiny_plant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Clip] = []
    fit = GlowAff.fit

    def remember(self: GlowAff, train: Sequence[Clip], *, outliers: Sequence[Clip], **how: Any) -> TrainingLog:
        given.extend(outliers)
        return fit(self, train, outliers=outliers, **how)

    monkeypatch.setattr(GlowAff, "fit", remember)
    how: dict[str, Any] = {"settings": SMALL | {"max_steps": 2}, "machine_type": "pump", "machine_id": "00"}
    model = fitting.fit(tiny_plant, "glow-aff", **how)
    assert {(c.machine_id, c.split, c.condition) for c in given} == {("id_02", "train", "normal")}
    assert len(given) == 12
    assert model.provenance["machines"] == ["pump id_00"]


def test_where_there_is_one_machine_outliers_are_asked_for(tiny_plant: Path) -> None:
    for which in ({}, {"machine_type": "pump"}):
        with pytest.raises(AuscultError, match=r"something else.*--outliers DATA.*--machine-id"):
            fitting.fit(tiny_plant, "glow-aff", settings=SMALL, **which)
    with pytest.raises(AuscultError, match="something else"):
        fitting.fit(humming(2), "glow-aff", settings=SMALL)


def test_outliers_are_part_of_what_a_run_is(tiny_plant: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"settings": SMALL | {"max_steps": 2}, "machine_id": "00"}
    model = tmp_path / "m.auscult"
    fitting.fit(tiny_plant, "glow-aff", **how).save(model)
    assert fitting.is_done(model, tiny_plant, "glow-aff", **how)
    assert not fitting.is_done(model, tiny_plant, "glow-aff", **how, outliers=humming(2, 400))
    assert not fitting.is_done(model, tiny_plant, "glow-aff", **how | {"machine_id": "02"})


# Training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["glow", "glow-aff"])
def test_a_run_that_goes_on_is_the_same_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUSCULT_CHECKPOINT_SECONDS", "0")
    straight, resumed = glow(name), glow(name)
    how: dict[str, Any] = {"outliers": humming(2, 400), "store": Store(tmp_path), "seed": 1}
    straight.fit(humming(3), **how, run=Run(checkpoint=tmp_path / "c"))
    assert resumed.fit(humming(3), **how, run=Run(checkpoint=tmp_path / "c", resume=True)).steps == 8
    assert all(torch.equal(v, resumed.state()[0][k]) for k, v in straight.state()[0].items())


@pytest.mark.parametrize("trained_on", ["a square wave", "hum"])
@pytest.mark.parametrize("name", ["glow", "glow-aff"])
def test_nothing_extreme_becomes_nan(name: str, trained_on: str, tmp_path: Path) -> None:
    square = np.sign(np.sin(np.arange(2 * RATE) * 0.1))
    extremes = [np.zeros(2 * RATE), square, np.full(2 * RATE, 0.999), machine_sound(9)]
    detector = glow(name, steps=3, levels=3, max_steps=30, learning_rate=1e-2)
    sound = square if trained_on == "a square wave" else machine_sound(1)
    log = detector.fit([clip(sound)], outliers=[clip(machine_sound(2, pitch=400.0))], store=Store(tmp_path))
    assert np.isfinite(log.losses).all()
    for samples in extremes:
        assert np.isfinite(detector.score([clip(samples)])).all()
        assert np.isfinite(detector.anomaly_map(clip(samples))).all()


def test_a_constant_channel_is_not_blown_up() -> None:
    torch.manual_seed(0)
    network = GlowNetwork(3, 12, 8).train()
    network(torch.zeros(4, 32, 128))
    gains = [m.log_gain for m in network.modules() if isinstance(m, ActNorm)]
    assert all(gain.abs().max() == 0 for gain in gains)
    with torch.no_grad():
        assert nll_per_dimension(*network.eval()(torch.full((1, 32, 128), 50.0))).isfinite().all()
