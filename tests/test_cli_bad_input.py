"""Whatever is wrong with a request or a recording: one line that names it, the right status, nothing half done."""

from __future__ import annotations

import csv
import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from conftest import Outcome, Run, command, described, machine_sound, run_auscult, same_tensors, write_wav

RATE = 16_000
HEADER = ["path", "machine_type", "machine_id", "split", "condition"]


def _may_do_anything() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o500)
        return os.access(folder, os.W_OK)


root = _may_do_anything()

# What a command may say besides what is wrong.
NOTES = re.compile(
    r"read in the layout|nothing says w|one model for|flatter"
    r"|no false-alarm rate can be promised|is extrapolated by a gamma law"
)


def complaints(outcome: Outcome) -> list[str]:
    """What a command complained of, line by line; a traceback or a library's warning is never among it."""
    assert "Traceback" not in outcome.err
    lines = outcome.err.splitlines()
    assert all(line.startswith("auscult: ") for line in lines), outcome.err
    return [note for note in outcome.notes if not NOTES.search(note)]


def assert_refused(outcome: Outcome, *words: str) -> None:
    """Exit status 2, nothing on standard output, and one line that says all of `words`."""
    assert outcome.code == 2, outcome
    lines = complaints(outcome)
    assert len(lines) == 1, outcome.err
    assert all(word in lines[0] for word in words), lines[0]
    assert outcome.out == ""


def rows(table: Path) -> list[dict[str, str]]:
    with open(table, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def scores(table: Path) -> dict[str, str]:
    return {Path(row["path"]).name: row["score"] for row in rows(table)}


def write_manifest(path: Path, *lines: list[str], header: list[str] = HEADER) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *lines])
    return path


@pytest.fixture
def knn(fitted: Path) -> Path:
    return fitted / "knn.auscult"


@pytest.fixture
def good(tmp_path: Path, tiny_plant: Path) -> Path:
    """A folder of five healthy clips."""
    for number, clip in enumerate(sorted((tiny_plant / "pump" / "train").iterdir())[:5]):
        write = tmp_path / "good" / f"clip_{number}.wav"
        write.parent.mkdir(exist_ok=True)
        shutil.copy(clip, write)
    return tmp_path / "good"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where commands are told to write: not there yet, and after a refusal still not."""
    return tmp_path / "out"


# Paths --------------------------------------------------------------------------------------------------


def fit_args(data: object, out: Path, *more: object) -> list[object]:
    return ["fit", data, "-d", "knn", "-o", out / "m.auscult", *more]


COMMANDS: dict[str, Callable[[Path, Path, Path], list[object]]] = {
    "fit": lambda data, _, out: fit_args(data, out),
    "score": lambda data, model, out: ["score", model, data, "-o", out / "s.csv"],
    "index": lambda data, _, out: ["index", data, "-o", out / "m.csv"],
    "explain": lambda data, model, out: ["explain", model, data, "-o", out / "p.png"],
}


@pytest.mark.parametrize("name", COMMANDS)
class TestPaths:
    def test_missing(self, name: str, auscult: Run, knn: Path, tmp_path: Path, out: Path) -> None:
        assert_refused(auscult(*COMMANDS[name](tmp_path / "nowhere", knn, out)), "nowhere", "no such")
        assert not out.exists()

    def test_empty_folder(self, name: str, auscult: Run, knn: Path, tmp_path: Path, out: Path) -> None:
        (tmp_path / "hollow").mkdir()
        assert_refused(auscult(*COMMANDS[name](tmp_path / "hollow", knn, out)), "hollow", "no recordings")
        assert not out.exists()

    def test_folder_of_other_things(self, name: str, auscult: Run, knn: Path, tmp_path: Path, out: Path) -> None:
        (tmp_path / "letters").mkdir()
        (tmp_path / "letters" / "a.txt").write_text("Dear Sir")
        assert_refused(auscult(*COMMANDS[name](tmp_path / "letters", knn, out)), "letters", ".txt", ".wav")
        assert not out.exists()

    def test_neither_recording_nor_manifest(
        self, name: str, auscult: Run, knn: Path, tmp_path: Path, out: Path
    ) -> None:
        (tmp_path / "a.txt").write_text("Dear Sir")
        assert_refused(auscult(*COMMANDS[name](tmp_path / "a.txt", knn, out)), "a.txt", "neither")
        assert not out.exists()


@pytest.mark.skipif(root, reason="root may read everything")
def test_folder_that_may_not_be_opened(auscult: Run, good: Path, out: Path) -> None:
    good.chmod(0)
    try:
        assert_refused(auscult(*fit_args(good, out)), str(good), "permissions")
    finally:
        good.chmod(0o755)


# Recordings ---------------------------------------------------------------------------------------------


def _float_wav(path: Path, poison: float) -> None:
    samples = machine_sound(1)
    samples[1000] = poison
    soundfile.write(path, samples, RATE, subtype="FLOAT")


def _cut(path: Path) -> None:
    content = write_wav(path, machine_sound(1)).read_bytes()
    path.write_bytes(content[: len(content) // 2])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("Dear Sir, this is no sound.\n" * 9), "no audio"),
    "truncated": (_cut, "cut short"),
    "no bytes": (lambda path: path.write_bytes(b""), "the file is empty"),
    "no samples": (lambda path: write_wav(path, np.zeros(0)), "no samples"),
    "half a header": (lambda path: path.write_bytes(b"RIFF\x24\0\0\0WAVEfmt "), "no audio"),
    "5 ms": (lambda path: write_wav(path, machine_sound(1)[:80]), "too short: 5 ms"),
    "NaN": (lambda path: _float_wav(path, np.nan), "NaN"),
    "infinite": (lambda path: _float_wav(path, -np.inf), "infinite"),
    "dangling link": (lambda path: path.symlink_to("nowhere.wav"), "no such file"),
    "pipe": (os.mkfifo, "no ordinary file"),
}


@pytest.fixture(params=BROKEN)
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A recording that cannot be judged, alone in a folder, and what is said of it."""
    make, says = BROKEN[request.param]
    path = tmp_path / "bad" / "strange (1).wav"
    path.parent.mkdir()
    make(path)
    return path, says


