"""The pages for people: the dashboard at /, a page to log in, the list of requests."""

from __future__ import annotations

import html
from importlib import resources
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from auscult.service.guard import SESSION, receive_body
from auscult.service.machines import sockets
from auscult.service.scoring import known
from auscult.service.settings import Limits

router = APIRouter(include_in_schema=False)
router.include_router(sockets)

_KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
# Read once, by name: no request leads to a path.
_FILES = {
    file.name: file.read_bytes()
    for file in resources.files("auscult.service").joinpath("static").iterdir()
    if file.name.rpartition(".")[2] in _KINDS
}
_LOGIN_COST = 20.0
"""As much as so many requests: guessing is slow."""


def _static(name: str) -> Response:
    if name not in _FILES:
        raise HTTPException(404, "there is no such page")
    return Response(_FILES[name], media_type=_KINDS[name.rpartition(".")[2]])


@router.get("/")
async def dashboard(request: Request) -> Response:
    """Machines, scores, alarms."""
    guard = request.app.state.house.guard
    try:
        guard.who(request)
    except HTTPException as error:
        if error.status_code != 401:
            raise
        return RedirectResponse("/login", 303)
    return _static("index.html")


@router.get("/static/{name}")
async def static(name: str) -> Response:
    """What the pages consist of."""
    return _static(name)


@router.get("/login")
async def login_page() -> Response:
    """Where a browser gives its token."""
    return _static("login.html")


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Give a token, get a session."""
    guard = request.app.state.house.guard
    guard.same_site(request)
    guard.count(request, _LOGIN_COST)
    body = await receive_body(request, Limits(upload_bytes=4096, receive_seconds=5.0))
    token = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]
    answer = RedirectResponse("/", 303)
    secure = request.url.scheme == "https"
    answer.set_cookie(SESSION, guard.log_in(token), httponly=True, samesite="strict", secure=secure, path="/")
    return answer


@router.post("/logout")
async def log_out(request: Request) -> Response:
    """Forget the session."""
    guard = request.app.state.house.guard
    guard.same_site(request)
    guard.log_out(request.cookies.get(SESSION, ""))
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(SESSION)
    return answer


Asker = Annotated[str, Depends(known)]


@router.get("/openapi.json")
async def openapi(request: Request, _: Asker) -> JSONResponse:
    """The requests, for programs."""
    return JSONResponse(request.app.openapi())


@router.get("/docs")
async def docs(request: Request, _: Asker) -> HTMLResponse:
    """The requests, for people: FastAPI's own page would fetch scripts from elsewhere."""
    schema = request.app.openapi()
    parts = [_request(path, method, facts) for path, how in schema["paths"].items() for method, facts in how.items()]
    head = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>auscult: requests</title>'
    style = '<link rel="stylesheet" href="/static/style.css"></head>'
    begin = '<body class="page"><h1>Requests</h1><p>For programs: <a href="/openapi.json">openapi.json</a></p>'
    return HTMLResponse(f"{head}{style}{begin}{''.join(parts)}</body></html>")


def _request(path: str, method: str, facts: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{html.escape(p['name'])}</code></td><td>{html.escape(p.get('description', ''))}</td></tr>"
        for p in facts.get("parameters", [])
    )
    body = ", ".join(facts.get("requestBody", {}).get("content", {}))
    answers = ", ".join(
        f"{status} {html.escape(answer.get('description', ''))}" for status, answer in facts["responses"].items()
    )
    return (
        f"<section class='panel'><h2><code>{method.upper()} {html.escape(path)}</code></h2>"
        f"<p>{html.escape(facts.get('description', ''))}</p><table>{rows}</table>"
        f"{f'<p>Body: <code>{html.escape(body)}</code></p>' if body else ''}<p class='quiet'>{answers}</p></section>"
    )
