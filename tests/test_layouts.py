"""Folders become manifests: every layout, what names say, ground-truth lists, and what is refused."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auscult.corpus import Manifest, open_data
from auscult.corpus.layouts import LAYOUTS, look_up, read_truth
from auscult.corpus.scan import find_recordings, natural
from auscult.corpus.words import condition_in, machine_id_in, machine_in, split_in
from auscult.errors import AuscultError

REAL = Path(os.environ.get("AUSCULT_TEST_DATA", Path(__file__).parents[1] / "../shared/data"))


def grow(root: Path, *files: str) -> Path:
    """Make a tree of empty files: layouts read names only."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def facts(manifest: Manifest, *columns: str) -> list[tuple[str, ...]]:
    return list(manifest.table[list(columns)].itertuples(index=False, name=None))


def only(root: Path, file: str, *columns: str, layout: str = "folder") -> tuple[str, ...]:
    return facts(open_data(grow(root, file), layout=layout), *columns)[0]


# --- what names say -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "condition"),
    [
        ("normal_id_00_00000000", "normal"),
        ("NORMAL", "normal"),
        ("normal01", "normal"),
        ("NormalSound_IND", "normal"),
        ("pump-healthy.2", "normal"),
        ("OK_17", "normal"),
        ("anomaly_id_00_00000000", "anomaly"),
        ("abnormal", "anomaly"),
        ("Abnormal sounds", "anomaly"),
        ("AnomalousSound_IND", "anomaly"),
        ("anomalies", "anomaly"),
        ("unhealthy", "anomaly"),
        ("bearing_faulty_3", "anomaly"),
        ("broken propeller", "anomaly"),
        ("NG-0001", "anomaly"),
        ("nok12", "anomaly"),
        ("defective", "anomaly"),
        ("not_defective", "normal"),
        ("defect-free", "normal"),
        ("no anomaly", "normal"),
        ("not ok", "anomaly"),
        ("n.ok", "anomaly"),
        ("non-normal", "anomaly"),
        ("paranormal_activity", ""),
        ("book_of_songs", ""),
        ("token", ""),
        ("ping", ""),
        ("normalized_rec_3", ""),
        ("normalised", ""),
        ("normal_and_abnormal", ""),
        ("00000000", ""),
        ("", ""),
    ],
)
def test_condition_in_a_name(name: str, condition: str) -> None:
    assert condition_in(name) == condition


@given(st.text(max_size=30))
def test_any_name_has_one_of_three_answers(name: str) -> None:
    assert condition_in(name) in ("normal", "anomaly", "")
    assert split_in(name) in ("train", "test", "unknown", "")
    assert isinstance(machine_in(name), str)


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("training_data", "train"),
        ("train_normal", "train"),
        ("test", "test"),
        ("source_test", "test"),
        ("testing", "test"),
        ("eval", "test"),
        ("val", "unknown"),
        ("test_bench", ""),
        ("toy train", ""),
        ("latest", ""),
        ("train_and_test", ""),
        ("normal", ""),
    ],
)
def test_split_in_a_folder_name(folder: str, split: str) -> None:
    assert split_in(folder) == split


@pytest.mark.parametrize(
    ("name", "machine_id"),
    [
        ("id_00", "id_00"),
        ("normal_id_06_00000012", "id_06"),
        ("ID-3", "id_3"),
        ("pump id 12", "id_12"),
        ("grid_04", ""),
        ("id_00000012", ""),
        ("id", ""),
    ],
)
def test_id_in_a_name(name: str, machine_id: str) -> None:
    assert machine_id_in(name) == machine_id


@pytest.mark.parametrize(
    ("folder", "machine"),
    [
        ("pump", "pump"),
        ("pump_normal", "pump"),
        ("abnormal-fan", "fan"),
        ("fan_id_03", "fan"),
        ("test_bench", "test_bench"),
        ("line 4 ok", "line 4"),
        ("normal", ""),
        ("id_02", ""),
        ("train_normal", ""),
        ("2024-05-01", ""),
        ("20240501", ""),
        ("1234", "1234"),
    ],
)
def test_machine_in_a_folder_name(folder: str, machine: str) -> None:
    assert machine_in(folder) == machine


