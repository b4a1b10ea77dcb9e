"""The document at /openapi.json says what is served: every route, its body, its reply and its errors."""

import re
from typing import Any

import pytest

from app.main import PUBLIC_PATHS, create_app

DOCUMENT: dict[str, Any] = create_app().openapi()
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}


def needs_key(name: str) -> bool:
    return name.split()[1] not in PUBLIC_PATHS


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_says_what_it_answers(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation["description"]
    assert all(content["schema"] for content in operation["responses"]["200"]["content"].values())
    assert "422" not in operation["responses"]
    assert {"500", "503"} <= operation["responses"].keys()
    assert ("401" in operation["responses"]) == ("security" in operation) == needs_key(name)
    assert ("404" in operation["responses"]) == ("{" in name or name == "GET /v1/files")


@pytest.mark.parametrize("name", [name for name in OPERATIONS if needs_key(name)])
def test_every_operation_says_which_scope_it_needs(name: str) -> None:
    assert re.search(r"Needs a key with the scope `(\w+:(read|write|run)|admin)`", OPERATIONS[name]["description"])


def test_a_body_is_described_where_one_is_read() -> None:
    body = OPERATIONS["POST /v1/fine_tuning/jobs"]["requestBody"]
    assert body["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/JobRequest"}
    properties = DOCUMENT["components"]["schemas"]["JobRequest"]["properties"]
    assert {"model", "training_file", "method", "hyperparameters"} <= properties.keys()
    form = OPERATIONS["POST /v1/files"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["file", "purpose"]


def test_paging_parameters_are_described() -> None:
    named = {parameter["name"]: parameter for parameter in OPERATIONS["GET /v1/files"]["parameters"]}
    assert {"limit", "after", "order", "purpose"} <= named.keys()
    assert named["limit"]["schema"]["maximum"] == 10_000


def test_a_stream_is_described_by_one_of_its_events() -> None:
    operation = OPERATIONS["GET /v1/fine_tuning/jobs/{job_id}/events"]
    schema = operation["responses"]["200"]["content"]["text/event-stream"]["schema"]
    assert schema["properties"]["data"]["contentSchema"] == {"$ref": "#/components/schemas/EventObject"}
    assert "Last-Event-ID" in {parameter["name"] for parameter in operation["parameters"]}


def test_references_lead_somewhere() -> None:
    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            found = [value["$ref"]] if "$ref" in value else []
            return found + [ref for item in value.values() for ref in references(item)]
        return [ref for item in value for ref in references(item)] if isinstance(value, list) else []

    known = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert set(references(DOCUMENT)) <= known
