"""MobileNetV2: its network, the windows it learns from, its score against a slow reference, its map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from auscult import fitting
from auscult.corpus import Clip
from auscult.detectors.mobilenetv2 import MobileNetV2Detector
from auscult.detectors.registry import create
from auscult.errors import AudioError, AuscultError
from auscult.nn import tiles
from auscult.nn.mobilenet import KerasPad, MobileNetV2
from auscult.store import LogMels, Store
from auscult.training import Run
from conftest import machine_sound

RATE = 16_000
SMALL: dict[str, Any] = {"frames": 32, "hop": 8, "width": 0.1, "batch_size": 8, "epochs": 100, "max_steps": 4}


def clip(samples: np.ndarray, machine_id: str = "id_00", machine_type: str = "machine") -> Clip:
    return Clip("clip", samples=samples.astype(np.float32), rate=RATE, machine_type=machine_type, machine_id=machine_id)


def two_machines(n: int) -> list[Clip]:
    return [clip(machine_sound(k, pitch=(180.0, 230.0)[k % 2]), machine_id=("id_00", "id_02")[k % 2]) for k in range(n)]


def mobile(**changed: object) -> MobileNetV2Detector:
    detector = create("mobilenetv2", "quick", SMALL | changed)
    assert isinstance(detector, MobileNetV2Detector)
    return detector


def untrained(n_machines: int = 3, **changed: object) -> MobileNetV2Detector:
    detector = mobile(**changed)
    detector.machines = [("machine", f"id_0{k}") for k in range(n_machines)]
    detector.network = detector.new_network(1).eval()
    return detector


# Network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_classes", "count"), [(4, 692_804), (7, 696_647), (41, 740_201)])
def test_as_many_parameters_as_published(n_classes: int, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in MobileNetV2(n_classes).parameters()) == count


def test_of_four_machines_before_there_are_any_and_then_of_as_many_as_there_are() -> None:
    assert create("mobilenetv2").n_parameters() == create("mobilenetv2", "quick").n_parameters() == 692_804
    detector = create("mobilenetv2")
    detector.machines = [("pump", f"id_0{k}") for k in range(7)]  # type: ignore[attr-defined]
    assert detector.n_parameters() == 696_647


def test_full_width_is_that_of_imagenet() -> None:
    """3 504 872 parameters for a thousand classes, as published with the network's usual implementations."""
    with torch.device("meta"):
        assert sum(p.numel() for p in MobileNetV2(1000, width=1.0).parameters()) == 3_504_872


@pytest.mark.parametrize(("shape", "last"), [((64, 128), (2, 4)), ((32, 128), (1, 4)), ((33, 65), (2, 3))])
def test_size_of_the_last_map(shape: tuple[int, int], last: tuple[int, int]) -> None:
    network = MobileNetV2(2, width=0.1).eval()
    assert network.layers(torch.zeros(1, 3, *shape)).shape[2:] == last


@pytest.mark.parametrize(("side", "before"), [(4, 0), (5, 1)])
def test_padding_is_that_of_keras(side: int, before: int) -> None:
    """Even sides are padded behind only, so that the first place is centred on the second row."""
    image = torch.arange(1.0, side * side + 1).view(1, 1, side, side)
    padded = KerasPad()(image)
    assert padded.shape[2:] == (side + before + 1, side + before + 1)
    assert torch.equal(padded[0, 0, before : before + side, before : before + side], image[0, 0])
    assert float(padded.sum()) == float(image.sum())


def test_blocks_add_what_came_in_where_shapes_allow() -> None:
    blocks = [m for m in MobileNetV2(2).layers if hasattr(m, "adds")]
    assert [b.adds for b in blocks] == [False] + [k > 0 for n in (2, 3, 4, 3, 3, 1) for k in range(n)]


# Learning -----------------------------------------------------------------------------------------------


def test_the_papers_settings() -> None:
    config = create("mobilenetv2", "paper").config.model_dump()
    assert (config["frames"], config["hop"], config["train_hop"], config["width"]) == (64, 1, 8, 0.5)
    assert (config["learning_rate"], config["batch_size"], config["epochs"]) == (1e-5, 32, 20)
    assert config["score_by"] == "log-odds"


@pytest.mark.parametrize(("n_frames", "count", "trained_on"), [(313, 250, 32), (344, 281, 36)])
def test_so_many_windows(n_frames: int, count: int, trained_on: int) -> None:
    assert len(tiles.starts(n_frames, 64, 1)) == count
    clips = [clip(np.zeros(1), machine_id=i) for i in ("id_00", "id_02")]
    spectra = [np.zeros((n_frames, 128), np.float32)] * 2
    detector = create("mobilenetv2", "paper")
    assert len(detector._examples(LogMels(clips, spectra))) == 2 * trained_on  # type: ignore[attr-defined]


def test_windows_come_with_their_machine() -> None:
    """Clips of many lengths, one too short: each window's values say which clip it is of."""
    lengths, ids = (40, 8, 60, 33), ("id_04", "id_06", "id_00", "id_04")
    spectra = [np.full((n, 128), k, np.float32) for k, n in enumerate(lengths)]
    detector = mobile()
    examples = detector._examples(LogMels([clip(np.zeros(1), machine_id=i) for i in ids], spectra))
    assert detector.machines == [("machine", "id_00"), ("machine", "id_04")]
    windows, labels = examples.gather(torch.arange(len(examples)))
    assert windows.shape == (2 + 4 + 1, 32, 128)
    assert [(int(w[0, 0]), int(label)) for w, label in zip(windows, labels, strict=True)] == [
        *[(0, 1)] * 2,
        *[(2, 0)] * 4,
        (3, 1),
    ]


