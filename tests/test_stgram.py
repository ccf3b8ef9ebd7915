"""STgram: its networks, the waveform beside the log-mel, ArcFace, its score against a slow reference, its map."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from auscult import fitting
from auscult.corpus import Clip
from auscult.detectors.registry import create
from auscult.detectors.stgram import STgram, late_cosine, wave_windows
from auscult.errors import AudioError, AuscultError
from auscult.nn.arcface import ArcFace
from auscult.nn.mobilefacenet import MobileFaceNet
from auscult.nn.tgram import TgramNet
from auscult.store import Store
from auscult.training import Run
from conftest import machine_sound

RATE = 16_000
SMALL: dict[str, Any] = {"frames": 32, "form": 2023, "batch_size": 4, "epochs": 100, "max_steps": 3}


def clip(samples: np.ndarray, machine_id: str = "id_00", machine_type: str = "machine") -> Clip:
    return Clip("clip", samples=samples.astype(np.float32), rate=RATE, machine_type=machine_type, machine_id=machine_id)


def two_machines(n: int) -> list[Clip]:
    return [clip(machine_sound(k, pitch=(180.0, 230.0)[k % 2]), machine_id=("id_00", "id_02")[k % 2]) for k in range(n)]


def stgram(preset: str = "quick", **changed: object) -> STgram:
    detector = create("stgram", preset, (SMALL if preset == "quick" else {}) | changed)
    assert isinstance(detector, STgram)
    return detector


def untrained(preset: str = "quick", n_machines: int = 3, **changed: object) -> STgram:
    detector = stgram(preset, **changed)
    detector.machines = [("machine", f"id_0{k}") for k in range(n_machines)]
    detector.network = detector.new_network(1).eval()
    return detector


# Networks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "count"), [(2022, 1_345_046), (2023, 1_155_990)])
def test_as_many_parameters_as_published(form: int, count: int) -> None:
    assert stgram("paper", form=form).n_parameters() == count


def test_as_many_parameters_in_tgramnet_as_published() -> None:
    assert sum(p.numel() for p in TgramNet(313).parameters()) == 280_406


@pytest.mark.parametrize("n_frames", [313, 32, 63])
def test_tgramnet_has_the_frames_of_the_log_mel(n_frames: int) -> None:
    front_end = stgram("paper").front_end
    clips = clip(np.zeros(RATE * 12))
    waves = wave_windows(clips, front_end, [0], n_frames)
    assert front_end.n_frames(waves.shape[1]) == n_frames
    assert TgramNet(n_frames).eval()(waves).shape == (1, 128, n_frames)


def test_tgramnet_hears_what_the_log_mel_hears_where_it_does() -> None:
    """Before any layer mixes frames: a click moves the frames whose log-mel it moves, and no others."""
    front_end = stgram("paper").front_end
    network = TgramNet(63)
    waves = torch.zeros(2, 63 * 512 - 256)
    waves[1, 10_000] = 1
    with torch.no_grad():
        maps = network.first(waves[:, None])
    moved = (maps[1] - maps[0]).abs().amax(0).nonzero()[:, 0].tolist()
    spectra = front_end.logmel(waves.numpy())
    assert moved == (spectra[1] - spectra[0]).abs().amax(1).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("form", [2022, 2023])
def test_the_whole_map_is_weighted(form: int) -> None:
    network = MobileFaceNet(form, (128, 313))
    (whole,) = (m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (8, 20))
    assert whole.groups == whole.out_channels == 512
    with torch.device("meta"):
        for n_frames in (16, 17, 63, 344):
            assert MobileFaceNet(form, (128, n_frames)).eval()(torch.zeros(2, 2, 128, n_frames)).shape == (2, 128)


# ArcFace ------------------------------------------------------------------------------------------------


def test_the_own_class_is_handicapped_by_an_angle() -> None:
    torch.manual_seed(0)
    head = ArcFace(6, 4, margin=0.7, scale=30)
    embeddings, labels = torch.randn(50, 6), torch.randint(4, (50,))
    expected = torch.empty(50, 4)
    for k, embedding in enumerate(embeddings):
        for j, direction in enumerate(head.weight.detach()):
            angle = math.acos(float(torch.cosine_similarity(embedding, direction, dim=0)))
            turned = math.cos(angle + 0.7) if angle + 0.7 < math.pi else math.cos(angle) - 0.7 * math.sin(0.7)
            expected[k, j] = 30 * (turned if j == labels[k] else math.cos(angle))
    torch.testing.assert_close(head(embeddings, labels).detach(), expected, atol=2e-3, rtol=0)
    plain = head(embeddings).detach()
    others = torch.ones(50, 4, dtype=torch.bool).scatter(1, labels[:, None], False)
    torch.testing.assert_close(plain[others], expected[others], atol=1e-4, rtol=0)


def test_the_handicapped_logit_falls_with_the_angle_all_the_way() -> None:
    head = ArcFace(2, 1, margin=0.7, scale=1)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0]]))
        angles = torch.linspace(0, math.pi, 400)
        logits = head(torch.stack([angles.cos(), angles.sin()], dim=1), torch.zeros(400, dtype=torch.long))[:, 0]
    assert (logits.diff() < 1e-6).all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gradients_are_finite_along_the_direction_itself(sign: float) -> None:
    head = ArcFace(4, 3)
    embeddings = (sign * head.weight.detach()[:1]).requires_grad_()
    head(embeddings, torch.tensor([0])).sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()
    assert head.weight.grad is not None
    assert head.weight.grad.isfinite().all()


# Waveforms ----------------------------------------------------------------------------------------------


def test_the_papers_window_is_the_first_ten_seconds() -> None:
    front_end = stgram("paper").front_end
    wave = np.random.default_rng(0).normal(0, 0.1, 11 * RATE).astype(np.float32)
    waves = wave_windows(clip(wave), front_end, [0], 313)
    assert waves.shape == (1, 160_000)
    np.testing.assert_array_equal(waves[0], wave[:160_000])


def test_windows_lie_under_their_frames_and_end_with_zeros() -> None:
    front_end = stgram("paper").front_end
    wave = np.arange(1, 20_001, dtype=np.float32) / 20_000
    waves = wave_windows(clip(wave), front_end, [0, 3, 8], 32)
    assert waves.shape == (3, 16_128)
    for row, start in zip(waves.numpy(), (0, 3, 8), strict=True):
        part = wave[512 * start : 512 * start + 16_128]
        np.testing.assert_array_equal(row[: len(part)], part)
        assert not row[len(part) :].any()
    assert wave_windows(clip(wave[:15_900]), front_end, [0], 32)[0, 15_900:].count_nonzero() == 0


def test_training_holds_no_waveforms_and_pairs_them_with_their_log_mels(tmp_path: Path) -> None:
    detector = stgram()
    examples = detector._examples(Store(tmp_path).collect(two_machines(5), detector.front_end))
    assert len(examples) == 8, "whole batches"
    assert not any(isinstance(v, torch.Tensor) and v.numel() > 100 for v in vars(examples).values())
    torch.manual_seed(0)
    starts = set()
    for _ in range(20):
        waves, windows, labels = examples.gather(torch.tensor([0, 3, 4, 6]))
        assert labels.tolist() == [0, 1, 0, 1]
        for wave, window in zip(waves, windows, strict=True):
            inside = detector.front_end.logmel(wave.numpy())[2:-2]
            torch.testing.assert_close(inside, window[2:-2], atol=1e-3, rtol=0)
            starts.add(float(window[0, 0]))
    assert len(starts) > 20, "from anywhere in the clips"


# Learning -----------------------------------------------------------------------------------------------


def test_the_papers_settings() -> None:
    config = create("stgram", "paper").config.model_dump()
    assert (config["frames"], config["form"], config["head"], config["front_end"]) == (313, 2022, "arcface", "stgram")
    assert (config["margin"], config["scale"], config["epochs"], config["batch_size"]) == (0.7, 30.0, 300, 128)
    assert config["learning_rate"] == 1e-4


def test_the_rate_stays_then_falls() -> None:
    schedule = late_cosine(300, 2)
    assert [schedule(step) for step in (1, 40, 42)] == [1, 1, 1]
    assert schedule(43) < 1
    assert schedule(2 * (20 + 150) + 1) == pytest.approx(0.55)
    assert schedule(2 * (20 + 300) + 1) == pytest.approx(0.1)


def test_of_one_machine_it_refuses_and_names_what_would_do(tiny_plant: Path, tmp_path: Path) -> None:
    with pytest.raises(AuscultError, match=r"machine IDs apart, and all 2 clips are of one.*knn, ae and pae"):
        stgram().fit(two_machines(4)[::2], store=Store(tmp_path))
    with pytest.raises(AuscultError, match="knn, ae and pae"):
        fitting.fit(tiny_plant, "stgram", settings=SMALL, machine_type="pump", machine_id="00")


def test_a_run_that_goes_on_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUSCULT_CHECKPOINT_SECONDS", "0")
    straight, resumed = stgram(), stgram()
    how: dict[str, Any] = {"store": Store(tmp_path), "seed": 1}
    straight.fit(two_machines(4), **how, run=Run(checkpoint=tmp_path / "c"))
    assert resumed.fit(two_machines(4), **how, run=Run(checkpoint=tmp_path / "c", resume=True)).steps == 3
    assert all(torch.equal(v, resumed.state()[0][k]) for k, v in straight.state()[0].items())


@pytest.mark.parametrize("head", ["arcface", "linear"])
def test_files_on_disk_are_learnt_from(head: str, tiny_plant: Path, tmp_path: Path) -> None:
    detector = stgram(head=head, max_steps=1)
    clips = fitting.training_clips(tiny_plant, machine_type="pump")[::6]
    log = detector.fit(clips, store=Store(tmp_path))
    assert detector.machines == [("pump", "id_00"), ("pump", "id_02")]
    assert np.isfinite([*log.losses, *detector.score(clips)]).all()


# Scores and maps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["arcface", "linear"])
def test_the_score_is_the_mean_improbability_with_the_margin(head: str) -> None:
    detector = untrained(head=head)
    c = clip(machine_sound(5, seconds=2.3), "id_01")
    logmel = detector.logmel(c)
    starts = [0, 32, len(logmel) - 32]
    assert len(logmel) - 32 < 64
    scores = []
    for start in starts:
        wave = torch.zeros(16_128)
        part = torch.from_numpy(c.samples[512 * start : 512 * start + 16_128])  # type: ignore[index]
        wave[: len(part)] = part
        with torch.no_grad():
            logits = detector._fitted()(wave[None], logmel[None, start : start + 32], torch.tensor([1]))
        scores.append(-float(logits.double().log_softmax(1)[0, 1]))
    assert detector.score([c])[0] == pytest.approx(np.mean(scores), rel=1e-5)


def test_the_paper_judges_ten_seconds_and_no_more() -> None:
    detector = untrained("paper", form=2023)
    sound = machine_sound(5, seconds=11)
    eleven, ten = clip(sound), clip(sound[: 10 * RATE])
    assert detector.logmel(eleven).shape == (313, 128)
    assert detector.score([eleven])[0] == detector.score([ten])[0]
    with pytest.raises(AudioError, match="too short"):
        detector.score([clip(sound[: 9 * RATE])])


def test_it_hears_the_waveform_too() -> None:
    """A waveform turned over has the same log-mel, and another score."""
    detector = untrained()
    sound = machine_sound(5)
    one, other = clip(sound), clip(-sound)
    torch.testing.assert_close(detector.logmel(one), detector.logmel(other))
    assert detector.score([one])[0] != detector.score([other])[0]
    with pytest.raises(AuscultError, match="the waveform too"):
        detector.score_logmel(detector.logmel(one))
    with pytest.raises(AuscultError, match="the waveform too"):
        detector.map_logmel(detector.logmel(one))


def test_a_machine_it_has_not_learnt_is_refused_by_name() -> None:
    with pytest.raises(AudioError, match=r"clip: stgram has not learnt a machine machine id_07 — say which of"):
        untrained().score([clip(machine_sound(1), "id_07")])


def test_the_machines_are_kept_with_the_weights() -> None:
    detector = untrained()
    again = stgram()
    again.restore(*detector.state())
    c = clip(machine_sound(4), "id_02")
    assert again.score([c])[0] == detector.score([c])[0]
    for facts in ({}, {"machines": [["machine", "id_00"]]}):
        with pytest.raises(AuscultError, match="do not fit"):
            stgram().restore(detector.state()[0], facts)


def test_a_map_lies_where_a_clip_is_unusual() -> None:
    """Levels as usual explain nothing: with a burst in a clip, the map lies on the burst."""
    detector = untrained()
    plain = machine_sound(7)
    front_end = detector.front_end
    spectra = front_end.logmel(plain.astype(np.float32)).numpy()
    network = detector._fitted()
    network.usual.learn(1, [spectra])
    time = np.arange(len(plain)) / RATE
    burst = clip(plain + 0.2 * np.sin(2 * np.pi * 3000 * time) * ((time > 0.8) & (time < 1.2)), "id_01")
    anomaly_map = detector.anomaly_map(burst)
    assert anomaly_map.shape == (128, 63)
    assert anomaly_map.min() >= 0
    centres, times = front_end.band_centres(), front_end.frame_times(63)
    there = np.ix_((centres > 2600) & (centres < 3400), (times > 0.7) & (times < 1.3))
    assert anomaly_map[there].sum() / anomaly_map.sum() > 0.5
    assert anomaly_map[there].size / anomaly_map.size < 0.06


@pytest.mark.slow
def test_it_learns_what_tells_machines_apart(tmp_path: Path) -> None:
    detector = stgram(frames=16, max_steps=60, batch_size=16)
    detector.fit(two_machines(16), store=Store(tmp_path))
    sounds = [machine_sound(100 + k, pitch=180.0) for k in range(6)]
    own = detector.score([clip(sound, "id_00") for sound in sounds])
    other = detector.score([clip(sound, "id_02") for sound in sounds])
    assert (other > own + 1).all()
