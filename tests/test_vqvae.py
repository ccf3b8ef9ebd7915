"""The discrete autoencoder: its quantiser against slow references, its sizes, its training, its score and map."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from auscult.corpus import Clip
from auscult.detectors.images import Images, image_frames, laid, mirrored, put_together
from auscult.detectors.registry import create
from auscult.detectors.vqvae import VQVAE
from auscult.errors import AudioError
from auscult.nn import quantiser as quantisers
from auscult.nn.quantiser import Quantiser, as_maps, as_rows
from auscult.nn.vqvae import DiscreteAutoencoder, Levels
from auscult.store import Store
from auscult.training import Run
from conftest import machine_sound

RATE = 16_000
SMALL: dict[str, Any] = {"width": 16, "codes": 16, "patience": 3, "max_steps": 4, "batch_size": 4, "frames": 32}


def humming(n: int, seconds: float = 1.5) -> list[Clip]:
    return [
        Clip("clip", samples=machine_sound(k, seconds=seconds).astype(np.float32), rate=RATE, machine_id="id_00")
        for k in range(n)
    ]


def small(**changed: object) -> VQVAE:
    detector = create("vqvae", "paper", SMALL | changed)
    assert isinstance(detector, VQVAE)
    return detector


# Sizes --------------------------------------------------------------------------------------------------


def test_as_many_parameters_as_published() -> None:
    detector = create("vqvae", "paper")
    assert detector.n_parameters() == 1_920_129
    with torch.device("meta"):
        network = DiscreteAutoencoder()
    assert network.quantiser1.codes.numel() + network.quantiser2.codes.numel() == 1_048_576


def test_the_papers_settings() -> None:
    config = create("vqvae", "paper").config.model_dump()
    assert (config["max_steps"], config["batch_size"], config["learning_rate"]) == (20_000, 256, 2e-4)
    assert (config["width"], config["codes"], config["frames"]) == (128, 4096, 320)
    assert (config["commitment"], config["reconstruction"], config["decay"]) == (0.25, 10.0, 0.99)


@pytest.mark.parametrize("shape", [(128, 320), (128, 352), (32, 64)])
def test_shapes_of_the_levels(shape: tuple[int, int]) -> None:
    """A quarter and an eighth: of 128 x 320, 32 x 80 and 16 x 40."""
    network = DiscreteAutoencoder(4, 8).eval()
    with torch.no_grad():
        quantised1, quantised2 = network.codes(torch.randn(1, 1, *shape))
        assert quantised1.shape == (1, 4, shape[0] // 8, shape[1] // 8)
        assert quantised2.shape == (1, 4, shape[0] // 4, shape[1] // 4)
        assert network.decode(quantised1, quantised2).shape == (1, 1, *shape)


# Quantiser ----------------------------------------------------------------------------------------------


def test_distances_in_chunks_give_the_nearest_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    quantiser = Quantiser(24, 8)
    vectors = torch.randn(1001, 8)
    slow = (vectors[:, None] - quantiser.codes).square().sum(2).argmin(1)
    assert torch.equal(quantiser.nearest(vectors), slow)
    monkeypatch.setitem(quantisers._DISTANCES_AT_ONCE, "cpu", 24 * 7)
    assert torch.equal(quantiser.nearest(vectors), slow)
    assert torch.equal(quantiser.nearest(vectors[:0]), slow[:0])


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation has made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor):
                self.numel = max(self.numel, one.numel())
        return made


def test_no_tensor_grows_with_codes_times_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the search, and not in the update of the codes: their product is never made."""
    monkeypatch.setitem(quantisers._DISTANCES_AT_ONCE, "cpu", 1 << 12)
    quantiser = Quantiser(512, 4).train()
    maps = torch.randn(2, 4, 32, 32, requires_grad=True)
    with Largest() as largest:
        quantised, commitment = quantiser(maps)
        (quantised.sum() + commitment).backward()
    assert largest.numel <= 1 << 13 < 512 * 2 * 32 * 32


def test_a_batch_of_the_papers_size_needs_less_than_two_gibibytes() -> None:
    """Chunk on a GPU, the vectors as rows, their codes, and these as maps, of 256 spectrograms; in float32."""
    vectors = 256 * 32 * 80 * 128
    assert 4 * (3 * vectors + quantisers._DISTANCES_AT_ONCE["cuda"] + 3 * 4096 * 128) < 2 * 2**30


