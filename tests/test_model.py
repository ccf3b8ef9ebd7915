"""The Python API: fit, score, decide, save, load; and the model file's own honesty."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import auscult
from auscult import modelfile
from auscult.corpus import Clip
from auscult.errors import AuscultError
from auscult.fitting import is_done, training_clips
from conftest import machine_sound, write_wav


@pytest.fixture(scope="module")
def model(tiny_plant: Path) -> auscult.Model:
    return auscult.fit(tiny_plant / "pump", "knn", false_alarm_rate=0.1)


@pytest.fixture(scope="module")
def file(model: auscult.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "pump.auscult"
    model.save(path)
    return path


def test_the_short_way(model: auscult.Model, tiny_plant: Path) -> None:
    clips = auscult.read_clips(tiny_plant / "pump" / "test")
    scores = model.score(clips)
    assert scores.dtype == np.float64
    assert scores.shape == (len(clips),)
    np.testing.assert_array_equal(model.decision_function(clips), scores)
    decisions = model.decide(clips)
    assert set(decisions) == {"normal", "anomaly"}
    np.testing.assert_array_equal(model.predict(clips), [d == "anomaly" for d in decisions])
    truth = np.array([c.condition == "anomaly" for c in clips])
    assert (model.predict(clips) == truth).mean() > 0.9
    assert (model.p_values(clips)[truth] < model.p_values(clips)[~truth].mean()).all()


def test_clips_by_path_and_waveforms_in_memory(model: auscult.Model, tiny_plant: Path) -> None:
    paths = sorted((tiny_plant / "pump" / "test").glob("*.wav"))[:3]
    scores = model.score(paths)
    waves = [c.waveform(16_000) for c in auscult.read_clips(paths)]
    np.testing.assert_array_equal(model.score(waves, rate=16_000), scores)
    np.testing.assert_array_equal(model.score([str(p) for p in paths]), scores)
    with pytest.raises(AuscultError, match="without a sample rate"):
        model.score(waves)
    assert model.anomaly_map(paths[0]).shape == model.logmel(auscult.read_clips(paths)[0]).shape


def test_the_relative_map_of_healthy_clips_is_about_one(model: auscult.Model, tiny_plant: Path) -> None:
    normal = training_clips(tiny_plant / "pump")[:10]
    levels = np.mean([model.relative_map(c) for c in normal], axis=(0, 2))
    assert np.median(levels) == pytest.approx(1, rel=0.5)


def test_provenance(model: auscult.Model) -> None:
    facts = model.provenance
    assert facts["n_training_clips"] + facts["n_calibration_clips"] == 42
    assert facts["n_calibration_clips"] == 20 == model.calibration.n
    assert not set(facts["training_clips"]) & set(facts["calibration_clips"])
    np.testing.assert_allclose(model.score(facts["calibration_clips"]), model.calibration.scores)
    assert facts["seed"] == 0
    assert len(facts["manifest_hash"]) == 64
    json.dumps(facts)


def test_saved_and_loaded(model: auscult.Model, file: Path, tiny_plant: Path) -> None:
    again = auscult.load(file)
    clips = auscult.read_clips(tiny_plant / "pump" / "test")
    np.testing.assert_array_equal(again.score(clips), model.score(clips))
    assert again.calibration.threshold == model.calibration.threshold
    assert again.calibration.promise == model.calibration.promise
    assert again.provenance == model.provenance
    np.testing.assert_array_equal(again.usual, model.usual)
    assert again.detector.config == model.detector.config
    assert again.detector.front_end == model.detector.front_end
    with safe_open(file, "pt") as opened:
        header = json.loads(opened.metadata()["auscult"])
    assert {"format_version", "auscult_version", "detector", "settings", "front_end", "calibration", "provenance"} <= (
        header.keys()
    )


def test_another_rate(model: auscult.Model) -> None:
    assert model.with_rate(0.3).calibration.threshold < model.calibration.threshold
    with pytest.raises(AuscultError, match="false-alarm rate"):
        model.with_rate(1.5)


def _damage(kind: str, content: bytearray) -> bytes:
    header = 8 + int.from_bytes(content[:8], "little")
    if kind == "flipped":
        content[header + 100] ^= 1
    if kind == "long header":
        content[:8] = (2**40).to_bytes(8, "little")
    cut = {"empty": 0, "half": len(content) // 2, "in the header": header // 2, "last byte": len(content) - 1}
    return bytes(content[: cut.get(kind, len(content))])


@pytest.mark.parametrize("kind", ["empty", "half", "in the header", "last byte", "flipped", "long header"])
def test_damaged_files_are_told(file: Path, tmp_path: Path, kind: str) -> None:
    damaged = tmp_path / "damaged.auscult"
    damaged.write_bytes(_damage(kind, bytearray(file.read_bytes())))
    with pytest.raises(AuscultError, match=r"damaged\.auscult.*damaged") as caught:
        auscult.load(damaged)
    assert "\n" not in str(caught.value)


def _rewrite(file: Path, target: Path, change: Callable[[dict[str, object]], None]) -> Path:
    header, tensors = modelfile.read(file)
    change(header)
    modelfile.write(target, header, tensors)
    return target


def test_a_later_format_is_refused(file: Path, tmp_path: Path) -> None:
    later = _rewrite(file, tmp_path / "later.auscult", lambda h: h.update(format_version=99, auscult_version="9.0"))
    with pytest.raises(AuscultError, match=r"later auscult \(9\.0, format 99\).*upgrade"):
        auscult.load(later)


def test_a_detector_that_is_not_here_is_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(AuscultError, match="no detector 'crystal-ball'"):
        auscult.load(_rewrite(file, tmp_path / "x.auscult", lambda h: h.update(detector="crystal-ball")))


@pytest.mark.parametrize("lacks", ["settings", "calibration", "provenance", "front_end", "facts"])
def test_a_header_that_lacks_something(file: Path, tmp_path: Path, lacks: str) -> None:
    with pytest.raises(AuscultError, match=r"x\.auscult.*damaged"):
        auscult.load(_rewrite(file, tmp_path / "x.auscult", lambda h: h.pop(lacks)))


def test_other_safetensors_are_no_model(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(AuscultError, match="no model of auscult"):
        auscult.load(tmp_path / "other.safetensors")
    with pytest.raises(AuscultError, match="no such model file"):
        auscult.load(tmp_path / "none.auscult")


# What is learnt from ------------------------------------------------------------------------------------


def sounds(folder: Path, names: list[str]) -> Path:
    for k, name in enumerate(names):
        write_wav(folder / name, machine_sound(k, seconds=0.5))
    return folder


def test_training_clips_are_the_normal_ones_of_the_train_split(tmp_path: Path) -> None:
    names = [
        "train/normal_1.wav",
        "train/anomaly_1.wav",
        "train/normal_2.wav",
        "test/normal_3.wav",
        "test/anomaly_2.wav",
    ]
    chosen = training_clips(sounds(tmp_path / "m", names))
    assert sorted(Path(c.path).name for c in chosen) == ["normal_1.wav", "normal_2.wav"]


def test_without_splits_all_normal_clips(tmp_path: Path) -> None:
    chosen = training_clips(sounds(tmp_path / "m", ["normal/1.wav", "normal/2.wav", "abnormal/3.wav"]))
    assert sorted(Path(c.path).name for c in chosen) == ["1.wav", "2.wav"]


def test_without_any_label_everything_and_this_is_said(tmp_path: Path) -> None:
    folder = sounds(tmp_path / "m", ["a.wav", "b.wav"])
    assert len(training_clips(folder)) == 2
    assert "taken to be" in auscult.fit(folder, "knn").provenance["notes"][0]


def test_no_normal_clip(tmp_path: Path) -> None:
    with pytest.raises(AuscultError, match="no normal clip"):
        auscult.fit(sounds(tmp_path / "m", ["abnormal/3.wav", "abnormal/4.wav"]), "knn")


def test_broken_and_short_clips_are_left_out_and_named(tmp_path: Path) -> None:
    folder = sounds(tmp_path / "m", [f"{k}.wav" for k in range(4)])
    (folder / "text.wav").write_text("no sound")
    write_wav(folder / "short.wav", machine_sound(1, seconds=0.05))
    model = auscult.fit(folder, "ae", settings={"max_steps": 2})
    assert sorted(Path(b.clip.path).name for b in model.unusable) == ["short.wav", "text.wav"]
    assert model.provenance["n_training_clips"] == 4


def test_a_finished_fit_is_recognised(tiny_plant: Path, file: Path, tmp_path: Path) -> None:
    data = tiny_plant / "pump"
    assert is_done(file, data, "knn", false_alarm_rate=0.1)
    assert not is_done(file, data, "knn")
    assert not is_done(file, data, "knn", false_alarm_rate=0.1, seed=1)
    assert not is_done(file, data, "knn", false_alarm_rate=0.1, settings={"k": "2"})
    assert not is_done(file, data, "ae", false_alarm_rate=0.1)
    assert not is_done(tmp_path / "none", data, "knn")


def test_importing_costs_nothing() -> None:
    import subprocess
    import sys

    program = "import sys, auscult; print([m for m in ('torch', 'pandas', 'scipy', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "fit" in dir(auscult)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = auscult.nothing


def test_a_training_that_a_budget_ended_is_done_until_there_is_more_time(tiny_plant: Path, tmp_path: Path) -> None:
    how: dict[str, object] = {"machine_id": "00", "settings": {"max_steps": 10_000, "batch_size": 64}}
    file = tmp_path / "short.auscult"
    auscult.fit(tiny_plant, "ae", budget=0.5, **how).save(file)
    assert is_done(file, tiny_plant, "ae", budget=0.5, **how)
    assert not is_done(file, tiny_plant, "ae", budget=60.0, **how)
    assert not is_done(file, tiny_plant, "ae", **how)


# Models of earlier versions -------------------------------------------------------------------------------

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("name", ["knn", "bank", "anp"])
def test_models_of_the_first_version_still_load_and_judge_alike(name: str) -> None:
    """Written once (tests/fixtures) and never again: a change that makes them fail breaks users' files."""
    known = json.loads((FIXTURES / "scores.json").read_text(encoding="utf-8"))[name]
    model = auscult.load(FIXTURES / f"{name}-0.1.auscult")
    clips = [
        Clip(f"new {k}", samples=machine_sound(100 + k, seconds=2.0).astype(np.float32), rate=16_000) for k in range(3)
    ]
    assert model.calibration.threshold == pytest.approx(known["threshold"])
    assert model.score(clips) == pytest.approx(known["scores"], rel=1e-4)
