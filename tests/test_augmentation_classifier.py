"""The classifier of augmentations, and what shifts and stretches for it."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from auscult.corpus import Clip
from auscult.detectors.augmentation_classifier import AugmentationClassifier
from auscult.detectors.recipes import RECIPES
from auscult.detectors.registry import create
from auscult.detectors.variants import VariantFrontEnd, change
from auscult.errors import AudioError, AuscultError
from auscult.features import FRONT_ENDS
from auscult.store import Store
from conftest import machine_sound, write_wav

RATE = 16_000
TINY = {"frames": 24, "hop": 12, "batch_size": 9, "max_steps": 3, "model": "pvmilk20", "cover_end": True}
BASE = FRONT_ENDS["dcase2020"]


def clip(seed: int, machine_id: str = "id_00", seconds: float = 1.0) -> Clip:
    sound = machine_sound(seed, seconds=seconds).astype(np.float32)
    return Clip(f"{machine_id} {seed}", samples=sound, rate=RATE, machine_id=machine_id)


# Without python-stretch ---------------------------------------------------------------------------------


def test_without_python_stretch_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_stretch", None)
    monkeypatch.setitem(sys.modules, "python_stretch.Signalsmith", None)
    made = create("augmentation-classifier", "quick")
    said = r"python-stretch.*not installed — pip install 'auscult\[augmentation\]'"
    for step in (made.depends_on, made.make_ready, lambda: made.fit([clip(1)], store=Store(tmp_path))):
        with pytest.raises(AuscultError, match=said):
            step()


def test_the_papers_settings() -> None:
    detector = create("augmentation-classifier")
    config = detector.config.model_dump()
    assert (config["model"], config["frames"], config["hop"], config["batch_size"]) == ("inouet18", 96, 48, 300)
    assert (config["centre_weight"], config["learning_rate"], config["weight_decay"]) == (0.005, 1e-3, 1e-3)
    assert (config["semitones"], config["tempi"], config["epochs"]) == ((-0.1, 0.0, 0.1), (0.9, 1.0, 1.1), 100)
    assert detector.n_parameters() == 403_263
    optimizer = detector.optimizer(torch.nn.Linear(1, 1))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["weight_decay"] == 1e-3
    (recipe,) = (recipe for recipe in RECIPES if recipe.detector == "augmentation-classifier")
    assert np.mean([auc for auc, _ in recipe.published.values()]) == pytest.approx(89.90, abs=0.005)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"semitones": [0.1, 0.2]}, "0 is among them"),
        ({"semitones": [0, 0, 1]}, "differ"),
        ({"semitones": [0, 13]}, "octave"),
        ({"tempi": [0.9, 1.1]}, "1 is among them"),
        ({"tempi": [1.0, 0.1]}, "between 0.5 and 2"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(AuscultError, match=message):
        create("augmentation-classifier", "paper", values)


# Shifting and stretching --------------------------------------------------------------------------------


def hertz(wave: np.ndarray) -> float:
    """Frequency of a tone: the slope of its analytic signal's phase, away from the ends."""
    from scipy.signal import hilbert

    middle = wave[len(wave) // 4 : -len(wave) // 4].astype(float)
    phase = np.unwrap(np.angle(hilbert(middle * np.hanning(len(middle)))))
    inner = slice(len(middle) // 4, 3 * len(middle) // 4)
    return float(np.polyfit(np.arange(len(middle))[inner] / RATE, phase[inner], 1)[0] / (2 * np.pi))


@pytest.mark.parametrize("tone", [200.0, 3000.0])
@pytest.mark.parametrize("semitones", [-0.1, 0.0, 0.1, 2.0])
@pytest.mark.parametrize("tempo", [0.9, 1.0, 1.1])
def test_tones_keep_to_the_cent_and_durations_to_the_sample(tone: float, semitones: float, tempo: float) -> None:
    pytest.importorskip("python_stretch")
    wave = (0.1 * np.sin(2 * np.pi * tone * np.arange(2 * RATE) / RATE)).astype(np.float32)
    changed = change(wave, semitones, tempo, RATE)
    assert len(changed) == round(len(wave) / tempo)
    assert changed.dtype == np.float32
    assert 1200 * math.log2(hertz(changed) / tone) == pytest.approx(100 * semitones, abs=0.01)
    middle = slice(len(changed) // 4, -len(changed) // 4)
    assert changed[middle].std() == pytest.approx(wave.std(), rel=0.02)


@pytest.mark.parametrize("tempo", [0.9, 1.1])
def test_events_come_when_they_should(tempo: float) -> None:
    pytest.importorskip("python_stretch")
    wave = np.zeros(3 * RATE, np.float32)
    wave[[RATE, 2 * RATE]] = 1
    loud = np.convolve(np.square(change(wave, 0.1, tempo, RATE)), np.ones(160), "same")
    half = len(loud) // 2
    when = np.array([loud[:half].argmax(), half + loud[half:].argmax()]) / RATE * tempo
    np.testing.assert_allclose(when, [1, 2], atol=BASE.hop_length / RATE)


def test_the_clip_as_it_is_takes_the_same_way() -> None:
    """The resampler's filter is heard in the highest bands of every variant alike."""
    pytest.importorskip("python_stretch")
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)
    plain = BASE.logmel(noise).mean(0)
    for semitones in (-0.1, 0.0, 0.1):
        variant = VariantFrontEnd(**BASE.model_dump(), semitones=semitones)
        fallen = (variant.logmel(noise).mean(0) - plain)[-1]
        assert -25 < float(fallen) < -12


def test_a_variant_is_a_front_end_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("python_stretch")
    wave = machine_sound(3).astype(np.float32)
    variant = VariantFrontEnd(**BASE.model_dump(), semitones=0.1, tempo=0.9)
    assert variant != BASE
    assert torch.equal(variant.logmel(wave), BASE.logmel(change(wave, 0.1, 0.9, RATE)))
    batch = variant.logmel(np.stack([wave, wave[::-1]]))
    assert torch.equal(batch[0], variant.logmel(wave))
    # It is computed once for a file, and apart from the front end it is made of.
    store, file = Store(tmp_path / "store"), write_wav(tmp_path / "a.wav", wave)
    first = store.collect([Clip("a", file)], variant)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VariantFrontEnd, "logmel", None)
        again = store.collect([Clip("a", file)], variant)
    np.testing.assert_array_equal(first.spectra[0], again.spectra[0])
    assert len(store.collect([Clip("a", file)], BASE).spectra[0]) < len(first.spectra[0])


# The detector -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> AugmentationClassifier:
    pytest.importorskip("python_stretch")
    detector = create("augmentation-classifier", "quick", TINY)
    assert isinstance(detector, AugmentationClassifier)
    detector.fit([clip(k, ("id_00", "id_02")[k % 2]) for k in range(4)], store=Store(tmp_path_factory.mktemp("store")))
    return detector


def test_its_classes_are_machines_with_variants(fitted: AugmentationClassifier) -> None:
    assert fitted.machines == [("machine", "id_00"), ("machine", "id_02")]
    assert fitted.n_parameters() == 21_736 + 129 * 18
    assert fitted.logits(fitted.logmel(clip(9))).shape[1] == 18


def test_the_score_is_the_papers(fitted: AugmentationClassifier) -> None:
    """Softmax, averaged over the segments of a variant, then over variants: each at its own class."""
    judged = clip(11, "id_02", seconds=1.3)
    probabilities = []
    with torch.inference_mode():
        for j, (semitones, tempo) in enumerate((s, t) for s in (-0.1, 0.0, 0.1) for t in (0.9, 1.0, 1.1)):
            logmel = BASE.logmel(change(judged.samples, semitones, tempo, RATE))
            p = fitted.logits(logmel).double().softmax(-1)
            probabilities.append(float(p[:, 9 + j].mean()))
    assert -math.expm1(-fitted.score([judged])[0]) == pytest.approx(1 - np.mean(probabilities), abs=1e-6)


def test_the_training_labels_are_those_scored_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("python_stretch")
    seen: list[tuple[int, int]] = []

    def learn(self: AugmentationClassifier, spectra: list[np.ndarray], labels: np.ndarray, *rest: object) -> None:
        seen.extend((len(s), int(label)) for s, label in zip(spectra, labels, strict=True))
        raise InterruptedError

    monkeypatch.setattr(AugmentationClassifier, "learn", learn)
    clips = [clip(1, "id_02", seconds=2.0), clip(2, "id_00")]
    with pytest.raises(InterruptedError):
        create("augmentation-classifier", "quick", TINY).fit(clips, store=Store(tmp_path))
    lengths = {0.9: (70, 35), 1.0: (63, 32), 1.1: (57, 29)}
    tempi = (0.9, 1.0, 1.1) * 3
    assert sorted(seen, key=lambda pair: pair[1]) == [
        *((lengths[tempo][1], j) for j, tempo in enumerate(tempi)),
        *((lengths[tempo][0], 9 + j) for j, tempo in enumerate(tempi)),
    ]


def test_the_papers_segments_of_a_variant() -> None:
    """Appendix: six segments of ten seconds slowed down, five as they are, four sped up."""
    cut = create("augmentation-classifier").segmentation
    for tempo, count in ((0.9, 6), (1.0, 5), (1.1, 4)):
        logmel = torch.zeros(BASE.n_frames(round(10 * RATE / tempo)), 128)
        assert len(cut.of(logmel)[1]) == count


def test_the_map_is_of_the_clip_as_it_is(fitted: AugmentationClassifier) -> None:
    judged = clip(12, seconds=1.3)
    shown = fitted.anomaly_map(judged)
    assert shown.shape == (128, len(fitted.logmel(judged)))
    assert (shown >= 0).all()
    assert shown.any()
    own = BASE.logmel(change(judged.samples, 0.0, 1.0, RATE))
    np.testing.assert_array_equal(shown, fitted.attribute(own, 4).numpy().T)


def test_one_machine_will_do_and_then_any_clip_is_judged(tmp_path: Path) -> None:
    pytest.importorskip("python_stretch")
    detector = create("augmentation-classifier", "quick", TINY)
    detector.fit([clip(1), clip(2)], store=Store(tmp_path))
    assert np.isfinite(detector.score([clip(3, "another")])).all()
    again = create("augmentation-classifier", "quick", TINY)
    again.restore(*detector.state())
    np.testing.assert_array_equal(again.score([clip(4)]), detector.score([clip(4)]))


def test_of_several_machines_a_clips_must_be_known(fitted: AugmentationClassifier) -> None:
    with pytest.raises(AudioError, match=r"another 3.*has not learnt a machine machine another"):
        fitted.score([clip(3, "another")])


def test_a_log_mel_alone_is_refused(fitted: AugmentationClassifier) -> None:
    for judge in (fitted.score_logmel, fitted.map_logmel):
        with pytest.raises(AuscultError, match="must hear a clip"):
            judge(fitted.logmel(clip(1)))


def test_no_more_clips_than_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("python_stretch")
    asked: list[list[Clip]] = []

    def collect(self: Store, clips: list[Clip], front_end: object) -> None:
        asked.append(clips)
        raise InterruptedError

    monkeypatch.setattr(Store, "collect", collect)
    clips = [clip(k) for k in range(5)]
    for most in (3, None, 3):
        with pytest.raises(InterruptedError):
            create("augmentation-classifier", "quick", {**TINY, "max_clips": most}).fit(clips, store=Store(tmp_path))
    assert [len(some) for some in asked] == [3, 5, 3]
    assert asked[0] == asked[2]
    assert [c for c in clips if c in asked[0]] == asked[0]
