"""scores.csv survives a round trip, and says where it is wrong."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auscult.corpus.truth import read_truth
from auscult.errors import AuscultError
from auscult.evaluation.scores import COLUMNS, read_scores, write_scores
from auscult.evaluation.truth import with_truth

HEADER = ",".join(COLUMNS)
ROW = "a.wav,fan,id_00,normal,0.5,0.2,0.9,normal,"


def table(**columns):
    n = len(next(iter(columns.values()), [0]))
    rows = {
        "path": [f"{i}.wav" for i in range(n)],
        "machine_type": ["fan"] * n,
        "machine_id": ["id_00"] * n,
        "condition": ["normal"] * n,
        "score": [0.5] * n,
        "p_value": [0.25] * n,
        "threshold": [0.9] * n,
        "decision": ["normal"] * n,
        "error": [""] * n,
    }
    return pd.DataFrame(rows | columns)


def written(tmp_path, *lines, name="scores.csv"):
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def complaint(path):
    with pytest.raises(AuscultError) as caught:
        read_scores(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_file_is_the_contract(tmp_path):
    rows = table(score=[1 / 3, math.nan], error=["", "too\nshort\r\n  by far"], condition=["anomaly", ""])
    rows["surplus"] = "x"
    write_scores(rows[[*reversed(rows.columns)]], tmp_path / "out" / "scores.csv")
    assert (tmp_path / "out" / "scores.csv").read_bytes().decode() == (
        "path,machine_type,machine_id,condition,score,p_value,threshold,decision,error\n"
        "0.wav,fan,id_00,anomaly,0.3333333333333333,0.25,0.9,normal,\n"
        "1.wav,fan,id_00,unknown,,,0.9,,too short by far\n"
    )
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["scores.csv"]


numbers = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(names, names, names, numbers, numbers), min_size=1, max_size=5, unique_by=lambda r: r[0]),
    suffix=st.sampled_from([".csv", ".parquet"]),
)
def test_every_name_and_number_survives(tmp_path_factory, rows, suffix):
    path, machine_type, machine_id, score, threshold = map(list, zip(*rows, strict=True))
    before = table(path=path, machine_type=machine_type, machine_id=machine_id, score=score, threshold=threshold)
    file = tmp_path_factory.mktemp("scores") / f"s{suffix}"
    write_scores(before, file)
    after = read_scores(file)
    assert list(after.columns) == list(COLUMNS)
    for column in COLUMNS:
        assert after[column].tolist() == before[column].tolist(), column
    assert [str(after[c].dtype) for c in ("score", "p_value", "threshold")] == ["float64"] * 3


@pytest.mark.parametrize("word", ["00", "NA", "None", "nan", "null", "1e5", "True", " id", "id_00 "])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_words_stay_words(tmp_path, word, suffix):
    file = tmp_path / f"s{suffix}"
    write_scores(table(path=[word], machine_type=[word], machine_id=[word]), file)
    row = read_scores(file).iloc[0]
    assert [row["path"], row["machine_type"], row["machine_id"]] == [word] * 3


def test_a_name_that_is_not_utf8_does_not_cost_the_others(tmp_path):
    write_scores(table(path=pd.Series(["caf\udce9.wav", "b.wav"], dtype=object)), tmp_path / "s.csv")
    assert read_scores(tmp_path / "s.csv")["path"].tolist() == ["caf\\udce9.wav", "b.wav"]


def test_single_precision_scores_keep_their_value(tmp_path):
    score = np.array([0.1], dtype=np.float32)
    write_scores(table(score=score), tmp_path / "s.csv")
    assert read_scores(tmp_path / "s.csv")["score"].tolist() == [float(score[0])]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = written(tmp_path, HEADER, ROW)
    before = file.read_bytes()
    for bad in (
        table(score=[math.inf]),
        table(score=[math.nan]),
        table(condition=["broken"]),
        table(decision=["yes"]),
        table(p_value=[1.5]),
        table(path=["a.wav", "a.wav"]),
        table().drop(columns="threshold"),
        table().iloc[:0],
    ):
        with pytest.raises(AuscultError):
            write_scores(bad, file)
        assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["scores.csv"]


def test_only_five_columns_are_indispensable(tmp_path):
    rows = read_scores(
        written(tmp_path, "score,domain,path,machine_id,machine_type,condition", "1,source,a.wav,00,fan,")
    )
    assert list(rows.columns) == [*COLUMNS, "domain"]
    row = rows.iloc[0]
    assert (row["machine_id"], row["condition"], row["decision"], row["error"]) == ("00", "unknown", "", "")
    assert row["score"] == 1
    assert math.isnan(row["p_value"])
    assert row["domain"] == "source"


def test_a_spreadsheet_may_have_saved_it(tmp_path):
    file = tmp_path / "s.csv"
    file.write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\n{ROW}\r\n".encode())
    assert read_scores(file)["path"].tolist() == ["a.wav"]


def test_an_infinite_threshold_is_one_that_no_clip_crosses(tmp_path):
    write_scores(table(threshold=[math.inf]), tmp_path / "s.csv")
    assert read_scores(tmp_path / "s.csv")["threshold"].tolist() == [math.inf]


def test_wrong_files_are_named(tmp_path):
    assert "no such file" in complaint(tmp_path / "none.csv")
    assert "no such file" in complaint(tmp_path)
    empty = tmp_path / "empty.csv"
    empty.touch()
    assert "cannot be read" in complaint(empty)
    (tmp_path / "noise.csv").write_bytes(bytes(range(256)))
    assert "cannot be read" in complaint(tmp_path / "noise.csv")
    (tmp_path / "noise.parquet").write_bytes(b"PAR?")
    assert "cannot be read" in complaint(tmp_path / "noise.parquet")
    assert "columns machine_type, machine_id, condition, score" in complaint(written(tmp_path, "path", "a"))
    assert "column score" in complaint(written(tmp_path, HEADER.replace(",score", ""), ROW.replace(",0.5", "")))
    assert "lists no clips" in complaint(written(tmp_path, HEADER))


@pytest.mark.parametrize("bad", ["loud", "nan", "inf", "-inf", "1,5"])
def test_a_score_that_is_no_number_is_named_with_its_row(tmp_path, bad):
    file = written(tmp_path, HEADER, ROW, ROW.replace("0.5", f'"{bad}"').replace("a.wav", "b.wav"))
    assert f"row 3 has score '{bad}'" in complaint(file)


def test_wrong_rows_are_named(tmp_path):
    assert "row 2 has condition 'broken'" in complaint(written(tmp_path, HEADER, ROW.replace("normal,0", "broken,0")))
    assert "row 2 has decision 'perhaps'" in complaint(
        written(tmp_path, HEADER, ROW.replace("normal,\n", "").replace("0.9,normal", "0.9,perhaps"))
    )
    assert "row 2 has p_value '7'" in complaint(written(tmp_path, HEADER, ROW.replace("0.2", "7")))
    assert "row 2 has no path" in complaint(written(tmp_path, HEADER, ROW.replace("a.wav", "")))
    assert "'a.wav' is listed twice" in complaint(written(tmp_path, HEADER, ROW, ROW))
    assert "more fields than its header" in complaint(written(tmp_path, HEADER, "x" + ROW + ",,"))
    assert "cannot be read" in complaint(written(tmp_path, HEADER, ROW, ROW + ",,,,"))


def test_truth_completes_and_overrides():
    rows = table(
        path=["test/a.wav", "test/b.wav", "c.wav", "d.wav", "e.wav"],
        machine_type=["fan", "fan", "pump", "pump", "pump"],
        condition=["unknown", "normal", "unknown", "normal", "unknown"],
    )
    truth = {
        ("fan", "a.wav"): "anomaly",
        ("fan", "b.wav"): "anomaly",
        ("", "a.wav"): "normal",
        ("", "c.wav"): "normal",
        ("pump", "d.wav"): "unknown",
        ("pump", "lost.wav"): "normal",
        ("valve", "elsewhere.wav"): "normal",
    }
    after, match = with_truth(rows, truth)
    assert after["condition"].tolist() == ["anomaly", "anomaly", "normal", "normal", "unknown"]
    assert rows["condition"].tolist()[0] == "unknown"
    assert (match.clips, match.matched, match.contradicted, match.unknown) == (5, 3, 1, 1)
    notes = " | ".join(match.notes())
    assert "names 3 of 5" in notes
    assert "1 of 5 clips remains unknown" in notes
    assert "against what the scores say" in notes


def test_truth_tells_which_clips_were_never_scored():
    _, match = with_truth(
        table(path=["a.wav"]),
        {("fan", "a.wav"): "normal", ("fan", "b.wav"): "anomaly", ("pump", "c.wav"): "anomaly"},
    )
    assert match.without_score == 1
    assert any("no row in the scores: 1" in note for note in match.notes())


def test_a_manifest_may_be_the_truth(tmp_path):
    """Also where clips of both conditions share their file names, as in MIMII."""
    paths = ["normal/0.wav", "abnormal/0.wav", "abnormal/1.wav"]
    conditions = ["normal", "anomaly", "anomaly"]
    listed = pd.DataFrame({"path": paths, "machine_type": "fan", "condition": conditions})
    listed.to_csv(tmp_path / "manifest.csv", index=False)
    truth = read_truth(tmp_path / "manifest.csv")
    for scored in (paths, [str(tmp_path / p) for p in paths]):
        after, match = with_truth(table(path=scored, condition=["unknown"] * 3), truth)
        assert after["condition"].tolist() == conditions
        assert (match.matched, match.unknown, match.without_score) == (3, 0, 0)
    assert with_truth(table(path=paths[:2]), truth)[1].without_score == 1


@pytest.mark.parametrize("truth", [{}, {("pump", "0.wav"): "normal"}, {("fan", "0.wav"): "unknown"}])
def test_truth_of_other_clips_is_refused(truth):
    with pytest.raises(AuscultError, match="names none of the clips"):
        with_truth(table(), truth)


def test_truth_in_other_words_is_refused():
    with pytest.raises(AuscultError, match=r"calls 0\.wav '1'"):
        with_truth(table(), {("fan", "0.wav"): "1"})
