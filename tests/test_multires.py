"""The multi-resolution embedding: sizes, losses against plain forms, crops, what is known and what is near."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize, one_hot

from auscult.corpus import Clip
from auscult.detectors.multires import Multires
from auscult.detectors.multires_judging import Known, apart, held_back
from auscult.detectors.multires_training import Crops, Learner
from auscult.detectors.registry import create, rescored
from auscult.errors import AuscultError
from auscult.nn.density import local_distances
from auscult.nn.mixing import exchanged, mixed
from auscult.nn.multires import WIDTH, WINDOWS, MultiResolution, crop_starts, kept_bins, repeated, spectrogram
from auscult.nn.subclusters import SubClusters
from auscult.store import Store
from auscult.training import Run
from conftest import machine_sound

RATE = 16_000


def clip(seed: int, machine_id: str = "id_00", kind: str = "pump", seconds: float = 1.3, **more: Any) -> Clip:
    sound = machine_sound(seed, seconds=seconds, pitch=180.0 if machine_id == "id_00" else 260.0)
    return Clip(
        f"{kind} {machine_id} {seed}",
        samples=sound.astype(np.float32),
        rate=RATE,
        machine_type=kind,
        machine_id=machine_id,
        **more,
    )


def small(**changed: object) -> Multires:
    made = create("multires", "quick", {"seconds": 1.0, "max_steps": 2, "batch_size": 4, "bank": False, **changed})
    assert isinstance(made, Multires)
    return made


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Multires:
    made = small()
    clips = [clip(k, f"id_0{2 * (k % 2)}") for k in range(8)] + [clip(k, "id_01", "fan") for k in range(4)]
    made.fit(clips, store=Store(tmp_path_factory.mktemp("store")))
    return made


# Sizes ---------------------------------------------------------------------------------------------------


def test_it_has_five_million_parameters_for_eleven_seconds() -> None:
    assert create("multires", "paper", {"seeds": 1}).n_parameters() == 5_000_432
    assert create("multires", "paper").n_parameters() == 10 * 5_000_432


def test_the_spectrograms_have_the_bins_from_200_to_8000_hz() -> None:
    assert [len(kept_bins(n_fft)) for n_fft, _ in WINDOWS] == [125, 500, 1997]
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(RATE) / RATE)[None]
    for n_fft, hop in WINDOWS:
        loudest = int(spectrogram(tone, n_fft, hop)[0].mean(1).argmax())
        assert kept_bins(n_fft)[loudest] * RATE / n_fft == 1000


@pytest.mark.parametrize("seconds", [1, 2.5, 11])
def test_every_length_gives_four_branches(seconds: float) -> None:
    network = MultiResolution(round(seconds * RATE)).eval()
    assert network(torch.randn(2, round(seconds * RATE))).shape == (2, 4 * WIDTH)


def test_branches_hear_their_own_resolution_only() -> None:
    network = MultiResolution(RATE).eval()
    resolutions = network.resolve(torch.randn(1, RATE))
    before = network.embed(resolutions)
    for number in range(4):
        changed = [one * (2.0 if k == number else 1.0) for k, one in enumerate(resolutions)]
        differs = (network.embed(changed) != before).view(4, WIDTH).any(1).tolist()
        assert differs == [k == number for k in range(4)]


# Crops ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_samples", [100, 512, 513, 1024, 5000, 16_384])
def test_crops_cover_a_clip(n_samples: int) -> None:
    starts = crop_starts(n_samples, 512, 128)
    heard = np.zeros(max(n_samples, 512), dtype=bool)
    for start in starts:
        assert start % 128 == 0
        assert start + 512 <= len(heard)
        heard[start : start + 512] = True
    assert heard[: n_samples - 127].all()


def test_a_short_clip_is_repeated() -> None:
    assert repeated(torch.arange(3), 7).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_training_crops_lie_anywhere_in_the_clip() -> None:
    waves = {f"c{k}": torch.arange(1000.0) + 10_000 * k for k in range(3)}
    examples = Crops([Clip(name) for name in waves], [0, 1, 2], lambda c: waves[c.path], 100, 4)
    assert len(examples) == 4
    starts = set()
    for _ in range(50):
        rows, labels = examples.gather(torch.arange(4))
        assert labels.tolist() == [0, 1, 2, 0]
        assert (rows.diff() == 1).all()
        starts |= {float(row[0]) % 10_000 for row in rows}
    assert min(starts) < 100 < 800 < max(starts) <= 900


# Losses --------------------------------------------------------------------------------------------------


def test_sub_cluster_adacos_is_the_softmax_over_all_centres_summed_by_class() -> None:
    torch.manual_seed(0)
    head = SubClusters(8, 3, 4)
    embeddings, labels = torch.randn(5, 8), torch.tensor([0, 2, 1, 1, 0])
    assert head.scale == pytest.approx(math.sqrt(2) * math.log(3 * 4 - 1))
    loss = 0.0
    for x, label in zip(normalize(embeddings, dim=1), labels, strict=True):
        parts = [[math.exp(head.scale * float(x @ normalize(c, dim=0))) for c in own] for own in head.centres.detach()]
        loss -= math.log(sum(parts[label]) / sum(map(sum, parts))) / 5
    assert float(head(embeddings, one_hot(labels, 3).float()).detach()) == pytest.approx(loss, rel=1e-5)


def test_adaproj_is_the_cosine_to_the_projection() -> None:
    torch.manual_seed(0)
    head = SubClusters(6, 2, 3, projected=True, trainable=False)
    assert not head.centres.requires_grad
    x = torch.randn(1, 6)
    cosines = []
    for own in normalize(head.centres, dim=2):
        projection = sum(((normalize(x, dim=1)[0] @ w) * w for w in own), torch.zeros(6))
        cosines.append(float(normalize(x, dim=1)[0] @ normalize(projection, dim=0)))
    expected = torch.tensor(cosines).mul(head.scale).log_softmax(0)
    torch.testing.assert_close(head.log_probabilities(x)[0], expected, rtol=1e-5, atol=1e-5)


def test_mixing_keeps_what_is_not_mixed_and_weighs_labels_as_waves() -> None:
    torch.manual_seed(1)
    waves, labels = torch.eye(64), torch.eye(64)
    same, unchanged = mixed(waves, labels, 0.0)
    assert torch.equal(same, waves)
    assert torch.equal(unchanged, labels)
    both, soft = mixed(waves, labels, 0.5)
    assert torch.equal(both, soft)  # waves are their own labels here
    torch.testing.assert_close(soft.sum(1), torch.ones(64))
    alone = (soft.max(1).values == 1).float().mean()
    assert 0.3 < alone < 0.75


def test_exchanging_a_branch_makes_classes_of_its_own() -> None:
    torch.manual_seed(0)
    width, n = 4 * WIDTH, 40
    embedded = torch.arange(n, dtype=torch.float32)[:, None].expand(n, width).clone()
    found, soft = exchanged(embedded, torch.eye(n), WIDTH)
    torch.testing.assert_close(soft.sum(1), torch.ones(n))
    for k in range(n):
        giver = int(found[k, 0])
        assert found[k, WIDTH] == k
        if soft[k, k] == 1:
            assert giver == k
        else:
            expected = torch.zeros(3 * n)
            expected[n + giver] += 0.5
            expected[2 * n + k] += 0.5
            assert torch.equal(soft[k], expected)


def test_learning_lowers_the_loss_with_every_setting() -> None:
    for settings in ({}, {"exchange": True}):
        torch.manual_seed(0)
        n_classes = 2
        head = SubClusters(4 * WIDTH, n_classes * (3 if settings else 1), 2)
        learner = Learner(MultiResolution(RATE), head, n_classes, 0.0, bool(settings))
        waves, labels = torch.randn(8, RATE) * torch.tensor([0.01, 1.0] * 4)[:, None], torch.tensor([0, 1] * 4)
        optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-3)
        losses = []
        for _ in range(6):
            loss = learner(waves, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0]


# Judging -------------------------------------------------------------------------------------------------


def test_a_known_clip_is_at_no_distance_and_left_out_of_what_it_is_compared_with(fitted: Multires) -> None:
    known = clip(0)
    assert fitted.score([known])[0] == pytest.approx(0, abs=1e-12)
    assert fitted.score_learnt([known])[0] > 1e-7


def test_the_score_is_the_mean_distance_of_crops_to_the_nearest_of_the_type(fitted: Multires) -> None:
    other = clip(77, "id_02", seconds=2.5)
    assert fitted.known is not None
    with torch.inference_mode():
        own = fitted.known.embeddings[fitted.known.owners[0] == fitted.known.types.index("pump")]
        crops = fitted._embed(other)
        expected = np.mean([min(1 - float(c @ k) for k in own[:, 0]) for c in crops[:, 0]])
    assert len(crops) == 3
    assert fitted.score([other])[0] == pytest.approx(expected, abs=1e-5)


def test_a_type_never_heard_is_compared_with_all(fitted: Multires) -> None:
    assert fitted.known is not None
    own = fitted.known.own("valve")
    assert own.all()
    assert len(own) == 24  # twelve clips of two crops


def test_outliers_teach_and_are_not_known() -> None:
    made = small()
    made.fit([clip(k) for k in range(4)], outliers=[clip(k, "id_02") for k in range(4)], store=Store())
    assert made.machines == [("pump", "id_00"), ("pump", "id_02")]
    assert made.known is not None
    assert made.known.clips == [clip(k).path for k in range(4)]


def test_what_is_known_keeps_no_graph_of_how_it_was_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded: list[torch.Tensor] = []
    gather = Known.of

    def watched(clips: Sequence[Clip], some: Sequence[torch.Tensor], held: frozenset[str]) -> Known:
        embedded.extend(some)
        return gather(clips, some, held)

    monkeypatch.setattr(Known, "of", watched)
    monkeypatch.setattr("auscult.parallel.available_cores", lambda: 2)
    small().fit([clip(k, f"id_0{k % 2}") for k in range(4)], store=Store())
    assert len(embedded) == 4
    assert not any(one.requires_grad for one in embedded)


# With a bank beside it -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Multires:
    made = small(bank=True)
    clips = [clip(k, f"id_0{2 * (k % 2)}") for k in range(16)] + [clip(k, "id_01", "fan") for k in range(4)]
    made.fit(clips, store=Store(tmp_path_factory.mktemp("store")))
    return made


def test_a_tenth_of_a_class_teaches_nothing(joined: Multires, monkeypatch: pytest.MonkeyPatch) -> None:
    assert held_back(["a"] * 20 + ["b"] * 5 + ["c"] * 4, 0) == held_back(["a"] * 20 + ["b"] * 5 + ["c"] * 4, 0)
    held = held_back(["a"] * 20 + ["b"] * 5 + ["c"] * 4, 0)
    assert sum(k < 20 for k in held) == 2
    assert sum(20 <= k < 25 for k in held) == 1
    assert len(held) == 3
    assert held_back(["a"] * 4, 0) == []
    assert joined.known is not None
    assert len(joined.known.held) == 2  # one of each pump; the fan has too few
    taught: list[str] = []

    class Watched(Crops):
        def __init__(self, clips: Sequence[Clip], *rest: Any) -> None:
            taught.extend(one.path for one in clips)
            super().__init__(clips, *rest)

    monkeypatch.setattr("auscult.detectors.multires.Crops", Watched)
    small(bank=True).fit([clip(k, f"id_0{2 * (k % 2)}") for k in range(16)], store=Store())
    assert len(taught) == 14


def test_with_a_bank_both_count_by_what_they_exceed_the_usual_by(joined: Multires, tmp_path: Path) -> None:
    known, other = joined.known, clip(77, "id_02", seconds=2.5)
    assert known is not None
    alone = small()
    alone.network, alone.known = joined.network, known
    bank = create("bank", "quick")
    pumps = [clip(k, f"id_0{2 * (k % 2)}") for k in range(16)]
    bank.fit(pumps, store=Store(tmp_path))
    # By hand: logarithms of the distances of each clip to all others, those held back by themselves.
    distances = np.log(alone.score_learnt(pumps))
    held = np.array([one.path in known.held for one in pumps])
    mean = max(distances[held].mean(), distances[~held].mean())
    squares = 2 * distances[held].var() + 14 * distances[~held].var() + 10 * 0.5**2
    by_distance = np.logaddexp(0, (np.log(alone.score([other])[0]) - mean) / np.sqrt(squares / 26))
    left_out = bank.state()[0]["left_out_scores"].numpy()
    of_bank = np.sqrt((16 * left_out.var() + 10 * (0.15 * left_out.mean()) ** 2) / 26)
    by_bank = np.logaddexp(0, (bank.score([other])[0] - left_out.mean()) / of_bank)
    expected = np.sqrt((by_distance**2 + by_bank**2) / 2)
    assert joined.score([other])[0] == pytest.approx(expected, rel=1e-6)
    own = alone.anomaly_map(other)
    maps = own * by_distance**2 / own.mean() + bank.anomaly_map(other)
    np.testing.assert_allclose(joined.anomaly_map(other), maps / 2, rtol=1e-4)
    assert joined.findings(other) == bank.findings(other)


def test_a_twin_that_is_held_back_does_not_make_every_clip_strange() -> None:
    """Distances to all but the twin of one pair are alike; the pair is held back, or it is not."""
    angles = torch.tensor([0.0, 0.001, 1.0, 2.0, 3.0, 4.0])
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1)[:, None]
    owners = torch.stack([torch.zeros(6, dtype=torch.int64), torch.arange(6)])
    names = [f"c{k}" for k in range(6)]
    config = small().config
    usual = {
        held: Known(embeddings, owners, ["pump"], names, [""] * 6, frozenset([held])).usual("pump", config)
        for held in ("c0", "c3")
    }
    assert float(usual["c0"][0]) == pytest.approx(np.mean(np.log([5e-7, *[1 - np.cos(1)] * 4])), abs=0.01)
    assert float(usual["c3"][0]) == pytest.approx(np.log(1 - np.cos(1)), abs=0.01)
    alone = Known(embeddings[:1], owners[:, :1], ["pump"], names[:1], [""])
    assert alone.usual("pump", config).tolist() == [0.0, 0.5]  # of one clip nothing is known: none is far


def test_with_a_bank_distances_are_not_below_zero() -> None:
    with pytest.raises(AuscultError, match="use ratio, or bank=false"):
        small(bank=True, density=2, density_form="difference")


def test_a_bank_is_kept_in_the_model_and_left_out_for_clips_it_holds(joined: Multires) -> None:
    again = small(bank=True)
    again.restore(*joined.state())
    some = [clip(77), clip(78, "id_01", "fan"), clip(79, kind="valve")]
    np.testing.assert_array_equal(again.score(some), joined.score(some))
    assert again.findings(some[2]) == ()  # of a type never heard no bank can tell
    learnt = [clip(k, f"id_0{2 * (k % 2)}") for k in range(4)]
    assert (joined.score_learnt(learnt) > joined.score(learnt)).all()
    tensors, facts = joined.state()
    damaged = {name: t for name, t in tensors.items() if name != "bank.0.left_out_scores"}
    with pytest.raises(AuscultError, match="fit it again"):
        small(bank=True).restore(damaged, facts)


def test_attributes_are_classes_too_and_one_class_is_refused(tmp_path: Any) -> None:
    with pytest.raises(AuscultError, match="or use bank, which needs no labels"):
        small().fit([clip(k) for k in range(4)], store=Store(tmp_path))
    fast = [clip(k, attributes="speed=fast") for k in range(3)]
    slow = [clip(k + 3, attributes="speed=slow") for k in range(3)]
    small().fit([*fast, *slow], store=Store(tmp_path))
    with pytest.raises(AuscultError, match="all 6 clips are of one"):
        small(labels="machine").fit([*fast, *slow], store=Store(tmp_path))


def test_density_divides_by_the_distance_to_the_neighbours() -> None:
    known = normalize(torch.randn(1, 6, 5, generator=torch.Generator().manual_seed(0)), dim=2)
    densities = local_distances(known, torch.arange(6)[:, None], 2, apart)[0]
    for k in range(6):
        distances = sorted(1 - float(known[0, k] @ known[0, j]) for j in range(6) if j != k)
        assert float(densities[k]) == pytest.approx(np.mean(distances[:2]), abs=1e-5)
    assert local_distances(known[:, :1], torch.zeros(1, 1, dtype=torch.int64), 3, apart).tolist() == [[1.0]]


def test_density_may_be_asked_for_afterwards(fitted: Multires) -> None:
    other = clip(78)
    assert rescored(fitted, {"density": 2}).score([other])[0] != fitted.score([other])[0]


def test_several_networks_are_averaged_and_go_on_after_a_stop(tmp_path: Any) -> None:
    clips = [clip(k, f"id_0{2 * (k % 2)}") for k in range(6)]
    whole = small(seeds=2)
    log = whole.fit(clips, store=Store(tmp_path))
    assert log.steps == 4
    first, second = (dict(network.state_dict()) for network in whole.build().networks)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    again = small(seeds=2)
    checkpoint = tmp_path / "model.checkpoint"
    again.fit(clips, store=Store(tmp_path), run=Run(checkpoint=checkpoint, resume=True))
    assert not list(tmp_path.glob("model.checkpoint*"))
    assert all(torch.equal(tensor, again.state()[0][name]) for name, tensor in whole.state()[0].items())
