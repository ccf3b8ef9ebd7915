"""Shifted conditions: local density, balancing and domains against brute force; what must hold however clips come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from auscult.corpus import Clip
from auscult.corpus.synthetic import RATE, faults_of, synthesise
from auscult.detectors.base import Detector
from auscult.detectors.registry import create
from auscult.errors import AuscultError
from auscult.nn.balancing import balance
from auscult.nn.density import floored, local_distances, nearest_others, normalised
from auscult.nn.domains import groups_of, usual_by_group, usual_distances
from auscult.nn.memory import BandMemory, bands_of, learn_whitening, left_out, relative_distances
from auscult.store import Store
from conftest import machine_sound

sizes = st.integers(1, 9)
seeds = st.integers(0, 1000)


def metric(some: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    return torch.cdist(some, others, compute_mode="donot_use_mm_for_euclid_dist")


def rows(n: int, seed: int = 0, width: int = 4) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def own_parts(n: int) -> torch.Tensor:
    return torch.arange(n)[:, None].expand(-1, 2)


# Density -------------------------------------------------------------------------------------------------


@given(n=sizes, k=st.integers(1, 5), crops=st.integers(1, 3), seed=seeds)
def test_local_distances_against_brute_force(n: int, k: int, crops: int, seed: int) -> None:
    bank, clips = rows(n * crops, seed), np.repeat(np.arange(n), crops)
    found = local_distances(bank, torch.from_numpy(clips)[:, None], k, metric)
    expected = []
    for i in range(len(bank)):
        others = sorted(float((bank[i] - bank[j]).norm()) for j in range(len(bank)) if clips[j] != clips[i])
        expected.append(np.mean(others[:k]) if others else 1.0)
    least = 0.1 * sorted(expected)[(len(expected) - 1) // 2]
    np.testing.assert_allclose(found, np.maximum(expected, least), rtol=1e-12)


def test_blocks_of_a_large_bank_are_as_the_whole() -> None:
    bank = rows(600)
    every = metric(bank, bank)
    every.fill_diagonal_(torch.inf)
    expected = every.topk(3, largest=False).values.mean(1)
    torch.testing.assert_close(nearest_others(bank, own_parts(600), 3, metric), expected)


@given(
    copies=st.lists(st.integers(0, 4), min_size=1, max_size=12), k=st.integers(1, 5), dust=st.sampled_from([0, 1e-12])
)
def test_copies_in_a_bank_leave_every_judged_distance_finite_and_none_is_inflated(
    copies: list[int], k: int, dust: float
) -> None:
    bank = rows(5)[copies] + dust * rows(len(copies), 1)
    usual = local_distances(bank, own_parts(len(copies)), k, metric)
    assert (usual > 0).all()
    assert usual.isfinite().all()
    assert usual.min() >= 0.0999 * usual.median()
    new = metric(rows(3, 7), bank)
    assert normalised(new, usual).isfinite().all()
    assert normalised(new, usual, "difference").isfinite().all()


def test_a_pair_of_copies_does_not_turn_the_order_of_clips_around() -> None:
    """Divided by the copies' own distance, all that is near them, healthy or not, would be the strangest of all."""
    bank = torch.cat([rows(30), rows(1, 5), rows(1, 5) + 1e-9])
    beside, far = rows(1, 5) + 0.05, rows(1, 5) + 30
    usual = local_distances(bank, own_parts(32), 1, metric)
    near_score, far_score = (float(normalised(metric(x, bank), usual).min()) for x in (beside, far))
    assert near_score < far_score


def test_the_two_forms() -> None:
    distances, usual = torch.tensor([2.0, 3.0]), torch.tensor([1.0, 4.0])
    assert normalised(distances, usual).tolist() == [2.0, 0.75]
    assert normalised(distances, usual, "difference").tolist() == [1.0, -1.0]


def test_unknown_distances_become_the_median_and_small_ones_a_share_of_it() -> None:
    nan = float("nan")
    torch.testing.assert_close(
        floored(torch.tensor([2.0, nan, 0.0, 3.0, 4.0])), torch.tensor([2.0, 3.0, 0.3, 3.0, 4.0])
    )
    assert floored(torch.tensor([nan, nan])).tolist() == [1, 1]
    assert floored(torch.tensor([0.0, 0.0, nan])).tolist() == [1, 1, 1]


