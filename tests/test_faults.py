"""Killed, stopped, crowded, out of time: what is left is never mistaken for finished, and the work goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from conftest import PLANT, Run, command, described, same_tensors

N_TRAIN = sum(n for n, _ in PLANT.values())
N_STEPS = 800
FIT = ("-d", "ae", "--set", "width=16", "--set", "bottleneck=4", "--set", "batch_size=32")
"""A small network: a step takes a millisecond or two, a checkpoint no more than a few."""

PATIENCE = 120.0


@pytest.fixture(scope="module", autouse=True)
def _frequent_checkpoints() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUSCULT_CHECKPOINT_SECONDS", "0.05")
        yield


@contextmanager
def started(*args: object, cache: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """A command in a process group of its own, gone when the block ends."""
    env = {**os.environ, **({"AUSCULT_CACHE": str(cache)} if cache else {})}
    with subprocess.Popen(
        command(*args), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(seen: Callable[[], object], process: subprocess.Popen[str]) -> bool:
    """Wait until something is seen; False if the process ended first."""
    deadline = time.monotonic() + PATIENCE
    while not seen():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.001)
    return True


def kill(*args: object, cache: Path, seen: Callable[[], object] = lambda: True, delay: float = 0.0) -> bool:
    """Start a command and kill -9 it `delay` seconds after something is seen; False if it ended before."""
    with started(*args, cache=cache) as process:
        if not wait_for(seen, process):
            return False
        time.sleep(delay)
        alive = process.poll() is None
        if alive:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    return alive and process.returncode == -signal.SIGKILL


def leftovers(folder: Path) -> set[str]:
    """The files of a folder that a user sees."""
    return {path.name for path in folder.iterdir() if not (path.name.startswith(".") and path.suffix == ".tmp")}


# fit, killed --------------------------------------------------------------------------------------------


class Fits:
    """One fit, the place it is done in, and the model it must come to."""

    def __init__(self, home: Path, data: Path, reference: Path) -> None:
        self.out, self.cache, self.reference = home / "out", home / "cache", reference
        self.out.mkdir(parents=True)
        self.model = self.out / "m.auscult"
        self.arguments = ("fit", data, *FIT, "--set", f"max_steps={N_STEPS}", "-o", self.model)

    def sees(self, folder: Path, pattern: str) -> Callable[[], bool]:
        return lambda: any(folder.glob(pattern))

    def check(self) -> None:
        """Nothing that is there passes for what it is not."""
        import auscult

        assert leftovers(self.out) <= {"m.auscult", "m.auscult.checkpoint"}
        if self.model.exists():
            auscult.load(self.model)
            assert same_tensors(self.model, self.reference)
        for index in self.cache.glob("v1/*/*.json"):
            facts = json.loads(index.read_text())
            assert index.with_suffix(".frames").stat().st_size == facts["n_frames"] * 128 * 4

    def check_store(self, data: Path) -> None:
        """What the store holds is what would be computed, each clip once."""
        from auscult.corpus import open_data
        from auscult.features import FRONT_ENDS
        from auscult.store import Store, clip_logmel

        store, front_end = Store(self.cache), FRONT_ENDS["dcase2020"]
        assert store.usage()["clips"] == N_TRAIN
        held = store.collect(open_data(data).for_training().clips(), front_end)
        assert len(held) == N_TRAIN
        for clip, spectrum in zip(held.clips, held.spectra, strict=True):
            assert np.array_equal(spectrum, clip_logmel(clip, front_end).numpy())

    def finish(self, auscult: Run) -> None:
        """The same command with --resume, uninterrupted, comes to the same model."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AUSCULT_CACHE", str(self.cache))
            outcome = auscult(*self.arguments, "--resume")
        assert outcome.code == 0, outcome.err
        assert same_tensors(self.model, self.reference)
        assert described(self.model)["provenance"]["training"]["steps"] == N_STEPS
        assert leftovers(self.out) == {"m.auscult"}


@pytest.fixture(scope="module")
def reference(made_once: Callable[..., Path], tiny_plant: Path) -> Path:
    """The model of a fit that nobody disturbed."""

    def make(folder: Path) -> None:
        import auscult

        settings = {"width": 16, "bottleneck": 4, "batch_size": 32, "max_steps": N_STEPS}
        auscult.fit(tiny_plant, "ae", settings=settings).save(folder / "m.auscult")

    return made_once("undisturbed", make) / "m.auscult"


