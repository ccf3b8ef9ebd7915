"""The manifest: written and read again, refused by name where it is wrong, and who is chosen for what."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auscult.corpus import Manifest
from auscult.corpus.manifest import CONDITIONS, REQUIRED, SPLITS
from auscult.errors import AuscultError

HEADER = ",".join(REQUIRED)

# What a file system allows in a name: anything but the slash and NUL; lone surrogates are no text.
names = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..")
)
words = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)


def table(*rows: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(REQUIRED), dtype=str)


def plant() -> Manifest:
    rows = [
        ("a", "pump", "id_00", "train", "normal"),
        ("b", "pump", "id_00", "train", "anomaly"),
        ("c", "pump", "id_02", "train", "normal"),
        ("d", "pump", "id_02", "test", "normal"),
        ("e", "fan", "id_00", "test", "anomaly"),
        ("f", "fan", "id_00", "unknown", "normal"),
    ]
    return Manifest(table(*rows), Path("root"))


def paths(manifest: Manifest) -> list[str]:
    return [clip.path for clip in manifest]


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@given(
    rows=st.lists(
        st.tuples(names, words, words, st.sampled_from(SPLITS), st.sampled_from(CONDITIONS), words),
        min_size=1,
        max_size=5,
        unique_by=lambda row: row[0],
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_again(tmp_path: Path, ending: str, rows: list[tuple[str, ...]]) -> None:
    before = Manifest(pd.DataFrame(rows, columns=[*REQUIRED, "note"], dtype=str), tmp_path)
    before.write(tmp_path / f"manifest{ending}")
    after = Manifest.read(tmp_path / f"manifest{ending}")
    assert after.table.to_dict("records") == before.table.to_dict("records")
    assert [clip.file for clip in after] == [clip.file for clip in before]


@pytest.mark.parametrize("name", [" a.wav", "a\rb.wav", "a\nb.wav", 'say "hi", it.wav', "NA", "ü.wav", "#.wav"])
def test_difficult_names_survive_csv(tmp_path: Path, name: str) -> None:
    Manifest(table((name, "NA", "null", "train", "normal")), tmp_path).write(tmp_path / "m.csv")
    assert Manifest.read(tmp_path / "m.csv").table.iloc[0].tolist() == [name, "NA", "null", "train", "normal"]


def test_paths_are_written_relative_to_the_manifest_where_they_lie_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        ("data/a.wav", "pump", "id_00", "train", "normal"),
        ("other/b.wav", "pump", "id_00", "train", "normal"),
    ]
    Manifest(table(*rows), Path()).write("data/manifest.csv")
    written = Manifest.read("data/manifest.csv")
    assert paths(written) == ["a.wav", (tmp_path / "other/b.wav").as_posix()]
    assert [clip.file for clip in written] == [tmp_path / "data/a.wav", tmp_path / "other/b.wav"]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(AuscultError, match="cannot write"):
        plant().write(tmp_path / "taken" / "m.csv")
    assert [file.name for file in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("path,machine_type\na.wav,pump\n", "lacks the columns machine_id, split, condition"),
        ("path,machine_type,machine_id,split\na.wav,p,id_00,train\n", "lacks the column condition"),
        (f"{HEADER}\n", "lists no clips"),
        ("", "cannot be read as a manifest"),
        (f"{HEADER}\na.wav,pump,id_00,training,normal\n", "row 2 has split 'training'"),
        (f"{HEADER}\na.wav,p,id_00,train,normal\nb.wav,p,id_00,train,good\n", "row 3 has condition 'good'"),
        (f"{HEADER}\na.wav,pump,id_00,train\n", "row 2 has condition ''"),
        (f"{HEADER}\n,pump,id_00,train,normal\n", "row 2 has no path"),
        (f"{HEADER}\n../a.wav,pump,id_00,train,normal\n", "leads out of the manifest's folder"),
        (f"{HEADER}\n..,pump,id_00,train,normal\n", "leads out of the manifest's folder"),
        (f"{HEADER}\nx/../../a.wav,pump,id_00,train,normal\n", "leads out of the manifest's folder"),
        (f"{HEADER}\na.wav,p,id_00,test,normal\na.wav,p,id_00,train,normal\n", "'a.wav' is listed twice"),
        (f"{HEADER}\na.wav,pump,id_00,train,normal,\n", "cannot be read as a manifest"),
        (
            f"{HEADER}\na.wav,p,id_00,train,normal\nb.wav,p,id_00,train,normal,x\n",
            "cannot be read as a manifest",
        ),
        (f'{HEADER}\n"a.wav,pump,id_00,train,normal\n', "cannot be read as a manifest"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_reason(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "m.csv"
    file.write_text(text)
    with pytest.raises(AuscultError, match=complaint) as caught:
        Manifest.read(file)
    assert str(file) in str(caught.value)
    assert caught.value.remedy


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_bytes(b"PAR1 not quite")
    (tmp_path / "latin.csv").write_bytes(f"{HEADER}\nü.wav,pump,id_00,train,normal\n".encode("latin-1"))
    for name in ("m.parquet", "latin.csv", "missing.csv"):
        with pytest.raises(AuscultError, match="cannot be read as a manifest"):
            Manifest.read(tmp_path / name)


def test_two_dots_inside_a_path_or_a_name_are_fine(tmp_path: Path) -> None:
    text = f"{HEADER}\nx/../a.wav,p,id_00,train,normal\n..b.wav,p,id_00,train,normal\n"
    (tmp_path / "m.csv").write_text(text + "/far/c.wav,p,id_00,train,normal\n")
    clips = Manifest.read(tmp_path / "m.csv").clips()
    assert [clip.path for clip in clips] == ["x/../a.wav", "..b.wav", "/far/c.wav"]
    assert clips[2].file == Path("/far/c.wav")


def test_a_table_from_a_spreadsheet_is_understood(tmp_path: Path) -> None:
    text = "\ufeff" + HEADER.replace(",", ", ") + "\r\na.wav, pump, 00, train, normal\r\n"
    (tmp_path / "m.csv").write_bytes(text.encode())
    clip = Manifest.read(tmp_path / "m.csv").clips()[0]
    assert (clip.path, clip.machine_type, clip.machine_id) == ("a.wav", "pump", "00")


def test_optional_columns_reach_the_clip_and_others_are_kept(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(
        f"{HEADER},domain,attributes,shift\na.wav,fan,id_00,test,normal,target,speed=3,night\n"
    )
    manifest = Manifest.read(tmp_path / "m.csv")
    clip = manifest.clips()[0]
    assert (clip.domain, clip.attributes, clip.section) == ("target", "speed=3", "")
    assert manifest.table["shift"].tolist() == ["night"]


@pytest.mark.parametrize("spelling", ["id_02", "02", "2"])
def test_an_id_may_be_shortened(spelling: str) -> None:
    assert paths(plant().select(machine_id=spelling)) == ["c", "d"]


def test_select_keeps_what_matches_everything() -> None:
    assert paths(plant().select(machine_type="pump", split="train", condition="normal")) == ["a", "c"]
    assert paths(plant().select()) == list("abcdef")


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ({"machine_type": "valve"}, "no clip has machine_type 'valve'.*pump, fan"),
        ({"machine_id": "04"}, "no clip has machine_id '04'.*id_00, id_02"),
        ({"machine_type": "fan", "machine_id": "02"}, "no clip has machine_id '02'"),
    ],
)
def test_asking_for_a_machine_that_is_not_there(wanted: dict[str, str], complaint: str) -> None:
    with pytest.raises(AuscultError, match=complaint):
        plant().select(**wanted)


def test_training_takes_the_normal_clips_of_the_train_split() -> None:
    assert paths(plant().for_training()) == ["a", "c"]


def test_training_takes_all_normal_clips_where_no_split_is_known() -> None:
    rows = [(p, "pump", "id_00", "unknown", c) for p, c in (("a", "normal"), ("b", "anomaly"), ("c", "unknown"))]
    manifest = Manifest(table(*rows), Path())
    assert not manifest.splits_known
    assert paths(manifest.for_training()) == ["a"]
    assert paths(manifest.for_scoring()) == ["a", "b", "c"]
    assert paths(manifest.for_scoring("train")) == []


def test_scoring_takes_the_test_split_or_what_is_asked_for() -> None:
    assert paths(plant().for_scoring()) == ["d", "e"]
    assert paths(plant().for_scoring("train")) == ["a", "b", "c"]
    assert paths(plant().for_scoring("all")) == list("abcdef")


def test_machine_types_come_in_order_of_appearance() -> None:
    assert plant().machine_types == ["pump", "fan"]
    assert len(plant()) == 6


def test_notes_survive_selection() -> None:
    manifest = Manifest(plant().table, Path(), ("guessed",))
    assert manifest.select(split="test").notes == ("guessed",)
