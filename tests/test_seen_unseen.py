"""Machine IDs learnt from and others, reported apart; and how well normal clips were reconstructed."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from auscult.errors import AuscultError
from auscult.evaluation import tables
from auscult.evaluation.protocol import evaluate
from auscult.evaluation.scores import read_scores, write_scores


def made(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = [
        {
            "path": f"{machine}_{condition}_{k}.wav",
            "machine_type": "fan",
            "machine_id": machine,
            "condition": condition,
            "score": rng.normal() + (shift if condition == "anomaly" else 0),
            "p_value": 0.5,
            "threshold": 1.0,
            "decision": "normal",
            "error": "",
            "seen": seen,
            "reconstruction_error": 10 + k if condition == "normal" else 99.0,
        }
        for machine, seen, shift in (("id_00", "yes", 3), ("id_02", "yes", 1), ("id_01", "no", 0.5), ("id_03", "no", 0))
        for condition in ("normal", "anomaly")
        for k in range(12)
    ]
    return pd.DataFrame(rows)


def test_seen_and_unseen_are_the_means_over_their_own_ids() -> None:
    evaluation = evaluate(made(), resamples=20)
    by_id = {line.machine_id: line.auc.value for line in evaluation.by_id if line.auc}
    groups = {line.group: line for line in evaluation.by_group}
    assert groups["seen"].auc
    assert groups["unseen"].auc
    assert groups["seen"].auc.value == pytest.approx((by_id["id_00"] + by_id["id_02"]) / 2)
    assert groups["unseen"].auc.value == pytest.approx((by_id["id_01"] + by_id["id_03"]) / 2)
    assert (groups["seen"].n_normal, groups["unseen"].n_anomaly) == (24, 24)
    said = json.loads(evaluation.json())
    assert said["unseen"]["auc"] == pytest.approx(groups["unseen"].auc.value)
    text = tables.to_text(evaluation)
    assert "unseen" in text
    assert text.index("unseen") < text.index("overall")


def test_without_unseen_ids_nothing_is_told_apart() -> None:
    for table in (made().drop(columns="seen"), made().assign(seen="yes")):
        evaluation = evaluate(table, resamples=20)
        assert evaluation.by_group == ()
        assert "unseen" not in json.loads(evaluation.json())


def test_reconstruction_error_is_that_of_normal_clips_alone() -> None:
    evaluation = evaluate(made(), resamples=20)
    spread = evaluation.by_id[0].reconstruction
    assert spread is not None
    expected = np.arange(10, 22)
    assert (spread.mean, spread.std, spread.n) == (expected.mean(), pytest.approx(expected.std()), 12)
    assert "15.5 ± 3.5" in tables.to_text(evaluation)
    assert evaluate(made().drop(columns="reconstruction_error"), resamples=20).overall.reconstruction is None


def test_both_columns_survive_the_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for name in ("s.csv", "s.parquet"):
        write_scores(made(), tmp_path / name)
        pd.testing.assert_frame_equal(read_scores(tmp_path / name), made(), check_dtype=False)


def test_a_word_that_is_neither_yes_nor_no_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    made().assign(seen="perhaps").to_csv(tmp_path / "s.csv", index=False)
    with pytest.raises(AuscultError, match="seen 'perhaps'"):
        read_scores(tmp_path / "s.csv")