# --- any folder -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("pump/normal/1.wav", ("pump", "id_00", "unknown", "normal")),
        ("pump/train/normal/1.wav", ("pump", "id_00", "train", "normal")),
        ("train/pump/id_03/faulty/1.wav", ("pump", "id_03", "train", "anomaly")),
        ("fan/testing/rec_id_7_ok.wav", ("fan", "id_7", "test", "normal")),
        ("fan/normal/anomaly_1.wav", ("fan", "id_00", "unknown", "anomaly")),
        ("normal/fan/abnormal/1.wav", ("fan", "id_00", "unknown", "anomaly")),
        ("eval_data/fan/train/normal_1.wav", ("fan", "id_00", "train", "normal")),
        ("pump_normal/1.wav", ("pump", "id_00", "unknown", "normal")),
        ("pump_broken/1.wav", ("pump", "id_00", "unknown", "anomaly")),
        ("pump/bearing 3/paranormal_activity.wav", ("pump", "id_00", "unknown", "unknown")),
        ("2024-05-01/rec_ok.FLAC", ("press 4", "id_00", "unknown", "normal")),
        ("1.wav", ("press 4", "id_00", "unknown", "unknown")),
        ("normal/1.wav", ("press 4", "id_00", "unknown", "normal")),
    ],
)
def test_any_folder(tmp_path: Path, file: str, expected: tuple[str, ...]) -> None:
    columns = ("machine_type", "machine_id", "split", "condition")
    assert only(tmp_path / "press 4", file, *columns) == expected


@pytest.mark.parametrize("below", ["id_02/train/normal", "id_02/normal/train", "train_normal/id_02"])
def test_a_folder_that_is_a_label_still_says_so_when_opened_itself(tmp_path: Path, below: str) -> None:
    grow(tmp_path / "pump", f"{below}/1.wav")
    row = facts(open_data(tmp_path / "pump" / below), "machine_type", "machine_id", "split", "condition")
    assert row == [("pump", "id_02", "train", "normal")]


@pytest.mark.parametrize(("inside", "data"), [("press", "."), ("press/normal", ".."), ("press/x", "../../press")])
def test_dots_are_resolved_to_the_machines_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str, data: str
) -> None:
    grow(tmp_path, "press/normal/1.wav", "press/x/note.txt")
    monkeypatch.chdir(tmp_path / inside)
    manifest = open_data(data)
    assert manifest.machine_types == ["press"]
    clip = manifest.clips()[0]
    assert clip.file is not None
    assert clip.file.exists()


def test_paths_start_where_data_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(tmp_path, "plant/pump/normal/1.wav")
    monkeypatch.chdir(tmp_path)
    for data, path in (
        ("plant", "plant/pump/normal/1.wav"),
        ("plant/", "plant/pump/normal/1.wav"),
        ("./plant/pump", "plant/pump/normal/1.wav"),
        (tmp_path / "plant", f"{tmp_path.as_posix()}/plant/pump/normal/1.wav"),
    ):
        manifest = open_data(data)
        assert facts(manifest, "path") == [(path,)]
        assert manifest.root == Path()


def test_rows_come_in_natural_order(tmp_path: Path) -> None:
    grow(tmp_path, "a-b/1.wav", "a/10.wav", "a/9.wav", "a/c/1.wav", "10/x.wav", "9/x.wav")
    found = [os.path.relpath(path, tmp_path) for (path,) in facts(open_data(tmp_path), "path")]
    assert found == ["9/x.wav", "10/x.wav", "a/9.wav", "a/10.wav", "a/c/1.wav", "a-b/1.wav"]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 10**9), st.integers(0, 20))))
def test_numbers_in_names_sort_by_value(parts: list[tuple[str, int, int]]) -> None:
    def path(part: tuple[str, int, int]) -> str:
        return f"{part[0]}/rec{part[1]}/{part[2]}.wav"

    assert sorted(map(path, parts), key=natural) == list(map(path, sorted(parts)))


@given(st.lists(st.text(alphabet="ab/019٣²-.", max_size=8)))
def test_any_names_can_be_sorted(paths: list[str]) -> None:
    assert sorted(sorted(paths, key=natural)) == sorted(paths)


