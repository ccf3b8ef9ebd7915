"""Requests about machines that are watched: their state, scores, alarms; and what people say of these."""

from __future__ import annotations

import asyncio
import base64
import io
import math
import time
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field

from auscult.monitor.history import History
from auscult.service.scoring import known, said

router = APIRouter(prefix="/v1", dependencies=[Depends(known)])
sockets = APIRouter(prefix="/v1")

_STALE = 3.0
"""Hops, and a few seconds, without a window after which a machine counts as not heard."""

_LOOK = 0.5
Number = Annotated[int, Path(ge=1, le=2**62)]
Since = Annotated[float, Query(ge=0, le=1e12, allow_inf_nan=False, description="Unix seconds")]


def history_of(request: Request) -> History:
    """The history that is shown.

    Raises
    ------
    HTTPException
        404 if the service has none.
    """
    found: History | None = request.app.state.house.history
    if found is None:
        raise HTTPException(404, "no history is shown; serve with --history FILE")
    return found


Shown = Annotated[History, Depends(history_of)]


@router.get("/machines", responses=said(404))
def machines(history: Shown) -> list[dict[str, Any]]:
    """Every machine with its state now."""
    return [_state(history, stream) for stream in history.streams()]


def _state(history: History, stream: dict[str, Any]) -> dict[str, Any]:
    latest = history.latest(stream["id"])
    open_alarms = [a for a in history.alarms(stream["id"], at_most=200) if a["ended"] is None]
    gaps = [gap for gap in history.gaps(stream["id"], time.time()) if gap["ended"] is None]
    late = latest is None or time.time() - latest["time"] > _STALE * float(stream["facts"].get("hop", 1)) + 5
    state = "alarm" if open_alarms else "gap" if gaps else "not heard" if late else "well"
    return {
        "id": stream["id"],
        "name": stream["name"],
        "model": stream["model"].replace("\\", "/").rsplit("/", 1)[-1],
        "facts": stream["facts"],
        "state": state,
        "heard": None if latest is None else latest["time"],
        "now": None if latest is None else latest["facts"],
        "unacknowledged": sum(not a["acknowledged"] for a in history.alarms(stream["id"], at_most=200)),
        "gap": gaps[0]["reason"] if gaps else None,
    }


@router.get("/machines/{number}/scores", responses=said(404))
def scores(history: Shown, number: Number, since: Since = 0.0, until: Since = 1e12) -> dict[str, Any]:
    """Scores over time, the highest of each stretch where there are many; and gaps."""
    stream = _stream(history, number)
    rows = history.scores(number, since, until, at_most=1500)
    return {
        "threshold": stream["facts"].get("threshold"),
        "scores": [[row["time"], row["score"], row["p_value"]] for row in rows],
        "gaps": [[gap["began"], gap["ended"], gap["reason"]] for gap in history.gaps(number, since)],
    }


def _stream(history: History, number: int) -> dict[str, Any]:
    for stream in history.streams():
        if stream["id"] == number:
            return stream
    raise HTTPException(404, f"there is no machine {number}")


@router.get("/machines/{number}/latest", responses=said(404))
def latest(history: Shown, number: Number) -> dict[str, Any]:
    """What is heard now: log-mel and relative anomaly map of the last window."""
    _stream(history, number)
    return _latest(history, number) or {}


def _latest(history: History, number: int) -> dict[str, Any] | None:
    found = history.latest(number)
    if found is None:
        return None
    return {**found, "logmel": grid(found["logmel"]), "map": grid(found["map"])}


@router.get("/alarms", responses=said(404))
def alarms(history: Shown, machine: int | None = None, since: Since = 0.0) -> list[dict[str, Any]]:
    """Alarms, the newest first."""
    if machine is not None and not 0 <= machine < 2**62:
        return []
    return history.alarms(machine, since, at_most=500)


@router.get("/alarms/{number}", responses=said(404))
def alarm(history: Shown, number: Number) -> dict[str, Any]:
    """One alarm, with log-mel and map."""
    found = _alarm(history, number)
    return {**found, "logmel": grid(found["logmel"]), "map": grid(found["map"])}


