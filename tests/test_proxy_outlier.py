"""The proxy-outlier detector: its network, which outliers it learns from and how, its score and its map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from auscult import fitting
from auscult.corpus import Clip
from auscult.detectors.proxy_outlier import ProxyOutlier, _falling, _loss, _Pairs, choose
from auscult.detectors.registry import create
from auscult.errors import AudioError, AuscultError
from auscult.nn import tiles
from auscult.nn.resnet import MIN_SIDE, ResNet
from auscult.store import Store
from auscult.training import Run
from conftest import machine_sound, write_wav

RATE = 16_000
SMALL: dict[str, Any] = {"frames": 32, "hop": 8, "width": 8, "batch_size": 8, "epochs": 100, "max_steps": 4}


def clip(samples: np.ndarray, machine_id: str = "id_00", machine_type: str = "machine") -> Clip:
    return Clip("clip", samples=samples.astype(np.float32), rate=RATE, machine_type=machine_type, machine_id=machine_id)


def humming(n: int, pitch: float = 180.0, first: int = 0) -> list[Clip]:
    return [clip(machine_sound(first + k, pitch=pitch)) for k in range(n)]


def proxy(**changed: object) -> ProxyOutlier:
    detector = create("proxy-outlier", "quick", SMALL | changed)
    assert isinstance(detector, ProxyOutlier)
    return detector


def untrained(**changed: object) -> ProxyOutlier:
    detector = proxy(**changed)
    detector.network = detector.new_network(3).eval()
    return detector


# Network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 530_626),
        ({"blocks": "4/4/4"}, 894_658),
        ({"receptive_field": 103}, 563_394),
        ({"receptive_field": 103, "width": 128}, 2_240_898),
    ],
)
def test_as_many_parameters_as_published(settings: dict[str, Any], count: int) -> None:
    assert create("proxy-outlier", "paper", settings).n_parameters() == count


def test_quick_is_the_papers_network() -> None:
    assert create("proxy-outlier", "quick").n_parameters() == 530_626


@pytest.mark.parametrize("side", [87, 103])
def test_a_place_hears_so_many_bands_and_frames(side: int) -> None:
    """Gradients of one place reach no further; positive weights let them reach as far as they can."""
    torch.manual_seed(0)
    network = ResNet(width=4, receptive_field=side).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    images = torch.rand(24, 240, 256, requires_grad=True)
    places = network.places(images)
    places[:, 7, 8].sum().backward()
    assert images.grad is not None
    reached = images.grad.abs().amax(0) > 0
    for axis in (0, 1):
        heard = reached.any(axis).nonzero()[:, 0]
        assert int(heard[-1] - heard[0] + 1) == side


def test_what_a_place_does_not_hear_does_not_change_it() -> None:
    torch.manual_seed(0)
    network = ResNet(width=4).eval()
    image = torch.randn(1, 200, 200)
    changed = image.clone()
    changed[0, 100, 100] += 100
    with torch.no_grad():
        moved = (network.places(image) - network.places(changed))[0].abs() > 1e-6
    rows, columns = (moved.any(axis).nonzero()[:, 0] for axis in (1, 0))
    assert 1 <= len(rows) <= -(-87 // 16)
    assert 1 <= len(columns) <= -(-87 // 16)


def test_sizes_of_the_last_map() -> None:
    network = ResNet(width=2).eval()
    assert network.places(torch.zeros(1, 128, 256)).shape == (1, 7, 15)
    assert network.places(torch.zeros(1, MIN_SIDE, MIN_SIDE)).shape == (1, 1, 1)
    with pytest.raises(RuntimeError):
        network.places(torch.zeros(1, MIN_SIDE - 1, MIN_SIDE - 1))


def test_a_first_stage_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="4 blocks"):
        ResNet((3, 1, 2))


# Outlier sets -------------------------------------------------------------------------------------------

TYPES = ("fan", "pump", "slider", "valve", "ToyCar", "ToyConveyor")


def plant() -> list[Clip]:
    return [
        Clip(f"{kind} {number} {split} {condition}", None, kind, number, split, condition)
        for kind in TYPES
        for number in ("id_01", "id_02", "id_03")
        for split, condition in (("train", "normal"), ("test", "normal"), ("test", "anomaly"))
    ]


@pytest.mark.parametrize(
    ("which", "of_fan", "of_toy_car"),
    [
        ("same-type", {"fan": 2}, {"ToyCar": 2}),
        ("different-types", {"pump": 3, "slider": 3, "valve": 3}, {"ToyConveyor": 3}),
        ("all-types", {"fan": 2, "pump": 3, "slider": 3, "valve": 3}, {"ToyCar": 2, "ToyConveyor": 3}),
        ("other-corpus", {"ToyCar": 3, "ToyConveyor": 3}, {"fan": 3, "pump": 3, "slider": 3, "valve": 3}),
    ],
)
def test_the_papers_sets(which: str, of_fan: dict[str, int], of_toy_car: dict[str, int]) -> None:
    everything = plant()
    for kind, expected in (("fan", of_fan), ("ToyCar", of_toy_car)):
        target = [c for c in everything if (c.machine_type, c.machine_id, c.split) == (kind, "id_02", "train")]
        chosen = choose(target, everything, which)
        assert Counter(c.machine_type for c in chosen) == expected
        assert {(c.split, c.condition) for c in chosen} == {("train", "normal")}
        assert not any((c.machine_type, c.machine_id) == (kind, "id_02") for c in chosen)


def test_given_outliers_are_all_used_but_test_clips_and_the_machines_own() -> None:
    everything = plant()
    target = [c for c in everything if (c.machine_type, c.machine_id, c.split) == ("fan", "id_02", "train")]
    chosen = choose(target, everything, "given")
    assert chosen == [c for c in everything if c.split == "train" and c not in target]
    known_fault = Clip("worn", machine_type="fan", machine_id="id_02", condition="anomaly")
    assert choose(target, [*target, known_fault], "given") == [known_fault]
    assert choose(target, [*target, known_fault], "same-type") == []


def test_clips_of_no_known_condition_or_split_serve_too() -> None:
    street = [Clip("street", machine_type="street")]
    target = [Clip("fan", machine_type="fan")]
    assert choose(target, street, "different-types") == choose(target, street, "given") == street


def test_so_many_outliers_and_no_more() -> None:
    others = [c for c in plant() if c.split == "train"]
    target = [Clip("x", machine_type="fan", machine_id="id_99")]
    few = proxy(n_outliers=8)._chosen(target, others, seed=1)
    assert len({c.path for c in few}) == 8
    assert [c.path for c in few] == [c.path for c in others if c in few], "in their order, whatever the draw"
    assert few == proxy(n_outliers=8)._chosen(target, others, seed=1)
    assert few != proxy(n_outliers=8)._chosen(target, others, seed=2)
    assert proxy(n_outliers=10_000)._chosen(target, others, seed=1) == others


@pytest.mark.parametrize(("outliers", "which"), [(None, "given"), ([], "given"), ("own", "same-type")])
def test_without_outliers_it_says_so_and_names_what_would_do(outliers: Any, which: str, tmp_path: Path) -> None:
    given = humming(2) if outliers == "own" else outliers
    reason = "of 2 clips given none is left" if given else "there are none"
    with pytest.raises(AuscultError, match=rf"something else.*{reason}.*--outliers DATA.*knn, ae or pae"):
        proxy(outliers=which).fit(humming(2), outliers=given, store=Store(tmp_path))


def test_a_plants_other_machines_serve_as_outliers(tiny_plant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By themselves those of the same type; with --outliers any folder, from which the setting chooses."""
    learnt: list[list[Clip]] = []
    chosen = ProxyOutlier._chosen

    def remember(self: ProxyOutlier, train: Sequence[Clip], outliers: Sequence[Clip], seed: int) -> list[Clip]:
        learnt.append(chosen(self, train, outliers, seed))
        return learnt[-1]

    monkeypatch.setattr(ProxyOutlier, "_chosen", remember)
    how: dict[str, Any] = {"machine_type": "pump", "machine_id": "00"}
    fitting.fit(tiny_plant, "proxy-outlier", settings=SMALL | {"max_steps": 1}, **how)
    settings = SMALL | {"max_steps": 1, "outliers": "all-types"}
    fitting.fit(tiny_plant, "proxy-outlier", settings=settings, outliers=tiny_plant, **how)
    for clips in learnt:
        assert {(c.machine_id, c.split, c.condition) for c in clips} == {("id_02", "train", "normal")}
        assert len(clips) == 12