class TestBrokenClips:
    def test_alone(self, broken: tuple[Path, str], auscult: Run, knn: Path, out: Path) -> None:
        path, says = broken
        assert_refused(auscult(*fit_args(path.parent, out)), path.name, says)
        assert_refused(auscult("explain", knn, path, "-o", out / "p.png"), path.name, says)
        assert not out.exists()
        done = auscult("score", knn, path.parent, "-o", out / "s.csv")
        assert done.code == 1
        (row,) = rows(out / "s.csv")
        assert (row["score"], row["p_value"], row["decision"]) == ("", "", "")
        assert says in row["error"]
        assert row["error"].count(path.name) == 1

    def test_among_good_ones(self, broken: tuple[Path, str], auscult: Run, knn: Path, good: Path, out: Path) -> None:
        path, says = broken
        assert auscult(*fit_args(good, out)).code == 0
        assert auscult("score", knn, good, "-o", out / "without.csv").code == 0
        path.rename(good / path.name)

        done = auscult("score", knn, good, "-o", out / "with.csv")
        assert done.code == 1
        named, counted = complaints(done)
        assert path.name in named
        assert says in named
        assert done.out.startswith("5 clips judged, ")
        assert "1 of 6 clips could not be judged" in counted
        with_it = scores(out / "with.csv")
        assert with_it.pop(path.name) == ""
        assert with_it == scores(out / "without.csv")

        done = auscult("fit", good, "-d", "knn", "-o", out / "with.auscult")
        assert done.code == 1
        named, counted = complaints(done)
        assert path.name in named
        assert says in named
        assert "1 clip" in counted
        assert same_tensors(out / "m.auscult", out / "with.auscult")


@pytest.mark.parametrize("level", [0.0, 0.25])
def test_silence_is_judged_but_not_learnt(level: float, auscult: Run, fitted: Path, good: Path, out: Path) -> None:
    write_wav(good / "unplugged.wav", np.full(2 * RATE, level))
    for model in ("knn", "ae"):
        done = auscult("score", fitted / f"{model}.auscult", good, "-o", out / "s.csv")
        assert done.code == 0, done.err
        by_name = {Path(row["path"]).name: row for row in rows(out / "s.csv")}
        assert np.isfinite(float(by_name["unplugged.wav"]["score"]))
        assert by_name["unplugged.wav"]["decision"] == "anomaly"
    assert auscult("explain", fitted / "ae.auscult", good / "unplugged.wav", "-o", out / "p.png").code == 0
    done = auscult(*fit_args(good, out))
    assert done.code == 1
    assert "unplugged.wav" in complaints(done)[0]
    assert "silence" in complaints(done)[0]
    assert described(out / "m.auscult")["provenance"]["n_training_clips"] == 5


def test_nothing_but_silence(auscult: Run, tmp_path: Path, out: Path) -> None:
    write_wav(tmp_path / "mute" / "unplugged.wav", np.zeros(RATE))
    assert_refused(auscult(*fit_args(tmp_path / "mute", out)), "unplugged.wav", "silence")
    assert not out.exists()


