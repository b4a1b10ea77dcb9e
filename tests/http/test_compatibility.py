"""docs/compatibility.md names every route and every field: what is served, what differs and why, what is absent.

Its tables of paths are those whose first column is `path`, its tables of fields those whose first column is `field`,
under the name of a schema of /openapi.json. A cell of the first column may name several.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from openai import types
from openai.types import fine_tuning, graders, uploads, webhooks
from openai.types.fine_tuning import alpha, checkpoints, fine_tuning_job, jobs
from openai.types.fine_tuning.alpha import grader_run_response
from openai.types.graders import score_model_grader
from pydantic import BaseModel

from app.http.routing import all_routes
from app.jobs import failures
from app.main import PUBLIC_PATHS, create_app

PAGE = (Path(__file__).parent.parent.parent / "docs" / "compatibility.md").read_text("utf-8")
WORDS = {"served", "differs", "absent", "ours"}
DOCUMENT: dict[str, Any] = create_app().openapi()
SCHEMAS: dict[str, set[str]] = {
    name: set(schema.get("properties", {})) for name, schema in DOCUMENT["components"]["schemas"].items()
}
# Schemas of what OpenAI does not have, or has in another form altogether: docs of their own tell of them.
ELSEWHERE = re.compile(
    "Admin|NewAdmin|Audit|Key|NewKey|Limits|Project|ServiceAccount|Usage|Used|Delivery|Attempt|Health|Readiness|Deleted$"
)
# What OpenAI's client knows of an object or of a request.
CLIENTS: dict[str, type] = {
    "FileObject": types.FileObject,
    "FileDeleted": types.FileDeleted,
    "UploadObject": types.Upload,
    "PartObject": uploads.UploadPart,
    "UploadRequest": types.UploadCreateParams,
    "Completion": types.UploadCompleteParams,
    "JobObject": fine_tuning.FineTuningJob,
    "JobError": fine_tuning_job.Error,
    "Method": fine_tuning_job.Method,
    "JobRequest": fine_tuning.JobCreateParams,
    "EventObject": fine_tuning.FineTuningJobEvent,
    "CheckpointObject": jobs.FineTuningJobCheckpoint,
    "OpenAIHyperparameters": fine_tuning.SupervisedHyperparameters,
    "DpoHyperparameters": fine_tuning.DpoHyperparameters,
    "ReinforcementHyperparameters": fine_tuning.ReinforcementHyperparameters,
    "ReinforcementMethod": fine_tuning.ReinforcementMethod,
    "Wandb": fine_tuning.FineTuningJobWandbIntegration,
    "PermissionObject": checkpoints.PermissionCreateResponse,
    "PermissionDeleted": checkpoints.PermissionDeleteResponse,
    "PermissionRequest": checkpoints.PermissionCreateParams,
    "GraderRunRequest": alpha.GraderRunParams,
    "ValidatedGrader": alpha.GraderValidateResponse,
    "GradingResult": alpha.GraderRunResponse,
    "GradingMetadata": grader_run_response.Metadata,
    "GradingErrors": grader_run_response.MetadataErrors,
    "StringCheckGrader": graders.StringCheckGrader,
    "TextSimilarityGrader": graders.TextSimilarityGrader,
    "PythonGrader": graders.PythonGrader,
    "ScoreModelGrader": graders.ScoreModelGrader,
    "LabelModelGrader": graders.LabelModelGrader,
    "MultiGrader": graders.MultiGrader,
    "GraderMessage": score_model_grader.Input,
    "SamplingParams": score_model_grader.SamplingParams,
    "ModelObject": types.Model,
    "ModelDeleted": types.ModelDeleted,
    "EndpointObject": webhooks.WebhookEndpoint,
    "EndpointWithSecret": webhooks.WebhookEndpointWithSecret,
    "EndpointDeleted": webhooks.DeletedWebhookEndpoint,
    "EndpointTestResult": webhooks.WebhookEndpointTestResult,
    "EndpointRequest": webhooks.WebhookCreateParams,
    "EndpointUpdate": webhooks.WebhookUpdateParams,
    "EndpointTest": webhooks.WebhookTestParams,
    "SecretRotation": webhooks.WebhookRotateSecretParams,
}


@dataclass(frozen=True)
class Row:
    """One name of the first column, with the rest of its row."""

    name: str
    word: str
    notes: str


def tables(first: str) -> Iterator[tuple[str, list[list[str]]]]:
    """Every table whose first column has this name: the last line before it, and its rows."""
    above, rows, inside = "", [], False
    for line in [*PAGE.splitlines(), ""]:
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            inside = inside or cells[0] == first
            rows.append(cells)
            continue
        if rows and inside:
            yield above, rows[2:]
        rows, inside, above = [], False, line.strip() or above
    assert not rows


def named(rows: list[list[str]]) -> list[Row]:
    return [Row(name, row[1], row[2]) for row in rows for name in re.findall(r"`([^`]+)`", row[0])]


PATHS = [row for _, rows in tables("path") for row in named(rows)]
FIELDS = {above.strip("`"): named(rows) for above, rows in tables("field")}


def fields(known: type) -> set[str]:
    """The names on the wire of what a type of the client holds."""
    if issubclass(known, BaseModel):
        return {field.alias or name for name, field in known.model_fields.items()}
    return set(get_type_hints(known))


def described() -> set[str]:
    return {name for name in SCHEMAS if not ELSEWHERE.match(name)}


def test_every_row_has_a_word_and_says_why() -> None:
    rows = PATHS + [row for fields in FIELDS.values() for row in fields]
    assert len(rows) > 250
    assert {row.word for row in rows} == WORDS
    assert [row.name for row in rows if row.word in {"differs", "absent"} and not row.notes] == []


def test_every_row_of_behaviour_says_what_is_done_here() -> None:
    rows = [row for first in ("matter", "message", "reply") for _, rows in tables(first) for row in rows]
    assert len(rows) > 80
    assert [row for row in rows if len(row) != 3 or not row[0] or not row[2]] == []


def test_the_paths_are_those_of_the_route_table() -> None:
    served = [row.name for row in PATHS if row.word != "absent"]
    table = {
        f"{method} {route.path.removeprefix('/v1').replace(':path', '')}"
        for route in all_routes(create_app().routes)
        for method in route.methods
        if route.path not in PUBLIC_PATHS
    }
    assert len(served) == len(set(served))
    assert set(served) == table
    assert not {row.name for row in PATHS if row.word == "absent"} & table


def test_every_schema_has_its_table() -> None:
    assert FIELDS.keys() == described()


@pytest.mark.parametrize("schema", sorted(FIELDS))
def test_the_fields_are_those_of_the_schema(schema: str) -> None:
    served = [row.name for row in FIELDS[schema] if row.word != "absent"]
    assert len(served) == len(set(served))
    assert set(served) == SCHEMAS[schema]
    assert not {row.name for row in FIELDS[schema] if row.word == "absent"} & SCHEMAS[schema]


@pytest.mark.parametrize("schema", sorted(CLIENTS))
def test_no_field_that_the_client_knows_is_missing(schema: str) -> None:
    theirs = fields(CLIENTS[schema])
    told = {row.name: row.word for row in FIELDS[schema]}
    assert theirs
    assert theirs <= told.keys()
    assert {told[name] for name in theirs} <= {"served", "differs", "absent"}
    assert {name for name in told if told[name] == "ours"} & theirs == set()


def test_every_code_of_a_failed_job_is_named() -> None:
    (row,) = (row for _, rows in tables("matter") for row in rows if row[0].startswith("`error.code`"))
    codes = set(re.findall(r"`([a-z_]+)`", row[1] + row[2]))
    assert {failure.code for failure in failures.TABLE.values()} <= codes
