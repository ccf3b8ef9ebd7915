"""The masked autoregressive flow: its sizes, masks and likelihood, and the machines it is told apart."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from auscult.corpus import Clip
from auscult.detectors.base import Detector
from auscult.detectors.crops import Crops
from auscult.detectors.maf import MADE, MAF, MAFNetwork
from auscult.detectors.registry import create
from auscult.errors import AuscultError
from auscult.nn.flows import nll_per_dimension
from auscult.store import LogMels, Store
from auscult.training import Run
from conftest import machine_sound

RATE = 16_000
SMALL = {"frames": 2, "hidden": 256, "blocks": 2, "batch_size": 16, "epochs": 50, "max_steps": 8}


def clip(samples: np.ndarray, machine_id: str = "id_00", machine_type: str = "pump") -> Clip:
    return Clip("clip", samples=samples.astype(np.float32), rate=RATE, machine_id=machine_id, machine_type=machine_type)


def plant(machines: tuple[str, ...] = ("id_00", "id_02"), n: int = 3) -> list[Clip]:
    return [clip(machine_sound(k, seconds=1), machine) for machine in machines for k in range(n)]


def maf(**changed: object) -> MAF:
    detector = create("maf", "quick", SMALL | changed)
    assert isinstance(detector, MAF)
    return detector


def shaken(network: MAFNetwork, size: float = 0.2) -> MAFNetwork:
    """A network as after training: nothing about it is zero or one."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
        for name, statistic in network.named_buffers():
            if "running" in name:
                statistic += size * torch.rand(statistic.shape, generator=generator)
    return network.eval()


# Sizes and settings -------------------------------------------------------------------------------------


def test_parameter_counts() -> None:
    assert create("maf", "paper").n_parameters() == 29_720_576
    assert create("maf", "paper", {"depth": "literal"}).n_parameters() == 12_935_168


def test_the_papers_settings() -> None:
    config = create("maf", "paper").config.model_dump()
    assert (config["epochs"], config["batch_size"], config["learning_rate"]) == (100, 512, 1e-4)
    assert (config["weight_decay"], config["clip_norm"], config["max_steps"]) == (1e-6, 5.0, None)
    assert (config["frames"], config["front_end"], config["order"]) == (4, "proxy-outlier", "frames")


# Masks --------------------------------------------------------------------------------------------------


def block_jacobian(block: MADE, values: torch.Tensor, machine: torch.Tensor) -> torch.Tensor:
    return torch.autograd.functional.jacobian(lambda v: block(v[None], machine)[0][0], values)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("hidden_layers", [1, 2])
@pytest.mark.parametrize("by_bands", [False, True])
def test_each_value_depends_on_those_before_it_and_the_order_turns_round(hidden_layers: int, by_bands: bool) -> None:
    frames, bands = 2, 4
    network = shaken(MAFNetwork((frames, bands), 64, hidden_layers, 3, 2, by_bands))
    machine = torch.tensor([1.0, 0.0])
    place = torch.arange(8)
    # By frames, the order of reading a window row by row; by bands, column by column.
    rank = place % bands * frames + place // bands if by_bands else place
    before = rank[None, :] < rank[:, None]
    for number, block in enumerate(network.blocks):
        assert isinstance(block, MADE)
        allowed = before if number % 2 == 0 else before.T
        heard = torch.zeros(8, 8, dtype=torch.bool)
        for values in torch.randn(5, 8, generator=torch.Generator().manual_seed(0)):
            dependence = block_jacobian(block, values, machine)
            heard |= dependence != 0
            _, log_det = block(values[None], machine)
            assert float(dependence.diagonal().log().sum()) == pytest.approx(float(log_det.detach()), abs=1e-4)
        assert torch.equal(heard, allowed | torch.eye(8, dtype=torch.bool)), "all before it, and none else"


def test_the_machine_reaches_every_value() -> None:
    network = shaken(MAFNetwork((2, 4), 64, 2, 1, 3))
    values = torch.randn(1, 2, 4)
    effect = torch.autograd.functional.jacobian(lambda m: network(values, m)[0][0].flatten(), torch.zeros(3))  # type: ignore[no-untyped-call]
    assert (effect[1:] != 0).all()
    assert network(values)[0][0].equal(network(values, torch.zeros(1, 3))[0][0]), "no machine is all zeros"


