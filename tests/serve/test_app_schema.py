"""Requests generated from the OpenAPI description: whatever is sent, no server error, and answers as described."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from served import make_store, running

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    store = make_store(tmp_path_factory.mktemp("schema"))
    with running(store.path) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


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


def test_every_operation_is_tried(described: Any) -> None:
    assert sorted(each.ok().label for each in described.get_all_operations()) == sorted(OPERATIONS)


@pytest.mark.slow
@pytest.mark.parametrize("label", OPERATIONS)
def test_generated_requests_are_answered_as_described(described: Any, label: str) -> None:
    operation = next(each.ok() for each in described.get_all_operations() if each.ok().label == label)

    @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def answered(case: Any) -> None:
        case.validate_response(case.call(), checks=CHECKS)

    answered()