@pytest.fixture
def fits(tmp_path: Path, tiny_plant: Path, reference: Path) -> Fits:
    return Fits(tmp_path, tiny_plant, reference)


def test_fit_killed_again_and_again(fits: Fits, auscult: Run, tiny_plant: Path) -> None:
    """While it fills the store, trains, writes a checkpoint and writes the model; it goes on where it was."""
    delays = random.Random(2)
    moments: list[tuple[str, Callable[[], bool], float]] = [
        ("the store is filled", fits.sees(fits.cache, "v1/*/.*.frames.*.tmp"), delays.uniform(0, 0.02)),
        ("a checkpoint is there", fits.sees(fits.out, "*.checkpoint"), delays.uniform(0, 0.3)),
        ("a checkpoint is written", fits.sees(fits.out, ".*.checkpoint.*.tmp"), 0.0),
        ("some time later", fits.sees(fits.out, "*.checkpoint"), delays.uniform(2, 3)),
        ("the model is written", fits.sees(fits.out, ".m.auscult.????????.tmp"), 0.0),
    ]
    killed = []
    for moment, seen, delay in moments:
        if kill(*fits.arguments, "--resume", cache=fits.cache, seen=seen, delay=delay):
            killed.append(moment)
        fits.check()
    assert len(killed) >= 3, killed
    fits.finish(auscult)
    fits.check_store(tiny_plant)


@pytest.fixture(scope="module")
def whole_seconds(tmp_path_factory: pytest.TempPathFactory, tiny_plant: Path, reference: Path) -> float:
    """How long a fit takes that nobody disturbs."""
    fits = Fits(tmp_path_factory.mktemp("whole"), tiny_plant, reference)
    began = time.monotonic()
    with started(*fits.arguments, cache=fits.cache) as process:
        process.communicate(timeout=PATIENCE)
    assert same_tensors(fits.model, reference)
    return time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_fit_killed_at_random(seed: int, fits: Fits, auscult: Run, tiny_plant: Path, whole_seconds: float) -> None:
    """At any moment of the program's life, from its start to its end, up to three times."""
    delays = random.Random(seed)
    for _ in range(delays.randint(1, 3)):
        kill(*fits.arguments, "--resume", cache=fits.cache, delay=delays.uniform(0, 1.05 * whole_seconds))
        fits.check()
    fits.finish(auscult)
    fits.check_store(tiny_plant)


def test_a_checkpoint_is_its_own_runs_alone(fits: Fits, auscult: Run, tiny_plant: Path, cache: Path) -> None:
    fits.cache = cache
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("auscult.modelfile.write", lambda *details: signal.raise_signal(signal.SIGINT))
        outcome = auscult(*fits.arguments)
    assert outcome.code == 130
    assert "--resume" in outcome.notes[-1]
    for change in (["--seed", "1"], ["--set", "width=8"], ["--machine-id", "00"], ["-d", "idnn"]):
        outcome = auscult(*fits.arguments, *change, "--resume")
        assert outcome.code == 2
        assert "m.auscult.checkpoint belongs to a run with other data, settings or seed" in outcome.notes[-1]
    assert leftovers(fits.out) == {"m.auscult.checkpoint"}
    # Without --resume a fit begins anew, and tidies up.
    assert auscult("fit", tiny_plant, *FIT, "--set", "max_steps=5", "-o", fits.model).code == 0
    assert described(fits.model)["provenance"]["training"]["steps"] == 5
    assert leftovers(fits.out) == {"m.auscult"}


# fit, stopped -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_fit_stopped(number: signal.Signals, fits: Fits, auscult: Run, cache: Path) -> None:
    with started(*fits.arguments) as process:
        assert wait_for(fits.sees(fits.out, "*.checkpoint"), process)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("auscult: stopped at step ")
    assert f"of {N_STEPS}" in last
    assert "--resume" in last
    assert "Traceback" not in err
    assert leftovers(fits.out) == {"m.auscult.checkpoint"}
    fits.cache = cache
    fits.finish(auscult)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_stopped_at_random(seed: int, fits: Fits, auscult: Run) -> None:
    """Ctrl-C in whatever phase: no traceback, and the work goes on."""
    with started(*fits.arguments, cache=fits.cache) as process:
        time.sleep(random.Random(seed).uniform(0.5, 6))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    # Python ends by the signal itself where it was compiling a string at that moment; shells call that 130, too.
    assert process.returncode in (0, 130, -signal.SIGINT)
    assert "Traceback" not in err
    assert process.returncode == 0 or "--resume" in err
    fits.check()
    fits.finish(auscult)


