"""Work for the tests of engines: it must be importable where the workers are."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from auscult.errors import AuscultError


def square(number: int) -> int:
    if number == 3:
        raise AuscultError("three is not to be squared", "give another")
    if number == 5:
        raise ValueError("five,\nand a second line")
    return number * number


def surroundings(_: int) -> dict[str, Any]:
    import torch

    return {"threads": torch.get_num_threads(), "pid": os.getpid(), "openmp": os.environ["OMP_NUM_THREADS"]}


def die_once(folder: Path) -> str:
    """Die at the first attempt, and leave word of every attempt."""
    attempts = len(list(folder.iterdir()))
    (folder / f"attempt {attempts}").touch()
    if attempts == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def die(folder: Path) -> None:
    (folder / f"attempt {len(list(folder.iterdir()))}").touch()
    os.kill(os.getpid(), signal.SIGKILL)


def linger(file: Path) -> None:
    """Write to a file for as long as this process lives."""
    for _ in range(600):
        with open(file, "a") as stream:
            stream.write(f"{os.getpid()}\n")
        time.sleep(0.05)


def wait_a_little(number: int) -> tuple[int, int]:
    time.sleep(0.5)
    return number, os.getpid()