# Balancing -----------------------------------------------------------------------------------------------


@given(few=st.integers(1, 8), many=st.integers(1, 60), seed=seeds, k=st.integers(1, 3), ratio=st.floats(0, 1))
def test_new_items_lie_between_a_small_groups_nearest(few: int, many: int, seed: int, k: int, ratio: float) -> None:
    bank, groups = rows(few + many, seed), torch.tensor([1] * few + [0] * many)
    made = balance(bank, own_parts(len(bank)), groups, metric, ratio=ratio, neighbours=k, seed=seed)
    largest = max(few, many)
    for group, size in ((0, many), (1, few)):
        own = groups[made.pairs[:, 0]] == group
        assert int(own.sum()) == (max(0, round(ratio * largest) - size) if size > 1 else 0)
    for (first, second), share, new in zip(made.pairs.tolist(), made.shares.tolist(), made.of(bank), strict=True):
        others = [j for j in range(len(bank)) if j != first and groups[j] == groups[first]]
        nearest = sorted(others, key=lambda j: float((bank[j] - bank[first]).norm()))[:k]
        assert second in nearest
        assert 0 <= share < 1
        torch.testing.assert_close(new, (1 - share) * bank[first] + share * bank[second])


def test_every_item_takes_its_turn_and_pairs_come_from_two_clips() -> None:
    bank, clips = rows(106), torch.arange(106) // 2
    groups = torch.tensor([0] * 100 + [1] * 6)
    made = balance(bank, clips[:, None].expand(-1, 2), groups, metric)
    assert made.pairs[:, 0].bincount(minlength=106)[100:].tolist().count(0) == 0
    assert len(made.pairs) == 14
    assert (clips[made.pairs[:, 0]] != clips[made.pairs[:, 1]]).all()
    parts, grown = made.grown_parts(clips[:, None].expand(-1, 2), groups)
    assert (grown[106:] == 1).all()
    torch.testing.assert_close(parts[106:], clips[made.pairs])


@given(order=st.permutations(range(14)), seed=seeds)
def test_what_is_made_does_not_depend_on_the_order_of_clips(order: list[int], seed: int) -> None:
    bank, groups = rows(14, seed), torch.tensor([0] * 10 + [1] * 4)
    one = balance(bank, own_parts(14), groups, metric, ratio=0.9, seed=seed)
    other = balance(bank[order], own_parts(14), groups[order], metric, ratio=0.9, seed=seed)
    torch.testing.assert_close(one.of(bank), other.of(bank[order]))


# Domains -------------------------------------------------------------------------------------------------


def test_domains_are_several_or_none() -> None:
    assert groups_of([]) is None
    assert groups_of(["", ""]) is None
    assert groups_of(["source", "", "source"]) is None
    found = groups_of(["target", "source", "", "source", "target", "source"])
    assert found is not None
    assert found.tolist() == [1, 0, 0, 0, 1, 0]


def test_the_usual_distance_of_a_domain_is_its_clips_mean_and_of_few_clips_drawn_to_the_largest() -> None:
    bank, groups = rows(13), torch.tensor([0] * 10 + [1] * 3)
    bank[10:] *= 5
    means = []
    for own in (range(10), range(10, 13)):
        left_out = [min(float((bank[i] - bank[j]).norm()) for j in own if j != i) for i in own]
        means.append(np.mean(left_out))
    found = usual_distances(bank, own_parts(13), groups, metric, k=1, density=0)
    assert found is not None
    np.testing.assert_allclose(found[:10], means[0])
    np.testing.assert_allclose(found[10:], (3 * means[1] + 2 * means[0]) / 5)


def test_a_domain_of_one_clip_is_as_wide_as_the_largest() -> None:
    nan = float("nan")
    nearest, parts = torch.tensor([2.0, 4.0, nan]), own_parts(3)
    assert usual_by_group(nearest, parts, torch.tensor([0, 0, 1])).tolist() == [3, 3]
    assert usual_by_group(torch.tensor([nan, nan, nan]), parts, torch.tensor([0, 1, 2])).tolist() == [1, 1, 1]


def test_places_between_clips_are_not_asked_how_far_apart_clips_are() -> None:
    parts = torch.tensor([[0, 0], [1, 1], [0, 1]])
    nearest = torch.tensor([2.0, 4.0, 0.001])
    assert usual_by_group(nearest, parts, torch.tensor([0, 0, 0])).tolist() == [3]


