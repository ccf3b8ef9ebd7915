"""The memory bank: its statistics against slow references, its neighbours against brute force, its explanations."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf

from auscult.corpus import Clip
from auscult.detectors.bank import Bank
from auscult.detectors.bank_parts import drawn
from auscult.detectors.bank_settings import BankConfig
from auscult.detectors.bank_views import VIEWS, Heard, rank_weights
from auscult.detectors.registry import create
from auscult.errors import AuscultError
from auscult.nn.memory import BandMemory, bands_of, learn_whitening, left_out, nearest, shrunk_covariance
from auscult.store import LogMels, Store
from conftest import machine_sound

RATE = 16_000


def clip(samples: np.ndarray, name: str = "clip") -> Clip:
    return Clip(name, samples=samples.astype(np.float32), rate=RATE)


def healthy(n: int, first: int = 0, *, seconds: float = 2, pitch: float = 180.0) -> list[Clip]:
    return [clip(machine_sound(first + k, seconds=seconds, pitch=pitch), f"healthy {first + k}") for k in range(n)]


def fit(clips: Sequence[Clip], folder: Path, **how: object) -> Bank:
    bank = create("bank", settings=how)
    assert isinstance(bank, Bank)
    bank.fit(clips, store=Store(folder))
    return bank


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return fit(healthy(24), tmp_path_factory.mktemp("store"))


def band_noise(n: int, low: float, high: float, seed: int = 1) -> np.ndarray:
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n))
    hertz = np.fft.rfftfreq(n, 1 / RATE)
    return np.fft.irfft(np.where((hertz > low) & (hertz < high), spectrum, 0), n)


# The memory -------------------------------------------------------------------------------------------


@given(n_mels=st.integers(1, 140), n_bands=st.integers(1, 40))
def test_bands_cover_all_mel_bands_evenly(n_mels: int, n_bands: int) -> None:
    bands = bands_of(n_mels, n_bands)
    assert len(bands) == min(n_mels, n_bands)
    assert sorted(set(bands.flatten().tolist())) == list(range(n_mels))
    if n_mels % len(bands) == 0:
        assert bands.numel() == n_mels


@pytest.mark.parametrize("n", [4, 30, 500])
def test_shrunk_covariance_is_that_of_ledoit_and_wolf(n: int) -> None:
    random = np.random.default_rng(n)
    rows = random.normal(size=(n, 3, 12)) @ random.normal(size=(3, 12, 12)).mean(0)
    ours = shrunk_covariance(torch.from_numpy(rows))
    for band in range(3):
        theirs, _ = ledoit_wolf(rows[:, band], assume_centered=True)
        np.testing.assert_allclose(ours[band], theirs, rtol=1e-9)


def test_nearest_against_brute_force() -> None:
    distances = torch.from_numpy(np.random.default_rng(8).random((9, 4)))
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    overall, by_band = nearest(distances.T.square(), weights, 2)
    each = sorted(
        sum(w * d**2 for w, d in zip(weights.tolist(), row, strict=True)) ** 0.5 for row in distances.tolist()
    )
    assert float(overall) == pytest.approx(np.mean(each[:2]))
    np.testing.assert_allclose(by_band, np.sort(distances, axis=0)[:2].mean(0))
    one, one_by_band = nearest(distances.T.square(), weights, 1)
    assert float(one) == pytest.approx(each[0])
    np.testing.assert_allclose(one_by_band, distances.amin(0))
    many, many_by_band = nearest(torch.stack([distances.T, distances.T + 1]).square(), weights, 2)
    assert float(many[0]) == pytest.approx(float(overall))
    np.testing.assert_allclose(many_by_band[1], by_band + 1)


def test_left_out_is_what_a_memory_of_the_others_says() -> None:
    values = torch.randn(12, 8, 2, generator=torch.Generator().manual_seed(0)).double() * torch.arange(1, 9)[:, None]
    bands, weights = bands_of(8, 4), torch.full((4,), 0.25).double()
    overall, by_band = left_out(values, bands, weights, k=1, folds=12, together=False)
    for out in range(12):
        kept = torch.arange(12) != out
        memory = BandMemory(values[kept].float(), learn_whitening(values[kept], bands, together=False), bands)
        expected = nearest(memory.squared_distances(values[out].float()), weights, 1)
        assert float(overall[out]) == pytest.approx(float(expected[0]), rel=1e-4)
        np.testing.assert_allclose(by_band[out], expected[1], rtol=1e-3)


def test_clips_left_out_together_are_still_neighbours() -> None:
    """The whitening knows none of a group, but each is looked for among all others: brute force in groups of three."""
    values = torch.randn(12, 8, 2, generator=torch.Generator().manual_seed(1)).double() * torch.arange(1, 9)[:, None]
    values[7] = values[3] + 0.01
    bands, weights = bands_of(8, 4), torch.full((4,), 0.25).double()
    overall, by_band = left_out(values, bands, weights, k=1, folds=4, together=False)
    for out in range(12):
        whitening = learn_whitening(values[torch.arange(12) % 4 != out % 4], bands, together=False)
        memory = BandMemory(values[torch.arange(12) != out].float(), whitening, bands)
        expected = nearest(memory.squared_distances(values[out].float()), weights, 1)
        assert float(overall[out]) == pytest.approx(float(expected[0]), rel=1e-3)
        np.testing.assert_allclose(by_band[out], expected[1], rtol=1e-3)
    assert max(overall[3], overall[7]) < 0.1 < min(overall[:3])


def test_left_out_clips_are_as_far_as_new_ones() -> None:
    """Statistics of more dimensions than clips: whitened by themselves they would seem nearer than any new clip."""
    random = torch.Generator().manual_seed(3)
    values, new = torch.randn(2, 40, 16, 4, generator=random).double()
    bands, weights = bands_of(16, 2), torch.full((2,), 0.5).double()
    overall, _ = left_out(values, bands, weights, k=1, folds=10)
    memory = BandMemory(values.float(), learn_whitening(values, bands), bands)
    distances = torch.stack([nearest(memory.squared_distances(x.float()), weights, 1)[0] for x in new])
    assert float(overall.mean()) == pytest.approx(float(distances.mean()), rel=0.1)


def test_what_healthy_clips_do_counts_for_little() -> None:
    """Mel bands that rise and fall together in three ways: as large a step in one of them alone is the stranger."""
    random = torch.Generator().manual_seed(1)
    ways = torch.randn(3, 16, generator=random)
    values = (torch.randn(60, 3, generator=random) @ ways + 0.2 * torch.randn(60, 16, generator=random))[:, :, None]
    alike = (torch.randn(40, 3, generator=random) @ ways + 0.2 * torch.randn(40, 16, generator=random))[:, :, None]
    alone = alike.clone()
    alone[:, 3] += 1.5
    bands = bands_of(16, 1)
    shares = []
    for together in (True, False):
        memory = BandMemory(values, learn_whitening(values, bands, together), bands)
        near, far = (torch.stack([memory.squared_distances(x).min() for x in some]) for some in (alike, alone))
        shares.append(float((far[:, None] > near).double().mean()))
    assert shares[0] > 0.9 > shares[1]


def test_bands_that_never_moved_do_not_divide_by_nothing() -> None:
    values = torch.randn(20, 16, 3, generator=torch.Generator().manual_seed(2))
    values[:, 4:9] = -156.5
    for some in (values, values[:1], values[:2], values[:1].expand(5, -1, -1)):
        bands = bands_of(16, 4)
        whitening = learn_whitening(some, bands)
        assert whitening.isfinite().all()
        assert whitening.abs().max() < 1e3
        overall, by_band = left_out(some, bands, torch.full((4,), 0.25), k=1, folds=10)
        assert overall.isfinite().all()
        assert by_band.isfinite().all()


# The views --------------------------------------------------------------------------------------------


@pytest.fixture
def logmel() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(4).normal(-40, 6, (97, 5)))


def test_ranked_weights_are_those_of_ranked_pooling() -> None:
    weights = rank_weights(313, (0.0303,))[:, 0]
    np.testing.assert_allclose(weights[1:] / weights[:-1], 0.9, atol=1e-3)
    assert float(weights.sum()) == pytest.approx(1)


def test_loudest_and_quietest_frames(logmel: torch.Tensor) -> None:
    for name, shares, descending in (("loudest", (0.03, 0.1, 0.3), True), ("quietest", (0.01, 0.1, 0.3), False)):
        got = VIEWS[name].describe(Heard(logmel))
        for band in range(5):
            ranked = sorted(logmel[:, band].tolist(), reverse=descending)
            for column, share in enumerate(shares):
                weights = [np.exp(-n / (share * 97)) for n in range(97)]
                assert float(got[band, column]) == pytest.approx(np.average(ranked, weights=weights))


def test_jumps_are_differences_at_each_lag(logmel: torch.Tensor) -> None:
    got = VIEWS["jumps"].describe(Heard(logmel))
    for column, lag in enumerate((1, 2, 3, 4, 6, 8, 12, 16, 24, 32)):
        squares = [np.mean([(logmel[t + lag, b] - logmel[t, b]) ** 2 for t in range(97 - lag)]) for b in range(5)]
        np.testing.assert_allclose(got[:, column], 10 * np.log10(np.array(squares) + 0.0009))


def test_rhythm_is_heard_in_its_band() -> None:
    """A level that swings 8 times in 64 frames: the modulation band of 8 to 11 swings a stretch holds it."""
    frames = torch.arange(300, dtype=torch.float64)
    steady = torch.zeros(300, dtype=torch.float64)
    swinging = 5 * torch.sin(2 * torch.pi * 8.5 * frames / 64)
    got = VIEWS["rhythm"].describe(Heard(torch.stack([steady, swinging], 1)))
    assert int(got[1].argmax()) == 4
    assert float(got[1].max()) > 30 + float(got[0].max())


@pytest.mark.parametrize("name", list(VIEWS))
def test_statistics_hardly_depend_on_the_length(name: str) -> None:
    """Of a long clip and its half; the maximum does, which is why it is not in the default."""
    long = torch.from_numpy(np.random.default_rng(6).normal(-40, 6, (4000, 4)))
    whole, part = (VIEWS[name].describe(Heard(x)) for x in (long, long[500:1500]))
    change = float((whole - part).abs().mean())
    assert change < 1 if name != "peak" else change > 1


@settings(max_examples=30, deadline=None)
@given(n_frames=st.integers(2, 90), seed=st.integers(0, 99), step=st.sampled_from([0.0, 1.0]))
def test_blame_is_shared_out_whole(n_frames: int, seed: int, step: float) -> None:
    random = np.random.default_rng(seed)
    x, other = (torch.from_numpy(step * random.normal(0, 3, (n_frames, 6)) - 40) for _ in range(2))
    for view in VIEWS.values():
        own, healthy_one = view.describe(Heard(x)), view.describe(Heard(other))
        assert own.shape == (6, view.size)
        assert own.isfinite().all()
        differences = torch.from_numpy(random.exponential(1, own.shape))
        shares = view.share_out(Heard(x), own, healthy_one, differences)
        assert shares.shape == (6, n_frames)
        assert float(shares.min()) >= 0
        np.testing.assert_allclose(shares.mean(1), differences.sum(1), rtol=1e-6)


# The detector -----------------------------------------------------------------------------------------


def test_the_map_is_the_squared_distances_shared_out(bank: Bank) -> None:
    x = bank.logmel(clip(machine_sound(900, faulty=True)))
    by_view = []
    for name, own in bank.describe(x).items():
        squares = bank.memories[name].squared_distances(own).amin(1)
        assert bank.tensors is not None
        by_view.append((squares / bank.tensors[f"{name}.usual_by_band"][0].square()).mean())
    assert float(bank.map_logmel(x).mean()) == pytest.approx(float(torch.stack(by_view).mean()), rel=1e-4)


def _excess(bank: Bank, sound: np.ndarray, added: np.ndarray) -> np.ndarray:
    with_it, without = (bank.anomaly_map(clip(s)) for s in (sound + added, sound))
    assert min(with_it.min(), without.min()) >= 0
    return np.asarray(np.maximum(with_it - without, 0))


def test_the_map_finds_a_burst(bank: Bank) -> None:
    plain = machine_sound(77)
    burst = 0.1 * band_noise(len(plain), 2500, 3500)
    burst[: int(0.8 * RATE)] = burst[int(1.0 * RATE) :] = 0
    excess = _excess(bank, plain, burst)
    centres, times = bank.front_end.band_centres(), bank.front_end.frame_times(excess.shape[1])
    here = np.ix_((centres > 2300) & (centres < 3700), (times > 0.75) & (times < 1.05))
    assert excess[here].sum() > 0.75 * excess.sum()


def test_the_map_finds_a_tone_throughout(bank: Bank) -> None:
    plain = machine_sound(78)
    excess = _excess(bank, plain, 0.003 * np.sin(2 * np.pi * 3300 * np.arange(len(plain)) / RATE))
    centres = bank.front_end.band_centres()
    inside = excess[(centres > 3000) & (centres < 3600)]
    assert inside.sum() > 0.75 * excess.sum()
    thirds = [part.sum() for part in np.array_split(inside, 3, axis=1)]
    assert max(thirds) < 2 * min(thirds)


def test_it_says_which_views_fire_and_where(bank: Bank) -> None:
    plain = machine_sound(79)
    burst = 0.05 * band_noise(len(plain), 3000, 4000)
    burst[: int(0.8 * RATE)] = burst[int(0.9 * RATE) :] = 0
    found = bank.which_views(clip(plain + burst))
    assert [f.excess for f in found] == sorted((f.excess for f in found), reverse=True)
    assert {f.view for f in found} == {view.name for view in bank.views}
    loudest = next(f for f in found if f.view == "loudest")
    assert loudest.more
    assert loudest.excess > 10
    assert 2500 < loudest.low < 3300
    assert 3500 < loudest.high < 4600
    assert str(loudest).startswith("louder in its loudest frames, ")
    assert " kHz (" in str(loudest)
    quiet = next(f for f in bank.which_views(clip(0.3 * plain)) if f.view == "level")
    assert not quiet.more
    usual = bank.which_views(clip(machine_sound(80)))
    assert usual[0].excess < loudest.excess / 3


def test_the_order_of_the_clips_does_not_matter(bank: Bank, tmp_path: Path) -> None:
    clips = healthy(24)
    again = fit([clips[i] for i in np.random.default_rng(0).permutation(24)], tmp_path)
    one, other = bank.state()[0], again.state()[0]
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    some = [*healthy(3, 100), clip(machine_sound(5, faulty=True))]
    np.testing.assert_array_equal(bank.score(some), again.score(some))


def test_restored_it_scores_the_same(bank: Bank) -> None:
    again = Bank(BankConfig())
    again.restore(*bank.state())
    some = healthy(3, 100)
    np.testing.assert_array_equal(bank.score(some), again.score(some))
    np.testing.assert_array_equal(bank.anomaly_map(some[0]), again.anomaly_map(some[0]))
    np.testing.assert_array_equal(bank.score_learnt(healthy(3)), again.score_learnt(healthy(3)))


def test_tensors_of_other_settings_are_refused(bank: Bank) -> None:
    tensors, facts = bank.state()
    for other in (Bank(BankConfig(bands=8)), Bank(BankConfig(views="level+peak"))):
        with pytest.raises(AuscultError, match="do not fit bank"):
            other.restore(tensors, facts)


def test_its_own_clips_are_scored_as_if_they_were_new(bank: Bank) -> None:
    own, new = bank.score_learnt(healthy(24)), bank.score(healthy(24, 100))
    assert (bank.score(healthy(24)) < own).all()
    # Somewhat stranger than new ones, if at all: the bank was a little smaller.
    assert 0.8 < np.median(own) / np.median(new) < 1.6
    stranger = healthy(1, 100)
    np.testing.assert_array_equal(bank.score_learnt(stranger), bank.score(stranger))


@pytest.mark.parametrize("n", [2, 3, 12])
def test_a_few_clips_are_enough(n: int, tmp_path: Path) -> None:
    few = fit(healthy(n), tmp_path)
    normal = few.score(healthy(8, 100))
    faulty = few.score([clip(machine_sound(200 + k, faulty=True)) for k in range(8)])
    assert np.mean(faulty[:, None] > normal) > 0.95
    assert np.isfinite(few.score_learnt(healthy(n))).all()


def test_clips_of_differing_lengths(tmp_path: Path) -> None:
    mixed = [c for k in range(8) for seconds in (1.3, 2.0, 4.0) for c in healthy(1, 10 * k, seconds=seconds)]
    trained = fit(mixed, tmp_path)
    normal = [trained.score(healthy(6, 300, seconds=seconds)) for seconds in (1.5, 2.7, 6.0)]
    faulty = [
        trained.score([clip(machine_sound(400 + k, faulty=True, seconds=seconds)) for k in range(6)])
        for seconds in (1.5, 2.7, 6.0)
    ]
    assert np.min(faulty) > np.max(normal)
    sizes = {tensor.shape[1:] for key, tensor in trained.state()[0].items() if key.endswith(".statistics")}
    assert sum(int(np.prod(size)) for size in sizes) < 128 * 27


def test_copies_of_one_clip_and_digital_silence_are_survived(tmp_path: Path) -> None:
    copies = [clip(machine_sound(1), f"copy {k}") for k in range(5)]
    trained = fit(copies, tmp_path)
    assert trained.score(copies[:1])[0] < trained.score(healthy(1, 7))[0] < np.inf
    assert np.isfinite(trained.score_learnt(copies)).all()
    half_silent = machine_sound(3)
    half_silent[: len(half_silent) // 2] = 0
    gated = fit([clip(half_silent), *healthy(4)], tmp_path)
    for sound in (np.zeros(2 * RATE), half_silent, np.full(2 * RATE, 0.5)):
        assert np.isfinite(gated.score([clip(sound)])).all()
        assert np.isfinite(gated.anomaly_map(clip(sound))).all()


def test_several_machines_in_one_bank(tmp_path: Path) -> None:
    """Each machine finds its own neighbours; one that is not in the bank is strange."""
    first, second = healthy(16), healthy(16, 50, pitch=263.0)
    both, one = fit([*first, *second], tmp_path), fit(first, tmp_path)
    new = [*healthy(6, 100), *healthy(6, 150, pitch=263.0)]
    scores = both.score(new)
    assert np.median(scores[6:]) < 2 * np.median(scores[:6])
    assert one.score(new)[6:].min() > 3 * np.median(scores)
    faulty = both.score([clip(machine_sound(500 + k, faulty=True)) for k in range(6)])
    assert faulty.min() > scores.max()


def test_a_band_of_weight_nothing_is_not_heard(tmp_path: Path) -> None:
    centres = Bank(BankConfig()).front_end.band_centres()
    bands = bands_of(128, 16)
    whistle = int((np.abs(centres[bands.numpy()] - 3300).min(1)).argmin())
    weights = [0 if abs(b - whistle) <= 1 else 1 for b in range(16)]
    deaf = fit(healthy(16), tmp_path, band_weights=weights)
    plain = machine_sound(90)
    tone = plain + 0.01 * np.sin(2 * np.pi * 3300 * np.arange(len(plain)) / RATE)
    hearing = fit(healthy(16), tmp_path)
    before, after = hearing.score([clip(plain), clip(tone)])
    assert after > 3 * before
    before, after = deaf.score([clip(plain), clip(tone)])
    assert after < 1.5 * before
    assert deaf.anomaly_map(clip(tone))[bands[whistle].numpy()].max() == 0
    assert all(not centres[bands[whistle][0]] <= f.low <= 3300 for f in deaf.which_views(clip(tone)))


def variants() -> list[dict[str, object]]:
    return [
        {"fusion": "mean"},
        {"fusion": "max"},
        {"normalisation": "ratio"},
        {"normalisation": "raw"},
        {"neighbours": "overall"},
        {"neighbours": "bands"},
        {"k": 3},
        {"whitening": False},
        {"views": "peak"},
        {"bands": 200, "folds": 3},
        {"bands": 1, "views": "level+spread"},
        {"bands": 9, "front_end": "dcase2020"},
    ]


@pytest.mark.parametrize("how", variants(), ids=str)
def test_every_setting_detects(how: dict[str, object], tmp_path: Path) -> None:
    trained = fit(healthy(12), tmp_path, **how)
    normal = trained.score(healthy(4, 100))
    faulty = [clip(machine_sound(200 + k, faulty=True)) for k in range(4)]
    assert trained.score(faulty).min() > normal.max()
    assert trained.anomaly_map(faulty[0]).min() >= 0
    assert len(trained.which_views(faulty[0])) == len(trained.views)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"views": "level+loudness"}, "views are"),
        ({"views": "level+level"}, "at most once"),
        ({"band_weights": [1, 2]}, "16 numbers"),
        ({"band_weights": [0] * 16}, "not all of them 0"),
        ({"bands": 0}, "bands"),
        ({"folds": 1}, "folds"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object], reason: str) -> None:
    with pytest.raises(AuscultError, match=reason):
        create("bank", settings=wrong)


def test_settings_may_come_as_text() -> None:
    text: Callable[[object], str] = str
    made = create("bank", settings={"band_weights": text([1] * 15 + [0]), "views": "level+jumps"})
    assert isinstance(made.config, BankConfig)
    assert made.config.band_weights is not None
    assert made.config.band_weights[-1] == 0


def test_the_map_of_a_clip_learnt_from_is_that_beside_the_others(tmp_path: Path) -> None:
    """Else what is usual would be nothing, where all healthy clips are learnt from, and every clip strange."""
    clips = healthy(12)
    whole = fit(clips, tmp_path)
    without = fit([c for c in clips if c is not clips[3]], tmp_path)
    own, left_out = whole.anomaly_map(clips[3]).mean(), without.anomaly_map(clips[3]).mean()
    assert own > 0.2
    assert 0.3 < own / left_out < 3


# Many clips ---------------------------------------------------------------------------------------------


def test_of_many_clips_some_are_kept_and_small_groups_whole() -> None:
    assert drawn(5, 10, seed=0) == [0, 1, 2, 3, 4]
    some = drawn(100, 10, seed=0)
    assert len(some) == len(set(some)) == 10
    assert some == sorted(some) == drawn(100, 10, seed=0) != drawn(100, 10, seed=1)
    groups = torch.tensor([0] * 95 + [1] * 5)
    some = drawn(100, 30, seed=0, groups=groups)
    assert len(some) == 30
    assert set(range(95, 100)) <= set(some)
    # Brute force: in turns, as long as a group has any left.
    halves = torch.arange(100) % 2
    assert halves[drawn(100, 30, seed=0, groups=halves)].sum() == 15


def test_a_bank_of_drawn_clips_is_the_bank_of_those_alone(tmp_path: Path) -> None:
    clips = healthy(12)
    capped, whole = (create("bank", "quick", {"most_clips": most}) for most in (5, 12))
    capped.fit(clips, store=Store(tmp_path), seed=3)
    assert len(capped.state()[0]["level.statistics"]) == 5
    kept = [clip for clip in clips if not np.isclose(capped.score_learnt([clip]), capped.score([clip]))]
    whole.fit(kept, store=Store(tmp_path), seed=3)
    assert np.array_equal(whole.score(healthy(15)[12:]), capped.score(healthy(15)[12:]))


def test_which_clips_are_kept_does_not_depend_on_their_order_or_names(tmp_path: Path) -> None:
    clips = [replace(one, domain="source" if k % 4 else "target") for k, one in enumerate(healthy(16))]
    shuffled = [replace(clips[k], path=f"renamed {k}") for k in np.random.default_rng(0).permutation(16)]
    one, other = (fit(some, tmp_path, most_clips=7).state()[0] for some in (clips, shuffled))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert len(one["level.statistics"]) == 7


def test_rounding_decides_nothing(tmp_path: Path) -> None:
    """Log-mels as another processor rounds them: the same clips are kept, in the same order, and the scores agree."""

    class Elsewhere(Store):
        def collect(self, *args: Any, **kwargs: Any) -> LogMels:
            logmels, random = super().collect(*args, **kwargs), np.random.default_rng(1)
            up_or_down = [random.choice([-1e9, 1e9], s.shape).astype(np.float32) for s in logmels.spectra]
            return LogMels(
                logmels.clips, [np.nextafter(*both) for both in zip(logmels.spectra, up_or_down, strict=True)]
            )

    here, there = (create("bank", "quick", {"most_clips": 30}) for _ in range(2))
    here.fit(healthy(40), store=Store(tmp_path), seed=3)
    there.fit(healthy(40), store=Elsewhere(tmp_path), seed=3)
    one, other = (bank.state()[0]["level.statistics"] for bank in (here, there))
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    some = [*healthy(3, 100), clip(machine_sound(5, faulty=True))]
    np.testing.assert_allclose(here.score(some), there.score(some), rtol=1e-3)


def test_only_what_is_kept_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = []
    monkeypatch.setattr(Bank, "describe", lambda self, logmel: described.append(1) or self._described(Heard(logmel)))
    fit(healthy(16), tmp_path, most_clips=5)
    assert len(described) == 5