def test_of_one_machine_it_refuses_and_names_what_would_do(tiny_plant: Path, tmp_path: Path) -> None:
    with pytest.raises(AuscultError, match=r"machine IDs apart, and all 2 clips are of one.*knn, ae and pae"):
        mobile().fit(two_machines(4)[::2], store=Store(tmp_path))
    with pytest.raises(AuscultError, match="knn, ae and pae"):
        fitting.fit(tiny_plant, "mobilenetv2", settings=SMALL, machine_type="pump", machine_id="00")


def test_outliers_are_machines_too(tmp_path: Path) -> None:
    detector = mobile(max_steps=1)
    other = clip(machine_sound(9, pitch=400.0), "id_00", "another")
    detector.fit(two_machines(4)[::2], outliers=[other], store=Store(tmp_path))
    assert detector.machines == [("another", "id_00"), ("machine", "id_00")]
    state = detector.state()[0]
    middle = (state["usual.low"] + state["usual.high"]) / 2
    torch.testing.assert_close(middle[0], detector.logmel(other).mean(0), atol=1e-3, rtol=0)


def test_a_run_that_goes_on_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUSCULT_CHECKPOINT_SECONDS", "0")
    straight, resumed = mobile(), mobile()
    how: dict[str, Any] = {"store": Store(tmp_path), "seed": 1}
    straight.fit(two_machines(4), **how, run=Run(checkpoint=tmp_path / "c"))
    assert resumed.fit(two_machines(4), **how, run=Run(checkpoint=tmp_path / "c", resume=True)).steps == 4
    assert all(torch.equal(v, resumed.state()[0][k]) for k, v in straight.state()[0].items())


# Scores and maps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("score_by", ["log-odds", "improbability"])
def test_the_score_is_the_mean_over_windows_alone(score_by: str) -> None:
    detector = untrained(score_by=score_by, hop=1)
    c = clip(machine_sound(5, seconds=1.5), "id_01")
    logmel = detector.logmel(c)
    assert detector.network is not None
    scores = []
    for start in range(len(logmel) - 31):
        with torch.no_grad():
            p = float(detector.network(logmel[None, start : start + 32]).double().softmax(1)[0, 1])
        scores.append(np.log((1 - p) / p) if score_by == "log-odds" else -np.log(p))
    assert detector.score([c])[0] == pytest.approx(np.mean(scores), abs=1e-5)


def test_a_machine_it_has_not_learnt_is_refused_by_name() -> None:
    with pytest.raises(AudioError, match=r"clip: mobilenetv2 has not learnt a machine machine id_07 — say which of"):
        untrained().score([clip(machine_sound(1), "id_07")])


def test_without_a_machine_it_is_the_likeliest_that_counts() -> None:
    detector = untrained()
    logmel = detector.logmel(clip(machine_sound(1)))
    with torch.inference_mode():
        by_machine = [detector.score_of(clip(machine_sound(1), f"id_0{k}"), logmel) for k in range(3)]
        assert detector.score_logmel(logmel) == min(by_machine)
        likeliest = clip(machine_sound(1), f"id_0{np.argmin(by_machine)}")
        assert torch.equal(detector.map_logmel(logmel), detector.map_of(likeliest, logmel))


def test_the_machines_are_kept_with_the_weights() -> None:
    detector = untrained()
    again = mobile()
    again.restore(*detector.state())
    c = clip(machine_sound(4), "id_02")
    assert again.score([c])[0] == detector.score([c])[0]
    with pytest.raises(AuscultError, match="do not fit"):
        mobile().restore(detector.state()[0], {})
    with pytest.raises(AuscultError, match="do not fit"):
        mobile().restore(detector.state()[0], {"machines": [["machine", "id_00"]]})


def test_it_learns_and_its_map_finds_what_is_of_another_machine(tmp_path: Path) -> None:
    """Machines that differ in their whistle: where one whistles as the other does, the map lies there."""

    def whistling(seed: int, hertz: float, machine_id: str, start: float = 0, end: float = 2) -> Clip:
        time = np.arange(2 * RATE) / RATE
        whistle = 0.05 * np.sin(2 * np.pi * hertz * time) * ((time >= start) & (time < end))
        return clip(machine_sound(seed) + whistle, machine_id)

    low, high = (1500.0, "id_00"), (4000.0, "id_02")
    detector = mobile(width=0.25, max_steps=60, batch_size=16, learning_rate=3e-3)
    train = [whistling(k, *(low, high)[k % 2]) for k in range(16)]
    detector.fit(train, store=Store(tmp_path))
    own = whistling(90, *low)
    other = clip(whistling(90, *high).samples, "id_00")  # type: ignore[arg-type]
    assert detector.score([other])[0] > detector.score([own])[0] + 1
    odd = clip(own.samples + whistling(90, 4000.0, "", 0.8, 1.2).samples - machine_sound(90), "id_00")
    with_it, without = detector.anomaly_map(odd), detector.anomaly_map(own)
    assert with_it.min() >= 0
    excess = np.maximum(with_it - without, 0)
    centres, times = detector.front_end.band_centres(), detector.front_end.frame_times(excess.shape[1])
    there = np.ix_((centres > 3600) & (centres < 4400), (times > 0.7) & (times < 1.3))
    assert excess[there].sum() / excess.sum() > 0.4
    assert excess[there].size / excess.size < 0.04