def test_shorter_than_one_window(auscult: Run, fitted: Path, good: Path, out: Path) -> None:
    """Long enough for a frame, and so for knn; too short for the five frames of ae."""
    write_wav(good / "blip.wav", machine_sound(1)[:1000])
    assert auscult("score", fitted / "knn.auscult", good, "-o", out / "s.csv").code == 0
    done = auscult("score", fitted / "ae.auscult", good, "-o", out / "s.csv")
    assert done.code == 1
    assert "blip.wav" in complaints(done)[0]
    assert "ae needs 5" in complaints(done)[0]


@pytest.mark.skipif(root, reason="root may read everything")
def test_clip_that_may_not_be_read(auscult: Run, knn: Path, good: Path, out: Path) -> None:
    (good / "clip_0.wav").chmod(0)
    done = auscult("score", knn, good, "-o", out / "s.csv")
    assert done.code == 1
    assert "clip_0.wav: may not be read" in complaints(done)[0]


@pytest.mark.parametrize(
    "name",
    [
        "with space.wav",
        "Pumpe_größer_ポンプ_🔧.wav",
        'it\'s "quoted".wav',
        "-leading-dash.wav",
        "a,comma;and|more.wav",
        "two\nlines.wav",
        "tab\there.wav",
        "100%.wav",
        "[brackets]{braces}.wav",
        "~tilde $HOME `x`.WAV",
    ],
)
def test_odd_names(name: str, auscult: Run, knn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wav(tmp_path / "folder" / name, machine_sound(5))
    monkeypatch.chdir(tmp_path / "folder")
    done = auscult("score", knn, tmp_path / "folder", "-o", tmp_path / "s.csv")
    assert done.code == 0, done.err
    assert [row["path"] for row in rows(tmp_path / "s.csv")] == [f"{tmp_path}/folder/{name}"]
    # By its bare name, and where the name would be taken for an option after a double dash.
    assert auscult("score", knn, "-o", tmp_path / "alone.csv", "--", name).code == 0
    assert [row["path"] for row in rows(tmp_path / "alone.csv")] == [name]
    assert scores(tmp_path / "alone.csv") == scores(tmp_path / "s.csv")
    assert auscult("index", tmp_path / "folder", "-o", tmp_path / "m.csv").code == 0
    assert auscult("score", knn, tmp_path / "m.csv", "-o", tmp_path / "again.csv").code == 0
    assert scores(tmp_path / "again.csv") == scores(tmp_path / "s.csv")
    # And when it is broken: still one line for it.
    (tmp_path / "folder" / name).write_text("no sound")
    done = auscult("score", knn, tmp_path / "folder", "-o", tmp_path / "s.csv")
    assert done.code == 1
    assert len(complaints(done)) == 2
    assert auscult("evaluate", tmp_path / "s.csv").code == 0


# Settings -----------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[list[str], list[str]]] = {
    "unknown detector": (["-d", "idn"], ["'idn'", "'idnn'"]),
    "unlike any detector": (["-d", "zzzzzz"], ["'zzzzzz'", "knn", "ae"]),
    "unknown setting": (["--set", "poling=mean"], ["'poling'", "'pooling'"]),
    "another detector's setting": (["--set", "bottleneck=4"], ["knn", "'bottleneck'"]),
    "wrong type": (["--set", "k=many"], ["k=", "many", "integer"]),
    "fraction": (["--set", "k=1.5"], ["k=", "1.5", "integer"]),
    "out of range": (["--set", "k=0"], ["k=", "greater than 0"]),
    "empty": (["--set", "k="], ["k="]),
    "no such value": (["--set", "distance=manhattan"], ["distance=", "manhattan", "euclidean"]),
    "no such pooling": (["--set", "pooling=mean+median"], ["pooling=", "percentile"]),
    "no such front end": (["--set", "front_end=mfcc"], ["front_end=", "dcase2020"]),
    "channel not there": (["--set", "channel=7"], ["channel 7", "has 1"]),
    "negative channel": (["--set", "channel=-1"], ["channel", "-1"]),
    "channel by name": (["--set", "channel=left"], ["channel=", "left", "mean"]),
    "no equals sign": (["--set", "k5"], ["k5", "key=value"]),
    "no key": (["--set", "=5"], ["=5", "key=value"]),
    "unknown preset": (["--preset", "fast"], ["'fast'", "quick"]),
    "unknown device": (["--device", "tpu"], ["'tpu'", "cuda"]),
    "unknown layout": (["--layout", "mimi"], ["'mimi'", "'mimii'"]),
    "unknown machine type": (["--machine-type", "fan"], ["'fan'", "good"]),
    "unknown machine ID": (["--machine-id", "09"], ["'09'", "id_00"]),
    "rate 0": (["--false-alarm-rate", "0"], ["rate", "0"]),
    "rate 1": (["--false-alarm-rate", "1"], ["rate", "1"]),
    "rate -1": (["--false-alarm-rate=-1"], ["rate", "-1"]),
    "rate nan": (["--false-alarm-rate", "nan"], ["rate", "nan"]),
    "rate in words": (["--false-alarm-rate", "low"], ["--false-alarm-rate", "number"]),
    "negative seed": (["--seed=-1"], ["--seed"]),
    "no threads": (["--threads", "0"], ["--threads"]),
    "negative budget": (["--budget=-1"], ["--budget"]),
    "budget nan": (["--budget", "nan"], ["--budget"]),
    "unknown option": (["--bugdet", "3"], ["--bugdet", "--budget"]),
    "missing outliers": (["--outliers", "nowhere"], ["nowhere", "no such"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings(case: str, auscult: Run, good: Path, out: Path) -> None:
    arguments, words = WRONG[case]
    outcome = auscult(*fit_args(good, out, *arguments))
    assert_refused(outcome, *words)
    assert not out.exists()
    # What needs no look at the recordings is refused before it: not even a note comes first.
    assert len(outcome.err.splitlines()) == 1 or case in ("channel not there", "negative channel", "missing outliers")


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("max_steps=0", "max_steps"),
        ("batch_size=1", "batch_size"),
        ("learning_rate=0", "learning_rate"),
        ("learning_rate=nan", "learning_rate"),
        ("frames=0", "frames"),
        ("aggregation=median", "aggregation"),
        ("aggregation=top-0%", "aggregation"),
        ("autoclip=101", "autoclip"),
        ("form=dcase2021", "form"),
        ("frames=1000", "too short"),
        ("width=1000000000000", "memory"),
    ],
)
def test_wrong_settings_of_a_network(setting: str, word: str, auscult: Run, good: Path, out: Path) -> None:
    outcome = auscult("fit", good, "-d", "ae", "--set", setting, "-o", out / "m.auscult")
    assert_refused(outcome, word)
    assert not out.exists()


def test_even_window_of_idnn(auscult: Run, good: Path, out: Path) -> None:
    assert_refused(auscult("fit", good, "-d", "idnn", "--set", "frames=4", "-o", out / "m.auscult"), "frames", "odd")


def test_a_rate_that_ruins_training(auscult: Run, good: Path, out: Path) -> None:
    outcome = auscult(
        "fit", good, "-d", "ae", "--set", "learning_rate=1e30", "--set", "max_steps=50", "-o", out / "m.auscult"
    )
    assert_refused(outcome, "the loss is", "learning_rate")
    assert not (out / "m.auscult").exists()


def test_cuda_where_there_is_none(auscult: Run, good: Path, out: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    for detector in ("ae", "knn"):
        outcome = auscult("fit", good, "-d", detector, "--device", "cuda", "-o", out / "m.auscult")
        assert_refused(outcome, "CUDA", "--device cpu")
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--split", "validation"], ["'validation'", "test"]),
        (["--split", "train"], ["train"]),
        (["--machine-id", "07"], ["'07'", "id_00"]),
        (["--layout", "dcase"], ["'dcase'", "dcase2020"]),
        (["--layout", "dcase2020"], ["does not fit", "dcase2020"]),
        (["--threads=-2"], ["--threads"]),
    ],
)
def test_wrong_scoring(arguments: list[str], words: list[str], auscult: Run, knn: Path, good: Path, out: Path) -> None:
    assert_refused(auscult("score", knn, good, "-o", out / "s.csv", *arguments), *words)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["sing"], "sing"),
        (["cache", "purge"], "purge"),
        (["fit"], "DATA"),
        (["score", "x"], "DATA"),
        (["evaluate"], "SCORES"),
        (["report", "nowhere"], "nowhere"),
        (["evaluate", "nowhere.csv"], "nowhere.csv"),
        (["score", "nowhere.auscult", "x"], "nowhere.auscult"),
        (["explain", "nowhere.auscult", "x"], "nowhere.auscult"),
        (["demo", "--seed=-1"], "--seed"),
    ],
)
def test_wrong_words(
    arguments: list[str], word: str, auscult: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(auscult(*arguments), word)
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(auscult: Run, good: Path) -> None:
    from auscult.errors import AuscultError

    assert_refused(auscult("score", good, good), str(good), "no such model file")
    with pytest.raises(AuscultError, match="no such model file"):
        auscult("score", good, good, "--debug")


# Model files --------------------------------------------------------------------------------------------


def assert_no_model(auscult: Run, model: Path, good: Path, out: Path, *words: str) -> None:
    assert_refused(auscult("score", model, good, "-o", out / "s.csv"), str(model), *words)
    assert_refused(auscult("explain", model, good / "clip_0.wav", "-o", out / "p.png"), str(model), *words)
    assert not out.exists()


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, 0.3, 0.9, -1])
def test_model_cut_short(kept: float, auscult: Run, fitted: Path, good: Path, tmp_path: Path, out: Path) -> None:
    content = (fitted / "ae.auscult").read_bytes()
    n = int(kept * len(content)) if 0 < kept < 1 else int(kept) % len(content)
    (tmp_path / "cut.auscult").write_bytes(content[:n])
    assert_no_model(auscult, tmp_path / "cut.auscult", good, out, "damaged")


