"""Models as ONNX: the same scores and decisions, or no file; and no torch where they are used."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import auscult
from auscult.calibration import Calibration
from auscult.corpus import Clip
from auscult.detectors.base import Detector
from auscult.detectors.registry import detectors
from auscult.errors import AudioError, AuscultError
from auscult.export import TOLERANCE, Waveform, export
from auscult.exported import ExportedModel
from auscult.exported import load as load_exported
from auscult.features import FRONT_ENDS, FrontEnd, front_end
from auscult.model import Model
from auscult.nn.aggregation import aggregate
from auscult.nn.confidence import surprise
from auscult.nn.tracing import softplus, traced
from auscult.store import Store
from conftest import RATE, Run, machine_sound
from test_conformance import SMALL, clip, faulty, fit_one, healthy

EXPORTING = [name for name, kind in sorted(detectors().items()) if kind.exports]
OTHERS = [name for name, kind in sorted(detectors().items()) if not kind.exports]
ROOT = Path(__file__).resolve().parent.parent


def made(name: str, store: Store) -> Model:
    """A model of a detector that has seen a few steps of training, enough to score clips differently."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it has learnt little
        settings = SMALL.get(name, {})
        if name not in ("id-classifier", "mobilenetv2") and "max_steps" in settings:
            patch.setitem(SMALL, name, {**settings, "max_steps": 8})
        detector = fit_one(name, store)
    held = healthy(20, 300)
    scores = detector.score([replace(one, machine_id="id_00") for one in held])
    provenance = {"clip_seconds": 2.0, "machines": ["machine id_00"]}
    return Model(detector, Calibration(scores, 0.1), provenance, np.ones(128, np.float32))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


# Parity ---------------------------------------------------------------------------------------------------


def check_parity(name: str, store: Store, folder: Path) -> None:
    model = made(name, store)
    compared = export(model, folder / "m.onnx", healthy(4, 300), clip=clip(np.zeros(1)))
    assert compared >= 4
    exported = load_exported(folder / "m.onnx")
    seconds = (2.0, 1.3, 3.1) if exported.detector.exactly is None else (2.0,)
    sounds = [machine_sound(seed, seconds=s, faulty=seed % 2 == 0) for seed in range(700, 706) for s in seconds]
    clips = [clip(sound) for sound in sounds]
    ours = model.detector.score(clips)
    theirs = np.array([exported.detector.score_clip(one) for one in clips])
    assert theirs == pytest.approx(ours, rel=TOLERANCE)
    assert exported.calibration.decide(theirs) == model.calibration.decide(ours)
    outputs = exported.detector.session.run(None, {"waveform": clips[0].waveform(RATE)})
    assert [float(o) for o in outputs] == pytest.approx(
        [ours[0], model.calibration.p_values(ours)[0], float(model.calibration.decide(ours)[0] == "anomaly")],
        rel=TOLERANCE,
    )


FAST = ["ae", "knn"]


@pytest.mark.parametrize("name", FAST)
def test_scores_and_decisions_are_the_models(name: str, store: Store, tmp_path: Path) -> None:
    check_parity(name, store, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EXPORTING if name not in FAST])
def test_scores_and_decisions_of_every_detector_that_exports(name: str, store: Store, tmp_path: Path) -> None:
    check_parity(name, store, tmp_path)


@pytest.mark.parametrize("name", ["knn", pytest.param("bank", marks=pytest.mark.slow)])
def test_so_are_the_domains_of_what_was_learnt(name: str, store: Store, tmp_path: Path) -> None:
    detector = detectors()[name]()
    train = [replace(one, domain="target" if k < 4 else "source") for k, one in enumerate(healthy(24))]
    detector.fit(train, store=store)
    assert {"usual", "level.relative"} & detector.state()[0].keys()
    clips = [*healthy(4, 300), *faulty(3)]
    usual = np.ones(128, np.float32)
    model = Model(detector, Calibration(detector.score(healthy(20, 600))), {"clip_seconds": 2.0}, usual)
    assert export(model, tmp_path / "m.onnx", clips, clip=clip(np.zeros(1))) >= 4
    theirs = [load_exported(tmp_path / "m.onnx").detector.score_clip(one) for one in clips]
    assert theirs == pytest.approx(detector.score(clips), rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTING)
