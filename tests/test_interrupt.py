"""Ctrl-C in the middle of an import: heard, but not before the import is done."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import signal, time
signal.signal(signal.SIGINT, signal.{before})
from auscult.cli.interrupt import heed_interrupts
heed_interrupts()
try:
    import struck
    print("imported", flush=True)
    time.sleep({seconds})
    print("slept")
except KeyboardInterrupt:
    print("interrupted")
"""


def run(folder: Path, number: int, before: str, seconds: float) -> list[str]:
    """Lines of a program whose module `struck` sends it a signal while it is imported."""
    (folder / "struck.py").write_text(f"import os, time\nos.kill(os.getpid(), {number})\ntime.sleep(0.3)\n")
    program = PROGRAM.format(before=before, seconds=seconds)
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_waits_for_the_import(number: signal.Signals, tmp_path: Path) -> None:
    """And wakes the program from its sleep."""
    assert run(tmp_path, number, "default_int_handler", 50) == ["imported", "interrupted"]


def test_what_was_ignored_stays_ignored(tmp_path: Path) -> None:
    assert run(tmp_path, signal.SIGINT, "SIG_IGN", 0.2) == ["imported", "slept"]
