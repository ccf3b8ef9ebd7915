"""The report page: what it shows, what it must never do, and what it does without."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from auscult.calibration import Calibration
from auscult.corpus.clip import Clip
from auscult.errors import AudioError, AuscultError
from auscult.evaluation import report, report_clips
from auscult.evaluation.report import write_report
from auscult.features import FrontEnd

RATE = 16_000
EVIL = "<script>alert(1)</script>&\"'.wav"
VOID = {"meta", "img", "br", "link", "input", "hr", "col"}


class FakeModel:
    def __init__(self, name: str = "fake", rate: float = 0.05) -> None:
        self.detector = SimpleNamespace(name=name, front_end=FrontEnd())
        self.calibration = Calibration(np.linspace(0.5, 1.5, 200), rate)
        self.provenance = {"seed": 7, "training_clips": [f"clip{i}.wav" for i in range(50)], "note": "<b>bold</b>"}

    def logmel(self, clip: Clip) -> np.ndarray:
        return FrontEnd().logmel(clip.waveform(RATE)).numpy().T.copy()

    def relative_map(self, clip: Clip) -> np.ndarray:
        strange = np.ones_like(self.logmel(clip))
        strange[60:80, 10:20] = 9
        return strange

    def anomaly_map(self, clip: Clip) -> np.ndarray:
        return self.relative_map(clip)

    def score(self, clips: list[Clip]) -> np.ndarray:
        raise AssertionError("the report takes the scores from the table")


def a_run(
    folder: Path, *, machine_type: str = "pump", ids: tuple[str, ...] = ("id_00", "id_02"), n: int = 6,
    labels: bool = True, sound: bool = True, model: bool = True, seconds: float = 1.0, extra: tuple[Any, ...] = (),
) -> pd.DataFrame:  # fmt: skip
    """Normals score around 1, anomalies around 2; the threshold is 1.6."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows: list[Any] = []
    for machine_id in ids:
        for condition, level in (("normal", 1.0), ("anomaly", 2.0)):
            for i in range(n):
                path = f"{condition}_{machine_id}_{i}.wav"
                if sound:
                    wave = rng.normal(0, 0.02, round(seconds * RATE))
                    soundfile.write(folder / path, wave, RATE, format="WAV")
                score = level + rng.normal(0, 0.3)
                decision = "anomaly" if score > 1.6 else "normal"
                known = condition if labels else "unknown"
                rows.append((path, machine_type, machine_id, known, score, 0.01, 1.6, decision, ""))
    columns = ["path", "machine_type", "machine_id", "condition", "score", "p_value", "threshold", "decision", "error"]
    table = pd.DataFrame([*rows, *extra], columns=columns)
    table.to_csv(folder / "scores.csv", index=False)
    if model:
        (folder / "model.auscult").write_bytes(b"stands for a model")
    return table


