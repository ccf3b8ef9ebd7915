"""Who is averaged with whom, and what is said where something cannot be computed."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from auscult.errors import AuscultError
from auscult.evaluation.protocol import CONVENTIONS, evaluate

MACHINES = {"pump": ("id_00", "id_02"), "fan": ("id_01", "id_03", "id_05"), "ToyCar": ("id_01",)}


def corpus(machines=MACHINES, n=(30, 24), seed=0):
    """Clips of several machines, each on a score scale of its own."""
    rng = np.random.default_rng(seed)
    rows = []
    for machine_type, ids in machines.items():
        for machine_id in ids:
            offset, shift = rng.normal(scale=3), rng.uniform(0.2, 1.5)
            for k, condition in enumerate(np.repeat(["normal", "anomaly"], n)):
                score = offset + rng.normal() + shift * (condition == "anomaly")
                name = f"{machine_type}/test/{condition}_{machine_id}_{k:08d}.wav"
                rows.append((name, machine_type, machine_id, condition, score, "anomaly" if k % 7 == 0 else "normal"))
    return pd.DataFrame(rows, columns=["path", "machine_type", "machine_id", "condition", "score", "decision"])


def areas(clips):
    labels = clips["condition"] == "anomaly"
    return [roc_auc_score(labels, clips["score"]), roc_auc_score(labels, clips["score"], max_fpr=0.1)]


def shuffled(table, seed=1):
    return table.sample(frac=1, random_state=seed)


def without(table, machine_id, condition, machine_type="fan"):
    own = (table["machine_type"] == machine_type) & (table["machine_id"] == machine_id)
    return table[~(own & (table["condition"] == condition))]


def find(entries, machine_type, machine_id=None):
    return next(e for e in entries if e["machine_type"] == machine_type and e.get("machine_id") == machine_id)


def test_dcase2020_is_the_mean_over_ids_and_then_over_types():
    table = corpus()
    result = evaluate(shuffled(table), resamples=50).as_dict()
    types = []
    for machine_type, ids in MACHINES.items():
        clips = table[table["machine_type"] == machine_type]
        own = [areas(clips[clips["machine_id"] == i]) for i in ids]
        for i, expected in zip(ids, own, strict=True):
            entry = find(result["by_id"], machine_type, i)
            assert [entry["auc"], entry["pauc"]] == pytest.approx(expected)
            assert (entry["n_normal"], entry["n_anomaly"]) == (30, 24)
        entry = find(result["by_type"], machine_type)
        assert [entry["auc"], entry["pauc"]] == pytest.approx(np.mean(own, axis=0))
        types.append(np.mean(own, axis=0))
    overall = result["overall"]
    assert [overall["auc"], overall["pauc"]] == pytest.approx(np.mean(types, axis=0))
    assert (overall["n_normal"], overall["n_anomaly"]) == (180, 144)
    assert "DCASE 2020" in result["convention"]
    assert "arithmetic mean over its IDs" in result["convention"]


def test_pooled_is_one_curve_per_type():
    table = corpus()
    result = evaluate(table, protocol="pooled", resamples=50).as_dict()
    expected = {t: areas(clips) for t, clips in table.groupby("machine_type")}
    for machine_type, areas_ in expected.items():
        entry = find(result["by_type"], machine_type)
        assert [entry["auc"], entry["pauc"]] == pytest.approx(areas_)
        assert entry["auc_ci"][0] < entry["auc"] < entry["auc_ci"][1]
    assert result["overall"]["auc"] == pytest.approx(np.mean([a for a, _ in expected.values()]))
    assert "Not comparable" in result["convention"]
    # IDs on scales of their own: pooling them is another figure than averaging them.
    averaged = find(evaluate(table, resamples=50).as_dict()["by_type"], "fan")["auc"]
    assert abs(averaged - expected["fan"][0]) > 0.03


def test_the_json_is_the_contract():
    evaluation = evaluate(corpus(), resamples=50)
    result = json.loads(evaluation.json())
    assert result == evaluation.as_dict()
    assert {"overall", "by_type", "by_id", "convention"} <= set(result)
    figures = {"auc", "pauc", "auc_ci", "pauc_ci", "n_normal", "n_anomaly"}
    assert figures <= set(result["overall"])
    assert [e["machine_type"] for e in result["by_type"]] == list(MACHINES)
    assert [(e["machine_type"], e["machine_id"]) for e in result["by_id"]] == [
        (t, i) for t, ids in MACHINES.items() for i in ids
    ]
    for entry in (result["overall"], *result["by_type"], *result["by_id"]):
        assert figures <= set(entry)
        low, high = entry["auc_ci"]
        assert low <= entry["auc"] <= high
        assert "why" not in entry


def test_intervals_depend_on_nothing_but_the_machine_and_the_seed():
    table = corpus()
    full = evaluate(table, resamples=200).as_dict()
    assert evaluate(shuffled(table).sort_values("machine_type", kind="stable"), resamples=200).as_dict()["overall"][
        "auc_ci"
    ] == pytest.approx(full["overall"]["auc_ci"])
    fans = evaluate(table[table["machine_type"] == "fan"], resamples=200).as_dict()
    assert find(fans["by_type"], "fan") == find(full["by_type"], "fan")
    reseeded = evaluate(table, resamples=200, seed=1).as_dict()
    assert reseeded["overall"]["auc"] == full["overall"]["auc"]
    assert reseeded["overall"]["auc_ci"] != full["overall"]["auc_ci"]


def test_machines_do_not_share_their_draws():
    # The same scores under four IDs: with shared draws the mean would vary as much as each of them.
    one = corpus({"fan": ("id_00",)})
    table = pd.concat([one.assign(machine_id=f"id_{i}", path=one["path"] + str(i)) for i in range(4)])
    result = evaluate(table, resamples=1000)
    spread = [line.auc.low.std() for line in result.by_id]
    assert result.by_type[0].auc.low.std() == pytest.approx(np.mean(spread) / 2, rel=0.1)


@pytest.mark.parametrize(("condition", "word"), [("normal", "normal"), ("anomaly", "anomalous")])
def test_an_id_without_both_classes_is_left_out_and_named(condition, word):
    table = without(corpus(), "id_03", condition)
    result = evaluate(table, resamples=50).as_dict()
    entry = find(result["by_id"], "fan", "id_03")
    assert entry["auc"] is entry["pauc"] is entry["auc_ci"] is entry["pauc_ci"] is None
    assert entry["why"] == f"no {word} clip among those with a score"
    fan = find(result["by_type"], "fan")
    rest = [find(result["by_id"], "fan", i)["auc"] for i in ("id_01", "id_05")]
    assert fan["auc"] == pytest.approx(np.mean(rest))
    assert fan["notes"] == [f"fan id_03 is left out of the mean: no {word} clip among those with a score"]
    assert "why" not in fan
    assert result["overall"]["auc"] == pytest.approx(np.mean([e["auc"] for e in result["by_type"]]))


@pytest.mark.parametrize("protocol", [name for name, c in CONVENTIONS.items() if c.type_from != "domains"])
def test_a_type_without_both_classes_is_left_out_and_named(protocol):
    table = corpus()
    for machine_id in MACHINES["fan"]:
        table = without(table, machine_id, "anomaly")
    result = evaluate(table, protocol=protocol, resamples=50).as_dict()
    fan = find(result["by_type"], "fan")
    assert fan["auc"] is None
    assert fan["why"]
    assert (fan["n_normal"], fan["n_anomaly"]) == (90, 0)
    others = [find(result["by_type"], t)["auc"] for t in ("pump", "ToyCar")]
    assert result["overall"]["auc"] == pytest.approx(np.mean(others))
    assert any("fan is left out of the mean" in note for note in result["overall"]["notes"])


def test_normal_clips_alone_still_have_a_false_alarm_rate():
    table = corpus({"fan": ("id_00", "id_02")}, n=(30, 0))
    result = json.loads(evaluate(table).json())
    assert result["overall"]["auc"] is None
    assert result["overall"]["why"] == "none of the 2 machine IDs has a figure"
    assert result["overall"]["n_normal"] == 60
    assert result["overall"]["false_alarm_rate"] == pytest.approx(10 / 60)
    assert result["overall"]["detection_rate"] is None
    own = table["score"][table["machine_id"] == "id_00"]
    assert result["by_id"][0]["scores"] == {
        "normal": pytest.approx({"min": own.min(), "mean": own.mean(), "max": own.max()})
    }


def test_clips_of_unknown_condition_are_counted():
    table = corpus({"fan": ("id_00",)})
    everything = evaluate(table.assign(condition="unknown")).as_dict()
    assert everything["overall"]["n_unknown"] == 54
    assert everything["overall"]["why"] == "no clip of known condition among those with a score (54 unknown)"
    assert set(everything["overall"]["scores"]) == {"unknown"}
    assert any("54 of 54 clips is unknown" in note for note in everything["notes"])

    some = table.copy()
    some.loc[:9, "condition"] = "unknown"
    result = evaluate(some, resamples=50).as_dict()["overall"]
    assert (result["n_unknown"], result["n_normal"]) == (10, 20)
    assert result["auc"] == pytest.approx(areas(some[10:])[0])


def test_unjudged_clips_are_left_out_and_counted():
    table = corpus({"fan": ("id_00",)})
    table.loc[[0, 5, 40], "score"] = math.nan
    result = evaluate(table, resamples=50).as_dict()
    overall = result["overall"]
    assert (overall["n_unjudged"], overall["n_normal"], overall["n_anomaly"]) == (3, 28, 23)
    assert overall["auc"] == pytest.approx(areas(table.dropna())[0])
    assert any(note.startswith("3 of 54 clips could not be judged") for note in result["notes"])
    judged = evaluate(table.assign(score=math.nan), resamples=50).as_dict()["overall"]
    assert judged["n_unjudged"] == 54
    assert judged["why"] == "no clip of known condition among those with a score"


def test_rates_are_those_of_the_recorded_decisions():
    table = corpus({"fan": ("id_00",)})
    overall = evaluate(table, resamples=50).as_dict()["overall"]
    for key, condition in (("false_alarm_rate", "normal"), ("detection_rate", "anomaly")):
        alarms = table["decision"][table["condition"] == condition] == "anomaly"
        expected = binomtest(int(alarms.sum()), len(alarms)).proportion_ci(method="exact")
        assert overall[key] == pytest.approx(alarms.mean())
        assert overall[f"{key}_ci"] == pytest.approx([expected.low, expected.high])


def test_missing_decisions_are_said_and_cost_nothing_else():
    overall = evaluate(corpus().drop(columns="decision"), resamples=50).as_dict()["overall"]
    assert overall["auc"] is not None
    assert overall["false_alarm_rate"] is overall["detection_rate"] is None
    assert overall["why"] == "no decision is recorded for normal or anomalous clips"


def test_few_clips_are_said_to_be_few():
    def notes(n_normal, n_anomaly):
        return evaluate(corpus({"fan": ("id_00",)}, n=(n_normal, n_anomaly))).by_id[0]

    assert notes(30, 10).notes == ()
    assert notes(30, 9).notes == ("only 9 anomalous clips: the interval is rough",)
    alone = notes(30, 1)
    assert alone.notes == ("one anomalous clip: no resampling can tell how it would vary",)
    assert alone.auc.interval() == alone.pauc.interval() == (0, 1)


def test_perfect_separation_is_not_certainty():
    table = corpus({"fan": ("id_00",)})
    table["score"] = (table["condition"] == "anomaly") * 100.0
    line = evaluate(table).by_id[0]
    assert line.auc.interval() == (1, 1)
    assert "wider than the interval" in line.notes[0]


def test_truth_gives_what_the_scores_do_not_know():
    table = corpus()
    names = [path.rsplit("/")[-1] for path in table["path"]]
    truth = dict(zip(zip(table["machine_type"], names, strict=True), table["condition"], strict=True))
    blind = table.assign(condition="unknown")
    told = evaluate(blind, truth=truth, resamples=50)
    known = evaluate(table, resamples=50)
    assert told.overall.as_dict() == known.overall.as_dict()
    assert told.as_dict()["truth"]["matched"] == len(table)
    assert told.notes == (f"the ground truth names {len(table)} of {len(table)} clips",)
    with pytest.raises(AuscultError, match="names none"):
        evaluate(blind, truth={("fan", "x.wav"): "normal"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": "dcase1999"}, "no protocol 'dcase1999'.*dcase2020.*dcase2025, pooled"),
        ({"resamples": 0}, "resamples is 0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_wrong_settings_are_refused(change, words):
    with pytest.raises(AuscultError, match=words):
        evaluate(corpus(), **change)


def test_wrong_tables_are_refused():
    table = corpus()
    with pytest.raises(AuscultError, match="lacks the column score"):
        evaluate(table.drop(columns="score"))
    with pytest.raises(AuscultError, match="lists no clips"):
        evaluate(table[:0])
    with pytest.raises(AuscultError, match="condition 'odd'"):
        evaluate(table.assign(condition="odd"))
    with pytest.raises(AuscultError, match="score inf"):
        evaluate(table.assign(score=math.inf))