def test_model_with_a_flipped_bit(auscult: Run, knn: Path, good: Path, tmp_path: Path, out: Path) -> None:
    """Anywhere in the file: in the lengths, the description, the numbers."""
    whole = knn.read_bytes()
    n_header = 8 + int.from_bytes(whole[:8], "little")
    random = np.random.default_rng(0)
    places = [0, 9, n_header - 1, n_header, len(whole) - 1]
    places += random.integers(8, n_header, 25).tolist() + random.integers(n_header, len(whole), 5).tolist()
    padding = len(whole[8:n_header]) - len(whole[8:n_header].rstrip())
    for place in places:
        if n_header - padding <= place < n_header:  # spaces that only fill up the header
            continue
        content = bytearray(whole)
        content[place] ^= 1 << int(random.integers(8))
        bad = tmp_path / "flipped.auscult"
        bad.write_bytes(content)
        outcome = auscult("score", bad, good, "-o", out / "s.csv")
        assert_refused(outcome, str(bad))
        assert not out.exists()


def test_model_of_the_future(auscult: Run, knn: Path, good: Path, tmp_path: Path, out: Path) -> None:
    content = knn.read_bytes()
    spot = content.index(b'format_version\\": 1')
    later = content[:spot] + b'format_version\\": 9' + content[spot + len(b'format_version\\": 9') :]
    (tmp_path / "later.auscult").write_bytes(later)
    assert_no_model(auscult, tmp_path / "later.auscult", good, out, "later", "upgrade")


