"""What the doctor finds, each danger injected into recordings that are otherwise sound."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from auscult.corpus import Clip, open_data
from auscult.doctor.advice import alternatives, promise, recommend
from auscult.doctor.dangers import dangers
from auscult.doctor.examination import examine
from auscult.doctor.listening import CLIPS_OF_EACH, Heard, listen
from conftest import Run, machine_sound, write_wav

RATE = 16_000


def heard(
    count: int = 12,
    *,
    level: float = -30,
    spectrum: float = 0,
    seconds: float = 10,
    clipped: float = 0,
    machine_id: str = "id_00",
    split: str = "train",
    condition: str = "normal",
) -> list[Heard]:
    rng = np.random.default_rng(len(machine_id) + ord(machine_id[-1]) + len(split) + len(condition))
    return [
        Heard(
            Clip(f"{machine_id} {split} {condition} {k}", machine_id=machine_id, split=split, condition=condition),
            seconds,
            level + rng.normal(0, 1),
            clipped,
            0.5,
            spectrum + rng.normal(0, 1, 128),
        )
        for k in range(count)
    ]


def sound_data() -> list[Heard]:
    return heard() + heard(split="test") + heard(split="test", condition="anomaly")


def test_sound_recordings_are_not_cautioned_against() -> None:
    assert dangers(sound_data()) == []


def test_clipping_is_heard() -> None:
    (said,) = dangers(sound_data() + heard(3, clipped=0.01))
    assert "3 of 39 clips" in said
    assert "gain" in said


@pytest.mark.parametrize("apart", [-9.0, 9.0])
def test_loudness_that_tells_the_conditions_apart_is_told_of(apart: float) -> None:
    (said,) = dangers(heard() + heard(split="test") + heard(split="test", condition="anomaly", level=-30 + apart))
    assert said.startswith("loudness alone tells anomalies from normal clips of machine id_00 (AUC 100 %)")


def test_length_that_tells_the_conditions_apart_is_told_of() -> None:
    (said,) = dangers(heard() + heard(split="test") + heard(split="test", condition="anomaly", seconds=11))
    assert said.startswith("length alone")


def test_a_changed_gain_between_train_and_test_is_told_of() -> None:
    found = dangers(heard() + heard(split="test", level=-22))
    assert any("louder or quieter" in said and "8 dB louder" in said for said in found)


def test_healthy_test_clips_unlike_the_training_clips_are_told_of() -> None:
    found = dangers(heard(40) + heard(40, split="test", spectrum=3))
    assert any("no promised false-alarm rate can hold" in said for said in found)


def test_ids_told_apart_by_loudness_alone_are_told_of() -> None:
    by_gain = heard(20) + heard(20, machine_id="id_02", level=-10, spectrum=9)
    assert any("learn the gain of the microphones" in said for said in dangers(by_gain))
    by_sound = heard(20) + heard(20, machine_id="id_02", spectrum=9)
    assert dangers(by_sound) == []


def test_ids_alike_are_told_of() -> None:
    found = dangers(heard(30) + heard(30, machine_id="id_02"))
    assert any("sound alike" in said for said in found)


def test_listening_measures_level_clipping_and_strokes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    steady = rng.normal(0, 0.1, 4 * RATE)
    strokes = steady * (1 + 9 * (np.sin(2 * np.pi * 1.5 * np.arange(4 * RATE) / RATE) > 0.5))
    for name, wave in {"a": steady, "b": strokes, "c": np.clip(30 * steady, -1, 1)}.items():
        write_wav(tmp_path / "normal" / f"{name}.wav", wave)
    one, two, three = listen(open_data(tmp_path))
    assert one.level == pytest.approx(-20, abs=0.1)
    assert one.seconds == 4
    assert one.clipped == 0 < 0.5 < three.clipped
    assert one.restlessness < 0.6
    assert two.restlessness > 3


def test_of_many_clips_some_are_listened_to(tmp_path: Path) -> None:
    wave = machine_sound(0, seconds=0.2)
    for k in range(CLIPS_OF_EACH + 40):
        write_wav(tmp_path / "normal" / f"{k:03}.wav", wave)
    chosen = [Path(one.clip.path).stem for one in listen(open_data(tmp_path))]
    assert len(chosen) == CLIPS_OF_EACH
    assert (chosen[0], chosen[-1]) == ("000", "099")


def test_advice_has_reasons_that_are_true_of_the_data() -> None:
    clips = [one.clip for one in heard(30) + heard(30, machine_id="id_02")]
    assert "60 healthy clips of 2 machines" in recommend(clips).why
    named = [advice.detector for advice in alternatives(clips, restlessness=4)]
    assert named == ["proxy-outlier", "stgram", "pae", "idnn", "knn"]
    assert [advice.detector for advice in alternatives(clips[:30], restlessness=0.4)] == ["knn"]
    assert "4.8 %" in promise(100)
    assert "no false-alarm rate" in promise(10)


def test_the_command_says_it_to_people_and_programs(tiny_plant: Path, auscult: Run) -> None:
    said = auscult("doctor", tiny_plant)
    assert said.code == 0
    assert "use bank: it needs no labels" in said.out
    assert "pump id_00" in said.out
    facts = json.loads(auscult("doctor", tiny_plant, "--json", "--machine-id", "id_00").out)
    assert facts["use"]["detector"] == "bank"
    assert [machine["machine"] for machine in facts["machines"]] == ["pump id_00"]
    assert facts["clips"] == 38


def test_broken_clips_are_passed_over_and_a_folder_of_them_refused(tmp_path: Path, auscult: Run) -> None:
    (tmp_path / "normal").mkdir()
    (tmp_path / "normal" / "broken.wav").write_bytes(b"RIFF")
    refused = auscult("doctor", tmp_path)
    assert refused.code == 2
    assert "none of 1 clips can be read" in refused.err
    write_wav(tmp_path / "normal" / "good.wav", machine_sound(1))
    assert any("cannot be read" in problem for problem in examine(open_data(tmp_path)).summary.problems)


def test_fit_without_a_detector_says_what_it_chose_and_why(tiny_plant: Path, tmp_path: Path, auscult: Run) -> None:
    done = auscult("fit", tiny_plant, "--machine-id", "id_00", "-o", tmp_path / "pump.auscult")
    assert done.code == 0
    assert done.out.startswith("bank learnt from")
    assert any(note.startswith("no detector was named; bank, because") for note in done.notes)