def test_an_unlabelled_folder_is_noted(tmp_path: Path) -> None:
    manifest = open_data(grow(tmp_path / "press", "1.wav", "2.wav"))
    assert set(manifest.table["condition"]) == {"unknown"}
    assert any("nothing says which clips are healthy" in note for note in manifest.notes)


def test_a_partly_labelled_folder_is_noted(tmp_path: Path) -> None:
    manifest = open_data(grow(tmp_path / "press", "1.wav", "2_ok.wav", "3_ng.wav"))
    assert any("1 clip of 3" in note for note in manifest.notes)
    labelled = open_data(grow(tmp_path / "other", "2_ok.wav"))
    assert not any("condition" in note or "normal" in note for note in labelled.notes)


# --- searching ------------------------------------------------------------------------------------------------


def test_hidden_files_and_other_files_are_passed_over(tmp_path: Path) -> None:
    root = grow(tmp_path / "press", "1.WAV", "._1.wav", ".hidden/2.wav", "readme.txt", "wav", "x.wav.bak", ".wav")
    grow(root, "album.wav/3.ogg")
    found = find_recordings(str(root))
    assert found.folders == {"": ["1.WAV"], "album.wav": ["3.ogg"]}
    assert found.other_endings == {".txt": 1, "": 1, ".bak": 1}


def test_links_are_followed_without_loops(tmp_path: Path) -> None:
    root = grow(tmp_path / "press", "a/normal/1.wav", "b/2.wav")
    grow(tmp_path, "far/3.wav")
    (root / "a" / "loop").symlink_to(root)
    (root / "A_again").symlink_to(root / "a")
    (root / "far").symlink_to(tmp_path / "far")
    (root / "self").symlink_to("self")
    (root / "gone.wav").symlink_to("nowhere.wav")
    paths = [os.path.relpath(path, root) for (path,) in facts(open_data(root), "path")]
    assert paths == ["a/normal/1.wav", "b/2.wav", "far/3.wav", "gone.wav"]


def close(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    """Let nobody open the folders of that name, not even the superuser."""
    scandir = os.scandir

    def refusing(path: Path) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)


def test_a_closed_folder_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = grow(tmp_path / "press", "1.wav", "closed/2.wav")
    close(monkeypatch, "closed")
    manifest = open_data(root)
    assert len(manifest) == 1
    assert any("could not be opened (first: closed)" in note for note in manifest.notes)
    with pytest.raises(AuscultError, match="closed: the folder cannot be opened"):
        open_data(root / "closed")


def test_a_name_that_is_no_text_is_left_out_and_named(tmp_path: Path) -> None:
    root = grow(tmp_path / "press", "1.wav")
    try:
        Path(os.fsdecode(os.fsencode(root) + b"/\xff.wav")).touch()
    except OSError:
        pytest.skip("this file system takes valid names only")
    manifest = open_data(root)
    assert len(manifest) == 1
    assert any("no valid text" in note and "\\udcff" in note for note in manifest.notes)
    (root / "1.wav").unlink()
    with pytest.raises(AuscultError, match="no valid text"):
        open_data(root)


@pytest.mark.slow
def test_a_huge_tree_is_read_in_seconds(tmp_path: Path) -> None:
    for machine in ("fan", "pump"):
        for split, kind in (("train", "normal"), ("test", "anomaly")):
            grow(tmp_path, *(f"{machine}/{split}/{kind}_id_00_{n:08}.wav" for n in range(12_500)))
    start = time.perf_counter()
    assert len(open_data(tmp_path)) == 50_000
    assert time.perf_counter() - start < 10


# --- DCASE 2020 -----------------------------------------------------------------------------------------------

DEV = ("dev_data/pump/train/normal_id_00_00000000.wav", "dev_data/pump/test/anomaly_id_00_00000000.wav")
ADDITIONAL = ("eval_data/pump/train/normal_id_01_00000000.wav",)
EVAL = ("eval_data/pump/test/id_01_00000000.wav", "eval_data/pump/test/id_01_00000001.wav")
LIST = (
    "fan\nid_01_00000000.wav,anomaly_id_01_00000007.wav,1\n"
    "pump\nid_01_00000000.wav,normal_id_01_00000098.wav,0\nid_01_00000001.wav,anomaly_id_01_00000003.wav,1\n"
)


