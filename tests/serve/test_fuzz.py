"""schemathesis sends what the OpenAPI document allows and what it forbids; no answer is a server error."""

from __future__ import annotations

import contextlib
import os

import hypothesis
import pytest
import schemathesis
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SETTINGS = hypothesis.settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", 4)), suppress_health_check=list(hypothesis.HealthCheck)
)


schemathesis.serializer.alias("application/sdp", "text/plain")


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_request_is_a_server_error(service, stopped, mode):
    api = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    for result in api.get_all_operations():
        operation = result.ok()
        if mode is GenerationMode.NEGATIVE and not (operation.query or operation.body):
            continue  # any text is allowed as an ID or a header, and the search for another takes long

        @SETTINGS
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def check(case):
            case.call_and_validate(checks=CHECKS)

        with contextlib.suppress(Unsatisfiable):  # nothing is forbidden
            check()
    for video in service.client.get("/v1/videos", params={"limit": 100}).json()["data"]:
        service.client.delete(f"/v1/videos/{video['id']}")