def test_files_that_are_no_model(auscult: Run, good: Path, tmp_path: Path, out: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3)}, tmp_path / "other.safetensors")
    assert_no_model(auscult, tmp_path / "other.safetensors", good, out, "no model of auscult")
    save_file({"weight": np.zeros(3)}, tmp_path / "odd.safetensors", {"auscult": "[1, 2]"})
    assert_no_model(auscult, tmp_path / "odd.safetensors", good, out, "damaged")
    (tmp_path / "noise").write_bytes(np.random.default_rng(0).bytes(5000))
    assert_no_model(auscult, tmp_path / "noise", good, out, "damaged")
    assert_no_model(auscult, good / "clip_0.wav", good, out, "damaged")
    assert_no_model(auscult, good, good, out, "no such model file")


def test_checkpoint_that_is_none(auscult: Run, good: Path, out: Path) -> None:
    out.mkdir()
    (out / "m.auscult.checkpoint").write_bytes(b"torn")
    steps = ("-d", "ae", "--set", "max_steps=3")
    assert_refused(auscult("fit", good, *steps, "-o", out / "m.auscult", "--resume"), "m.auscult.checkpoint")
    assert auscult("fit", good, *steps, "-o", out / "m.auscult").code == 0
    assert not (out / "m.auscult.checkpoint").exists()


# Where to write -----------------------------------------------------------------------------------------


def writers(model: Path, good: Path) -> dict[str, Callable[[Path], list[object]]]:
    """Every command that writes, told where to."""
    return {
        "fit": lambda target: ["fit", good, "-d", "knn", "-o", target],
        "score": lambda target: ["score", model, good, "-o", target],
        "index": lambda target: ["index", good, "-o", target],
        "explain": lambda target: ["explain", model, good / "clip_0.wav", "-o", target.with_suffix(".png")],
        "evaluate": lambda target: ["evaluate", good.parent / "ready.csv", "-o", target],
        "report": lambda target: ["report", good.parent, "-o", target],
    }


