"""Requests that judge: health, models, clips one by one and many, maps, a live stream."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from auscult import __version__
from auscult.corpus import Clip
from auscult.errors import AudioError, AuscultError
from auscult.model import Model
from auscult.monitor.events import Event
from auscult.monitor.rules import Thresholds
from auscult.monitor.sinks import Calls
from auscult.monitor.source import PCM, Chunk
from auscult.monitor.watch import Watch, WatchSettings
from auscult.service.guard import receive_body

router = APIRouter()

MachineName = Annotated[str | None, Query(max_length=100, description="for models that tell machines apart")]
_AUDIO: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A WAV, FLAC, OGG or MP3 file.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_CLIPS: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"clips": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            }
        },
    }
}
_LONGEST_SILENCE = 60.0
"""Seconds after which a stream that sends nothing makes room for another."""

_MOST_SAMPLES_AT_ONCE = 4 * 2**20


def said(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What else a request may be answered with, for the OpenAPI page."""
    meanings = {
        400: "the request cannot be met", 401: "no token, or a wrong one", 403: "asked by another site's page",
        404: "there is none", 408: "it came too slowly", 413: "it is too large", 422: "it cannot be judged",
        429: "too many requests", 503: "too much to do now",
    }  # fmt: skip
    return {status: {"description": meanings[status]} for status in (401, 403, 429, *statuses)}


def known(request: Request) -> str:
    """Dependency: who asks; counted."""
    guard = request.app.state.house.guard
    guard.count(request)
    return str(guard.who(request))


Known = Depends(known)


@router.get("/health")
async def health() -> dict[str, str]:
    """Whether the service is there."""
    return {"status": "ok", "version": __version__}


@router.get("/metrics", dependencies=[Known], responses=said())
async def metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    return Response(request.app.state.house.metrics.text(), media_type="text/plain; version=0.0.4")


@router.get("/v1/models", dependencies=[Known], responses=said())
async def models(request: Request) -> list[dict[str, Any]]:
    """Every model, with its calibration."""
    return [_summary(name, model) for name, model in request.app.state.house.models.items()]


@router.get("/v1/models/{name}", dependencies=[Known], responses=said(404))
async def model(request: Request, name: str) -> dict[str, Any]:
    """One model: calibration, settings, front end, and what it learnt from."""
    found: Model = request.app.state.house.model(name)
    facts = {key: value for key, value in found.provenance.items() if key != "training"}
    # How many clips, and their names, but no folders: these are nobody's business.
    for key in ("training_clips", "calibration_clips"):
        facts[key] = [str(path).replace("\\", "/").rsplit("/", 1)[-1] for path in facts.get(key, [])]
    return {
        **_summary(name, found),
        "settings": found.detector.config.model_dump(mode="json"),
        "front_end": found.detector.front_end.model_dump(mode="json"),
        "calibration_scores": found.calibration.scores.tolist(),
        "provenance": facts,
    }


def _summary(name: str, model: Model) -> dict[str, Any]:
    calibration = model.calibration
    return {
        "name": name,
        "detector": model.detector.name,
        "paper": model.detector.paper,
        "machines": model.provenance.get("machines", []),
        "clip_seconds": model.provenance.get("clip_seconds"),
        "false_alarm_rate": calibration.false_alarm_rate,
        "threshold": calibration.threshold,
        "promise": calibration.promise,
        "n_calibration_clips": calibration.n,
    }


@router.post(
    "/v1/models/{name}/score",
    dependencies=[Known],
    openapi_extra=_AUDIO,
    responses=said(404, 408, 413, 422, 503),
)
async def score(
    request: Request, name: str, machine_type: MachineName = None, machine_id: MachineName = None
) -> dict[str, Any]:
    """Judge one clip: score, p-value, decision."""
    house = request.app.state.house
    found, clip = await _received(request, name, machine_type, machine_id)
    verdict: dict[str, Any] = await house.judges.score(found, clip)
    house.metrics.clips.labels(name, verdict["decision"]).inc()
    return verdict


@router.post(
    "/v1/models/{name}/map",
    dependencies=[Known],
    openapi_extra=_AUDIO,
    responses={**said(404, 408, 413, 422, 503), 200: {"content": {"image/png": {}}}},
    response_model=None,
)
async def anomaly_map(
    request: Request,
    name: str,
    format: Literal["png", "json"] = "png",
    machine_type: MachineName = None,
    machine_id: MachineName = None,
) -> Response:
    """Where one clip is strange: the picture of `auscult explain`, or log-mel and map in numbers."""
    judges = request.app.state.house.judges
    found, clip = await _received(request, name, machine_type, machine_id)
    if format == "png":
        return Response(await judges.picture(found, clip), media_type="image/png")
    return JSONResponse(await judges.map(found, clip))