class Page(HTMLParser):
    """The page's elements, its text, and a check that every tag is closed in order."""

    def __init__(self, file: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = file.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [a for t, a in self.elements if t == tag and wanted.items() <= a.items()]

    def classes(self, name: str) -> int:
        return sum(name in attributes.get("class", "").split() for _, attributes in self.elements)

    @property
    def sections(self) -> list[str]:
        return [attributes["id"] for tag, attributes in self.elements if tag == "section"]


def report_of(folder: Path, **options: Any) -> Page:
    options.setdefault("load_model", lambda path: FakeModel())
    output = folder.parent / "report.html"
    write_report(folder, output, **options)
    return Page(output)


def test_a_labelled_run_shows_everything(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    lost = ("gone.wav", "pump", "id_00", "unknown", None, None, None, "", "gone.wav: the file is empty")
    a_run(runs, extra=(lost,))
    page = report_of(runs, top=3)
    assert page.source.startswith("<!DOCTYPE html>")
    assert page.sections == ["summary", "machines", "roc", "scores", "clips", "unjudged", "models", "convention"]
    assert "judged by fake" in page.text
    assert "gone.wav: the file is empty" in page.text
    assert "false-alarm rate 0.05 promised by 200 healthy clips" in page.text.replace("False", "false")
    assert "DCASE 2020 Task 2" in page.text
    assert "training clips" in page.text
    assert "(50 in all)" in page.text
    assert page.classes("clip") == 3
    assert page.classes("bars") == 2
    assert page.classes("curve") == 3
    assert len(page.all("audio")) == 3
    assert len(page.all("img")) == 6


@pytest.mark.parametrize(("title", "shown"), [(None, "runs"), ("Hall 3 <b>", "Hall 3 <b>")])
def test_is_headed_with_the_folder_or_a_title(title: str | None, shown: str, tmp_path: Path) -> None:
    a_run(tmp_path / "runs", sound=False)
    page = report_of(tmp_path / "runs", title=title)
    assert page.text.startswith(f"{shown} · auscult report auscult report {shown} 24 clips")


def test_the_figures_are_those_of_evaluate(tmp_path: Path) -> None:
    from auscult.evaluation.protocol import evaluate
    from auscult.evaluation.scores import read_scores

    a_run(tmp_path / "runs", sound=False)
    evaluation = evaluate(read_scores(tmp_path / "runs" / "scores.csv"))
    page = report_of(tmp_path / "runs")
    for line in (evaluation.overall, *evaluation.by_type, *evaluation.by_id):
        assert line.auc is not None
        assert f"{line.auc.value:.3f}" in page.text
        assert f"{line.auc.interval()[0]:.3f}–{line.auc.interval()[1]:.3f}" in page.text


def test_clips_come_in_order_of_their_scores(tmp_path: Path) -> None:
    table = a_run(tmp_path / "runs")
    page = report_of(tmp_path / "runs", top=5)
    expected = table.sort_values("score", ascending=False)["path"].head(5).tolist()
    assert [a["aria-label"].removeprefix("Listen to ") for a in page.all("audio")] == expected


def test_nothing_is_fetched_and_nothing_is_run(tmp_path: Path) -> None:
    a_run(tmp_path / "runs")
    page = report_of(tmp_path / "runs")
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"] == "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "data", "poster"):
            assert attributes.get(name, "data:").startswith(("data:", "#"))
    without_content = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page.source)
    assert not re.search(r"//|url\(|@import", without_content)


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    evil = (EVIL, EVIL, EVIL, "anomaly", 9.0, 0.01, 1.6, "anomaly", "")
    lost = (f"lost{EVIL}", EVIL, EVIL, "normal", None, None, None, "", EVIL)
    runs = tmp_path / "runs <i>"
    a_run(runs, extra=(evil, lost), sound=False)
    name = "<script>alert(2)</script>.wav".replace("/", "_")
    soundfile.write(runs / name, np.zeros(RATE), RATE, format="WAV")
    table = pd.read_csv(runs / "scores.csv")
    table.loc[0, ["path", "score"]] = [name, 8.0]
    table.to_csv(runs / "scores.csv", index=False)
    page = report_of(runs)
    assert not page.all("script")
    assert "runs <i>" in page.text
    assert page.text.count("alert(1)") >= 5
    assert any(name in image["alt"] for image in page.all("img"))
    assert "<b>bold</b>" in page.text


@pytest.mark.parametrize("found", ["beside", "data", "manifest", "absolute"])
def test_recordings_are_found(found: str, tmp_path: Path) -> None:
    runs, data = tmp_path / "runs", tmp_path / "data"
    table = a_run(runs)
    options: dict[str, Any] = {}
    if found != "beside":
        data.mkdir()
        for path in table["path"]:
            (runs / path).rename(data / path)
        if found == "absolute":
            table.assign(path=[str(data / p) for p in table["path"]]).to_csv(runs / "scores.csv", index=False)
        elif found == "manifest":
            (data / "manifest.csv").write_text("path\n")
            options["data"] = data / "manifest.csv"
        else:
            options["data"] = data
    assert len(report_of(runs, top=2, **options).all("audio")) == 2


def test_without_recordings_the_rest_is_shown(tmp_path: Path) -> None:
    a_run(tmp_path / "runs", sound=False)
    page = report_of(tmp_path / "runs", top=2)
    assert page.classes("clip") == 2
    assert not page.all("audio")
    assert "The recording was not found" in page.text
    assert "--data" in page.text
    assert "roc" in page.sections