@pytest.fixture
def ready(auscult: Run, knn: Path, good: Path, tmp_path: Path) -> None:
    """`evaluate` and `report` have something to work on."""
    assert auscult("score", knn, good, "-o", tmp_path / "ready.csv").code == 0
    shutil.copy(tmp_path / "ready.csv", tmp_path / "scores.csv")


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("name", ["fit", "score", "index", "explain", "evaluate", "report"])
class TestOutputs:
    def test_below_a_file(self, name: str, auscult: Run, knn: Path, good: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("precious")
        target = tmp_path / "file" / "below"
        assert_refused(auscult(*writers(knn, good)[name](target)), str(target))
        assert (tmp_path / "file").read_text() == "precious"

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
    def test_where_nobody_may_write(self, name: str, auscult: Run, knn: Path, good: Path) -> None:
        assert_refused(auscult(*writers(knn, good)[name](Path("/proc/auscult/below"))), "/proc/auscult/below")

    @pytest.mark.skipif(root, reason="root may write everywhere")
    def test_read_only_folder(self, name: str, auscult: Run, knn: Path, good: Path, tmp_path: Path) -> None:
        (tmp_path / "closed").mkdir(mode=0o555)
        target = tmp_path / "closed" / "below"
        assert_refused(auscult(*writers(knn, good)[name](target)), str(target), "permission")


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("name", ["fit", "score", "index", "explain", "report"])
def test_output_is_a_folder(name: str, auscult: Run, knn: Path, good: Path, tmp_path: Path) -> None:
    target = tmp_path / "folder.png"
    target.mkdir()
    assert_refused(auscult(*writers(knn, good)[name](target)), str(target), "is a folder")
    assert list(target.iterdir()) == []


def test_picture_of_no_known_kind(auscult: Run, knn: Path, good: Path, out: Path) -> None:
    assert_refused(auscult("explain", knn, good / "clip_0.wav", "-o", out / "p.xyz"), "p.xyz", ".png")
    assert not out.exists()


# Full disks ---------------------------------------------------------------------------------------------


@contextmanager
def no_file_longer_than(n_bytes: int) -> Iterator[None]:
    """The next best thing to a full disk that needs no rights: writing beyond so many bytes fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestFullDisk:
    def test_model(self, auscult: Run, good: Path, out: Path) -> None:
        assert auscult(*fit_args(good, out)).code == 0  # which fills the store
        whole = (out / "m.auscult").read_bytes()
        with no_file_longer_than(2000):
            outcome = auscult(*fit_args(good, out))
        assert_refused(outcome, "m.auscult", "file too large")
        assert [path.name for path in out.iterdir()] == ["m.auscult"]
        assert (out / "m.auscult").read_bytes() == whole

    def test_checkpoint(self, auscult: Run, good: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AUSCULT_CHECKPOINT_SECONDS", "0")
        arguments = ("fit", good, "-d", "ae", "--set", "max_steps=30", "-o", out / "m.auscult")
        assert auscult(*fit_args(good, out)).code == 0
        with no_file_longer_than(2000):
            outcome = auscult(*arguments)
        assert_refused(outcome, "m.auscult.checkpoint", "file too large")
        assert [path.name for path in out.iterdir()] == ["m.auscult"]

    def test_scores(self, auscult: Run, knn: Path, good: Path, out: Path) -> None:
        out.mkdir()
        with no_file_longer_than(300):
            outcome = auscult("score", knn, good, "-o", out / "s.csv")
        assert_refused(outcome, "s.csv", "file too large")
        assert not (out / "s.csv").exists()

    def test_store(self, auscult: Run, good: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AUSCULT_CACHE", str(tmp_path / "store"))
        with no_file_longer_than(20_000):
            outcome = auscult(*fit_args(good, out))
        assert_refused(outcome, str(tmp_path / "store"), "file too large", "AUSCULT_CACHE")
        assert not out.exists()
        left = [path for path in (tmp_path / "store").rglob("*") if path.is_file() and path.name != "lock"]
        assert left == []
        assert auscult(*fit_args(good, out)).code == 0

    def test_picture_report_and_tables(self, auscult: Run, knn: Path, good: Path, out: Path) -> None:
        assert auscult("score", knn, good, "-o", out / "scores.csv").code == 0
        with no_file_longer_than(100):
            assert_refused(auscult("explain", knn, good / "clip_0.wav", "-o", out / "p.png"), "p.png", "too large")
            assert_refused(auscult("report", out, "-o", out / "r.html"), "r.html", "too large")
            outcome = auscult("index", good, "-o", out / "m.csv")
            assert_refused(replace(outcome, out=""), "m.csv", "too large")
        assert [path.name for path in out.iterdir()] == ["scores.csv"]

    def test_store_below_a_file(
        self, auscult: Run, good: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("precious")
        monkeypatch.setenv("AUSCULT_CACHE", str(tmp_path / "file" / "store"))
        assert_refused(auscult(*fit_args(good, out)), "store", "AUSCULT_CACHE")

    def test_real_one(self, auscult: Run, good: Path, fitted: Path, tmp_path: Path) -> None:
        """A disk of 64 KiB, where one can be had."""
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
        if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("this user cannot make a small disk")
        try:
            (disk / "ballast").write_bytes(bytes(60 * 1024))
            fit = ("fit", good, "-d", "ae", "--set", "max_steps=2", "-o", disk / "m.auscult")
            assert_refused(run_auscult(*fit), "m.auscult", "no space left")
            assert [path.name for path in disk.iterdir()] == ["ballast"]
            (disk / "ballast").write_bytes(bytes(64 * 1024))
            outcome = auscult("score", fitted / "knn.auscult", good, "-o", disk / "s.csv")
            assert_refused(outcome, "s.csv", "no space left")
            assert not (disk / "s.csv").exists()
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
    def test_standard_output(self, good: Path, fitted: Path) -> None:
        with open("/dev/full", "w") as full:
            outcome = subprocess.run(
                command("score", fitted / "knn.auscult", good), stdout=full, stderr=subprocess.PIPE, text=True
            )
        assert outcome.returncode == 2
        assert len(outcome.stderr.splitlines()) == 1
        assert "no space left" in outcome.stderr


# Manifests ----------------------------------------------------------------------------------------------


def both(auscult: Run, manifest: Path, knn: Path, out: Path, *words: str) -> None:
    """`fit` and `score` refuse a manifest alike."""
    assert_refused(auscult(*fit_args(manifest, out)), str(manifest), *words)
    assert_refused(auscult("score", knn, manifest, "-o", out / "s.csv"), str(manifest), *words)
    assert not out.exists()


class TestManifests:
    @pytest.mark.parametrize("column", HEADER)
    def test_lacks_a_column(self, column: str, auscult: Run, knn: Path, good: Path, out: Path) -> None:
        header = [name for name in HEADER if name != column]
        manifest = write_manifest(good / "m.csv", ["clip_0.wav", "a", "b", "train"][: len(header)], header=header)
        both(auscult, manifest, knn, out, "lacks the column", column)

    @pytest.mark.parametrize("path", ["../elsewhere.wav", "a/../../elsewhere.wav", "./../x.wav"])
    def test_path_escapes(self, path: str, auscult: Run, knn: Path, good: Path, out: Path) -> None:
        manifest = write_manifest(good / "m.csv", [path, "pump", "id_00", "train", "normal"])
        both(auscult, manifest, knn, out, path, "row 2", "out of the manifest's folder")

    @pytest.mark.parametrize(
        ("row", "words"),
        [
            (["clip_0.wav", "pump", "id_00", "train", "broken"], ["condition", "'broken'", "anomaly"]),
            (["clip_0.wav", "pump", "id_00", "train", ""], ["condition", "''"]),
            (["clip_0.wav", "pump", "id_00", "training", "normal"], ["split", "'training'", "train"]),
            (["", "pump", "id_00", "train", "normal"], ["no path"]),
        ],
    )
    def test_bad_value(self, row: list[str], words: list[str], auscult: Run, knn: Path, good: Path, out: Path) -> None:
        fine = ["clip_1.wav", "pump", "id_00", "train", "normal"]
        both(auscult, write_manifest(good / "m.csv", fine, row), knn, out, "row 3", *words)

    def test_listed_twice(self, auscult: Run, knn: Path, good: Path, out: Path) -> None:
        row = ["clip_1.wav", "pump", "id_00", "train", "normal"]
        both(auscult, write_manifest(good / "m.csv", row, row), knn, out, "clip_1.wav", "twice")

    def test_no_rows(self, auscult: Run, knn: Path, good: Path, out: Path) -> None:
        both(auscult, write_manifest(good / "m.csv"), knn, out, "lists no clips")

    @pytest.mark.parametrize("name", ["m.csv", "m.parquet"])
    @pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\0\x01" * 500, b'path,"\n', b"PAR1....PAR1"])
    def test_no_table(self, name: str, content: bytes, auscult: Run, knn: Path, good: Path, out: Path) -> None:
        (good / name).write_bytes(content)
        both(auscult, good / name, knn, out)

    def test_random_bytes(self, auscult: Run, knn: Path, good: Path, out: Path) -> None:
        random = np.random.default_rng(0)
        for _ in range(10):
            (good / "m.csv").write_bytes(random.bytes(300))
            both(auscult, good / "m.csv", knn, out)

    @pytest.mark.parametrize(
        "path",
        ["gone.wav", "/nowhere/gone.wav", "clip_0.wav/gone.wav", "x" * 300 + ".wav", "gone.raw", ".", "nul\0.wav"],
    )
    def test_path_that_is_not_there(self, path: str, auscult: Run, knn: Path, good: Path, out: Path) -> None:
        (good / "gone.raw").write_bytes(bytes(1000))
        kind = ["pump", "id_00", "unknown", "normal"]
        lines = [["clip_0.wav", *kind], [path, *kind], ["clip_1.wav", *kind]]
        manifest = write_manifest(good / "m.csv", *lines)
        done = auscult("score", knn, manifest, "-o", out / "s.csv")
        if done.code == 2:  # a name that no table can hold
            assert_refused(done, str(manifest))
            return
        assert done.code == 1
        named, counted = complaints(done)
        assert "1 of 3" in counted
        first, bad, last = rows(out / "s.csv")
        assert bad["path"] == path
        assert bad["score"] == ""
        assert bad["error"].replace("\0", r"\x00") == named
        assert first["score"]
        assert last["score"]
        done = auscult(*fit_args(manifest, out))
        assert done.code == 1
        assert described(out / "m.auscult")["provenance"]["n_training_clips"] == 2

    def test_absolute_paths_are_taken(self, auscult: Run, knn: Path, good: Path, tmp_path: Path, out: Path) -> None:
        (tmp_path / "lists").mkdir()
        row = [str(good / "clip_0.wav"), "pump", "id_00", "unknown", "normal"]
        manifest = write_manifest(tmp_path / "lists" / "m.csv", row)
        assert auscult("score", knn, manifest, "-o", out / "s.csv").code == 0
        assert rows(out / "s.csv")[0]["path"] == row[0]

    def test_clip_gone_since(self, auscult: Run, knn: Path, good: Path, tmp_path: Path, out: Path) -> None:
        assert auscult("index", good, "-o", tmp_path / "m.csv").code == 0
        assert auscult("score", knn, tmp_path / "m.csv", "-o", out / "before.csv").code == 0
        (good / "clip_2.wav").unlink()
        done = auscult("score", knn, tmp_path / "m.csv", "-o", out / "after.csv")
        assert done.code == 1
        assert "clip_2.wav: there is no such file" in complaints(done)[0]
        before, after = scores(out / "before.csv"), scores(out / "after.csv")
        assert after == {**before, "clip_2.wav": ""}
        done = auscult(*fit_args(tmp_path / "m.csv", out))
        assert done.code == 1
        assert "clip_2.wav: there is no such file" in complaints(done)[0]


# Training data ------------------------------------------------------------------------------------------


def test_no_normal_clip(auscult: Run, tiny_plant: Path, tmp_path: Path, out: Path) -> None:
    for clip in (tiny_plant / "pump" / "test").glob("anomaly_*"):
        (tmp_path / "faults").mkdir(exist_ok=True)
        shutil.copy(clip, tmp_path / "faults")
    assert_refused(auscult(*fit_args(tmp_path / "faults", out)), "no normal clip", "normal")
    assert not out.exists()


def test_no_normal_clip_in_the_train_split(auscult: Run, good: Path, out: Path) -> None:
    kind = ["pump", "id_00"]
    manifest = write_manifest(
        good / "m.csv", ["clip_0.wav", *kind, "train", "anomaly"], ["clip_1.wav", *kind, "test", "normal"]
    )
    assert_refused(auscult(*fit_args(manifest, out)), "no normal clip in the train split")
    assert not out.exists()


@pytest.mark.parametrize(
    "how", [["-d", "knn"], ["-d", "ae", "--set", "max_steps=5"], ["-d", "idnn", "--set", "max_steps=5"]]
)
def test_single_training_clip(how: list[str], auscult: Run, good: Path, out: Path) -> None:
    done = auscult("fit", good / "clip_0.wav", *how, "-o", out / "m.auscult")
    assert done.code == 0, done.err
    assert "no false-alarm rate can be promised" in done.err
    done = auscult("score", out / "m.auscult", good, "-o", out / "s.csv")
    assert done.code == 0
    assert "no false-alarm rate can be promised" in done.err
    assert all(np.isfinite(float(row["score"])) and row["p_value"] == "" for row in rows(out / "s.csv"))


# Scores -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["s.csv"]),
        ("path,machine_type\na.wav,pump\n", ["lacks", "score"]),
        ("path,machine_type,machine_id,condition,score\n", ["no clips"]),
        ("path,machine_type,machine_id,condition,score\na.wav,pump,id_00,normal,high\n", ["row 2", "'high'"]),
        ("path,machine_type,machine_id,condition,score\na.wav,pump,id_00,odd,1\n", ["row 2", "'odd'"]),
    ],
)
def test_scores_that_are_none(content: str, words: list[str], auscult: Run, tmp_path: Path, out: Path) -> None:
    (tmp_path / "s.csv").write_text(content)
    assert_refused(auscult("evaluate", tmp_path / "s.csv", "-o", out), "s.csv", *words)
    assert not out.exists()