def test_dcase2020_development_additional_and_evaluation_data(tmp_path: Path) -> None:
    manifest = open_data(grow(tmp_path, *DEV, *ADDITIONAL, *EVAL))
    assert facts(manifest, "machine_type", "machine_id", "split", "condition", "subset") == [
        ("pump", "id_00", "test", "anomaly", "dev"),
        ("pump", "id_00", "train", "normal", "dev"),
        ("pump", "id_01", "test", "unknown", "eval"),
        ("pump", "id_01", "test", "unknown", "eval"),
        ("pump", "id_01", "train", "normal", "additional"),
    ]
    assert any("layout dcase2020" in note for note in manifest.notes)
    assert any("2 clips for evaluation have no condition" in note for note in manifest.notes)


@pytest.mark.parametrize("data", ["", "dev_data", "dev_data/pump", "dev_data/pump/test"])
def test_dcase2020_may_be_opened_at_any_level(tmp_path: Path, data: str) -> None:
    grow(tmp_path, *DEV)
    row = facts(open_data(tmp_path / data), "machine_type", "split", "condition", "subset")[0]
    assert row == ("pump", "test", "anomaly", "dev")


@pytest.mark.parametrize(
    ("folder", "subset"),
    [("dev_data_fan", "dev"), ("development", "dev"), ("additional_training", "additional"), ("devices", "")],
)
def test_dcase2020_subset(tmp_path: Path, folder: str, subset: str) -> None:
    file = f"{folder}/fan/train/normal_id_00_00000000.flac"
    assert only(tmp_path, file, "subset", layout="dcase2020") == (subset,)


@pytest.mark.parametrize("list_at", ["", "eval_data"])
@pytest.mark.parametrize("data", ["", "eval_data", "eval_data/pump", "eval_data/pump/test"])
def test_dcase2020_ground_truth_is_found_and_used(tmp_path: Path, data: str, list_at: str) -> None:
    grow(tmp_path, *EVAL)
    (tmp_path / list_at / "eval_data_list.csv").write_text(LIST)
    manifest = open_data(tmp_path / data)
    assert facts(manifest, "condition") == [("normal",), ("anomaly",)]
    assert any("condition of 2 clips for evaluation is taken from" in note for note in manifest.notes)


def test_dcase2020_a_clip_missing_from_the_ground_truth_stays_unknown(tmp_path: Path) -> None:
    grow(tmp_path, *EVAL, "eval_data/pump/test/id_03_00000000.wav")
    (tmp_path / "eval_data_list.csv").write_text(LIST)
    manifest = open_data(tmp_path)
    assert facts(manifest, "condition")[-1] == ("unknown",)
    assert any("does not list 1 clip" in note for note in manifest.notes)


def test_a_few_strays_are_left_out_of_a_data_set_and_named(tmp_path: Path) -> None:
    files = [f"pump/train/normal_id_00_{n:08}.wav" for n in range(30)]
    manifest = open_data(grow(tmp_path, *files, "jingle.mp3"))
    assert len(manifest) == 30
    assert any("1 clip left out" in note and "jingle.mp3" in note for note in manifest.notes)


def test_a_tree_that_only_resembles_a_data_set_is_any_folder(tmp_path: Path) -> None:
    files = ["pump/train/normal_id_00_00000000.wav", "pump/train/morning ok.wav", "pump/test/noon ng.wav"]
    manifest = open_data(grow(tmp_path, *files))
    assert any("layout folder" in note for note in manifest.notes)
    assert len(manifest) == 3
    assert "subset" not in manifest.table