@pytest.mark.parametrize("why", ["absent", "damaged", "ambiguous"])
def test_without_a_model_the_rest_is_shown(why: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    a_run(runs, model=why == "damaged")
    if why == "ambiguous":
        (runs / "a.auscult").touch()
        (runs / "b.auscult").touch()

    def load(path: Path) -> FakeModel:
        raise AuscultError(f"{path}: the model file is damaged", "copy it again")

    page = report_of(runs, top=2, load_model=load)
    assert "models" not in page.sections
    assert len(page.all("img")) == 2
    assert len(page.all("audio")) == 2
    assert ("is damaged" if why == "damaged" else "No model file lies beside") in page.text


def test_a_recording_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    table = a_run(tmp_path / "runs")
    worst = table.sort_values("score", ascending=False)["path"].iloc[0]
    (tmp_path / "runs" / worst).write_bytes(b"no audio")
    page = report_of(tmp_path / "runs", top=2)
    assert len(page.all("audio")) == 1
    assert "no audio could be read" in page.text


def test_without_truth_there_is_no_auc_but_all_else(tmp_path: Path) -> None:
    a_run(tmp_path / "runs", labels=False)
    page = report_of(tmp_path / "runs", top=1)
    assert "roc" not in page.sections
    assert {"scores", "clips", "machines"} <= set(page.sections)
    assert "condition of 24 of 24 clips is unknown" in page.text
    assert "in truth" not in page.text


def test_without_threshold_and_p_value(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    table = a_run(runs)
    table.assign(threshold=None, p_value=None, decision="").to_csv(runs / "scores.csv", index=False)
    page = report_of(runs, top=1)
    assert "no decision" in page.text
    assert "Alarms raised" not in page.text
    assert page.classes("limit") == 0


def test_all_clips_unjudged(tmp_path: Path) -> None:
    lost = ("gone.wav", "pump", "id_00", "normal", None, None, None, "", "too short")
    a_run(tmp_path / "runs", ids=(), extra=(lost,))
    page = report_of(tmp_path / "runs")
    assert "too short" in page.text
    assert "clips" not in page.sections


def test_more_false_alarms_than_promised_is_said(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    table = a_run(runs, n=20, sound=False)
    assert "in keeping with the 5 % promised" in report_of(runs).text
    table.assign(decision="anomaly").to_csv(runs / "scores.csv", index=False)
    assert "More false alarms than promised: 100.0 %" in report_of(runs).text


def test_runs_of_one_detector_become_one_system(tmp_path: Path) -> None:
    for machine_type in ("fan", "pump"):
        a_run(tmp_path / "runs" / machine_type / "0", machine_type=machine_type, sound=False)
    page = report_of(tmp_path / "runs", top=1)
    assert "judged by fake" in page.text
    assert page.classes("all") == 1
    assert page.classes("tile") == 6
    assert "fan" in page.text


def test_several_detectors_and_seeds_stay_apart(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for detector in ("ae", "knn"):
        for seed in ("0", "1"):
            folder = root / "table1" / detector / "pump" / seed
            a_run(folder, sound=False, model=False)
            (folder / "metrics.json").write_text(json.dumps({"detector": detector, "seed": int(seed)}))
    page = report_of(root, top=1)
    for name in ("ae, 0", "ae, 1", "knn, 0", "knn, 1"):
        assert name in page.text
    assert page.classes("all") == 4


def test_runs_without_names_are_told_apart_by_folder(tmp_path: Path) -> None:
    for name in ("monday", "tuesday"):
        a_run(tmp_path / "runs" / name, sound=False)
    page = report_of(tmp_path / "runs")
    assert "fake, monday" in page.text
    assert "fake, tuesday" in page.text


def test_an_unreadable_table_among_others_is_named(tmp_path: Path) -> None:
    a_run(tmp_path / "runs" / "good", sound=False)
    (tmp_path / "runs" / "bad").mkdir()
    (tmp_path / "runs" / "bad" / "scores.csv").write_text("nothing\n1\n")
    page = report_of(tmp_path / "runs")
    assert "Left out:" in page.text
    assert "lacks the columns" in page.text


def test_sound_is_short_audible_and_around_the_strangest_region(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    a_run(runs, ids=("id_00",), n=1, seconds=40)

    class Late(FakeModel):
        def relative_map(self, clip: Clip) -> np.ndarray:
            strange = np.ones_like(self.logmel(clip))
            strange[60:80, 1050:1080] = 50
            return strange

    page = report_of(runs, top=1, load_model=lambda path: Late())
    (sound,) = page.all("audio")
    kind, content = sound["src"].split(",", 1)
    assert kind == "data:audio/ogg;base64"
    wave, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
    assert rate == RATE
    assert len(wave) / rate == pytest.approx(12, abs=0.1)
    assert 0.4 < np.abs(wave).max() <= 1
    assert "seconds 28–40 of 40" in page.text
    assert "dB louder than recorded" in page.text


def test_silent_and_loud_sound_is_left_alone() -> None:
    for level in (0.0, 0.9):
        uri, note = report_clips._sound(np.full(RATE, level, np.float32), RATE, 0.5)
        assert uri.startswith("data:audio/ogg")
        assert note == ""


def test_the_page_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for machine_type in ("fan", "pump"):
        a_run(tmp_path / "runs" / machine_type, machine_type=machine_type, seconds=3)
    monkeypatch.setattr(report, "MEDIA_BUDGET", 300_000)
    page = report_of(tmp_path / "runs", top=8)
    assert len(page.source) < 300_000 + 120_000
    assert 0 < len(page.all("audio")) < 16
    assert page.classes("clip") == 16
    assert "listed without picture and sound" in page.text


def test_many_machines_share_the_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for machine_type in ("a", "b", "c"):
        a_run(tmp_path / "runs" / machine_type, machine_type=machine_type, sound=False)
    monkeypatch.setattr(report, "MOST_CLIPS", 7)
    assert report_of(tmp_path / "runs", top=8).classes("clip") == 6


def test_is_accessible(tmp_path: Path) -> None:
    a_run(tmp_path / "runs")
    page = report_of(tmp_path / "runs", top=1)
    assert all(header.get("scope") in ("col", "row") for header in page.all("th"))
    assert all(image["alt"] for image in page.all("img"))
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in page.all("svg"))
    assert page.all("html") == [{"lang": "en"}]
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    targets = {link["href"].removeprefix("#") for link in page.all("a")}
    assert targets <= set(identifiers)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(AuscultError, match="no such folder"):
        write_report(tmp_path / "nowhere", tmp_path / "r.html")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AuscultError, match=r"no scores\.csv") as caught:
        write_report(tmp_path / "empty", tmp_path / "r.html")
    assert caught.value.remedy
    a_run(tmp_path / "runs", sound=False, model=False)
    with pytest.raises(AuscultError, match="top"):
        write_report(tmp_path / "runs", tmp_path / "r.html", top=-1)
    with pytest.raises(AuscultError, match="no such folder or manifest"):
        write_report(tmp_path / "runs", tmp_path / "r.html", data=tmp_path / "nowhere")
    (tmp_path / "runs" / "scores.csv").write_text("nothing\n1\n")
    with pytest.raises(AuscultError, match="lacks the columns"):
        write_report(tmp_path / "runs", tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_a_failure_leaves_the_old_page(tmp_path: Path) -> None:
    a_run(tmp_path / "runs")
    (tmp_path / "report.html").write_text("the old page")

    class Broken(FakeModel):
        def relative_map(self, clip: Clip) -> np.ndarray:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        report_of(tmp_path / "runs", load_model=lambda path: Broken())
    assert (tmp_path / "report.html").read_text() == "the old page"


def test_a_clip_that_the_model_refuses_is_said(tmp_path: Path) -> None:
    a_run(tmp_path / "runs")

    class Picky(FakeModel):
        def relative_map(self, clip: Clip) -> np.ndarray:
            raise AudioError(f"{clip.path}: the clip is too short", "record more")

    page = report_of(tmp_path / "runs", top=1, load_model=lambda path: Picky())
    assert "the clip is too short — record more" in page.text
    assert not page.all("audio")
