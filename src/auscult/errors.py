"""The one exception that users see: what is wrong, and how to mend it."""

from __future__ import annotations


class AuscultError(Exception):
    """A request that cannot be carried out, said in one line.

    Parameters
    ----------
    what : str
        What is wrong, naming the file, setting or column at fault.
    remedy : str, optional
        What the user can do about it.
    """

    def __init__(self, what: str, remedy: str | None = None) -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(f"{what} — {remedy}" if remedy else what)

    def __reduce__(self) -> tuple[type, tuple[str, str | None]]:
        """Survive the trip back from a worker process."""
        return type(self), (self.what, self.remedy)


class AudioError(AuscultError):
    """A recording that cannot be judged. Commands report it and go on with the others."""


class TrainingInterrupted(AuscultError):
    """Training was stopped by the user; a resumable checkpoint has been left where there could be one."""


def reconstructs_nothing(detector: str) -> AuscultError:
    """The refusal to tell the reconstruction error of a detector that predicts no levels."""
    return AuscultError(f"{detector} reconstructs nothing", "ae, idnn, pae, anp and convcnp do")