def test_rows_and_maps_are_each_others_inverse() -> None:
    maps = torch.randn(2, 3, 4, 5)
    rows = as_rows(maps)
    assert torch.equal(rows[1 * 20 + 2 * 5 + 3], maps[1, :, 2, 3])
    assert torch.equal(as_maps(rows, maps), maps)


def test_the_gradient_passes_straight_through() -> None:
    quantiser = Quantiser(8, 4).eval()
    maps = torch.randn(2, 4, 3, 3, requires_grad=True)
    quantised, _ = quantiser(maps)
    torch.testing.assert_close(quantised, quantiser.quantise(maps))
    weights = torch.randn_like(quantised)
    (quantised * weights).sum().backward()
    assert maps.grad is not None
    torch.testing.assert_close(maps.grad, weights)


def test_commitment_draws_features_to_their_codes_alone() -> None:
    quantiser = Quantiser(8, 4).eval()
    maps = torch.randn(2, 4, 3, 3, requires_grad=True)
    _, commitment = quantiser(maps)
    commitment.backward()
    distance = (maps - quantiser.quantise(maps)).detach()
    assert maps.grad is not None
    assert float(commitment.detach()) == pytest.approx(float(distance.square().mean()))
    torch.testing.assert_close(maps.grad, 2 * distance / distance.numel())


def test_codes_follow_the_vectors_that_chose_them() -> None:
    """Against the formula, code by code; the result is of the codes as they were before."""
    torch.manual_seed(1)
    quantiser = Quantiser(6, 3, decay=0.9, patience=5).train()
    quantiser.idle.zero_()
    quantiser.counts.uniform_(1, 4)
    maps = torch.randn(2, 3, 4, 4)
    before, counts, sums = (t.clone() for t in (quantiser.codes, quantiser.counts, quantiser.sums))
    quantised, _ = quantiser(maps)
    vectors = maps.permute(0, 2, 3, 1).reshape(-1, 3)
    chosen = [int(((v - before) ** 2).sum(1).argmin()) for v in vectors]
    torch.testing.assert_close(quantised.permute(0, 2, 3, 1).reshape(-1, 3), before[chosen])
    for k in range(6):
        own = [v for v, c in zip(vectors, chosen, strict=True) if c == k]
        counts[k] = 0.9 * counts[k] + 0.1 * len(own)
        sums[k] = 0.9 * sums[k] + 0.1 * sum(own, torch.zeros(3))
    total = counts.sum()
    for k in range(6):
        smoothed = (counts[k] + 1e-5) / (total + 6e-5) * total
        torch.testing.assert_close(quantiser.codes[k], sums[k] / smoothed)


def test_in_judging_codes_stay_as_they_are() -> None:
    quantiser = Quantiser(6, 3).eval()
    before = {k: v.clone() for k, v in quantiser.state_dict().items()}
    quantiser(torch.randn(2, 3, 4, 4))
    assert all(torch.equal(v, before[k]) for k, v in quantiser.state_dict().items())


def test_codes_begin_at_vectors_and_dead_ones_begin_anew() -> None:
    torch.manual_seed(0)
    quantiser = Quantiser(4, 2, patience=3).train()
    near = torch.randn(1, 2, 4, 4)
    quantiser(near)
    assert torch.cdist(quantiser.codes, as_rows(near)).min(1).values.max() < 2, "not where they were drawn"
    far = near + 100
    # One code, the nearest, takes them all and moves slowly, until the others have idled long enough.
    for _ in range(3):
        quantiser(far)
    assert torch.cdist(quantiser.codes, as_rows(far)).min() > 10
    quantiser(far)
    assert (torch.cdist(quantiser.codes, as_rows(far)).min(1).values < 2).sum() == 3


def test_usage_and_perplexity() -> None:
    quantiser = Quantiser(8, 2)
    assert quantiser.used() == 0
    quantiser.usage.copy_(torch.tensor([0.5, 0.25, 0.125, 0.125, 0, 0, 0, 0]))
    assert quantiser.used() == 0.5
    assert quantiser.perplexity() == pytest.approx(2**1.75)
    quantiser.usage.fill_(1 / 8)
    assert quantiser.perplexity() == pytest.approx(8)


def test_levels_are_of_all_bins_together() -> None:
    rng = np.random.default_rng(0)
    spectra = [rng.normal(-40, 7, (n, 4)).astype(np.float32) + np.arange(4, dtype=np.float32) for n in (5, 9)]
    levels = Levels()
    levels.learn(spectra)
    every = np.concatenate([s.ravel() for s in spectra])
    assert float(levels.mean) == pytest.approx(every.mean(), rel=1e-5)
    assert float(levels.std) == pytest.approx(every.std(), rel=1e-5)