# Training -----------------------------------------------------------------------------------------------


def spectra(*lengths: int, first: float = 0.0) -> list[np.ndarray]:
    """Log-mels that say of each frame which clip it is of, and which frame it is."""
    return [
        np.stack([np.full(n, first + k), np.arange(n), np.zeros(n)], axis=1).astype(np.float32)
        for k, n in enumerate(lengths)
    ]


def test_batches_are_half_normals_and_half_outliers_from_anywhere() -> None:
    pairs = _Pairs(spectra(20, 30, 25), spectra(40, 5, 12, first=100), 10, 4)
    assert len(pairs) == 4
    torch.manual_seed(0)
    places: list[set[float]] = [set(), set()]
    outliers = set()
    for _ in range(200):
        batch = pairs.gather(torch.arange(4))
        assert batch.shape == (4, 2, 10, 3)
        assert batch[:, 0, 0, 0].tolist() == [0, 1, 2, 0], "an epoch sees every normal clip"
        assert (batch[:, 0].diff(dim=1)[..., 1] == 1).all(), "consecutive frames"
        places[0].update(batch[0, 0, :1, 1].tolist())
        outliers.update(batch[:, 1, 0, 0].tolist())
    assert places[0] == set(range(11)), "any place, the last included"
    assert outliers == {100, 101, 102}


