"""The service: models over HTTP, and machines in a browser."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from auscult import __version__
from auscult.errors import AudioError, AuscultError
from auscult.model import Model
from auscult.monitor.history import History
from auscult.service.guard import Guard, SafeHeaders
from auscult.service.judging import Judges
from auscult.service.metrics import Metrics
from auscult.service.settings import Limits, Tokens


@dataclass
class House:
    """What requests share.

    Attributes
    ----------
    models : mapping of str to Model
        By name.
    history : History or None
    guard : Guard
    judges : Judges
    limits : Limits
    metrics : Metrics
    """

    models: Mapping[str, Model]
    history: History | None
    guard: Guard
    judges: Judges
    limits: Limits
    metrics: Metrics
    streams: int = 0

    def model(self, name: str) -> Model:
        """A model by name; never a path.

        Raises
        ------
        HTTPException
            404 if there is none.
        """
        if name not in self.models:
            raise HTTPException(404, f"there is no model of that name; there are {', '.join(self.models)}")
        return self.models[name]


def create_app(
    models: Mapping[str, Model],
    *,
    history: Path | None = None,
    tokens: Tokens = Tokens(),
    limits: Limits = Limits(),
) -> FastAPI:
    """Make the service.

    Parameters
    ----------
    models : mapping of str to Model
        By the name that requests use.
    history : Path, optional
        What `auscult monitor` keeps, for the dashboard; made if it is not there yet.
    tokens : Tokens
        None for a service that only this computer can reach.
    limits : Limits

    Returns
    -------
    FastAPI

    Raises
    ------
    AuscultError
        If the history cannot be opened.
    """
    from auscult.service import dashboard, machines, scoring

    held = History(history) if history is not None else None
    house = House(models, held, Guard(tokens, limits), Judges(limits), limits, Metrics())

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        house.judges.close()
        if held is not None:
            held.close()

    app = FastAPI(
        title="auscult",
        version=__version__,
        description="Hears when a machine is failing.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages fetch scripts from elsewhere; dashboard.py has one that does not
        redoc_url=None,
        openapi_url=None,
    )
    app.state.house = house
    for part in (scoring, machines, dashboard):
        app.include_router(part.router)
    app.add_middleware(SafeHeaders)
    app.middleware("http")(house.metrics.count)
    _say_errors(app)
    return app


def _say_errors(app: FastAPI) -> None:
    """Every failure is JSON of the same form: what is wrong, and how to mend it."""

    @app.exception_handler(StarletteHTTPException)
    async def refused(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def wrong(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"error": f"{where}: {first['msg']}".lstrip(": ")}, 422)

    @app.exception_handler(AudioError)
    async def unheard(_: Request, error: AudioError) -> JSONResponse:
        return JSONResponse({"error": error.what, "remedy": error.remedy}, 422)

    @app.exception_handler(AuscultError)
    async def impossible(_: Request, error: AuscultError) -> JSONResponse:
        return JSONResponse({"error": error.what, "remedy": error.remedy}, 400)