# --- MIMII ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "machine", "attributes"),
    [
        ("pump", "pump", ""),
        ("0_dB_fan", "fan", "snr=0dB"),
        ("-6_dB_pump", "pump", "snr=-6dB"),
        ("6_dB_slider/slider", "slider", "snr=6dB"),
        ("6dB/valve", "valve", "snr=6dB"),
    ],
)
@pytest.mark.parametrize("opened", ["", "machine", "id"])
def test_mimii(tmp_path: Path, folder: str, machine: str, attributes: str, opened: str) -> None:
    grow(tmp_path, f"{folder}/id_06/normal/00000000.wav", f"{folder}/id_06/abnormal/00000010.wav")
    data = {"": tmp_path, "machine": tmp_path / folder, "id": tmp_path / folder / "id_06"}[opened]
    manifest = open_data(data)
    assert any("layout mimii" in note for note in manifest.notes)
    assert facts(manifest, "machine_type", "machine_id", "split", "condition", "attributes") == [
        (machine, "id_06", "unknown", "anomaly", attributes),
        (machine, "id_06", "unknown", "normal", attributes),
    ]


def test_mimii_split_by_hand_keeps_its_splits(tmp_path: Path) -> None:
    grow(tmp_path, "train/pump/id_00/normal/00000000.wav", "test/pump/id_00/abnormal/00000000.wav")
    assert facts(open_data(tmp_path), "machine_type", "split") == [("pump", "test"), ("pump", "train")]


# --- ToyADMOS -------------------------------------------------------------------------------------------------


def test_toyadmos(tmp_path: Path) -> None:
    manifest = open_data(
        grow(
            tmp_path,
            "ToyCar/case1/NormalSound_IND/1100010001_ToyCar_case1_normal_IND_ch1_0001.wav",
            "ToyCar/case1/AnomalousSound_IND/1200010001_ToyCar_case1_ab01_IND_ch1_0001.wav",
            "ToyTrain/case2/NormalSound_CNT/3100010001_ToyTrain_case2_normal_CNT_ch4_0001.wav",
            "ToyCar/EnvironmentalNoise_CNT/1000000001_ToyCar_caseAll_noise_CNT_ch1_0001.wav",
        )
    )
    assert facts(manifest, "machine_type", "machine_id", "split", "condition", "attributes") == [
        ("ToyCar", "case1", "unknown", "anomaly", "anomaly=ab01;recorded=IND;channel=1"),
        ("ToyCar", "case1", "unknown", "normal", "recorded=IND;channel=1"),
        ("ToyTrain", "case2", "unknown", "normal", "recorded=CNT;channel=4"),
    ]
    assert any("1 clip of background noise left out" in note for note in manifest.notes)
    assert not any("channel" in note for note in manifest.notes)


def test_toyadmos_notes_takes_in_several_channels(tmp_path: Path) -> None:
    name = "ToyConveyor/case1/NormalSound_IND/21000{n}_ToyConveyor_case1_normal_IND_ch{c}_000{n}.wav"
    grow(tmp_path, *(name.format(n=n, c=c) for n in (1, 2) for c in (1, 2, 3, 4)))
    manifest = open_data(tmp_path / "ToyConveyor")
    assert len(manifest) == 8
    assert any("8 clips are 2 takes" in note for note in manifest.notes)


def test_toyadmos_noise_alone_is_no_machine(tmp_path: Path) -> None:
    grow(tmp_path, "ToyCar/EnvironmentalNoise_CNT/1000000001_ToyCar_caseAll_noise_CNT_ch1_0001.wav")
    with pytest.raises(AuscultError, match="background noise only"):
        open_data(tmp_path)


# --- one door -------------------------------------------------------------------------------------------------


def test_a_recording_is_opened_alone_and_says_what_its_place_says(tmp_path: Path) -> None:
    file = grow(tmp_path, "pump/train/anomaly_id_02_00000000.flac") / "pump/train/anomaly_id_02_00000000.flac"
    columns = ("path", "machine_type", "machine_id", "split", "condition")
    for data in (file, str(file), [file]):
        row = facts(open_data(data), *columns)
        assert row == [(file.as_posix(), "pump", "id_02", "unknown", "anomaly")]
    assert len(open_data(file).for_scoring()) == 1


def test_recordings_keep_the_order_given_and_come_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(tmp_path, "press/b.wav", "press/a.wav", "fan/c.wav")
    monkeypatch.chdir(tmp_path)
    manifest = open_data(["press/b.wav", Path("press/a.wav"), "press/b.wav", "fan"])
    assert facts(manifest, "path", "machine_type") == [
        ("press/b.wav", "press"),
        ("press/a.wav", "press"),
        ("fan/c.wav", "fan"),
    ]


