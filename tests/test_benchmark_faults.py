"""A benchmark killed again and again comes to the same tables; nothing is done twice, nothing is missing."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
import yaml

from benchmark_cases import TINY, run_tiny
from conftest import command, run_auscult

TABLES = ("tiny.md", "tiny.tex", "tiny.csv")


class Benchmark:
    """One benchmark, the place it is done in, and the tables it must come to."""

    def __init__(self, home: Path, data: Path, undisturbed: Path, workers: int) -> None:
        self.out, self.undisturbed = home / "out", undisturbed
        (home / "tiny.yaml").write_text(yaml.safe_dump(TINY))
        self.words = ("benchmark", home / "tiny.yaml", "-o", self.out, "--data", data, "--workers", workers)

    def done(self) -> dict[Path, tuple[int, int]]:
        """The finished runs, and what would differ had they been done again."""
        found = self.out.rglob("metrics.json")
        return {path: ((s := path.stat()).st_mtime_ns, s.st_ino) for path in found}

    def kill(self, seen: Callable[[], bool], delay: float) -> bool:
        """Start it, and `kill -9` the parent alone; False if it ended before."""
        with subprocess.Popen(command(*self.words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 240
            while process.poll() is None and not seen():
                assert time.monotonic() < deadline, "nothing happens"
                time.sleep(0.005)
            time.sleep(delay)
            if process.poll() is not None:
                return False
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.wait()
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive, "workers outlive their parent"
        return True

    def check(self, before: dict[Path, tuple[int, int]]) -> None:
        """What was done is as it was, and what is done now is whole."""
        after = self.done()
        assert {path: after.get(path) for path in before} == before
        for metrics in after:
            other = self.undisturbed / metrics.relative_to(self.out).parent / "scores.csv"
            assert (metrics.parent / "scores.csv").read_bytes() == other.read_bytes()

    def finish(self) -> None:
        """The same command, undisturbed."""
        outcome = run_auscult(*self.words)
        assert outcome.code == 0, outcome.err
        for name in TABLES:
            assert (self.out / name).read_bytes() == (self.undisturbed / name).read_bytes(), name
        left = [path.name for path in self.out.rglob("*") if path.name.endswith((".tmp", ".partial", ".checkpoint"))]
        assert not left
        assert not list(self.out.rglob("run.json"))


@pytest.fixture(scope="module")
def undisturbed(made_once: Callable[..., Path], tiny_plant: Path) -> Path:
    return made_once("finished-tiny", partial(run_tiny, data=tiny_plant)) / "out"


@pytest.fixture
def whole(tmp_path: Path, tiny_plant: Path, undisturbed: Path) -> Benchmark:
    """All runs are still to be done."""
    return Benchmark(tmp_path, tiny_plant, undisturbed, workers=2)


@pytest.fixture
def watched(tmp_path: Path, tiny_plant: Path, undisturbed: Path) -> Benchmark:
    """Five of ten runs are still to be done."""
    shutil.copytree(undisturbed, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "runs" / "tiny" / "knn-id")
    shutil.rmtree(tmp_path / "out" / "runs" / "tiny" / "ae-worst" / "pump" / "1")
    return Benchmark(tmp_path, tiny_plant, undisturbed, workers=1)


def _kill_often(watched: Benchmark, moments: list[tuple[int, float]]) -> int:
    killed = 0
    for more, delay in moments:
        before = watched.done()
        n = len(before) + more
        killed += watched.kill(lambda n=n: len(watched.done()) >= n, delay)  # type: ignore[misc]
        watched.check(before)
    before = watched.done()
    watched.finish()
    watched.check(before)
    return killed


def test_the_parent_killed_twice(watched: Benchmark) -> None:
    assert _kill_often(watched, [(1, 0.1), (1, 0.5)]) >= 1


@pytest.mark.slow
def test_the_parent_killed_ten_times_at_random(whole: Benchmark) -> None:
    """At once, while it plans, while workers start, while they learn, judge and write."""
    chance = random.Random(6)
    moments = [(chance.choice((0, 0, 0, 1)), chance.uniform(0, 7)) for _ in range(10)]
    assert _kill_often(whole, moments) >= 6


def test_workers_killed(watched: Benchmark) -> None:
    """The job of a worker that dies is done again, within the same command."""
    with subprocess.Popen(command(*watched.words), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        begun: set[Path] = set()
        killed = 0
        while process.poll() is None:
            new = set(watched.out.rglob("run.json")) - begun
            if new and killed < 2:
                begun |= new
                workers = [c for c in psutil.Process(process.pid).children() if "spawn_main" in " ".join(c.cmdline())]
                for worker in workers[:1]:
                    worker.kill()
                    killed += 1
            time.sleep(0.02)
        _, err = process.communicate()
    assert process.returncode == 0, err
    assert killed >= 1
    for name in TABLES:
        assert (watched.out / name).read_bytes() == (watched.undisturbed / name).read_bytes(), name


def test_ctrl_c_stops_and_the_same_command_goes_on(watched: Benchmark) -> None:
    with subprocess.Popen(
        command(*watched.words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while len(watched.done()) < 6 and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to parent and workers alike
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "auscult: stopped — the same command goes on where this one was\n"
    before = watched.done()
    assert len(before) >= 6
    watched.finish()
    watched.check(before)