# Detectors -----------------------------------------------------------------------------------------------


def clip(seed: int, domain: str = "", **more: Any) -> Clip:
    """The target machine runs faster, and in another room."""
    sound = machine_sound(seed, seconds=1.3, pitch=230.0 if domain == "target" else 180.0)
    if domain == "target":
        sound = 0.4 * sound + 0.01 * np.random.default_rng(seed).standard_normal(len(sound))
    return Clip(f"{domain} {seed}", samples=sound.astype(np.float32), rate=16_000, domain=domain, **more)


def shifted(n_source: int = 13, n_target: int = 2) -> list[Clip]:
    """So many that one item is made between the target's."""
    ids = [{"machine_id": f"id_0{k % 2}"} for k in range(n_source + n_target)]
    return [clip(k, "source" if k < n_source else "target", **ids[k]) for k in range(n_source + n_target)]


SETTINGS: dict[str, dict[str, Any]] = {
    "knn": {},
    "bank": {"views": "level+jumps", "bands": 4},
    "multires": {"seconds": 1.0, "max_steps": 2, "batch_size": 4},
}


def fit(name: str, clips: Sequence[Clip], folder: Path, **changed: Any) -> Detector:
    detector = create(name, "quick", {**SETTINGS[name], **changed})
    detector.fit(clips, store=Store(folder))
    return detector


NEW = [clip(100 + k, domain) for k in range(3) for domain in ("source", "target")]
each = pytest.mark.parametrize("name", SETTINGS)


@each
def test_the_domain_of_a_clip_that_is_judged_is_not_looked_at(name: str, tmp_path: Path) -> None:
    detector = fit(name, shifted(), tmp_path)
    scores = detector.score(NEW)
    for domain in ("source", "target", "", "elsewhere"):
        np.testing.assert_array_equal(detector.score([replace(c, domain=domain) for c in NEW]), scores)
    np.testing.assert_array_equal(detector.score(NEW[::-1])[::-1], scores)
    np.testing.assert_array_equal([detector.score([c])[0] for c in NEW], scores)


@each
def test_one_domain_or_none_changes_nothing(name: str, tmp_path: Path) -> None:
    plain = fit(name, [replace(c, domain="") for c in shifted()], tmp_path)
    for domain, domains in (("source", "auto"), ("", "off")):
        same = fit(name, [replace(c, domain=domain or c.domain) for c in shifted()], tmp_path, domains=domains)
        np.testing.assert_array_equal(same.score(NEW), plain.score(NEW))
        np.testing.assert_array_equal(same.score_learnt(shifted()), plain.score_learnt(shifted()))
    several = fit(name, shifted(), tmp_path)
    assert (several.score(NEW) != plain.score(NEW)).all()


@pytest.mark.parametrize(
    ("name", "how"),
    [(name, {}) for name in SETTINGS]
    + [(name, {"density": 2}) for name in ("knn", "multires")]
    + [
        ("knn", {"density": 2, "density_form": "difference"}),
        ("multires", {"density": 2, "density_form": "difference", "bank": False}),
    ],
)
def test_what_is_kept_judges_the_same(name: str, how: dict[str, Any], tmp_path: Path) -> None:
    detector = fit(name, shifted(), tmp_path, **how)
    again = create(name, "quick", {**SETTINGS[name], **how})
    again.restore(*detector.state())
    np.testing.assert_array_equal(again.score(NEW), detector.score(NEW))
    np.testing.assert_array_equal(again.score_learnt(shifted()), detector.score_learnt(shifted()))
    assert np.isfinite(detector.anomaly_map(NEW[1])).all()


@pytest.mark.parametrize(
    ("name", "how"),
    [(name, {}) for name in SETTINGS]
    + [(name, how) for name in ("knn", "multires") for how in ({"density": 1}, {"domains": "off", "density": 4})],
)
def test_copies_of_a_clip_leave_scores_finite(name: str, how: dict[str, Any], tmp_path: Path) -> None:
    copies = [clip(0, "source"), *[replace(clip(1, "target"), path=f"copy {k}") for k in range(3)]]
    sources = [clip(k, "source", machine_id="id_01") for k in range(6)]
    detector = fit(name, [*sources, *copies], tmp_path, **how)
    assert np.isfinite(detector.score([*NEW, *copies])).all()
    assert np.isfinite(detector.score_learnt([*sources, *copies])).all()