def test_folders_of_different_layouts_share_one_table(tmp_path: Path) -> None:
    grow(tmp_path, "a/0_dB_fan/id_00/normal/00000000.wav", "b/pump/train/normal_id_00_00000000.wav")
    table = open_data([tmp_path / "a", tmp_path / "b"]).table
    assert table["attributes"].tolist() == ["snr=0dB", ""]
    assert table["subset"].tolist() == ["", ""]


@pytest.mark.parametrize("ending", ["csv", "parquet", "CSV"])
def test_an_index_of_a_folder_is_the_folder(tmp_path: Path, ending: str) -> None:
    whole = open_data(grow(tmp_path, *DEV, *ADDITIONAL))
    whole.write(tmp_path / f"index.{ending}")
    again = open_data(tmp_path / f"index.{ending}")
    drop = "path"
    assert again.table.drop(columns=drop).equals(whole.table.drop(columns=drop))
    assert [clip.file for clip in again] == [clip.file for clip in whole]


@pytest.mark.parametrize(
    ("data", "layout", "complaint", "remedy"),
    [
        ("nowhere", "auto", "nowhere: there is no such file or folder", "check the path"),
        ("nowhere.csv", "auto", "nowhere.csv: there is no such file or folder", "check the path"),
        ("empty", "auto", "empty: holds no recordings", r"recordings end in .*\.flac.*\.wav"),
        ("phone", "auto", "phone: holds no recordings, but 2 files ending in .m4a", r"\.wav"),
        ("phone/1.m4a", "auto", "neither a recording nor a manifest", r"\.wav"),
        ("press", "dcase2002", "there is no layout 'dcase2002'", "did you mean 'dcase202.*mimii.*folder"),
        ("press", "xyz", "there is no layout 'xyz'", "^layouts are auto, dcase2020"),
        ("press", "dcase2020", r"press/1\.wav does not fit the layout dcase2020", "normal_id_00_00000000.wav"),
        ("press", "mimii", "does not fit the layout mimii", "abnormal"),
        ("press/1.wav", "toyadmos", r"press/1\.wav does not fit the layout toyadmos", "ToyCar"),
    ],
)
def test_what_cannot_be_opened_is_named_with_a_remedy(
    tmp_path: Path, data: str, layout: str, complaint: str, remedy: str
) -> None:
    grow(tmp_path, "press/1.wav", "press/2.wav", "phone/1.m4a", "phone/2.M4A", "phone/notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AuscultError, match=complaint) as caught:
        open_data(tmp_path / data, layout=layout)
    assert caught.value.remedy
    assert pd.Series([caught.value.remedy]).str.contains(remedy).all()


def test_no_data_and_manifests_among_recordings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AuscultError, match="no data is named"):
        open_data([])
    grow(tmp_path, "a.wav", "m.csv")
    with pytest.raises(AuscultError, match="a manifest stands alone"):
        open_data([tmp_path / "a.wav", tmp_path / "m.csv"])


def test_every_layout_says_what_it_looks_like() -> None:
    assert list(LAYOUTS)[-1] == "folder"
    assert all(layout.shape for layout in LAYOUTS.values())


