"""What a watch tells of: windows judged, alarms, gaps, trouble."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True)
class Event:
    """Something that happened to a machine's stream.

    Attributes
    ----------
    machine : str
    time : float
        Unix seconds.
    offset : float
        Seconds of sound since the stream began.
    """

    kind: ClassVar[str] = ""
    machine: str
    time: float
    offset: float

    def facts(self) -> dict[str, Any]:
        """What JSON can hold of it: NaN becomes null, the time also readable."""
        values = {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in asdict(self).items()}
        when = datetime.fromtimestamp(self.time, UTC).isoformat(timespec="milliseconds")
        return {"event": self.kind, "at": when, **values}


@dataclass(frozen=True)
class Judged(Event):
    """A window was judged, or could not be (`error`)."""

    kind: ClassVar[str] = "judged"
    score: float
    p_value: float
    threshold: float
    alarms: tuple[str, ...]
    """Rules whose alarm is on."""
    latency: float
    """Seconds from the arrival of the window's last sample to the judgement."""
    real_time_factor: float
    """Seconds of computing for a second of sound, lately."""
    error: str = ""


@dataclass(frozen=True)
class AlarmRaised(Event):
    """An alarm begins; it is in the history already, if `alarm` is its number there."""

    kind: ClassVar[str] = "alarm"
    alarm: int | None
    rule: str
    score: float
    p_value: float
    message: str


@dataclass(frozen=True)
class AlarmEnded(Event):
    """An alarm is over; `score` and `p_value` are of its worst window."""

    kind: ClassVar[str] = "alarm ended"
    alarm: int | None
    rule: str
    began: float
    score: float
    p_value: float


@dataclass(frozen=True)
class GapBegan(Event):
    """Nothing is heard."""

    kind: ClassVar[str] = "gap"
    reason: str


@dataclass(frozen=True)
class GapEnded(Event):
    """Something is heard again."""

    kind: ClassVar[str] = "gap ended"
    began: float
    reason: str


@dataclass(frozen=True)
class Trouble(Event):
    """Something besides the machine is not as it should be, or is again (`over`)."""

    kind: ClassVar[str] = "trouble"
    message: str
    over: bool = False


class Sink(Protocol):
    """Where events go. What it raises does not stop the watch."""

    def take(self, event: Event) -> None:
        """Tell of an event."""
        ...

    def close(self) -> None:
        """There will be no more."""
        ...