@pytest.mark.parametrize("name", ["knn", "bank"])
def test_the_order_of_training_clips_does_not_matter(name: str, tmp_path: Path) -> None:
    clips = shifted()
    scores = fit(name, clips, tmp_path).score(NEW)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(clips))
        np.testing.assert_allclose(fit(name, [clips[k] for k in order], tmp_path).score(NEW), scores, rtol=1e-9)


def test_knn_against_brute_force(tmp_path: Path) -> None:
    clips = shifted(20, 4)
    detector = fit("knn", clips, tmp_path, k=2)
    plain = fit("knn", clips, tmp_path, domains="off")
    tensors = plain.state()[0]
    bank = tensors["bank"].numpy()
    few = [k for k, c in enumerate(clips) if c.domain == "target"]
    for c in NEW:
        pooled = detector._pool(detector.logmel(c).double()).numpy()  # type: ignore[attr-defined]
        described = (pooled - tensors["centre"].numpy()) / tensors["scale"].numpy()
        by_domain = []
        usual = []
        for own in ([k for k in range(len(bank)) if k not in few], few):
            apart = np.sqrt(((bank[own][:, None] - bank[own]) ** 2).mean(2))
            usual.append(np.sort(apart, axis=1)[:, 1:3].mean())
            by_domain.append(np.sort(np.sqrt(((bank[own] - described) ** 2).mean(1)))[:2].mean())
        # Four clips are a fifth of twenty: none is made in between.
        usual[1] = (4 * usual[1] + 2 * usual[0]) / 6
        expected = min(d / u for d, u in zip(by_domain, usual, strict=True))
        assert detector.score([c])[0] == pytest.approx(expected, rel=1e-9)


def test_a_bank_of_domains_is_one_whose_distances_are_measured_by_them() -> None:
    values = rows(13, width=16).view(13, 8, 2) * torch.tensor([1.0] * 10 + [3.0] * 3)[:, None, None]
    groups, bands, weights = torch.tensor([0] * 10 + [1] * 3), bands_of(8, 2), torch.full((2,), 0.5).double()
    how: dict[str, Any] = {"k": 1, "folds": 13, "together": False}
    memories = [learn_whitening(values[torch.arange(13) != out], bands, together=False) for out in range(13)]

    def apart(out: int, other: int) -> np.ndarray:
        centred = [BandMemory(values, memories[out], bands).whiten(values[[k]])[:, 0] for k in (out, other)]
        return (centred[0] - centred[1]).square().sum(1).sqrt().numpy()

    within, _ = left_out(values, bands, weights, groups=groups, **how)
    for k in range(13):
        own = [j for j in range(13) if groups[j] == groups[k] and j != k]
        assert float(within[k]) == pytest.approx(min(np.sqrt(np.mean(apart(k, j) ** 2)) for j in own), rel=1e-4)
    means = float(within[:10].mean()), float(within[10:].mean())
    relative = relative_distances(within, groups)
    np.testing.assert_allclose(relative[:10], 1)
    np.testing.assert_allclose(relative[10:], (3 * means[1] + 2 * means[0]) / 5 / means[0], rtol=1e-6)
    overall, by_band = left_out(values, bands, weights, relative=relative, **how)
    for k in range(13):
        judged = [apart(k, j) / float(relative[j]) for j in range(13) if j != k]
        assert float(overall[k]) == pytest.approx(min(np.sqrt(np.mean(d**2)) for d in judged), rel=1e-4)
        np.testing.assert_allclose(by_band[k], np.min(judged, axis=0), rtol=1e-4)
    plain = BandMemory(values, memories[0], bands).squared_distances(values[0] + 1)
    judged_all = BandMemory(values, memories[0], bands, relative).squared_distances(values[0] + 1)
    torch.testing.assert_close(judged_all, plain / relative.square())


