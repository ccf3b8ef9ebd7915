"""Ctrl-C that waits until no library is half imported."""

from __future__ import annotations

import _thread
import signal
import threading
from types import FrameType

_SOON = 0.05
"""Seconds until it is asked again whether imports are done."""


def heed_interrupts() -> None:
    """Let Ctrl-C, where it is not ignored, and SIGTERM raise `KeyboardInterrupt`, though never out of an import.

    Torch ends the process with an abort if that happens to it, and Python, if it happens to some others, with the
    status of a program that did not handle it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _importing(frame):
        raise KeyboardInterrupt
    again = threading.Timer(_SOON, _send, [number])
    again.daemon = True
    again.start()


def _send(number: int) -> None:
    """The signal once more; where there are threads of POSIX to the main one, which wakes from what it waits for."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)
    else:
        _thread.interrupt_main(signal.Signals(number))


def _importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported in the thread of this frame."""
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False