def test_a_short_outlier_goes_on_as_its_mirror_image() -> None:
    pairs = _Pairs(spectra(10), spectra(4), 10, 2)
    assert pairs.gather(torch.arange(2))[0, 1, :, 1].tolist() == [0, 1, 2, 3, 3, 2, 1, 0, 0, 1]


def test_normal_clips_shorter_than_a_window_are_not_learnt_from() -> None:
    pairs = _Pairs(spectra(4, 10), spectra(10), 10, 2)
    assert pairs.gather(torch.arange(2))[:, 0, 0, 0].tolist() == [1, 1]
    with pytest.raises(AuscultError, match="10 frames of a window"):
        _Pairs(spectra(4), spectra(10), 10, 2)


def test_the_loss_is_binary_cross_entropy() -> None:
    torch.manual_seed(0)
    detector = untrained()
    network = detector.network
    assert network is not None
    batch = 10 * torch.randn(3, 2, 32, 128)
    logits = torch.cat([network(batch[:, 0]), network(batch[:, 1])])
    labels = torch.tensor([0.0, 0, 0, 1, 1, 1])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(_loss(network, batch), expected)


def test_the_rate_falls_at_each_epoch() -> None:
    schedule = _falling(0.99, 3)
    assert [schedule(step) for step in (1, 3, 4, 6, 7)] == pytest.approx([1, 1, 0.99, 0.99, 0.9801])


def test_the_papers_settings() -> None:
    config = create("proxy-outlier", "paper").config.model_dump()
    assert (config["frames"], config["hop"], config["batch_size"], config["epochs"]) == (256, 1, 64, 100)
    assert (config["learning_rate"], config["decay"], config["front_end"]) == (1e-4, 0.99, "proxy-outlier")
    assert (config["blocks"], config["width"], config["max_steps"]) == ("4/1/2", 64, None)


