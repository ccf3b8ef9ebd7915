"""The bank with a published encoder's ears: what it hears, what it keeps, and what it refuses."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from auscult import encoderfile, fitting, load
from auscult.calibration import Calibration
from auscult.corpus import Clip
from auscult.detectors.bank import Bank
from auscult.detectors.bank_tokens import TOKEN_VIEWS, Tokens
from auscult.detectors.bank_views import Heard
from auscult.detectors.registry import create, rescored
from auscult.errors import AuscultError
from auscult.export import export
from auscult.model import Model
from auscult.nn.encoders import KINDS
from auscult.nn.memory import bands_of, learn_scale, learn_whitening
from auscult.store import Store
from conftest import Run, machine_sound

RATE = 16_000


def clip(samples: np.ndarray, name: str = "clip") -> Clip:
    return Clip(name, samples=samples.astype(np.float32), rate=RATE)


def healthy(n: int, first: int = 0, seconds: float = 2) -> list[Clip]:
    return [clip(machine_sound(first + k, seconds=seconds), f"healthy {first + k}") for k in range(n)]


def faulty(n: int) -> list[Clip]:
    return [clip(machine_sound(1000 + k, faulty=True), f"faulty {k}") for k in range(n)]


@pytest.fixture(scope="module")
def ced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    sizes = KINDS["ced"].sizes_class(width=32, depth=2, heads=4, feed_forward=64, frames=160)
    path = tmp_path_factory.mktemp("encoders") / "ced.safetensors"
    tensors = KINDS["ced"](sizes, 2).state_dict()
    # As training would leave the norm: levels from -100 to 0 dB become about -2 to 2.
    tensors["init_bn.running_mean"] -= 40
    tensors["init_bn.running_var"] *= 400
    encoderfile.write(path, "ced", sizes, tensors)
    return path


def fit(clips: Sequence[Clip], encoder: Path, folder: Path, **how: object) -> Bank:
    bank = create("bank", settings={"encoder": str(encoder), **how})
    assert isinstance(bank, Bank)
    bank.fit(clips, store=Store(folder))
    return bank


@pytest.fixture(scope="module")
def bank(ced: Path, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return fit(healthy(16), ced, tmp_path_factory.mktemp("store"))


@pytest.fixture
def saved(bank: Bank, tmp_path: Path) -> Path:
    usual = np.ones(bank.front_end.n_mels, dtype=np.float32)
    Model(bank, Calibration(bank.score(healthy(3, 50))), {}, usual).save(tmp_path / "m.auscult")
    return tmp_path / "m.auscult"


# Judging ----------------------------------------------------------------------------------------------------


def test_faults_are_stranger_than_healthy_clips(bank: Bank) -> None:
    normal, strange = bank.score(healthy(8, 100)), bank.score(faulty(8))
    assert np.mean(strange[:, None] > normal) > 0.9


def test_its_own_clips_are_scored_as_if_they_were_new(bank: Bank) -> None:
    own, new = bank.score_learnt(healthy(16)), bank.score(healthy(16, 100))
    assert (bank.score(healthy(16)) <= own + 1e-6).all()
    assert 0.5 < np.median(own) / np.median(new) < 2


def test_a_clips_score_does_not_depend_on_its_neighbours(bank: Bank) -> None:
    some = healthy(5, 100)
    together = bank.score(some, workers=2)
    np.testing.assert_array_equal(together[::-1], bank.score(some[::-1], workers=1))
    np.testing.assert_array_equal(together, [bank.score([one], workers=1)[0] for one in some])


def test_the_order_of_the_clips_does_not_matter(bank: Bank, ced: Path, tmp_path: Path) -> None:
    again = fit(healthy(16)[::-1], ced, tmp_path)
    one, other = bank.state(), again.state()
    assert one[1] == other[1]
    assert all(torch.equal(one[0][key], other[0][key]) for key in one[0])


@pytest.mark.parametrize("seconds", [0.05, 0.3, 1.6, 1.75, 7.0])
def test_clips_of_any_length(bank: Bank, seconds: float) -> None:
    one = healthy(1, 300, seconds=seconds)[0]
    assert np.isfinite(bank.score([one])).all()
    drawn = bank.anomaly_map(one)
    assert drawn.shape == bank.logmel(one).T.shape
    assert drawn.dtype == np.float32
    assert drawn.min() >= 0


@pytest.mark.parametrize("samples", [np.zeros(RATE), np.full(RATE, 0.9), np.sign(np.sin(np.arange(RATE) * 0.1))])
def test_extreme_clips_are_survived(bank: Bank, samples: np.ndarray) -> None:
    assert np.isfinite(bank.score([clip(samples)])).all()
    assert np.isfinite(bank.anomaly_map(clip(samples))).all()


# Explaining -------------------------------------------------------------------------------------------------


def test_the_map_is_the_squared_distances_shared_out(bank: Bank) -> None:
    """Every band of tokens keeps what it has: the mean over its times is its squared distance over the usual."""
    strange = faulty(1)[0]
    assert bank.tokens is not None
    heard = bank.tokens.hear(strange, 0)
    shares = bank._blamed(heard.tokens)
    wanted = []
    for name, own in bank.describe(heard.tokens).items():
        squares = bank.memories[name].squared_distances(own).amin(1)
        assert bank.tensors is not None
        wanted.append(squares / bank.tensors[f"{name}.usual_by_band"][0].square())
    np.testing.assert_allclose(shares.mean(0), torch.stack(wanted).mean(0), rtol=1e-4)
    drawn = bank.anomaly_map(strange)
    assert set(np.unique(drawn)) <= set(np.unique(shares.numpy()))


def test_the_map_finds_a_burst(bank: Bank) -> None:
    plain = machine_sound(77)
    noise = np.random.default_rng(1).standard_normal(len(plain))
    spectrum, hertz = np.fft.rfft(noise), np.fft.rfftfreq(len(plain), 1 / RATE)
    burst = 0.3 * np.fft.irfft(np.where((hertz > 4000) & (hertz < 7000), spectrum, 0), len(plain))
    burst[: int(0.8 * RATE)] = burst[int(1.1 * RATE) :] = 0
    excess = bank.anomaly_map(clip(plain + burst)) - bank.anomaly_map(clip(plain))
    times = bank.front_end.frame_times(excess.shape[1])
    here = (times > 0.7) & (times < 1.2)
    assert excess[:, here].mean() > 3 * np.abs(excess[:, ~here]).mean()


def test_tokens_are_drawn_where_they_heard(ced: Path) -> None:
    tokens = Tokens(str(ced), 0)
    tokens.choose()
    heard = tokens.hear(healthy(1)[0], 0)
    n_times, n_bands = heard.tokens.shape[:2]
    front_end = create("bank").front_end
    numbers = torch.arange(n_times * n_bands).view(n_times, n_bands)
    drawn = tokens.upon_logmel(numbers, heard, 63, front_end)
    assert drawn.shape == (63, 128)
    assert drawn[0, 0] == 0
    assert drawn[-1, -1] == n_times * n_bands - 1
    assert (drawn.diff(dim=0) >= 0).all()
    assert (drawn.diff(dim=1) >= 0).all()
    middle = int(np.abs(heard.seconds.numpy() - front_end.frame_times(63)[30]).argmin())
    assert drawn[30, 0] == middle * n_bands


def test_it_says_which_views_fire_and_where(bank: Bank) -> None:
    found = bank.which_views(faulty(1)[0])
    assert {one.view for one in found} == set(TOKEN_VIEWS)
    assert all(0 <= one.low < one.high <= 8000 for one in found)
    assert str(found[0]).startswith("of another kind ")


def test_standing_out_counts_for_more() -> None:
    tokens = torch.zeros(10, 2, 3)
    tokens[4, 1] = 5.0
    content, events = (TOKEN_VIEWS[name].describe(Heard(tokens)) for name in ("content", "events"))
    assert torch.allclose(content[1], torch.full((3,), 0.5, dtype=torch.float64))
    assert (events[1] > 4).all()
    assert (events[0] == 0).all()


def test_a_scale_is_the_diagonal_of_what_is_not_whitened() -> None:
    values = torch.randn(12, 8, 5, generator=torch.Generator().manual_seed(0))
    bands = bands_of(8, 4)
    matrices = learn_whitening(values, bands, together=False)
    assert torch.equal(learn_scale(values, bands), matrices.diagonal(dim1=1, dim2=2))


# The file of the encoder --------------------------------------------------------------------------------------


def test_a_model_file_scores_as_before(bank: Bank, saved: Path) -> None:
    some = [*healthy(3, 100), *faulty(2)]
    again = load(saved)
    np.testing.assert_array_equal(again.score(some), bank.score(some))
    np.testing.assert_array_equal(again.anomaly_map(some[3]), bank.anomaly_map(some[3]))
    assert again.detector.findings(some[3]) == bank.findings(some[3])


def test_which_encoder_is_recorded(bank: Bank, ced: Path) -> None:
    facts = bank.state()[1]["encoder"]
    assert facts["sha256"] == encoderfile.describe(ced).sha256
    assert (facts["kind"], facts["layer"], facts["width"]) == ("ced", 1, 32)
    assert bank.config.encoder == str(ced.absolute())


def moved(model: Path, where: Path) -> Model:
    """The model, made with an encoder that is no longer where it was."""
    made = load(model)
    assert isinstance(made.detector, Bank)
    return made.rescored([], encoder=str(where))


def test_an_encoder_that_is_gone_is_named(saved: Path, tmp_path: Path) -> None:
    reason = r"gone\.safetensors: there is no such encoder file.*AUSCULT_ENCODERS"
    model = moved(saved, tmp_path / "gone.safetensors")
    with pytest.raises(AuscultError, match=reason):
        model.score(healthy(1))
    model.save(tmp_path / "other.auscult")
    with pytest.raises(AuscultError, match=r"other\.auscult: .*" + reason):
        load(tmp_path / "other.auscult")


def test_a_threshold_stays_where_only_the_encoder_moved(ced: Path, saved: Path, tmp_path: Path) -> None:
    there = load(saved)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(ced.read_bytes())
    assert there.rescored(encoder=str(copy)).calibration is there.calibration


def test_from_a_checkpoint_to_decisions(
    auscult: Run, tiny_plant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    sizes = KINDS["ced"].sizes_class(width=16, depth=2, heads=4, feed_forward=32)
    state = KINDS["ced"](sizes, 2).state_dict()
    state["init_bn.running_var"] *= 900
    torch.save({"model": state}, tmp_path / "ced.pt")
    encoder, model = tmp_path / "ced.safetensors", tmp_path / "m.auscult"
    made = auscult("convert-encoder", tmp_path / "ced.pt", "--kind", "ced", "--heads", "4", "-o", encoder)
    assert made.code == 0, made.err
    assert made.out.startswith("ced, 2 blocks of width 16, 4 bands: ")
    assert f"SHA-256 {encoderfile.describe(encoder).sha256}" in made.out
    fitted = auscult("fit", tiny_plant, "-d", "bank", "--set", f"encoder={encoder}", "-o", model)
    assert fitted.code == 0, fitted.err
    first = auscult("score", model, tiny_plant, "-o", tmp_path / "1.csv")
    assert first.code == 0, first.err
    (tmp_path / "moved").mkdir()
    encoder.rename(tmp_path / "moved" / encoder.name)
    refused = auscult("score", model, tiny_plant, "-o", tmp_path / "2.csv")
    assert refused.code == 2
    assert len(refused.notes) == 1
    assert "ced.safetensors: there is no such encoder file" in refused.err
    assert not list(tmp_path.glob("2.csv*"))
    here = ("--set", f"encoder={tmp_path / 'moved' / encoder.name}")
    assert auscult("score", model, tiny_plant, "-o", tmp_path / "3.csv", *here).code == 0
    monkeypatch.setenv("AUSCULT_ENCODERS", str(tmp_path / "moved"))
    assert auscult("score", model, tiny_plant, "-o", tmp_path / "4.csv").code == 0
    scores = (tmp_path / "1.csv").read_bytes()
    assert scores == (tmp_path / "3.csv").read_bytes() == (tmp_path / "4.csv").read_bytes()


def test_an_encoder_is_found_by_its_name_in_a_folder(
    bank: Bank, ced: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUSCULT_ENCODERS", str(ced.parent))
    model = moved(saved, tmp_path / "elsewhere" / ced.name)
    np.testing.assert_array_equal(model.score(healthy(2, 100)), bank.score(healthy(2, 100)))


def test_another_encoder_is_refused(saved: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    sizes = KINDS["ced"].sizes_class(width=32, depth=2, heads=4, feed_forward=64, frames=160)
    other = tmp_path / "other.safetensors"
    encoderfile.write(other, "ced", sizes, KINDS["ced"](sizes, 2).state_dict())
    with pytest.raises(AuscultError, match=r"other\.safetensors: is not the encoder that the bank was made with.*SHA"):
        moved(saved, other).score(healthy(1))


def test_another_encoder_in_the_same_file_makes_another_model(ced: Path, tmp_path: Path) -> None:
    copy, made = tmp_path / "copy.safetensors", tmp_path / "m.auscult"
    copy.write_bytes(ced.read_bytes())
    how: dict[str, Any] = {"settings": {"encoder": str(copy)}, "store": Store(tmp_path)}
    fitting.fit(healthy(8), "bank", **how).save(made)
    assert fitting.is_done(made, healthy(8), "bank", **how)
    torch.manual_seed(1)
    sizes = KINDS["ced"].sizes_class(width=32, depth=2, heads=4, feed_forward=64, frames=160)
    encoderfile.write(copy, "ced", sizes, KINDS["ced"](sizes, 2).state_dict())
    assert not fitting.is_done(made, healthy(8), "bank", **how)


def test_a_missing_encoder_is_refused_before_a_recording_is_looked_at(tmp_path: Path) -> None:
    with pytest.raises(AuscultError, match=r"nowhere\.safetensors"):
        fitting.fit(tmp_path / "no recordings here", "bank", settings={"encoder": "nowhere.safetensors"})


def test_the_same_encoder_elsewhere_is_as_good(bank: Bank, ced: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(ced.read_bytes())
    other = rescored(bank, {"encoder": str(copy)})
    np.testing.assert_array_equal(other.score(healthy(2, 100)), bank.score(healthy(2, 100)))


def test_a_bank_of_log_mels_takes_no_encoder_afterwards(ced: Path, tmp_path: Path) -> None:
    plain = create("bank")
    plain.fit(healthy(4), store=Store(tmp_path))
    with pytest.raises(AuscultError, match="do not fit bank"):
        rescored(plain, {"encoder": str(ced)})


def refusals() -> list[tuple[dict[str, object], str]]:
    return [
        ({"encoder_layer": 3}, "has 2 blocks, not 3"),
        ({"encoder_layer": -1}, "encoder_layer"),
        ({"band_weights": [1] * 16}, "16 bands are weighed, but the encoder has 4"),
    ]


@pytest.mark.parametrize(("how", "reason"), refusals(), ids=str)
def test_settings_that_do_not_fit_the_encoder_are_refused(
    how: dict[str, object], reason: str, ced: Path, tmp_path: Path
) -> None:
    with pytest.raises(AuscultError, match=reason):
        fit(healthy(2), ced, tmp_path, **how)


@pytest.mark.parametrize("how", [{"encoder_layer": 0}, {"encoder_layer": 2, "bands": 2}, {"bands": 3}], ids=str)
def test_layers_and_bands_may_be_chosen(how: dict[str, object], ced: Path, tmp_path: Path) -> None:
    made = fit(healthy(6), ced, tmp_path, **how)
    assert np.isfinite(made.score(healthy(2, 100))).all()
    assert made.anomaly_map(healthy(1, 100)[0]).min() >= 0


def test_a_single_clip_is_enough(ced: Path, tmp_path: Path) -> None:
    made = fit(healthy(1), ced, tmp_path)
    assert np.isfinite(made.score(healthy(2, 100))).all()


def test_what_hears_the_log_mel_alone_is_refused(bank: Bank, tmp_path: Path) -> None:
    ask: list[Callable[[torch.Tensor], object]] = [bank.score_logmel, bank.map_logmel]
    for each in ask:
        with pytest.raises(AuscultError, match="hears the waveform"):
            each(bank.logmel(healthy(1)[0]))
    model = Model(bank, Calibration(np.zeros(3)), {}, np.ones(128, dtype=np.float32))
    with pytest.raises(AuscultError, match="with an encoder it hears the waveform"):
        export(model, tmp_path / "m.onnx", healthy(1))