def _alarm(history: History, number: int) -> dict[str, Any]:
    if not history.exists(number):
        raise HTTPException(404, f"there is no alarm {number}")
    return history.alarm(number)


@router.get("/alarms/{number}/clip", responses={**said(404), 200: {"content": {"audio/flac": {}, "audio/wav": {}}}})
def clip(history: Shown, number: Number, format: Literal["flac", "wav"] = "flac") -> Response:
    """The sound around an alarm."""
    _alarm(history, number)
    sound = history.clip(number)
    if sound is None:
        raise HTTPException(404, "its sound was not kept")
    if format == "flac":
        return Response(sound.flac, media_type="audio/flac")
    import soundfile

    samples, rate = soundfile.read(io.BytesIO(sound.flac), dtype="int16")
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    return Response(buffer.getvalue(), media_type="audio/wav")


class Remark(BaseModel):
    """What somebody says of an alarm."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["acknowledged", "false alarm", "confirmed", "note"]
    note: str = Field(default="", max_length=2000)


@router.post("/alarms/{number}/remarks", responses=said(404))
def remark(request: Request, history: Shown, number: Number, said: Remark) -> dict[str, Any]:
    """Acknowledge or label an alarm: kept in the history, and used by `auscult recalibrate`."""
    _alarm(history, number)
    author = request.app.state.house.guard.who(request)
    # A surrogate that JSON can hold and UTF-8 cannot is no text.
    note = said.note.encode("utf-8", "replace").decode("utf-8")
    history.remark(number, said.kind, note, author)
    found = history.alarm(number)
    return {key: value for key, value in found.items() if key not in ("logmel", "map")}


def grid(array: np.ndarray | None) -> dict[str, Any] | None:
    """An array for a browser: a byte for each value, with what the smallest and largest mean.

    Rows are mel bands, the lowest first.
    """
    if array is None or not array.size:
        return None
    finite = np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    scaled = np.round((finite - low) * (255 / (high - low if high > low else 1.0))).astype(np.uint8)
    return {
        "low": low,
        "high": high if math.isfinite(high) else 0.0,
        "rows": array.shape[0],
        "columns": array.shape[1],
        "bytes": base64.b64encode(scaled.tobytes()).decode(),
    }


@sockets.websocket("/machines/live")
async def live(socket: WebSocket) -> None:
    """State of all machines, and what one of them sounds like now, as it changes.

    The client may send the number of the machine it looks at.
    """
    house = socket.app.state.house
    try:
        house.guard.count(socket)
        house.guard.who(socket)
    except HTTPException as error:
        await socket.close(1008, str(error.detail)[:100])
        return
    if house.history is None or house.streams >= house.limits.streams:
        await socket.close(1013, "nothing to show")
        return
    await socket.accept()
    house.streams += 1
    try:
        await _show(socket, house.history)
    except (WebSocketDisconnect, RuntimeError):  # gone, or gone while it was told
        pass
    finally:
        house.streams -= 1


async def _show(socket: WebSocket, history: History) -> None:
    looked_at, shown = 0, -1.0
    asked: asyncio.Task[str] = asyncio.ensure_future(socket.receive_text())
    try:
        while True:
            done, _ = await asyncio.wait({asked}, timeout=_LOOK)
            if done:
                text = asked.result()
                looked_at, shown = (int(text) if text.isdigit() and len(text) < 18 else 0), -1.0
                asked = asyncio.ensure_future(socket.receive_text())
            states = await asyncio.to_thread(lambda: [_state(history, stream) for stream in history.streams()])
            message: dict[str, Any] = {"machines": states}
            heard = next((one["heard"] for one in states if one["id"] == looked_at), None)
            if heard is not None and heard != shown:
                message["latest"] = await asyncio.to_thread(_latest, history, looked_at)
                shown = heard
            await socket.send_json(message)
    finally:
        asked.cancel()