@router.post(
    "/v1/models/{name}/batch", dependencies=[Known], openapi_extra=_CLIPS, responses=said(400, 404, 408, 413, 422, 503)
)
async def batch(
    request: Request, name: str, machine_type: MachineName = None, machine_id: MachineName = None
) -> list[dict[str, Any]]:
    """Judge several clips, as files of a form; one that cannot be judged does not stop the others."""
    from auscult.service.judging import failure

    house = request.app.state.house
    found: Model = house.model(name)
    machine = found.machine(machine_type, machine_id)
    answers = []
    for number, data in enumerate(await _files(request)):
        called = f"clip {number + 1}"
        house.guard.count(request)
        try:
            clip = await house.judges.clip(found, data, called, machine)
            answers.append(await house.judges.score(found, clip))
        except AudioError as error:
            answers.append(failure(called, error))
        house.metrics.clips.labels(name, answers[-1]["decision"]).inc()
    return answers


async def _received(request: Request, name: str, kind: str | None, number: str | None) -> tuple[Model, Clip]:
    house = request.app.state.house
    found: Model = house.model(name)
    data = await receive_body(request, house.limits)
    return found, await house.judges.clip(found, data, "clip", found.machine(kind, number))


class _InMemory(MultiPartParser):
    spool_max_size = 2**40
    """No upload is ever written to a file; the whole body is limited already."""


async def _files(request: Request) -> list[bytes]:
    """The files of a form."""
    limits = request.app.state.house.limits
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise HTTPException(400, "send the clips as files of a form: multipart/form-data")
    body = await receive_body(request, limits)

    async def stream() -> Any:
        yield body

    try:
        form = await _InMemory(request.headers, stream(), max_files=limits.batch, max_fields=limits.batch).parse()
    except (MultiPartException, KeyError, ValueError, AssertionError) as error:
        raise HTTPException(400, f"that is no form: {error}"[:200]) from error
    files = [await item.read() for _, item in form.multi_items() if isinstance(item, UploadFile)]
    await form.close()
    if not files:
        raise HTTPException(400, "there is no file in the form")
    return files


# A live stream ------------------------------------------------------------------------------------------


@router.websocket("/v1/models/{name}/stream")
async def stream(socket: WebSocket, name: str, pcm: str = "16000:1:s16le", hop: float = 1.0) -> None:
    """Raw samples in, as binary messages; what `auscult monitor --json` would say out, as text."""
    house = socket.app.state.house
    try:
        house.guard.count(socket)
        house.guard.who(socket)
        found, form = house.model(name), PCM.parse(pcm)
        if house.streams >= house.limits.streams:
            raise HTTPException(503, "too many streams")
        if not 0.1 <= hop <= 60:
            raise HTTPException(422, "a hop is between 0.1 and 60 s")
        events: list[Event] = []
        settings = WatchSettings(name, hop=hop, clip=found.machine(), thresholds=Thresholds(), show=False)
        watch = Watch(found, settings, sinks=[Calls(events.append)], live=False)
    except (HTTPException, AuscultError) as error:
        await socket.close(1008, str(getattr(error, "detail", error))[:100])
        return
    await socket.accept()
    house.streams += 1
    try:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await _talk(socket, house, watch, form, events)
    finally:
        house.streams -= 1


async def _talk(socket: WebSocket, house: Any, watch: Watch, form: PCM, events: list[Event]) -> None:
    first, rest = True, b""
    while True:
        try:
            message = await asyncio.wait_for(socket.receive(), _LONGEST_SILENCE)
        except TimeoutError:
            await socket.close(1001, "nothing came")
            return
        if message["type"] == "websocket.disconnect":
            return
        data = rest + (message.get("bytes") or b"")
        if len(data) > _MOST_SAMPLES_AT_ONCE:
            await socket.close(1009, "send less at once")
            return
        whole = len(data) // form.frame_bytes * form.frame_bytes
        rest = data[whole:]
        if not whole:
            continue
        chunk = Chunk(form.decode(data[:whole]), form.rate, begins=first)
        first = False
        try:
            await house.judges.work(lambda chunk=chunk: watch.hear(chunk), house.limits.score_seconds)
        except HTTPException as error:
            await socket.close(1013, str(error.detail)[:100])
            return
        for event in events:
            await socket.send_text(json.dumps(event.facts(), allow_nan=False))
        events.clear()