def test_budget(auscult: Run, tiny_plant: Path, tmp_path: Path) -> None:
    """Ends in time, and the model says that it did."""
    began = time.monotonic()
    outcome = auscult("fit", tiny_plant, "-d", "ae", "--preset", "paper", "--budget", 2, "-o", tmp_path / "m.auscult")
    assert outcome.code == 0, outcome.err
    assert time.monotonic() - began < 15
    training = described(tmp_path / "m.auscult")["provenance"]["training"]
    assert training["stopped"] == "budget"
    assert 2 <= training["seconds"] < 6
    assert 0 < training["steps"] < 100 * N_TRAIN * 59 / 512
    assert leftovers(tmp_path) == {"m.auscult"}
    assert auscult("score", tmp_path / "m.auscult", tiny_plant, "-o", tmp_path / "s.csv").code == 0


# score --------------------------------------------------------------------------------------------------


N_SPELLINGS = 80


@pytest.fixture(scope="module")
def long_list(made_once: Callable[..., Path], tiny_plant: Path, fitted: Path) -> Path:
    """A manifest of the same clips under eighty spellings each, a second's work, and its `whole.csv`."""

    def make(folder: Path) -> None:
        import auscult
        from auscult.corpus import open_data
        from auscult.evaluation.scores import write_scores
        from auscult.scoring import score_table

        clips = sorted((tiny_plant / "pump" / "test").iterdir())
        paths = [f"{clip.parent}/{'./' * n}{clip.name}" for n in range(N_SPELLINGS) for clip in clips]
        rows = [f"{path},pump,id_00,test,unknown" for path in paths]
        (folder / "long.csv").write_text("\n".join(["path,machine_type,machine_id,split,condition", *rows, ""]))
        table = score_table(auscult.load(fitted / "ae.auscult"), open_data(folder / "long.csv"))
        write_scores(table, folder / "whole.csv")

    return made_once("long_list", make) / "long.csv"


def is_whole(scores: Path, long_list: Path) -> bool:
    return scores.read_bytes() == (long_list.parent / "whole.csv").read_bytes()


