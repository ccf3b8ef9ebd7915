"""What Prometheus can fetch of the service."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import prometheus_client as prometheus
from fastapi import Request, Response


class Metrics:
    """Requests by route and status, their time, and clips judged."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "auscult_requests", "requests answered", ("route", "method", "status"), registry=self.registry
        )
        self.seconds = prometheus.Histogram(
            "auscult_request_seconds", "time to answer", ("route",), registry=self.registry
        )
        self.clips = prometheus.Counter("auscult_clips", "clips judged", ("model", "decision"), registry=self.registry)

    async def count(self, request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        """Middleware: answer a request, and count it."""
        began = time.perf_counter()
        response = await answer(request)
        route = getattr(request.scope.get("route"), "path", "none")  # not the path: it is the client's to choose
        method = request.method if request.method in ("GET", "HEAD", "POST", "DELETE") else "other"
        self.requests.labels(route, method, response.status_code).inc()
        self.seconds.labels(route).observe(time.perf_counter() - began)
        return response

    def text(self) -> bytes:
        """In Prometheus' format."""
        return prometheus.generate_latest(self.registry)