# Likelihood ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden_layers", [1, 2])
def test_log_determinants_are_those_of_the_jacobian(hidden_layers: int) -> None:
    network = shaken(MAFNetwork((2, 4), 32, hidden_layers, 4, 3))
    windows, machines = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1)), torch.eye(3)
    _, log_det = network(windows, machines)
    for k in range(3):

        def latents(values: torch.Tensor, k: int = k) -> torch.Tensor:
            return network(values[None], machines[k : k + 1])[0][0].flatten()

        full = torch.autograd.functional.jacobian(latents, windows[k]).reshape(8, 8)  # type: ignore[no-untyped-call]
        assert float(log_det[k].detach()) == pytest.approx(float(torch.linalg.slogdet(full)[1]), abs=1e-3)


def test_there_and_back_and_back_and_there() -> None:
    network = shaken(MAFNetwork((2, 4), 32, 2, 4, 3), size=0.1)
    windows, machines = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1)), torch.eye(3)
    with torch.no_grad():
        latents, _ = network(windows, machines)
        torch.testing.assert_close(network.inverse(latents, machines), windows, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(
            network(network.inverse([windows], machines), machines)[0][0], windows, atol=1e-3, rtol=1e-3
        )


def test_it_is_a_density() -> None:
    """Of two values: over a fine grid it sums to one."""
    network = shaken(MAFNetwork((1, 2), 16, 2, 2), size=0.1)
    axis = torch.linspace(-12, 12, 601)
    grid = torch.cartesian_prod(axis, axis).view(-1, 1, 2)
    with torch.no_grad():
        log_density = -2 * nll_per_dimension(*network(grid))
    mass = float(log_density.exp().sum()) * float(axis[1] - axis[0]) ** 2
    assert mass == pytest.approx(1, abs=0.01)


# Scores and maps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "windows"), [(10.0, 78), (11.0, 86)])
def test_window_counts(seconds: float, windows: int) -> None:
    detector = create("maf")
    assert isinstance(detector, MAF)
    assert len(detector.starts(detector.front_end.n_frames(round(seconds * RATE)))) == windows


def test_score_and_map_equal_a_slow_reference() -> None:
    torch.manual_seed(0)
    detector = maf(frames=4, hidden=512)
    detector.machines = [("pump", "id_00"), ("pump", "id_02")]
    detector.network = detector.build().eval()
    c = clip(machine_sound(3, seconds=0.6), "id_02")
    logmel = detector.logmel(c)
    assert len(logmel) % 4 == 3, "some frames are left over"
    machine = torch.tensor([[0.0, 1.0]])
    scores, expected = [], torch.zeros_like(logmel)
    with torch.inference_mode():
        for start in range(0, len(logmel) - 3, 4):
            (latents,), log_det = detector.network(logmel[start : start + 4].reshape(1, 512), machine=machine)
            latents = latents.double().flatten()
            scores.append(float((latents @ latents / 2 - log_det[0]) / 512) + math.log(2 * math.pi) / 2)
            expected[start : start + 4] = (latents**2 / 2).view(4, 128).float()
        (latents,), _ = detector.network(logmel[-4:].reshape(1, 512), machine=machine)
        expected[-4] = (expected[-4] + latents[0, 0] ** 2 / 2) / 2
        expected[-3:] = latents[0, 1:] ** 2 / 2
    assert detector.score([c])[0] == pytest.approx(np.mean(scores), rel=1e-6)
    np.testing.assert_allclose(detector.anomaly_map(c), expected.T, rtol=1e-4, atol=1e-5)


def test_frames_left_over_do_not_change_the_score() -> None:
    detector = maf(frames=4, hidden=512)
    detector.network = detector.build().eval()
    logmel = detector.logmel(clip(machine_sound(4, seconds=0.6)))
    changed = logmel.clone()
    changed[-3:] += 30
    with torch.inference_mode():
        assert detector.score_logmel(changed) == detector.score_logmel(logmel)
        assert not torch.equal(detector.map_logmel(changed)[-3:], detector.map_logmel(logmel)[-3:])


# Machines -----------------------------------------------------------------------------------------------


def test_a_machine_is_judged_as_itself_and_an_unknown_one_as_none(tmp_path: Path) -> None:
    detector = maf()
    detector.fit(plant(), store=Store(tmp_path))
    assert detector.machines == [("pump", "id_00"), ("pump", "id_02")]
    sound = machine_sound(50)
    as_00, as_02, as_04 = (detector.score([clip(sound, m)])[0] for m in ("id_00", "id_02", "id_04"))
    as_fan = detector.score([clip(sound, "id_00", "fan")])[0]
    assert len({as_00, as_02, as_04}) == 3
    assert as_04 == as_fan, "a type is part of what a machine is"
    with torch.inference_mode():
        assert as_04 == detector.score_logmel(detector.logmel(clip(sound)))
    maps = [detector.anomaly_map(clip(sound, m)) for m in ("id_00", "id_02")]
    assert not np.array_equal(*maps)


def test_the_machines_are_part_of_the_model(tmp_path: Path) -> None:
    detector = maf()
    detector.fit(plant(), store=Store(tmp_path))
    tensors, facts = detector.state()
    again = maf()
    again.restore(tensors, facts)
    assert again.machines == detector.machines
    clips = plant(("id_00", "id_02", "id_04"), 1)
    np.testing.assert_array_equal(again.score(clips), detector.score(clips))
    for wrong in ({}, {"machines": [["pump", "id_00"]]}, {"machines": 3}, {"machines": ["ab"]}):
        with pytest.raises(AuscultError, match="do not fit maf"):
            maf().restore(tensors, wrong)


def test_one_machine_needs_no_telling(tmp_path: Path) -> None:
    detector = maf()
    detector.fit(plant(("id_00",)), store=Store(tmp_path))
    assert detector.n_conditions() == 0
    sound = machine_sound(50)
    assert detector.score([clip(sound, "id_00")]) == detector.score([clip(sound, "id_99", "fan")])
    again = maf()
    again.restore(*detector.state())
    assert again.score([clip(sound)]) == detector.score([clip(sound)])


def test_a_window_is_trained_on_as_its_own_machine() -> None:
    """Clips whose every value is their number: windows and one-hot machines must agree."""
    clips = [clip(np.zeros(1), f"id_{k:02d}") for k in range(3)]
    spectra = [np.full((20 + k, 128), k, np.float32) for k in range(3)]
    detector = maf()
    examples = detector.examples(LogMels(clips, spectra))
    windows, machines = examples.gather(torch.arange(len(examples)))
    assert torch.equal(machines.argmax(1).float(), windows[:, 0])
    assert set(windows[:, 0].tolist()) == {0.0, 1.0, 2.0}


# Training -----------------------------------------------------------------------------------------------


def test_crops_lie_anywhere_in_their_clip_and_batches_are_whole() -> None:
    spectra = [np.arange(first, first + n, dtype=np.float32)[:, None] for first, n in ((0, 10), (100, 3), (200, 25))]
    crops = Crops(spectra, 4, 8)
    assert len(crops) == 16, "3 + 0 + 7, filled up to whole batches"
    assert sorted(set(crops.owners(torch.arange(16)).tolist())) == [0, 2]
    torch.manual_seed(0)
    drawn = torch.cat([crops.gather(torch.arange(16)) for _ in range(100)])
    assert torch.equal(drawn, drawn[:, :1] + torch.arange(4.0))
    assert set(drawn[:, 0].tolist()) == {*range(7), *range(200, 222)}
    with pytest.raises(AuscultError, match="30 frames"):
        Crops(spectra, 30, 8)


def test_a_run_that_goes_on_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUSCULT_CHECKPOINT_SECONDS", "0")
    straight, resumed = maf(), maf()
    run = Run(checkpoint=tmp_path / "checkpoint")
    straight.fit(plant(), store=Store(tmp_path), seed=1, run=run)
    log = resumed.fit(plant(), store=Store(tmp_path), seed=1, run=Run(checkpoint=run.checkpoint, resume=True))
    assert log.steps == 8
    for key, tensor in straight.state()[0].items():
        assert torch.equal(tensor, resumed.state()[0][key]), key


def judged(detector: Detector) -> np.ndarray:
    """Scores of ordinary and extreme clips, their maps checked."""
    extremes = [
        np.zeros(RATE),
        np.sign(np.sin(np.arange(RATE) * 0.1)),
        np.full(RATE, 0.999),
        np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE),
        machine_sound(9, seconds=1),
    ]
    clips = [clip(samples) for samples in extremes]
    assert all(np.isfinite(detector.anomaly_map(c)).all() for c in clips)
    return detector.score(clips)


@pytest.mark.parametrize("trained_on", ["a square wave", "a constant band", "hum"])
def test_nothing_extreme_becomes_nan(tmp_path: Path, trained_on: str) -> None:
    detector = maf(blocks=4, max_steps=60, learning_rate=1e-2)
    square = np.sign(np.sin(np.arange(RATE) * 0.1))
    sounds = {"a square wave": square, "hum": machine_sound(1, seconds=1)}
    if trained_on in sounds:
        log = detector.fit([clip(sounds[trained_on])], store=Store(tmp_path))
    else:
        spectrum = np.random.default_rng(0).normal(-20, 3, (60, 128)).astype(np.float32)
        spectrum[:, 40] = -80
        logmels = LogMels(plant(n=1), [spectrum, spectrum])
        log = detector.learn(logmels, detector.examples(logmels), detector.loss, None, 0, None)
    assert np.isfinite(log.losses).all()
    assert np.isfinite(judged(detector)).all()
