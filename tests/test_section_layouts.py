"""DCASE 2021 to 2025: trees with their names become manifests, and their ground truths are understood."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auscult.corpus import Manifest, open_data
from auscult.corpus.layouts import LAYOUTS, look_up, read_truth
from auscult.corpus.section_truth import Told, read_sections, tell
from auscult.corpus.sections import attributes_in, parse, spellings
from auscult.corpus.summary import summarise
from auscult.errors import AuscultError
from conftest import write_wav

COLUMNS = ("machine_type", "machine_id", "split", "condition", "section", "domain", "attributes", "subset")
SILENCE = np.zeros(160)

TREE_2021 = {
    "dev_data/fan/train/section_00_source_train_normal_0000_strength_1_ambient.wav": (
        *("fan", "section_00", "train", "normal", "00", "source", "strength=1;ambient", "dev"),
    ),
    "dev_data/fan/train/section_00_target_train_normal_0002_strength_2.wav": (
        *("fan", "section_00", "train", "normal", "00", "target", "strength=2", "dev"),
    ),
    "dev_data/fan/source_test/section_00_source_test_normal_0000.wav": (
        *("fan", "section_00", "test", "normal", "00", "source", "", "dev"),
    ),
    "dev_data/fan/target_test/section_00_target_test_anomaly_0000.wav": (
        *("fan", "section_00", "test", "anomaly", "00", "target", "", "dev"),
    ),
    "eval_data/fan/train/section_03_source_train_normal_0000_strength_1.wav": (
        *("fan", "section_03", "train", "normal", "03", "source", "strength=1", "additional"),
    ),
    "eval_data/fan/source_test/section_03_source_test_0000.wav": (
        *("fan", "section_03", "test", "anomaly", "03", "source", "", "eval"),
    ),
    "eval_data/fan/target_test/section_03_target_test_0000.wav": (
        *("fan", "section_03", "test", "normal", "03", "target", "", "eval"),
    ),
}
TREE_2022 = {
    "dev_data/slider/train/section_02_target_train_normal_0009_vel_300_ac_0.03.wav": (
        *("slider", "section_02", "train", "normal", "02", "target", "vel=300;ac=0.03", "dev"),
    ),
    "dev_data/ToyCar/test/section_00_target_test_anomaly_0012_car_G2_spd_34V_mic_1_noise_6.wav": (
        *("ToyCar", "section_00", "test", "anomaly", "00", "target", "car=G2;spd=34V;mic=1;noise=6", "dev"),
    ),
    "eval_data/ToyCar/test/section_03_0000.wav": (
        *("ToyCar", "section_03", "test", "anomaly", "03", "target", "car=G2", "eval"),
    ),
    "eval_data/ToyCar/test/section_03_test_0001.wav": (
        *("ToyCar", "section_03", "test", "normal", "03", "source", "car=F1", "eval"),
    ),
}
TREE_2025 = {
    "dev_data/bearing/train/section_00_source_train_normal_0001_noAttribute.wav": (
        *("bearing", "section_00", "train", "normal", "00", "source", "", "dev"),
    ),
    "dev_data/bearing/supplemental/section_00_machine_source_0000_noAttribute.wav": (
        *("bearing", "section_00", "unknown", "normal", "00", "source", "recorded=machine", "supplemental"),
    ),
    "dev_data/ToyCar/supplemental/section_00_noise_0000.wav": (
        *("ToyCar", "section_00", "unknown", "unknown", "00", "", "recorded=noise", "supplemental"),
    ),
    "eval_data/AutoTrash/train/section_00_target_train_normal_0991_noAttribute.wav": (
        *("AutoTrash", "section_00", "train", "normal", "00", "target", "", "additional"),
    ),
    "eval_data/AutoTrash/test/section_00_0001.wav": (
        *("AutoTrash", "section_00", "test", "anomaly", "00", "target", "", "eval"),
    ),
    "eval_data/raw/ToyPet/test/section_00_0002.wav": (
        *("ToyPet", "section_00", "test", "normal", "00", "source", "mode=1", "eval"),
    ),
}
LIST_2025 = (
    "AutoTrash\nsection_00_0001.wav,section_00_target_test_anomaly_0001_noAttribute.wav\n"
    "ToyPet\nsection_00_0002.wav,section_00_source_test_normal_0002_mode_1.wav\n"
)


def grow(root: Path, files: dict[str, tuple[str, ...]]) -> Path:
    for file in files:
        write_wav(root / file, SILENCE)
    return root


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def check(manifest: Manifest, root: Path, expected: dict[str, tuple[str, ...]]) -> None:
    rows = manifest.table.set_index("path")[list(COLUMNS)].itertuples(name=None)
    found = {str(Path(path).relative_to(root)): tuple(said) for path, *said in rows}
    assert found == expected
    assert all(clip.section and clip.split for clip in manifest)


def truth_of_2021(root: Path) -> None:
    put(
        root / "eval_data/ground_truth_data/ground_truth_fan_section_03_source_test.csv",
        "section_03_source_test_0000.wav,1\n",
    )
    put(
        root / "eval_data/ground_truth_data/ground_truth_fan_section_03_target_test.csv",
        "section_03_target_test_0000.wav,0\n",
    )


def truth_of_2022(root: Path) -> None:
    name = "ground_truth_ToyCar_section_03_test.csv"
    put(root / "eval_data/ground_truth_data" / name, "section_03_0000.wav,1\nsection_03_0001.wav,0\n")
    put(root / "eval_data/ground_truth_domain" / name, "section_03_0000.wav,1\nsection_03_0001.wav,0\n")
    put(
        root / "eval_data/ToyCar/attributes_03.csv",
        "file_name,d1p,d1v\nToyCar/test/section_03_0000.wav,car,G2\nToyCar/test/section_03_test_0001.wav,car,F1\n",
    )


def truth_of_2025(root: Path) -> None:
    put(root / "eval_data/eval_data_list_2025.csv", LIST_2025)


YEARS = {
    "2021": (TREE_2021, truth_of_2021),
    "2022": (TREE_2022, truth_of_2022),
    "2025": (TREE_2025, truth_of_2025),
}


@pytest.mark.parametrize("year", YEARS)
@pytest.mark.parametrize("layout", ["auto", "its own"])
def test_a_years_tree_becomes_a_manifest(tmp_path: Path, year: str, layout: str) -> None:
    tree, add_truth = YEARS[year]
    add_truth(grow(tmp_path, tree))
    manifest = open_data(tmp_path, layout="auto" if layout == "auto" else f"dcase{year}")
    check(manifest, tmp_path, tree)
    assert any("for evaluation is taken from" in note for note in manifest.notes)
    if layout == "auto":
        assert "layout dcase2021 (as all of dcase2021 to dcase2025)" in manifest.notes[0]


@pytest.mark.parametrize("year", YEARS)
def test_without_ground_truth_evaluation_clips_are_unknown(tmp_path: Path, year: str) -> None:
    tree, _ = YEARS[year]
    manifest = open_data(grow(tmp_path, tree))
    table = manifest.table
    evaluated = table["subset"] == "eval"
    assert set(table["condition"][evaluated]) == {"unknown"}
    assert set(table["condition"][~evaluated & (table["subset"] != "supplemental")]) <= {"normal", "anomaly"}
    assert any("have no condition" in note and "--part truth" in note for note in manifest.notes)


def test_a_machines_folder_alone_finds_its_ground_truth(tmp_path: Path) -> None:
    truth_of_2022(grow(tmp_path, TREE_2022))
    for data in ("eval_data", "eval_data/ToyCar", "eval_data/ToyCar/test"):
        assert open_data(tmp_path / data).table["condition"].tolist() == ["anomaly", "normal"]


def test_training_takes_neither_supplemental_nor_evaluation_clips(tmp_path: Path) -> None:
    truth_of_2025(grow(tmp_path, TREE_2025))
    manifest = open_data(tmp_path)
    assert set(manifest.for_training().table["subset"]) == {"dev", "additional"}
    assert set(manifest.for_scoring().table["subset"]) == {"eval"}
    assert len(manifest.select(machine_id="00")) == len(manifest)


@pytest.mark.parametrize(
    "file",
    [
        "fan/source_test/section_00_target_test_normal_0000.wav",
        "fan/train/section_00_source_test_normal_0000.wav",
        "fan/train/section_00_source_train_anomaly_0000.wav",
        "fan/train/section_00_0000.wav",
        "fan/test/section_0_source_test_normal_0000.wav",
        "fan/other/section_00_source_test_normal_0000.wav",
        "fan/supplemental/readme_00.wav",
    ],
)
def test_what_contradicts_itself_does_not_fit(tmp_path: Path, file: str) -> None:
    grow(tmp_path, {file: ()})
    with pytest.raises(AuscultError, match="does not fit the layout dcase2023"):
        open_data(tmp_path, layout="dcase2023")


def test_supplemental_noise_is_no_problem(tmp_path: Path) -> None:
    truth_of_2025(grow(tmp_path, TREE_2025))
    summary = summarise(open_data(tmp_path), deep=False)
    assert not any("no condition" in problem for problem in summary.problems)
    (tmp_path / "eval_data/eval_data_list_2025.csv").unlink()
    assert any("2 clips have no condition" in p for p in summarise(open_data(tmp_path), deep=False).problems)


def test_all_years_share_a_layout() -> None:
    assert len({id(LAYOUTS[f"dcase{year}"]) for year in range(2021, 2026)}) == 1


def test_a_broken_attribute_table_is_noted_and_nothing_else_is_lost(tmp_path: Path) -> None:
    truth_of_2022(grow(tmp_path, TREE_2022))
    (tmp_path / "eval_data/ToyCar/attributes_03.csv").write_bytes(b"\xff\xfe\x00")
    manifest = open_data(tmp_path / "eval_data")
    assert any("attributes_03.csv: cannot be read" in note for note in manifest.notes)
    assert manifest.table["condition"].tolist() == ["anomaly", "normal"]


# --- names ----------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 99),
    st.sampled_from(["source", "target"]),
    st.sampled_from(["train", "test"]),
    st.integers(0, 9999),
    st.lists(st.tuples(st.sampled_from(["vel", "loc", "f-n"]), st.from_regex(r"[A-Z0-9]{1,3}(\.\d)?", fullmatch=True))),
)
def test_a_name_is_read_as_it_was_made(
    section: int, domain: str, split: str, number: int, pairs: list[tuple[str, str]]
) -> None:
    tail = "".join(f"_{key}_{value}" for key, value in pairs)
    said = parse(f"section_{section:02}_{domain}_{split}_normal_{number:04}{tail}.wav")
    assert said is not None
    assert (said.section, said.domain, said.split, said.number) == (f"{section:02}", domain, split, number)
    assert said.attributes == ";".join(f"{key}={value}" for key, value in pairs)


@pytest.mark.parametrize(
    ("name", "recorded", "domain", "condition"),
    [
        ("section_00_machine_source_0000_noAttribute.wav", "machine", "source", "normal"),
        ("section_00_source_supplemental_machine_0000.wav", "machine", "source", "normal"),
        ("section_00_noise_supplemental_normal_0000.wav", "noise", "", ""),
    ],
)
def test_supplemental_names(name: str, recorded: str, domain: str, condition: str) -> None:
    said = parse(name, supplemental=True)
    assert said is not None
    assert (said.recorded, said.domain, said.condition, said.attributes) == (recorded, domain, condition, "")


def test_one_clip_has_the_same_first_spelling_however_it_is_written() -> None:
    assert spellings("section_03_0005.wav")[0] == spellings("section_03_test_0005.wav")[0] == "section_03_0005.wav"
    assert spellings("section_03_source_test_0005.wav")[0] != spellings("section_03_target_test_0005.wav")[0]
    assert spellings("id_01_00000000.wav") == ["id_01_00000000.wav"]
    assert attributes_in("noAttribute") == attributes_in("") == ""


# --- ground truth ---------------------------------------------------------------------------------------------


def test_the_baselines_list_tells_condition_domain_and_attributes(tmp_path: Path) -> None:
    truth_of_2025(tmp_path)
    told = read_sections(tmp_path / "eval_data/eval_data_list_2025.csv")
    assert tell(told, "ToyPet", "x/section_00_test_0002.wav") == Told("normal", "source", "mode=1")
    assert tell(told, "AutoTrash", "section_00_0001.wav") == Told("anomaly", "target", "")
    assert tell(told, "AutoTrash", "section_00_0002.wav") == Told()
    assert read_sections(tmp_path / "eval_data") == told


def test_an_evaluators_folders_are_read_together(tmp_path: Path) -> None:
    name = "ground_truth_bandsaw_section_00_test.csv"
    put(tmp_path / "ground_truth_data" / name, "section_00_0000.wav,1\nsection_00_0001.wav,0\n")
    put(tmp_path / "ground_truth_domain" / name, "section_00_0000.wav,0\nsection_00_0001.wav,1\n")
    put(tmp_path / "ground_truth_attributes" / name, "section_00_0000.wav,section_00_source_test_anomaly_0000_vel_15\n")
    for source in (tmp_path, tmp_path / "ground_truth_data"):
        told = read_sections(source)
        assert told["bandsaw", "section_00_0000.wav"] == Told("anomaly", "source", "vel=15")
        assert told["bandsaw", "section_00_0001.wav"] == Told("normal", "target", "")
    truth = read_truth(tmp_path)
    assert look_up(truth, "bandsaw", "eval/section_00_test_0001.wav") == "normal"
    one = read_truth(tmp_path / "ground_truth_data" / name)
    assert one == truth


@pytest.mark.parametrize("machine", ["ToyCar", "ToyTrain"])
def test_the_wrong_labels_of_2022_are_refused(tmp_path: Path, machine: str) -> None:
    text = f"{machine}\nsection_03_0082.wav,section_03_source_test_normal_0035_car_F2_spd_8.wav\n"
    put(tmp_path / "eval_data_list_2022.csv", text)
    with pytest.raises(AuscultError, match="known fault of the list of 2022") as caught:
        read_truth(tmp_path / "eval_data_list_2022.csv")
    assert "evaluator" in str(caught.value.remedy)
    # Opening the data goes on, and says why the conditions are missing.
    write_wav(tmp_path / machine / "test" / "section_03_0082.wav", SILENCE)
    manifest = open_data(tmp_path)
    assert manifest.table["condition"].tolist() == ["unknown"]
    assert any("known fault" in note for note in manifest.notes)
    # The evaluator's files beside it come first.
    name = f"ground_truth_data/ground_truth_{machine}_section_03_test.csv"
    put(tmp_path / name, "section_03_0082.wav,1\n")
    assert open_data(tmp_path).table["condition"].tolist() == ["anomaly"]


def test_corrected_labels_of_2022_are_taken(tmp_path: Path) -> None:
    put(
        tmp_path / "eval_data_list_2022.csv",
        "ToyCar\nsection_03_0082.wav,section_03_source_test_anomaly_0082_car_F2.wav\n",
    )
    assert read_truth(tmp_path / "eval_data_list_2022.csv") == {("ToyCar", "section_03_0082.wav"): "anomaly"}


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("ground_truth_fan_section_03_test.csv", "section_03_0000.wav,2\n", "cannot tell what the line"),
        ("ground_truth_fan_section_03_test.csv", "section_03_0000.wav\n", "cannot tell what the line"),
        (
            "ground_truth_fan_section_03_test.csv",
            "section_03_0000.wav,0\nsection_03_0000.wav,1\n",
            "is normal and anomaly",
        ),
        ("ground_truth_fan_section_03_test.csv", "", "names no clips"),
        ("eval_data_list_2023.csv", "fan\nsection_00_0000.wav,what.wav\n", "cannot tell what the line"),
    ],
)
def test_wrong_ground_truth_is_refused(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    put(tmp_path / name, text)
    with pytest.raises(AuscultError, match=complaint) as caught:
        read_truth(tmp_path / name)
    assert name in str(caught.value)


def test_a_folder_without_lists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AuscultError, match="names no clips"):
        read_truth(tmp_path)
