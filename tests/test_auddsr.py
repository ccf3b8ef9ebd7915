"""AudDSR: sizes, simulated anomalies and losses against slow references, its two stages, its scores and maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auscult import fitting, load
from auscult.corpus import Clip
from auscult.detectors.auddsr import AudDSR, _Examples
from auscult.detectors.auddsr_annot import AudDSRAnnot
from auscult.detectors.images import Images, laid, put_together
from auscult.detectors.registry import create
from auscult.detectors.vqvae import VQVAE
from auscult.errors import AuscultError
from auscult.nn.anomaly_shapes import anomaly_shapes, band_masks
from auscult.nn.dsr import Corruption, DetectionModule, DualDecoder, ObjectDecoder, drawn_codes, pooled, spread
from auscult.nn.focal import focal_loss
from auscult.nn.perlin import noise, perlin
from auscult.nn.quantiser import Quantiser
from auscult.nn.usual_map import UsualMap
from auscult.nn.vqvae import DiscreteAutoencoder
from auscult.store import Store
from auscult.training import Run
from conftest import machine_sound

RATE = 16_000
STAGE1: dict[str, Any] = {"width": 8, "codes": 16, "patience": 3, "max_steps": 4, "batch_size": 4, "frames": 32}
SMALL: dict[str, Any] = {"stage1_settings": STAGE1, "frames": 32, "width": 4, "max_steps": 4, "batch_size": 4}


def humming(n: int, seconds: float = 1.5, machine_id: str = "id_00", **more: Any) -> list[Clip]:
    return [
        Clip(
            f"clip {k}",
            samples=machine_sound(k, seconds=seconds).astype(np.float32),
            rate=RATE,
            machine_id=machine_id,
            **more,
        )
        for k in range(n)
    ]


def small(name: str = "auddsr", **changed: object) -> AudDSR:
    detector = create(name, "paper", SMALL | changed)
    assert isinstance(detector, AudDSR)
    return detector


def untrained(seed: int = 0) -> DualDecoder:
    torch.manual_seed(seed)
    return DualDecoder(DiscreteAutoencoder(8, 16), 4)


def corruption(at1: Sequence[bool], at2: Sequence[bool]) -> Corruption:
    return Corruption(torch.tensor(at1), torch.tensor(at2), torch.ones(len(at1)), torch.ones(len(at2)))


# Sizes --------------------------------------------------------------------------------------------------


def test_as_many_parameters_as_published() -> None:
    with torch.device("meta"):
        decoder, module = ObjectDecoder(128), DetectionModule(64)
    assert sum(p.numel() for p in decoder.parameters()) == 9_416_321
    assert sum(p.numel() for p in module.parameters()) == 5_608_386
    assert create("auddsr").n_parameters() == 1_920_129 + 9_416_321 + 5_608_386


def test_the_papers_settings() -> None:
    config = create("auddsr", "paper").config.model_dump()
    assert (config["max_steps"], config["batch_size"], config["learning_rate"]) == (10_000, 16, 2e-4)
    assert (config["frames"], config["width"], config["reconstruction"]) == (320, 64, 10.0)


@pytest.mark.parametrize("shape", [(128, 320), (128, 352), (32, 32)])
def test_shapes(shape: tuple[int, int]) -> None:
    network = untrained().eval()
    with torch.no_grad():
        found, unsaid = network.maps(torch.randn(1, shape[1], shape[0]))
        assert found.shape == unsaid.shape == (1, shape[1], shape[0])


# Simulated anomalies ------------------------------------------------------------------------------------


def test_perlin_noise_equals_a_slow_reference() -> None:
    """One bin after another, corner by corner."""
    torch.manual_seed(0)
    cells, turns = torch.tensor([[1.0, 8.0], [32.0, 2.0]]), torch.tensor([0.0, 1.1])
    angles = torch.rand(2, 48, 48) * 2 * math.pi
    whole = noise(cells, turns, angles, 6, 9)
    for k in range(2):
        for row in range(6):
            for column in range(9):
                down, across = (row + 0.5 - 3) / 9, (column + 0.5 - 4.5) / 9
                turn = float(turns[k])
                y = (down * math.cos(turn) + across * math.sin(turn)) * float(cells[k, 0]) + 24
                x = (across * math.cos(turn) - down * math.sin(turn)) * float(cells[k, 1]) + 24
                i, j = math.floor(y), math.floor(x)
                value = 0.0
                for a in (0, 1):
                    for b in (0, 1):
                        angle = float(angles[k, i + a, j + b])
                        slope = math.sin(angle) * (y - i - a) + math.cos(angle) * (x - j - b)
                        value += slope * fade(1 - abs(y - i - a)) * fade(1 - abs(x - j - b))
                assert float(whole[k, row, column]) == pytest.approx(math.sqrt(2) * value, abs=2e-4)


def fade(t: float) -> float:
    return 6 * t**5 - 15 * t**4 + 10 * t**3


def test_perlin_noise_stays_within_its_range_and_has_grains_of_all_sizes() -> None:
    torch.manual_seed(0)
    many = perlin(60, 32, 80)
    assert many.abs().max() <= 1 + 1e-5
    assert (many > 0.5).any()
    assert many.std() > 0.15
    roughness = many.diff(dim=2).abs().mean((1, 2))
    assert roughness.max() > 10 * roughness.min()


def test_a_band_mask_is_one_band_at_one_to_six_times_or_always() -> None:
    torch.manual_seed(0)
    masks = band_masks(400, 128, 320)
    always = 0
    for mask in masks:
        bands = mask.any(1).nonzero()[:, 0]
        assert torch.equal(bands, torch.arange(int(bands[0]), int(bands[-1]) + 1)), "neighbouring bands"
        assert 4 <= len(bands) <= 64
        assert torch.equal(mask[bands[0]], mask[bands].all(0)), "the same times in all of them"
        times = mask[bands[0]].int()
        starts = int((times.diff() == 1).sum() + times[0])
        assert 1 <= starts <= 6
        assert int(times.sum()) >= 4
        always += bool(times.all())
    assert 0.22 < always / 400 < 0.45


def test_small_images_have_masks_too() -> None:
    torch.manual_seed(0)
    assert band_masks(50, 32, 32).any((1, 2)).all()
    assert band_masks(5, 2, 3).shape == (5, 2, 3)


def test_a_perlin_mask_may_be_empty_and_shares_are_kept() -> None:
    torch.manual_seed(0)
    sizes = anomaly_shapes(200, 32, 32, 1.0).flatten(1).sum(1)
    assert (sizes == 0).any()
    assert (sizes > 0).any()
    assert anomaly_shapes(50, 32, 32, 0.0).any((1, 2)).all()


@pytest.mark.parametrize("stride", [4, 8])
def test_pooled_and_spread_masks_equal_a_slow_reference(stride: int) -> None:
    torch.manual_seed(0)
    masks = torch.rand(3, 16, 24) > 0.97
    coarse = pooled(masks, stride)
    fine = spread(coarse, stride)
    for b in range(3):
        for row in range(16):
            for column in range(24):
                top, left = row // stride * stride, column // stride * stride
                expected = bool(masks[b, top : top + stride, left : left + stride].any())
                assert bool(fine[b, row, column]) == bool(coarse[b, row // stride, column // stride]) == expected


def test_replacements_are_drawn_by_the_strength_rule() -> None:
    """From the nearest share of the codebook but for its nearest twentieth, all equally likely."""
    torch.manual_seed(0)
    quantiser = Quantiser(100, 4)
    vector = torch.randn(1, 4)
    rank_of = torch.cdist(vector, quantiser.codes)[0].argsort().argsort()
    for strength, last in ((0.2, 20), (0.555, 56), (1.0, 100)):
        drawn = drawn_codes(quantiser, vector.expand(4000, 4), torch.full((4000,), strength))
        ranks = rank_of[drawn]
        assert ranks.unique().tolist() == list(range(5, last))
        counts = torch.bincount(ranks, minlength=last)[5:]
        assert counts.max() < 2.5 * counts.min() + 20


def test_strengths_are_each_images_own(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    quantiser = Quantiser(50, 4)
    vectors = torch.randn(600, 4)
    strengths = torch.where(torch.arange(600) < 300, 0.2, 1.0)
    monkeypatch.setattr("auscult.nn.quantiser._DISTANCES_AT_ONCE", {"cpu": 50 * 64})
    ranks = torch.cdist(vectors, quantiser.codes).argsort(1).argsort(1)
    drawn = ranks.gather(1, drawn_codes(quantiser, vectors, strengths)[:, None])[:, 0]
    assert drawn.min() == 2
    assert drawn[:300].max() == 9
    assert drawn[300:].max() > 40


def test_few_codes_never_stand_in_for_themselves() -> None:
    quantiser = Quantiser(3, 2)
    vectors = torch.randn(50, 2)
    drawn = drawn_codes(quantiser, vectors, torch.full((50,), 0.2))
    assert (drawn != quantiser.nearest(vectors)).all()


def test_levels_are_drawn_in_the_papers_shares() -> None:
    torch.manual_seed(0)
    how = Corruption.drawn(4000, 0.2, torch.device("cpu"))
    assert float((how.at1 & how.at2).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert float((how.at1 & ~how.at2).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert (how.at1 | how.at2).all()
    for strength in how[2:]:
        assert 0.2 <= float(strength.min()) < 0.21 < 0.99 < float(strength.max()) <= 1


def test_what_is_corrupted_where() -> None:
    """Both levels, the coarse one alone, the fine one alone, and no mask at all."""
    network = untrained()
    general = network.general
    images = torch.randn(4, 1, 32, 64)
    masks = torch.zeros(4, 32, 64, dtype=torch.bool)
    masks[:3, 9:11, 20:30] = True
    with torch.no_grad():
        general.raise1.weight.mul_(50)
    q1, q2 = general.codes(images)
    torch.manual_seed(0)
    a1, a2, truth = network.corrupted(images, masks, corruption([True, True, False, True], [True, False, True, True]))
    coarse, fine = pooled(masks, 8), pooled(masks, 4)
    changed1, changed2 = ((a != q).any(1) for a, q in ((a1, q1), (a2, q2)))
    assert torch.equal(changed1[:2], coarse[:2])
    assert not changed1[2:].any()
    assert torch.equal(changed2[2], fine[2])
    assert not changed2[3].any(), "an empty mask leaves everything as it is"
    assert torch.equal(truth[:2], spread(coarse, 8)[:2])
    assert torch.equal(truth[2], spread(fine, 4)[2])
    assert not truth[3].any()
    # With Q1 alone, Q2 is what f1 and the new Q1 ask for.
    refined = general.refined(general.features(images)[0], a1)
    assert torch.equal(a2[1], general.quantiser2.quantise(refined)[1])
    assert changed2[1].any()
    anew = (a2 != general.quantiser2.quantise(refined)).any(1)
    assert torch.equal(anew[0], fine[0])


# Losses -------------------------------------------------------------------------------------------------


def test_focal_loss_equals_a_slow_reference() -> None:
    torch.manual_seed(0)
    logits, truth = 3 * torch.randn(2, 2, 3, 4), torch.rand(2, 3, 4) > 0.5
    total = 0.0
    for b in range(2):
        for row in range(3):
            for column in range(4):
                odds = logits[b, :, row, column].double().exp()
                p = float(odds[int(truth[b, row, column])] / odds.sum())
                p = p * (1 - 1e-5) + (1 - p) * 1e-5 + 1e-5
                total += -((1 - p) ** 2) * math.log(p)
    assert float(focal_loss(logits, truth)) == pytest.approx(total / 24, rel=1e-4)


def test_focal_loss_is_finite_where_one_is_sure_and_wrong() -> None:
    logits = torch.tensor([[50.0, -50.0]]).view(1, 2, 1, 1).requires_grad_()
    for truth, wrong in ((1, True), (0, False)):
        loss = focal_loss(logits, torch.full((1, 1, 1), truth))
        assert float(loss.detach()) == pytest.approx(-math.log(2e-5) if wrong else 0.0, rel=1e-3, abs=1e-6)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.isfinite().all()


def test_each_loss_reaches_its_own_part_and_none_the_first_stage() -> None:
    network = untrained().train()
    before = {k: v.clone() for k, v in network.general.state_dict().items()}
    windows, masks = torch.randn(4, 32, 32), anomaly_shapes(4, 32, 32, 0.0)
    logits, truth, images, corrected = network(windows, masks, torch.zeros(4, dtype=torch.bool))
    focal_loss(logits, truth).backward()
    assert all(p.grad is None for p in network.specific.parameters())
    assert any(p.grad.abs().sum() > 0 for p in network.detect.parameters() if p.grad is not None)
    network.zero_grad()
    (corrected - images).square().mean().backward()
    assert all(p.grad is not None for p in network.specific.parameters())
    assert all(p.grad is None or not p.grad.any() for p in network.detect.parameters())
    assert all(p.grad is None for p in network.general.parameters())
    assert all(torch.equal(v, before[k]) for k, v in network.general.state_dict().items())


def test_outliers_are_anomalous_everywhere_and_no_model_for_the_decoder() -> None:
    network, detector = untrained().train(), small()
    windows = torch.randn(4, 32, 32)
    masks, outliers = torch.zeros(4, 32, 32, dtype=torch.bool), torch.tensor([False, False, False, True])
    torch.manual_seed(0)
    logits, truth, images, corrected = network(windows, masks, outliers)
    assert truth[3].all()
    assert not truth[:3].any()
    squared = sum(float((corrected[k] - images[k]).detach().square().mean()) for k in range(3)) / 3
    expected = float(focal_loss(logits, truth).detach()) + 10 * squared
    torch.manual_seed(0)
    assert float(detector._loss(network, (windows, masks, outliers)).detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("n_foreign", "n_simulated"), [(0, 8), (4, 4)])
def test_what_a_batch_is_made_of(n_foreign: int, n_simulated: int) -> None:
    own = Images([np.full((40, 32), k, np.float32) for k in range(5)], 32, 16 - n_foreign)
    foreign = [np.full((20, 32), 100 + k, np.float32) for k in range(3)] if n_foreign else []
    torch.manual_seed(0)
    windows, masks, outliers = _Examples(own, foreign, n_foreign, n_simulated, 0.0).gather(torch.arange(16 - n_foreign))
    assert windows.shape == masks.shape == (16, 32, 32)
    assert masks.any((1, 2)).tolist() == [8 <= k < 8 + n_simulated for k in range(16)]
    assert outliers.tolist() == [k >= 16 - n_foreign for k in range(16)]
    assert torch.equal(windows[:, 0, 0] >= 100, outliers)


# Two stages ---------------------------------------------------------------------------------------------


@pytest.fixture
def everything_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUSCULT_CHECKPOINT_SECONDS", "0")


def fails(*_: Any, **__: Any) -> Any:
    raise AssertionError("the first stage is trained again")


def fails_after(calls: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is cut short, as by a power cut."""
    left = [calls]

    def cut(*arguments: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return function(*arguments, **more)

    return cut


def same(one: AudDSR, other: AudDSR) -> bool:
    tensors = other.state()[0]
    return all(torch.equal(v, tensors[k]) for k, v in one.state()[0].items())


@pytest.mark.usefixtures("everything_saved")
@pytest.mark.parametrize("cut", ["in the first stage", "between", "in the second stage"])
def test_a_run_goes_on_from_either_stage_as_the_same_run(
    cut: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"store": Store(tmp_path), "seed": 1}
    straight = small()
    log = straight.fit(humming(4), **how)
    kind, name, calls = {
        "in the first stage": (VQVAE, "_loss", 2),
        "between": (AudDSR, "_train", 0),
        "in the second stage": (AudDSR, "_loss", 2),
    }[cut]
    with monkeypatch.context() as patch:
        patch.setattr(kind, name, fails_after(calls, getattr(kind, name)))
        with pytest.raises(KeyboardInterrupt):
            small().fit(humming(4), **how, run=Run(checkpoint=tmp_path / "c", identity="mine"))
    if cut != "in the first stage":
        assert (tmp_path / "c.stage1-done").exists()
        monkeypatch.setattr(VQVAE, "fit", fails)
    else:
        assert (tmp_path / "c.stage1").exists()
    resumed = small()
    again = resumed.fit(humming(4), **how, run=Run(checkpoint=tmp_path / "c", resume=True, identity="mine"))
    assert same(straight, resumed)
    assert again.steps == log.steps == 8
    assert again.losses == pytest.approx(log.losses)
    assert not list(tmp_path.glob("c.stage1*"))


@pytest.mark.usefixtures("everything_saved")
def test_another_runs_first_stage_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(AudDSR, "_train", fails_after(0, AudDSR._train))
        with pytest.raises(KeyboardInterrupt):
            small().fit(humming(3), store=Store(tmp_path), run=Run(checkpoint=tmp_path / "c", identity="one"))
    monkeypatch.setattr(VQVAE, "fit", fails)
    with pytest.raises(AssertionError, match="trained again"):
        small().fit(
            humming(3), store=Store(tmp_path), run=Run(checkpoint=tmp_path / "c", resume=True, identity="another")
        )


@pytest.fixture(scope="module")
def stage1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stage1")
    model = fitting.fit(humming(4), "vqvae", preset="paper", settings=STAGE1, store=Store(folder))
    model.save(folder / "stage1.auscult")
    return folder / "stage1.auscult"


def test_a_first_stage_given_is_used_as_it_is(stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VQVAE, "fit", fails)
    copy = tmp_path / "stage1.auscult"
    copy.write_bytes(stage1.read_bytes())
    # Its own sizes count, whatever the settings of the one that would have been fitted.
    changed = SMALL | {"stage1": str(copy), "stage1_settings": {}}
    model = fitting.fit(humming(4), "auddsr", preset="paper", settings=changed, store=Store(tmp_path))
    assert isinstance(model.detector, AudDSR)
    given = load(copy).detector.state()[0]
    learnt = model.detector.state()[0]
    assert all(torch.equal(learnt[f"general.{k}"], v) for k, v in given.items())
    # The model stands alone.
    model.save(tmp_path / "m.auscult")
    copy.unlink()
    assert np.array_equal(load(tmp_path / "m.auscult").score(humming(2)), model.score(humming(2)))


def test_another_first_stage_in_the_same_file_makes_another_model(stage1: Path, tmp_path: Path) -> None:
    copy, made = tmp_path / "stage1.auscult", tmp_path / "m.auscult"
    copy.write_bytes(stage1.read_bytes())
    how: dict[str, Any] = {"preset": "paper", "settings": SMALL | {"stage1": str(copy)}, "store": Store(tmp_path)}
    fitting.fit(humming(3), "auddsr", **how).save(made)
    assert fitting.is_done(made, humming(3), "auddsr", **how)
    fitting.fit(humming(4), "vqvae", preset="paper", settings=STAGE1, seed=1, store=Store(tmp_path)).save(copy)
    assert not fitting.is_done(made, humming(3), "auddsr", **how)
    members: list[Any] = [{"detector": "auddsr", "settings": {"stage1": str(copy)}}, "knn"]
    ensemble = create("ensemble", "quick", {"members": members})
    one = ensemble.depends_on()
    copy.write_bytes(stage1.read_bytes())
    assert ensemble.depends_on() != one


def test_a_missing_first_stage_is_refused_before_a_recording_is_looked_at(tmp_path: Path) -> None:
    with pytest.raises(AuscultError, match="no such model file"):
        fitting.fit(tmp_path / "no recordings here either", "auddsr", settings={"stage1": "nowhere.auscult"})


def test_a_first_stage_that_does_not_fit_is_refused(stage1: Path, tmp_path: Path) -> None:
    def fit(path: Path, **changed: object) -> None:
        small(stage1=str(path), **changed).fit(humming(2), store=Store(tmp_path))

    with pytest.raises(AuscultError, match="no such model file"):
        fit(tmp_path / "nowhere.auscult")
    other = tmp_path / "knn.auscult"
    fitting.fit(humming(4), "knn", store=Store(tmp_path)).save(other)
    with pytest.raises(AuscultError, match=r"a model of knn, not of vqvae.*-d vqvae"):
        fit(other)
    with pytest.raises(AuscultError, match=r"front end \(dcase2020\).*front_end=dcase2020"):
        fit(stage1, front_end="stgram")
    damaged = tmp_path / "damaged.auscult"
    damaged.write_bytes(stage1.read_bytes()[:-8])
    with pytest.raises(AuscultError, match="damaged"):
        fit(damaged)


def test_a_budget_ends_both_stages(tmp_path: Path) -> None:
    log = small(max_steps=10_000, stage1_settings=STAGE1 | {"max_steps": 10_000}).fit(
        humming(3), store=Store(tmp_path), budget=0.4
    )
    assert log.stopped == "budget"
    assert 2 <= log.steps < 2000


# Judging ------------------------------------------------------------------------------------------------


def test_the_score_is_the_mean_of_the_map_and_that_the_probability(tmp_path: Path) -> None:
    detector = small()
    log = detector.fit(humming(4), store=Store(tmp_path))
    assert set(log.figures) >= {"perplexity Q1", "codes used Q2"}
    logmel = detector.logmel(humming(1)[0])
    network = detector.network
    assert isinstance(network, DualDecoder)
    assert len(logmel) == 47
    with torch.no_grad():
        # Both at once: convolutions of one image and of two differ in the last digit, which may choose another code.
        one, two = network.maps(torch.stack([logmel[first : first + 32] for first in (0, 15)]))[0]
        expected = torch.cat([one[:15], (one[15:] + two[:17]) / 2, two[17:]])
        found = detector.map_logmel(logmel)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        assert detector.score_logmel(logmel) == pytest.approx(float(expected.mean()), rel=1e-4)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


# With annotations ---------------------------------------------------------------------------------------


def test_other_machines_are_outliers_but_not_the_machine_itself_nor_test_clips() -> None:
    detector = small("auddsr-annot")
    own = humming(1, condition="normal")
    worn = humming(1, condition="anomaly")
    others = humming(2, machine_id="id_02", condition="normal")
    tested = humming(1, machine_id="id_02", split="test")
    assert detector.chosen(own, [*own, *worn, *others, *tested]) == [*worn, *others]
    for offered in ((), own, tested):
        with pytest.raises(AuscultError, match=r"other machines too.*--outliers DATA.*auddsr"):
            detector.chosen(own, offered)


def test_it_learns_from_outliers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    loss = AudDSR._loss

    def remember(self: AudDSR, network: Any, batch: Any) -> torch.Tensor:
        seen.append(batch[2])
        return loss(self, network, batch)

    monkeypatch.setattr(AudDSR, "_loss", remember)
    small("auddsr-annot", batch_size=8).fit(humming(3), outliers=humming(2, machine_id="id_02"), store=Store(tmp_path))
    assert [mark.tolist() for mark in seen] == [[False] * 6 + [True] * 2] * 4


def test_one_model_for_a_type_takes_other_types_as_outliers_if_asked() -> None:
    assert not create("auddsr-annot").outliers_of_all_types
    detector = create("auddsr-annot", "quick", {"outlier_types": "all"})
    assert isinstance(detector, AudDSRAnnot)
    assert detector.outliers_of_all_types


def test_scored_by_excess_what_healthy_maps_do_not_have_counts(tmp_path: Path) -> None:
    detector = small(score_by="excess")
    detector.fit(humming(4), store=Store(tmp_path))
    usual, logmel, network = detector.usual, detector.logmel(humming(1)[0]), detector.network
    assert usual is not None
    assert isinstance(network, DualDecoder)
    images, starts = laid(logmel, detector.frames)
    with torch.inference_mode():
        # Both maps by themselves: the module's, and what the first stage makes of the clip against the clip.
        probabilities, _ = network.maps(images)
        made_again = network.general.decode(*network.general.codes(network.general.standardised(images)))
        errors = (made_again[:, 0].transpose(1, 2) - network.general.levels(images)) ** 2
        maps = torch.stack([put_together(some, starts, len(logmel)) for some in (probabilities, errors)])
        assert detector.score_logmel(logmel) == pytest.approx(usual.excess(maps))
        shown = detector.map_logmel(logmel)
    # By hand: what is above the usual, in usual deviations, band by band.
    exact = maps.double().numpy()
    logs = np.log(np.stack([exact.mean(1), exact.std(1)], 1) + 1e-3)
    above = np.logaddexp(0, (logs - usual.mean.numpy()) / usual.std.numpy())
    assert usual.excess(maps) == pytest.approx(np.sqrt((above**2).mean()))
    level, deviation = np.exp(usual.mean.numpy()).transpose(1, 0, 2)[:, :, None]
    bins = np.logaddexp(0, (exact - level) / deviation)
    np.testing.assert_allclose(shown.numpy(), np.sqrt((bins**2).mean(0)), rtol=1e-5)
    for which, loud in ((0, 1.0), (1, 50.0)):
        peak, hiss = maps.clone(), maps.clone()
        peak[which, 3, :8] += loud
        hiss[which, :, :8] += loud
        assert usual.excess(peak) > usual.excess(maps) + 0.05
        assert usual.excess(hiss) > usual.excess(maps) + 0.05
        assert usual.relative(peak)[3, :8].min() > usual.relative(maps)[3, :8].max()


def test_a_model_of_before_the_second_map_says_that_it_is_too_old(tmp_path: Path) -> None:
    detector = small(score_by="excess")
    detector.fit(humming(2), store=Store(tmp_path))
    tensors, facts = detector.state()
    old = {name: t[0].clone() if name.startswith("usual_map.") else t for name, t in tensors.items()}
    for before in (old, {name: t for name, t in tensors.items() if not name.startswith("usual_map.")}):
        again = small(score_by="excess")
        again.restore(before, facts)
        for judge in (again.score_clip, again.anomaly_map):
            with pytest.raises(AuscultError, match="too old"):
                judge(humming(1)[0])
        plain = small()
        plain.restore(before, facts)
        assert np.isfinite(plain.score_clip(humming(1)[0]))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_usual_map_does_not_depend_on_the_order_of_clips(n_clips: int, n_frames: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps = [torch.from_numpy(rng.random((2, n_frames, 8))) for _ in range(n_clips)]
    one, other = UsualMap.of(maps), UsualMap.of(maps[::-1])
    again = UsualMap.from_tensors(one.tensors())
    for clip in [*maps, torch.full((2, 5, 8), 0.3)]:
        assert np.isfinite(one.excess(clip))
        assert other.excess(clip) == pytest.approx(one.excess(clip))
        assert again.excess(clip) == one.excess(clip)