def test_a_run_that_goes_on_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUSCULT_CHECKPOINT_SECONDS", "0")
    straight, resumed = proxy(), proxy()
    how: dict[str, Any] = {"outliers": humming(2, 400), "store": Store(tmp_path), "seed": 1}
    straight.fit(humming(3), **how, run=Run(checkpoint=tmp_path / "c"))
    assert resumed.fit(humming(3), **how, run=Run(checkpoint=tmp_path / "c", resume=True)).steps == 4
    assert all(torch.equal(v, resumed.state()[0][k]) for k, v in straight.state()[0].items())


# Scores and maps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_frames", "hop", "count"), [(313, 1, 58), (344, 1, 89), (256, 1, 1), (313, 16, 5)])
def test_so_many_windows(n_frames: int, hop: int, count: int) -> None:
    starts = tiles.starts(n_frames, 256, hop)
    assert len(starts) == len(set(starts)) == count
    assert (starts[0], starts[-1]) == (0, n_frames - 256)


def test_windows_are_the_clips_frames() -> None:
    logmel = torch.arange(30.0).view(10, 3)
    batch = tiles.windows(logmel, [0, 5, 6], 4)
    assert torch.equal(batch, torch.stack([logmel[0:4], logmel[5:9], logmel[6:10]]))


def test_overlapping_maps_are_averaged() -> None:
    maps = torch.tensor([1.0, 3.0])[:, None, None].expand(2, 4, 2)
    assert tiles.overlapped_mean(maps, [0, 2], 6)[:, 0].tolist() == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("hop", [1, 8])
def test_the_score_is_the_mean_logit_of_each_window_alone(hop: int) -> None:
    detector = untrained(hop=hop)
    c = clip(machine_sound(5, seconds=1.8))
    logmel = detector.logmel(c)
    starts = sorted({*range(0, len(logmel) - 31, hop), len(logmel) - 32})
    assert detector.network is not None
    with torch.no_grad():
        logits = [float(detector.network(logmel[None, start : start + 32])) for start in starts]
    assert np.std(logits) > 0
    assert detector.score([c])[0] == pytest.approx(np.mean(logits), rel=1e-5)


def test_a_clip_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(AudioError, match="too short"):
        untrained().score([clip(machine_sound(1, seconds=0.9))])


def test_a_map_shares_out_what_raised_the_logit() -> None:
    """All shares sum to the logit less that of the usual levels; of them the map keeps the positive."""
    detector = untrained()
    network = detector._fitted()
    c = clip(machine_sound(5, seconds=1.0))
    logmel = detector.logmel(c)
    network.usual.learn(0, [logmel.numpy()[:20]])
    n_frames = len(logmel)
    assert n_frames == 32
    anomaly_map = detector.anomaly_map(c)
    assert anomaly_map.min() >= 0
    with torch.no_grad():
        unremarkable = network.usual(logmel[None])
        difference = float(network(logmel[None]) - network(unremarkable))
    assert anomaly_map.sum() > max(difference, 0)
    assert not anomaly_map.T[(unremarkable[0] == logmel).numpy()].any(), "what is as usual explains nothing"


def test_it_learns_and_its_map_finds_an_injected_burst(tmp_path: Path) -> None:
    """Taught by another machine, it hears a hiss it was never told of, and shows when and where it is."""
    detector = proxy(width=16, max_steps=40, batch_size=16, learning_rate=3e-3)
    random = np.random.default_rng(0)

    def hiss(seed: int) -> Clip:
        """Another machine, with bursts of noise of its own anywhere."""
        sound = machine_sound(seed, pitch=230.0)
        for at in random.integers(0, len(sound) - 3200, 3):
            low = random.uniform(500, 6000)
            sound[at : at + 3200] += 0.1 * band_noise(random, 3200, low, low + 1200)
        return clip(sound)

    detector.fit(humming(12), outliers=[hiss(500 + k) for k in range(12)], store=Store(tmp_path))
    plain = machine_sound(77)
    burst = plain.copy()
    burst[12_800:19_200] += 0.1 * band_noise(random, 6400, 2500, 3500)
    assert detector.score([clip(burst)])[0] > detector.score([clip(plain)])[0] + 0.5
    with_burst, without = (detector.anomaly_map(clip(sound)) for sound in (burst, plain))
    excess = np.maximum(with_burst - without, 0)
    centres, times = detector.front_end.band_centres(), detector.front_end.frame_times(excess.shape[1])
    there = np.ix_((centres > 2300) & (centres < 3700), (times > 0.7) & (times < 1.3))
    assert excess[there].sum() / excess.sum() > 0.4
    assert excess[there].size / excess.size < 0.08