# Images -------------------------------------------------------------------------------------------------


def test_a_short_clip_goes_on_as_its_mirror_image() -> None:
    assert mirrored(4, 10).tolist() == [0, 1, 2, 3, 3, 2, 1, 0, 0, 1]
    windows, starts = laid(torch.arange(3.0)[:, None], 8)
    assert windows[0, :, 0].tolist() == [0, 1, 2, 2, 1, 0, 0, 1]
    assert put_together(windows, starts, 3)[:, 0].tolist() == [0, 1, 2]


def test_a_toy_cars_clip_is_two_images_that_overlap() -> None:
    logmel = torch.arange(344.0)[:, None]
    windows, starts = laid(logmel, 320)
    assert (starts, windows.shape) == ([0, 24], (2, 320, 1))
    assert torch.equal(put_together(windows, starts, 344), logmel)


def test_images_are_as_long_as_the_longest_clip_asks_for() -> None:
    spectra = [np.zeros((n, 4), np.float32) for n in (40, 313)]
    assert image_frames(spectra, 320, 32) == 320
    assert image_frames(spectra, 160, 32) == 160
    assert image_frames(spectra[:1], 320, 32) == 64


def test_training_takes_any_place_of_a_long_clip() -> None:
    torch.manual_seed(0)
    images = Images([np.arange(40, dtype=np.float32)[:, None], np.arange(20, dtype=np.float32)[:, None]], 32, 4)
    assert len(images) == 4
    first = {int(images.gather(torch.tensor([0, 1]))[0, 0, 0]) for _ in range(200)}
    assert first == set(range(9))
    assert images.gather(torch.tensor([3]))[0, 18:22, 0].tolist() == [18, 19, 19, 18]


# The detector -------------------------------------------------------------------------------------------


def test_it_learns_and_tells_of_its_codes(tmp_path: Path) -> None:
    detector = small(max_steps=40, learning_rate=3e-3)
    log = detector.fit(humming(4), store=Store(tmp_path))
    assert log.steps == 40
    assert log.losses[-1] < 0.6 * log.losses[0]
    assert set(log.figures) == {"codes used Q1", "codes used Q2", "perplexity Q1", "perplexity Q2"}
    assert all(1 < log.figures[f"perplexity {level}"] <= 16 for level in ("Q1", "Q2"))


def test_the_score_is_the_mean_of_the_map_and_that_the_squared_error(tmp_path: Path) -> None:
    detector = small()
    detector.fit(humming(4), store=Store(tmp_path))
    network = detector._fitted()
    logmel = detector.logmel(humming(1)[0])
    assert len(logmel) == 47
    scaled = ((logmel - network.levels.mean) / network.levels.std).T
    with torch.no_grad():
        halves = [scaled[:, :32], scaled[:, 15:]]
        made = [network.decode(*network.codes(h.clamp(-4, 4)[None, None]))[0, 0] for h in halves]
        whole = torch.cat([made[0][:, :15], (made[0][:, 15:] + made[1][:, :17]) / 2, made[1][:, 17:]], dim=1)
        expected = (whole - scaled).square().T
        torch.testing.assert_close(detector.map_logmel(logmel), expected, rtol=1e-4, atol=1e-5)
        assert detector.score_logmel(logmel) == pytest.approx(float(expected.mean()), rel=1e-4)


def test_a_run_that_goes_on_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUSCULT_CHECKPOINT_SECONDS", "0")
    straight, resumed = small(), small()
    how: dict[str, Any] = {"store": Store(tmp_path), "seed": 1}
    straight.fit(humming(3), **how, run=Run(checkpoint=tmp_path / "c"))
    assert (tmp_path / "c").exists()
    assert resumed.fit(humming(3), **how, run=Run(checkpoint=tmp_path / "c", resume=True)).steps == 4
    assert all(torch.equal(v, resumed.state()[0][k]) for k, v in straight.state()[0].items())


def test_less_than_a_place_of_the_coarse_level_is_refused(tmp_path: Path) -> None:
    detector = small()
    detector.fit(humming(2), store=Store(tmp_path))
    with pytest.raises(AudioError, match="too short"):
        detector.score(humming(1, seconds=0.2))
    assert math.isfinite(detector.score(humming(1, seconds=0.3))[0])