def test_domains_and_a_band_that_counts_for_nothing() -> None:
    values, groups = rows(13, width=16).view(13, 8, 2), torch.tensor([0] * 12 + [1])
    weights = torch.tensor([0.0, 1.0], dtype=torch.float64)
    overall, by_band = left_out(values, bands_of(8, 2), weights, k=1, folds=5, groups=groups)
    torch.testing.assert_close(overall[:12], by_band[:12, 1])
    assert overall[12] == torch.inf  # alone in its domain


def test_a_learnt_clip_is_left_out_with_all_that_was_made_of_it(tmp_path: Path) -> None:
    clips = shifted(40, 4)
    detector = fit("knn", clips, tmp_path)
    tensors, facts = detector.state()
    assert facts["sizes"] == [40, 8]
    assert float(detector.score([clips[-1]])[0]) == 0
    number = len(clips) - 1
    kept = ~(tensors["parts"] == number).any(1)
    distances = detector._distances(detector.logmel(clips[-1]))  # type: ignore[attr-defined]
    expected = float((distances / tensors["usual"])[kept].min())
    assert detector.score_learnt([clips[-1]])[0] == pytest.approx(expected)


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    tensors, facts = fit("knn", shifted(), tmp_path).state()
    for damaged in ({"sizes": [1, 2]}, {"sizes": facts["sizes"]}):
        kept = {name: t for name, t in tensors.items() if name != "usual"}
        with pytest.raises(AuscultError, match="do not fit knn"):
            create("knn").restore(kept, damaged)


def test_each_type_has_its_own_domains(tmp_path: Path) -> None:
    fans = [replace(clip(k), machine_type="fan", path=f"fan {k}") for k in range(6)]
    both = fit("multires", [*shifted(), *fans], tmp_path)
    fan = replace(NEW[0], machine_type="fan")
    off = create("multires", "quick", {**SETTINGS["multires"], "domains": "off"})
    off.restore(*both.state())
    assert both.score([fan])[0] == off.score([fan])[0]
    assert both.score([NEW[0]])[0] != off.score([NEW[0]])[0]


# End to end ----------------------------------------------------------------------------------------------


def plant_clip(domain: str, split: str, condition: str, index: int, seed: int) -> Clip:
    """A slider; in the target domain a third as loud, and 6 dB further down in the noise of the factory."""
    faults = faults_of("slider")
    made = synthesise(
        "slider",
        "id_00",
        fault=faults[index % len(faults)] if condition == "anomaly" else None,
        severity=2.0,
        snr_db=0.0 if domain == "target" else 6.0,
        seconds=4.0,
        seed=seed,
        split=split,
        condition=condition,
        index=index + (1000 if domain == "target" else 0),
    )
    samples = made.samples * np.float32(0.3 if domain == "target" else 1.0)
    return Clip(f"{domain} {split} {condition} {index}", samples=samples, rate=RATE, domain=domain)


@pytest.mark.parametrize("name", ["knn", "bank"])
def test_one_threshold_means_the_same_in_both_domains(name: str, tmp_path: Path) -> None:
    """Sixty clips of one domain and six of another: healthy clips of the second seem no stranger than of the first.

    By what is asked for, not by luck: of twenty clips each, the median healthy score in the target domain lies much
    nearer to that in the source domain, and faults are still told from healthy clips in both.
    """
    train = [plant_clip("source", "train", "normal", k, 5) for k in range(60)]
    train += [plant_clip("target", "train", "normal", k, 5) for k in range(6)]
    test = {
        (domain, condition): [plant_clip(domain, "test", condition, k, 5) for k in range(20)]
        for domain in ("source", "target")
        for condition in ("normal", "anomaly")
    }
    ratios, false_alarms = {}, {}
    for domains in ("off", "auto"):
        detector = fit(name, train, tmp_path, domains=domains)
        scores = {cell: detector.score(clips) for cell, clips in test.items()}
        ratios[domains] = np.median(scores["target", "normal"]) / np.median(scores["source", "normal"])
        threshold = np.sort(scores["source", "normal"])[17]  # two in twenty of the source domain
        false_alarms[domains] = np.mean(scores["target", "normal"] > threshold)
        for domain in ("source", "target"):
            normal, anomalous = scores[domain, "normal"], scores[domain, "anomaly"]
            assert np.mean(anomalous[:, None] > normal) > 0.7
    assert false_alarms["auto"] < false_alarms["off"]
    assert abs(np.log(ratios["auto"])) < 0.75 * abs(np.log(ratios["off"]))