# --- ground truth ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        LIST,
        LIST.replace(",0\n", "\n").replace(",1\n", "\n"),
        LIST.replace("\n", "\r\n").replace("pump", "\r\npump,,"),
        "\ufeff" + LIST.replace(",", ", "),
        LIST.replace("normal_id_01_00000098.wav,", "").replace("anomaly_id_01_00000003.wav,", ""),
    ],
)
def test_ground_truth_of_the_challenge(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.csv").write_bytes(text.encode())
    assert read_truth(tmp_path / "list.csv") == {
        ("fan", "id_01_00000000.wav"): "anomaly",
        ("pump", "id_01_00000000.wav"): "normal",
        ("pump", "id_01_00000001.wav"): "anomaly",
    }


def test_ground_truth_of_later_years(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        "bandsaw\nsection_00_0005.wav,section_00_source_test_anomaly_0005_vel_15.wav\n"
        "section_00_0010.wav,section_00_source_test_normal_0010_vel_15.wav\n"
    )
    truth = read_truth(tmp_path / "list.csv")
    assert truth["bandsaw", "section_00_0005.wav"] == "anomaly"
    assert truth["bandsaw", "section_00_0010.wav"] == "normal"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("pump\nid_01_00000000.wav,normal_id_01_00000098.wav,1\n", "cannot tell the condition"),
        ("pump\nid_01_00000000.wav,what.wav\n", "cannot tell the condition"),
        ("pump\na.wav,0\na.wav,1\n", "cannot tell the condition of 'a.wav'"),
        ("pump\n", "names no clips"),
        ("", "names no clips"),
        ("path,condition\na.wav,good\n", "condition 'good'"),
        ("path,condition\na.wav,normal\na.wav,anomaly\n", "two conditions"),
        ("path,condition\na.wav,unknown\n", "says of no clip"),
    ],
)
def test_wrong_ground_truth_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(AuscultError, match=complaint) as caught:
        read_truth(tmp_path / "list.csv")
    assert "list.csv" in str(caught.value)


def test_ground_truth_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "binary.parquet").write_bytes(b"\xff\xfe\x00")
    for name in ("binary.csv", "binary.parquet", "missing.csv", "missing.parquet"):
        with pytest.raises(AuscultError, match="cannot be read"):
            read_truth(tmp_path / name)
    pd.DataFrame({"path": ["a.wav"]}).to_parquet(tmp_path / "half.parquet")
    with pytest.raises(AuscultError, match="lacks path or condition"):
        read_truth(tmp_path / "half.parquet")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_manifest_is_ground_truth_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    monkeypatch.chdir(tmp_path)
    files = ("pump/normal/1.wav", "pump/faulty/1.wav", "pump/faulty/2.wav", "fan/normal/2.wav", "fan/3.wav")
    manifest = open_data(grow(tmp_path / "plant", *files))
    manifest.write(tmp_path / "plant" / f"index.{ending}")
    truth = read_truth(tmp_path / "plant" / f"index.{ending}")
    # As the manifest writes the path, and as a command run from elsewhere does.
    assert look_up(truth, "pump", "pump/faulty/1.wav") == "anomaly"
    assert look_up(truth, "pump", "plant/pump/normal/1.wav") == "normal"
    # By name alone only where that is clear.
    assert look_up(truth, "pump", "elsewhere/2.wav") == "anomaly"
    assert look_up(truth, "fan", "elsewhere/2.wav") == "normal"
    assert look_up(truth, "pump", "elsewhere/1.wav") == ""
    assert look_up(truth, "fan", "fan/3.wav") == ""


def test_a_table_without_machine_types_is_ground_truth_for_all(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text("condition,path,who\nnormal,x/a.wav,me\nanomaly,b.wav,me\n")
    truth = read_truth(tmp_path / "truth.csv")
    assert look_up(truth, "pump", "x/a.wav") == "normal"
    assert look_up(truth, "fan", "y/b.wav") == "anomaly"
    assert look_up(truth, "fan", "c.wav") == ""


# --- real recordings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "layout", "counts"),
    [
        ("dcase2020", "dcase2020", {("train", "normal"): 50, ("test", "normal"): 25, ("test", "anomaly"): 1}),
        ("machining/lathe", "dcase2020", {("train", "normal"): 180, ("test", "normal"): 100, ("test", "anomaly"): 150}),
        ("mimii8ch", "mimii", {("unknown", "normal"): 1, ("unknown", "anomaly"): 1}),
        ("esc10", "folder", {("unknown", "unknown"): 90}),
    ],
)
def test_real_recordings(folder: str, layout: str, counts: dict[tuple[str, str], int]) -> None:
    if not (REAL / folder).is_dir():
        pytest.skip(f"{REAL / folder} is not there: set AUSCULT_TEST_DATA")
    manifest = open_data(REAL / folder)
    assert f"layout {layout}" in manifest.notes[0]
    assert manifest.table.groupby(["split", "condition"]).size().to_dict() == counts