def test_parity_on_real_recordings(name: str, shared_data: Path, tmp_path: Path, store: Store) -> None:
    """Of recordings that nobody made for this test; only their sound is used, no label."""
    files = sorted(shared_data.glob("dcase2020/*/train/normal_id_00*.wav")) or sorted(shared_data.glob("**/*.wav"))
    chosen = [Clip(str(file), file=file) for file in files[:: max(1, len(files) // 12)][:12]]
    model = made(name, store)
    longest = min(len(one.waveform(RATE)) for one in chosen) / RATE
    cut = [Clip(c.path, samples=c.waveform(RATE)[: round(longest * RATE)], rate=RATE) for c in chosen]
    model.provenance["clip_seconds"] = longest
    assert export(model, tmp_path / "m.onnx", cut, clip=clip(np.zeros(1))) >= 12


@pytest.mark.parametrize("name", OTHERS)
def test_what_cannot_be_exported_says_why(name: str) -> None:
    kind = detectors()[name]
    assert len(kind.why_no_export) > 20
    model = Model(kind(), Calibration(np.arange(9.0)), {}, np.ones(128, np.float32))
    with pytest.raises(AuscultError, match=re.escape(kind.why_no_export)):
        export(model, "never.onnx", [])


@pytest.mark.parametrize(
    "front",
    [
        *FRONT_ENDS.values(),
        front_end("dcase2020", normalise="standard", padding="constant", n_fft=512, hop_length=160, n_mels=64),
    ],
    ids=[*FRONT_ENDS, "another"],
)
def test_the_front_end_as_a_graph_is_the_front_end(front: FrontEnd) -> None:
    for seed, scale in ((1, 1.0), (2, 1e-3)):
        wave = torch.from_numpy((scale * machine_sound(seed, seconds=11)).astype(np.float32))
        wave = wave if front.first_seconds is None else wave[: round(front.first_seconds * RATE)]
        assert torch.allclose(Waveform(front)(wave), front.logmel(wave), atol=2e-4, rtol=0)
    tone = torch.sin(torch.arange(32_000) * 0.3).float()
    assert torch.allclose(Waveform(front)(tone), front.logmel(tone), atol=2e-3, rtol=0)


def test_traced_operations_are_those_of_the_numbers() -> None:
    scores = torch.rand(50, dtype=torch.float64) * 3
    for rule in ("mean", "max", "top-5", "top-10%", "power-4"):
        with traced():
            assert float(aggregate(scores, rule)) == pytest.approx(aggregate(scores, rule))
    with traced():
        assert float(aggregate(torch.zeros(4), "power-4")) == 0.0
    values = torch.linspace(-40, 40, 101, dtype=torch.float64)
    plain = softplus(values)
    with traced():
        assert torch.allclose(softplus(values), plain, rtol=1e-12)
        assert [float(surprise(scores * k - 2)) for k in (0.1, 1, 30)] == pytest.approx(
            [-np.log(np.mean(1 / (1 + np.exp((scores * k - 2).numpy())))) for k in (0.1, 1, 30)]
        )


# No file --------------------------------------------------------------------------------------------------


def test_a_file_that_judges_otherwise_is_not_written(store: Store, tmp_path: Path) -> None:
    model = made("knn", store)

    class Other(type(model.detector)):  # type: ignore[misc]
        """Says something else when it is traced."""

        def score_logmel(self, logmel: torch.Tensor) -> float:
            from auscult.nn.tracing import is_traced

            score = super().score_logmel(logmel)
            return float(score * (1 + 2 * TOLERANCE)) if is_traced() is False else score

    model.detector.__class__ = Other
    with pytest.raises(AuscultError, match="nothing was written"):
        export(model, tmp_path / "m.onnx", healthy(2))
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_compare_on_is_no_file(store: Store, tmp_path: Path) -> None:
    model = made("knn", store)
    with pytest.raises(AuscultError, match="--check DATA"):
        export(model, tmp_path / "m.onnx", [clip(np.zeros(3), "short")])
    assert list(tmp_path.iterdir()) == []


# Used -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(made_once: Callable[..., Path], fitted: Path) -> Path:
    def make(folder: Path) -> None:
        model = auscult.load(fitted / "ae.auscult")
        export(model, folder / "ae.onnx", model.kept_clips()[:5], clip=model.machine("pump", "id_00"))

    return made_once("exported", make)


def test_export_and_score_from_the_command_line(fitted: Path, tiny_plant: Path, tmp_path: Path, auscult: Run) -> None:
    file = tmp_path / "knn.onnx"
    done = auscult("export", fitted / "knn.auscult", "-o", file)
    assert done.code == 0, done.err
    assert re.search(r"knn, clips of any length; \d+ clips judged as by the model", done.out)
    tables = []
    for model in (fitted / "knn.auscult", file):
        done = auscult("score", model, tiny_plant, "-o", tmp_path / "s.csv")
        assert done.code == 0, done.err
        tables.append(pd.read_csv(tmp_path / "s.csv"))
    ours, theirs = tables
    assert theirs["score"].to_numpy() == pytest.approx(ours["score"].to_numpy(), rel=TOLERANCE)
    for column in ("path", "decision", "p_value"):
        assert list(ours[column]) == list(theirs[column])
    refused = auscult("score", file, tiny_plant, "--set", "k=3")
    assert refused.code == 2
    assert "scores one way" in refused.err


WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "torch":
            raise ImportError("there is no torch on this device")

sys.meta_path.insert(0, NoTorch())
from auscult.cli import main
sys.argv = ["auscult", *sys.argv[1:]]
main()
"""


def test_scoring_does_without_torch(folder: Path, tiny_plant: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", WITHOUT_TORCH, "score", folder / "ae.onnx", tiny_plant, "-o", tmp_path / "s.csv"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert pd.read_csv(tmp_path / "s.csv")["score"].notna().all()


def test_the_five_lines_of_the_docs(folder: Path, tiny_plant: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "commands" / "export.md").read_text(), re.DOTALL)
    recording = next(iter(sorted(tiny_plant.glob("pump/test/anomaly*"))))
    block = block.replace("monday.wav", str(recording)).replace("pump.onnx", str(folder / "ae.onnx"))
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    model: ExportedModel = load_exported(folder / "ae.onnx")
    score = model.detector.score_clip(Clip("x", file=recording))
    assert float(done.stdout.split()[0]) == pytest.approx(score, rel=1e-4)


def test_a_file_of_one_length_refuses_others(store: Store, tmp_path: Path) -> None:
    model = made("knn", store)
    export(model, tmp_path / "m.onnx", healthy(2), seconds=2.0)
    detector = load_exported(tmp_path / "m.onnx").detector
    assert detector.exactly == 2 * RATE
    with pytest.raises(AudioError, match="lasts 3 s, this file takes 2 s"):
        detector.score_clip(clip(machine_sound(1, seconds=3)))
    assert np.isfinite(detector.score_clip(faulty(1)[0]))


def test_files_that_are_none_are_refused(tmp_path: Path, folder: Path) -> None:
    import onnx

    with pytest.raises(AuscultError, match="no such model"):
        load_exported(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(AuscultError, match="damaged, or no ONNX"):
        load_exported(tmp_path / "text.onnx")
    graph = onnx.load(folder / "ae.onnx")
    onnx.helper.set_model_props(graph, {"auscult": "{}"})
    onnx.save(graph, tmp_path / "empty.onnx")
    with pytest.raises(AuscultError, match="lacks 'format_version'"):
        load_exported(tmp_path / "empty.onnx")
    onnx.helper.set_model_props(graph, {"other": "{}"})
    onnx.save(graph, tmp_path / "other.onnx")
    with pytest.raises(AuscultError, match="no model of auscult"):
        load_exported(tmp_path / "other.onnx")
    onnx.helper.set_model_props(graph, {"auscult": '{"format_version": 99}'})
    onnx.save(graph, tmp_path / "later.onnx")
    with pytest.raises(AuscultError, match="later auscult"):
        load_exported(tmp_path / "later.onnx")


def test_detectors_say_what_they_can(auscult: Run) -> None:
    import json

    rows = {row["name"]: row["exports"] for row in json.loads(auscult("detectors", "--json").out)}
    assert [name for name, exports in rows.items() if exports] == EXPORTING
    assert {"ae", "idnn", "knn", "pae", "group-made", "bank", "mobilenetv2"} <= set(EXPORTING)
    assert not Detector.exports
