"""The service against its own description: requests made from it, answers held against it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.serving.live import Live

schemathesis = pytest.importorskip("schemathesis")

EXAMPLES = 6
CHECKED = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("POST", "/v1/feedback"),
    ("DELETE", "/v1/feedback/{feedback_id}"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("GET", "/admin/models"),
    ("POST", "/admin/models/canary"),
    ("POST", "/admin/models/switch"),
    ("GET", "/health"),
]


@pytest.fixture(scope="module")
def described(live: Live) -> Any:
    return schemathesis.openapi.from_url(f"{live.url}/openapi.json")


def test_the_description_is_whole(live: Live) -> None:
    with live.client() as client:
        described = client.get("/openapi.json").json()
    operations = {(verb.upper(), path) for path, item in described["paths"].items() for verb in item}
    assert operations >= set(CHECKED)
    for path, item in described["paths"].items():
        for operation in item.values():
            assert "422" not in operation["responses"], path
    assert "HTTPValidationError" not in described["components"]["schemas"]
    chat = described["components"]["schemas"]["ChatRequest"]
    assert chat["additionalProperties"] is False and "temperature" in chat["properties"]


@pytest.mark.parametrize(
    ("verb", "path", "mode"),
    [(*one, mode) for one in CHECKED for mode in ("positive", "negative") if one[0] == "POST" or mode == "positive"],
)
def test_what_is_made_from_the_description_is_answered_by_it(
    live: Live, described: Any, verb: str, path: str, mode: str
) -> None:
    """Requests that follow the description and requests that break it: every answer is one that it tells of, no field
    that it does not know is taken, and nothing fails inside."""
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks as openapi

    operation = described[path][verb]
    wanted = GenerationMode(mode)
    checks = [
        not_a_server_error,
        openapi.status_code_conformance,
        openapi.content_type_conformance,
        openapi.response_schema_conformance,
        openapi.negative_data_rejection,
    ]

    @given(case=operation.as_strategy(generation_mode=wanted))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def run(case: Any) -> None:
        if wanted is GenerationMode.POSITIVE and isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "tiny"  # one that is there: what follows would not be reached otherwise
        response = case.call()
        if response.status_code != 413:  # too large to be looked into is refused as well
            case.validate_response(response, checks=checks)

    run()
    assert live.quiet()
