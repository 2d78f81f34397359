"""Requests generated from the OpenAPI description: whatever is sent, no server error, and answers as described."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from served import client, make_store, running

OPERATIONS = [
    "GET /search",
    "POST /search",
    "POST /predict",
    "POST /predict/batch",
    "POST /duplicates",
    "GET /items/{item_id}",
    "GET /picture",
    "GET /runs",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    import schemathesis

    store = make_store(tmp_path_factory.mktemp("schema"))
    with running(store.path) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_every_operation_is_tried(tmp_path: Path) -> None:
    with client(make_store(tmp_path).path) as web:
        paths = web.get("/openapi.json").json()["paths"]
    described = [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]
    assert sorted(described) == sorted(OPERATIONS)


@pytest.mark.slow
@pytest.mark.parametrize("label", OPERATIONS)
def test_generated_requests_are_answered_as_described(described: Any, label: str) -> None:
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    operation = next(each.ok() for each in described.get_all_operations() if each.ok().label == label)
    answers = (
        checks.content_type_conformance,
        checks.response_schema_conformance,
        checks.status_code_conformance,
    )

    @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def answered(case: Any) -> None:
        case.validate_response(case.call(), checks=[not_a_server_error, *answers])

    answered()
