"""Engines on this machine: every job has one outcome, whatever happens to the workers and to the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import engine_work
from auscult.engines import open_engine
from auscult.engines.base import ONE_THREAD
from auscult.engines.local import LocalEngine
from auscult.errors import AuscultError


def test_every_job_has_one_outcome_and_a_failure_stops_no_other() -> None:
    with open_engine("local", workers=2) as engine:
        outcomes = list(engine.run(engine_work.square, range(9)))
    assert sorted(o.job for o in outcomes) == list(range(9))
    for outcome in outcomes:
        if outcome.job == 3:
            assert outcome.error == "three is not to be squared — give another"
            assert not outcome.details
        elif outcome.job == 5:
            assert outcome.error == "ValueError: five,"
            assert "Traceback" in outcome.details
        else:
            assert outcome.result == outcome.job**2
            assert not outcome.error


def test_no_jobs_no_workers() -> None:
    assert list(LocalEngine().run(engine_work.square, [])) == []


def test_workers_have_one_thread_each() -> None:
    [outcome] = LocalEngine(1).run(engine_work.surroundings, [0])
    assert outcome.result["threads"] == 1
    assert outcome.result["openmp"] == "1"
    assert outcome.result["pid"] != os.getpid()
    assert set(ONE_THREAD) > {"OMP_NUM_THREADS", "AUSCULT_THREADS"}


def test_a_dead_workers_job_is_done_again_and_given_up_in_the_end(tmp_path: Path) -> None:
    (tmp_path / "once").mkdir()
    (tmp_path / "always").mkdir()
    [once] = LocalEngine(1).run(engine_work.die_once, [tmp_path / "once"])
    assert (once.result, once.error) == ("done", "")
    assert len(list((tmp_path / "once").iterdir())) == 2
    [always] = LocalEngine(1, attempts=2).run(engine_work.die, [tmp_path / "always"])
    assert "its worker died 2 times, the last time by SIGKILL" in always.error
    assert len(list((tmp_path / "always").iterdir())) == 2


PARENT = """
import sys
from pathlib import Path
import engine_work
from auscult.engines.local import LocalEngine
if __name__ == "__main__":
    list(LocalEngine(2).run(engine_work.linger, [Path(sys.argv[1]), Path(sys.argv[2])]))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path: Path, how: signal.Signals) -> None:
    program, files = tmp_path / "parent.py", [tmp_path / "a", tmp_path / "b"]
    program.write_text(PARENT)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    words = [sys.executable, str(program), *map(str, files)]
    with subprocess.Popen(words, env=env, stderr=subprocess.DEVNULL, start_new_session=True) as parent:
        deadline = time.monotonic() + 60
        while not all(file.exists() for file in files):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        workers = psutil.Process(parent.pid).children(recursive=True)
        parent.send_signal(how)
        parent.wait(timeout=20)
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    sizes = [file.stat().st_size for file in files]
    time.sleep(0.3)
    assert [file.stat().st_size for file in files] == sizes


def test_closing_early_ends_the_workers() -> None:
    outcomes = LocalEngine(1).run(engine_work.wait_a_little, range(100))
    _, pid = next(outcomes).result
    outcomes.close()  # type: ignore[attr-defined]
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_requests_that_no_engine_can_serve() -> None:
    for name, address, words in (("threads", None, "no engine 'threads'"), ("local", "1.2.3.4", "Ray cluster")):
        with pytest.raises(AuscultError, match=words), open_engine(name, address=address):
            pass
