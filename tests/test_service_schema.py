"""Whatever a request may look like by the OpenAPI page, or just not, the service does not fail."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

import auscult
from auscult.monitor.history import History, Raised
from auscult.service.app import create_app
from auscult.service.settings import Limits, Tokens

TOKEN = "a-token-of-many-characters"
ALL = list(HealthCheck)


@pytest.fixture(scope="module")
def page(fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("history") / "h.sqlite"
    with History(path) as held:
        stream = held.stream("pump", model="m", identity="i", facts={})
        held.add_score(stream, 1.0, 2.0, 0.5, quiet=True)
        held.raise_alarm(stream, Raised("threshold", 1.0, 2.0, 0.1, "x"))
    app = create_app(
        {"knn": auscult.load(fitted / "knn.auscult")},
        history=path,
        tokens=Tokens().with_token("test", TOKEN),
        limits=Limits(requests_a_minute=10**9),
    )
    yield schemathesis.openapi.from_asgi("/openapi.json", app, headers={"Authorization": f"Bearer {TOKEN}"})
    app.state.house.judges.close()


def try_every_request(page: Any, examples: int) -> None:
    """Requests as schemathesis makes them up, valid and not; its own plugin lags behind pytest's releases."""
    statuses = Counter[int]()
    for result in page.get_all_operations():
        operation = result.ok()
        for mode in schemathesis.GenerationMode:

            @settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=ALL)
            @given(case=operation.as_strategy(generation_mode=mode))
            def no_failure(case: schemathesis.Case) -> None:
                answer = case.call(headers={"Authorization": f"Bearer {TOKEN}"})
                statuses[answer.status_code] += 1
                assert answer.status_code < 500, (case.as_curl_command(), answer.text)

            with contextlib.suppress(Unsatisfiable):  # where there is nothing that could be wrong
                no_failure()
    assert statuses[200] > examples
    assert statuses[422] > examples
    assert not statuses[401] + statuses[403]


def test_no_request_breaks_the_service(page: Any) -> None:
    try_every_request(page, 5)


@pytest.mark.slow
def test_no_request_of_many_breaks_the_service(page: Any) -> None:
    try_every_request(page, 200)