def band_noise(random: np.random.Generator, n: int, low: float, high: float) -> np.ndarray:
    noise = np.fft.rfft(random.standard_normal(n))
    hertz = np.fft.rfftfreq(n, 1 / RATE)
    return np.fft.irfft(np.where((hertz > low) & (hertz < high), noise, 0), n)


def test_one_pass_over_a_clip_weighs_places_by_the_windows_that_hold_them() -> None:
    """Of a network without edges, whose places are the means of 16 frames, it is the mean over windows exactly."""
    frames = torch.randn(16 * 12, 1, generator=torch.Generator().manual_seed(0))
    places = frames.view(12, 16).mean(1)
    starts = tiles.starts(len(frames), 64, 16)
    of_windows = torch.stack([frames[s : s + 64].view(4, 16).mean(1).mean() for s in starts]).mean()
    shares = tiles.shares_of_places(len(frames), 64, 16, 16, 12)
    assert float(shares.sum()) == pytest.approx(1)
    assert float((places * shares).sum()) == pytest.approx(float(of_windows), abs=1e-6)


def test_between_two_places_both_count() -> None:
    shares = tiles.shares_of_places(40, 32, 8, 16, 3)  # windows at 0 and 8: places at 0, 1 and 0.5, 1.5
    assert shares.tolist() == pytest.approx([1.5 / 4, 2 / 4, 0.5 / 4])


def test_one_pass_comes_near_the_mean_over_windows_and_has_no_windows_to_aggregate() -> None:
    each, shared = untrained(hop=1, frames=64), untrained(hop=1, frames=64, shared=True)
    clips = [clip(machine_sound(k, seconds=4, faulty=k % 2 == 0)) for k in range(8)]
    one, other = each.score(clips), shared.score(clips)
    assert np.corrcoef(one, other)[0, 1] > 0.9
    with pytest.raises(AuscultError, match="no scores of windows"):
        proxy(shared=True, aggregation="max")


def test_outliers_of_other_types_come_from_the_plant_itself_where_the_setting_asks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, machine in (("fan", "id_00"), ("fan", "id_02"), ("valve", "id_00"), ("ToyCar", "id_01")):
        for k in range(3):
            sound = machine_sound(k, seconds=2)
            write_wav(tmp_path / kind / "train" / f"normal_{machine}_{k:08d}.wav", sound)
    learnt: list[set[str]] = []
    chosen = ProxyOutlier._chosen

    def remember(self: ProxyOutlier, train: Sequence[Clip], outliers: Sequence[Clip], seed: int) -> list[Clip]:
        learnt.append({f"{c.machine_type} {c.machine_id}" for c in chosen(self, train, outliers, seed)})
        return chosen(self, train, outliers, seed)

    monkeypatch.setattr(ProxyOutlier, "_chosen", remember)
    for which in ("given", "different-types", "all-types", "other-corpus"):
        settings = SMALL | {"max_steps": 1, "outliers": which}
        fitting.fit(tmp_path, "proxy-outlier", settings=settings, machine_type="fan", machine_id="00")
    assert learnt == [{"fan id_02"}, {"valve id_00"}, {"fan id_02", "valve id_00"}, {"ToyCar id_01"}]
