"""Requests drawn from our own OpenAPI document, valid and invalid ones, never make the server fail."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.errors import FailureGroup
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from holdfast.serving.app import create_app
from holdfast.serving.config import Settings
from tests.serving.server import Server

EXAMPLES = 8
PHASES = [Phase.explicit, Phase.generate]
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return create_app(Settings(data_dir=tmp_path_factory.mktemp("schema"))).openapi()


@pytest.fixture(scope="module")
def schema(document: dict[str, Any], server: Server) -> Any:
    """Our document, with the running server behind it."""
    loaded = schemathesis.openapi.from_dict(document)
    loaded.config.update(base_url=server.url)
    return loaded


def test_every_route_describes_its_errors(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert {"200", "4XX", "5XX"} <= set(operation["responses"]), (method, path)
            assert operation["summary"], (method, path)


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_drawn_request_makes_the_server_fail(schema: Any, mode: GenerationMode) -> None:
    faults = []
    for result in schema.get_all_operations():
        operation = result.ok()
        if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query):
            continue  # an id is a string, and every string may be one

        @settings(max_examples=EXAMPLES, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def call(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS, timeout=60)

        try:
            call()
        except FailureGroup as group:
            faults.append(f"{operation.label}: {group}")
    assert not faults, "\n\n".join(faults)
