"""What all tests share: a small plant, real recordings, a cache of their own, and the command line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# One thread everywhere, before torch is imported: workers share the cores.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", AUSCULT_THREADS="1")

import numpy as np
import pytest
import torch
from filelock import FileLock

# A shell that runs the tests in the background ignores Ctrl-C for them, and so for every program they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

RATE = 16_000
SECONDS = 2
HERE = Path(__file__).resolve().parent


def pytest_runtest_setup() -> None:
    """Each test draws the same numbers, whichever tests ran before it."""
    torch.manual_seed(0)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One test after another to whichever worker is free, but all that need one fitted detector to the same.

    `--dist loadgroup` would do so by marks; with pytest 9.2 it groups nothing.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByDetector(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            found = re.search(r"detector=[\w-]+", nodeid)
            return found[0] if found else nodeid

    return ByDetector(config, log)


# Folders ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A log-mel store of this test process alone; no test touches the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUSCULT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real recordings, which are not part of the repository."""
    folder = Path(os.environ.get("AUSCULT_TEST_DATA") or HERE.parent.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder}; AUSCULT_TEST_DATA names another place")
    return folder


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """`made_once(name, make)`: a folder that `make` fills once, however many processes run the tests."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(name: str, make: Callable[[Path], None]) -> Path:
        folder = shared / name
        with FileLock(shared / f"{name}.lock"):
            if not (shared / f"{name}.done").exists():
                folder.mkdir(exist_ok=True)
                make(folder)
                (shared / f"{name}.done").touch()
        return folder

    return get


# Recordings ---------------------------------------------------------------------------------------------


def write_wav(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    """Write samples of full scale ±1, shape (n_samples,) or (n_samples, n_channels), as 16-bit WAV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def machine_sound(seed: int, *, faulty: bool = False, seconds: float = SECONDS, pitch: float = 180.0) -> np.ndarray:
    """A humming machine in a noisy hall; a faulty one whistles and knocks besides."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.convolve(random.normal(0, 0.02, len(time)), np.exp(-np.arange(64) / 12), "same")
    tones = (np.sin(2 * np.pi * k * pitch * time + random.uniform(0, 6.3)) / k for k in (1, 2, 3, 5))
    sound = noise + 0.05 * random.uniform(0.8, 1.2) * np.sum(list(tones), axis=0)
    if faulty:
        sound += 0.03 * np.sin(2 * np.pi * 3300 * time)
        knocks = random.uniform(0, seconds, 8)
        sound += sum(0.2 * random.normal(size=len(time)) * np.exp(-200 * np.abs(time - at)) for at in knocks)
    return sound


PLANT = {"id_00": (30, 4), "id_02": (12, 2)}
"""Of each ID: normal clips for training, and test clips of either condition."""


def _write_plant(folder: Path) -> None:
    seed = 0
    for machine, (n_train, n_test) in PLANT.items():
        pitch = 180.0 if machine == "id_00" else 230.0
        for split, condition, count in (
            ("train", "normal", n_train),
            ("test", "normal", n_test),
            ("test", "anomaly", n_test),
        ):
            for number in range(count):
                seed += 1
                sound = machine_sound(seed, faulty=condition == "anomaly", pitch=pitch)
                write_wav(folder / "pump" / split / f"{condition}_{machine}_{number:08d}.wav", sound)


@pytest.fixture(scope="session")
def tiny_plant(made_once: Callable[..., Path]) -> Path:
    """A folder of two-second clips in the layout of DCASE 2020: one pump type, two IDs. Not to be changed."""
    return made_once("tiny", _write_plant)


# The command line ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def notes(self) -> list[str]:
        """The lines on standard error without the program's name."""
        return [line.removeprefix("auscult: ") for line in self.err.splitlines()]


Run = Callable[..., Outcome]

FIT_AE = ("-d", "ae", "--set", "max_steps=40", "--set", "batch_size=128")
"""A network that is no good, but quickly there."""


def command(*args: object) -> list[str]:
    """The words that start auscult as a process of its own."""
    return [sys.executable, "-m", "auscult", *map(str, args)]


def run_auscult(*args: object, env: dict[str, str] | None = None, timeout: float = 240, **how: Any) -> Outcome:
    """Run the real command line in a process of its own."""
    done = subprocess.run(
        command(*args), env={**os.environ, **(env or {})}, timeout=timeout, capture_output=True, text=True, **how
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def auscult(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run a command inside this process: the same `main`, without three seconds of imports."""
    from auscult.cli import main

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(*args: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["auscult", *map(str, args)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Outcome(code, *capsys.readouterr())

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def fitted(made_once: Callable[..., Path], tiny_plant: Path) -> Path:
    """A folder with models of the tiny plant, `knn.auscult` and `ae.auscult`. Not to be changed."""

    def fit(folder: Path) -> None:
        for name, how in {"knn": ("-d", "knn", "--false-alarm-rate", "0.05"), "ae": FIT_AE}.items():
            done = run_auscult("fit", tiny_plant, *how, "-o", folder / f"{name}.auscult")
            (folder / f"{name}.out").write_text(f"{done.code}\n{done.out}\n{done.err}")
            assert done.code == 0, done.err

    return made_once("fitted", fit)


def tensors(model: Path) -> dict[str, np.ndarray]:
    """Everything a model file holds in numbers."""
    from safetensors.numpy import load_file

    return load_file(model)


def same_tensors(one: Path, other: Path) -> bool:
    """Whether two model files hold the same numbers, bit for bit."""
    ours, theirs = tensors(one), tensors(other)
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and ours[name].tobytes() == theirs[name].tobytes() for name in ours
    )


def described(model: Path) -> dict[str, Any]:
    """What a model file says of itself."""
    import json

    from safetensors import safe_open

    with safe_open(model, "np") as file:
        facts: dict[str, Any] = json.loads(file.metadata()["auscult"])
        return facts


# A machine that is watched ------------------------------------------------------------------------------


def recording(seconds: int, *faults: tuple[int, int], seed: int = 1000) -> np.ndarray:
    """A machine that is well but for some stretches of seconds."""
    parts = [
        machine_sound(seed + k, seconds=1, faulty=any(begin <= k < end for begin, end in faults))
        for k in range(seconds)
    ]
    return np.concatenate(parts)


@pytest.fixture(scope="session")
def watched(made_once: Callable[..., Path]) -> Path:
    """A folder with a model of one machine, `pump.auscult`, and a minute of it with two faults, `week.wav`."""

    def make(folder: Path) -> None:
        import auscult

        for number in range(150):
            write_wav(folder / "train" / "normal" / f"{number}.wav", machine_sound(number))
        auscult.fit(folder / "train", "knn", false_alarm_rate=0.05).save(folder / "pump.auscult")
        write_wav(folder / "week.wav", recording(60, (20, 30), (45, 52)))

    return made_once("watched", make)