def test_score_killed(fitted: Path, long_list: Path, auscult: Run, tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "out"
    arguments = ("score", fitted / "ae.auscult", long_list, "-o", out / "s.csv", "--resume")
    delays = random.Random(4)
    for longest in (0.3, 1.5):
        kill(*arguments, cache=cache, seen=(out / "s.csv.partial").exists, delay=delays.uniform(0, longest))
        assert leftovers(out) <= {"s.csv", "s.csv.partial"}
        assert not (out / "s.csv").exists() or is_whole(out / "s.csv", long_list)
    assert auscult(*arguments).code == 0
    assert is_whole(out / "s.csv", long_list)
    assert leftovers(out) == {"s.csv"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(15))
def test_score_killed_at_random(
    seed: int, fitted: Path, long_list: Path, auscult: Run, tmp_path: Path, cache: Path
) -> None:
    out = tmp_path / "out"
    arguments = ("score", fitted / "ae.auscult", long_list, "-o", out / "s.csv", "--resume")
    delays = random.Random(seed)
    for _ in range(2):
        kill(*arguments, cache=cache, delay=delays.uniform(0, 8))
        assert not (out / "s.csv").exists() or is_whole(out / "s.csv", long_list)
    assert auscult(*arguments).code == 0
    assert is_whole(out / "s.csv", long_list)
    assert leftovers(out) == {"s.csv"}


def test_score_stopped(fitted: Path, long_list: Path, auscult: Run, tmp_path: Path) -> None:
    """Ctrl-C keeps what was judged; --resume does not judge it again, but another model's it would not take."""
    out = tmp_path / "out"
    with started("score", fitted / "ae.auscult", long_list, "-o", out / "s.csv") as process:
        assert wait_for((out / "s.csv.partial").exists, process)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("auscult: stopped")
    assert "--resume" in err
    assert "Traceback" not in err
    assert leftovers(out) == {"s.csv.partial"}
    noted = [json.loads(line) for line in (out / "s.csv.partial").read_text().splitlines()][1:]
    assert noted

    outcome = auscult("score", fitted / "knn.auscult", long_list, "-o", out / "s.csv", "--resume")
    assert outcome.code == 2
    assert "s.csv.partial belongs to another model" in outcome.notes[-1]

    judged: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        from auscult.detectors.base import Detector

        original = Detector.score_clip
        patch.setattr(Detector, "score_clip", lambda self, clip: judged.append(clip.path) or original(self, clip))
        assert auscult("score", fitted / "ae.auscult", long_list, "-o", out / "s.csv", "--resume").code == 0
    known = {line["clip"] for line in noted}
    assert len(judged) == N_SPELLINGS * (12 - len(known))
    assert is_whole(out / "s.csv", long_list)


# The store ----------------------------------------------------------------------------------------------


def test_two_fits_fill_one_store(fits: Fits, tiny_plant: Path, fitted: Path) -> None:
    """Both are held at the door until both are there."""
    from filelock import FileLock

    from auscult.features import FRONT_ENDS
    from auscult.store import FORMAT, _front_end_key

    folder = fits.cache / FORMAT / _front_end_key(FRONT_ENDS["dcase2020"])
    folder.mkdir(parents=True)

    def arguments(name: str) -> tuple[object, ...]:
        return ("fit", tiny_plant, "-d", "knn", "--false-alarm-rate", "0.05", "-o", fits.out / name)

    lock = FileLock(folder / "lock")
    with lock, started(*arguments("a"), cache=fits.cache) as one, started(*arguments("b"), cache=fits.cache) as other:
        for process in (one, other):
            assert process.stderr is not None
            assert "read in the layout" in process.stderr.readline()  # the last thing said before
        time.sleep(0.5)
        assert list(folder.glob("*.json")) == []
        lock.release()
        for process in (one, other):
            _, err = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, err
    assert same_tensors(fits.out / "a", fitted / "knn.auscult")
    assert same_tensors(fits.out / "b", fitted / "knn.auscult")
    fits.check_store(tiny_plant)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "frames cut": lambda pack: os.truncate(pack.with_suffix(".frames"), 100_000),
    "frames too long": lambda pack: os.truncate(pack.with_suffix(".frames"), 10_000_000),
    "frames gone": lambda pack: pack.with_suffix(".frames").unlink(),
    "index cut": lambda pack: os.truncate(pack, 50),
    "index empty": lambda pack: os.truncate(pack, 0),
    "index is noise": lambda pack: pack.write_bytes(np.random.default_rng(0).bytes(500)),
    "index of another kind": lambda pack: pack.write_text('["clips"]'),
    "index with odd entries": lambda pack: pack.write_text('{"clips": {"a": 1}}'),
    "index gone": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_pack(damage: str, fits: Fits, auscult: Run, tiny_plant: Path, fitted: Path) -> None:
    """Computed again without a word, and nothing of it is left behind."""
    arguments = ("fit", tiny_plant, "-d", "knn", "--false-alarm-rate", "0.05", "-o", fits.model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUSCULT_CACHE", str(fits.cache))
        assert auscult(*arguments).code == 0
        (pack,) = fits.cache.glob("v1/*/*.json")
        DAMAGE[damage](pack)
        outcome = auscult(*arguments)
    assert outcome.code == 0, outcome.err
    assert same_tensors(fits.model, fitted / "knn.auscult")
    fits.check_store(tiny_plant)
    assert len([path for path in fits.cache.glob("v1/*/*") if path.name != "lock"]) == 2


def test_the_store_makes_room(tiny_plant: Path, fitted: Path, tmp_path: Path) -> None:
    """What was longest unused goes; a fit that comes back to it gives the same model."""
    import auscult as package
    from auscult.store import Store

    def fit(limit: int, channel: object) -> dict[str, int]:
        store = Store(tmp_path / "store", limit=limit)
        how = {"settings": {"channel": channel}, "false_alarm_rate": 0.05, "store": store}
        package.fit(tiny_plant, "knn", **how).save(tmp_path / f"{channel}.auscult")
        return store.usage()

    once = fit(2**30, 0)
    assert fit(2**30, "mean")["bytes"] == 2 * once["bytes"]
    assert fit(once["bytes"] * 3 // 2, 0) == once
    assert fit(once["bytes"] * 3 // 2, "mean") == once
    # Even where nothing fits: the clips in use stay until others are.
    assert fit(1, 0) == once
    assert same_tensors(tmp_path / "0.auscult", fitted / "knn.auscult")
