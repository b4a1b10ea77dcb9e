"""Fine-tuning jobs on the wire: the body of a create, and the job object."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError
from sqlalchemy import Row
from typing_extensions import TypedDict

from app.jobs import states
from app.jobs.errors import InvalidFilter
from app.jobs.hyperparameters import (
    OPENAI_NAMES,
    DpoHyperparameters,
    Hyperparameters,
    OpenAIHyperparameters,
    ReinforcementHyperparameters,
)
from app.jobs.tables import Job


def _with_short_keys(metadata: dict[str, str]) -> dict[str, str]:
    for key in metadata:
        if len(key) > 64:
            raise PydanticCustomError("key_too_long", "Keys must have at most 64 characters")
    return metadata


Metadata = Annotated[
    dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16), AfterValidator(_with_short_keys)
]


class _Block(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class SupervisedMethod(_Block):
    hyperparameters: Hyperparameters | None = None


class DpoMethod(_Block):
    hyperparameters: DpoHyperparameters | None = None


class ReinforcementMethod(_Block):
    grader: dict[str, Any]
    hyperparameters: ReinforcementHyperparameters | None = None
    response_format: dict[str, Any] | None = None


class Method(_Block):
    """How to train. A block that `type` does not choose is checked for its shape and ignored."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: SupervisedMethod | None = None
    dpo: DpoMethod | None = None
    reinforcement: ReinforcementMethod | None = None


WandbName = Annotated[str, Field(min_length=1, max_length=128)]


class Wandb(_Block):
    project: WandbName
    name: WandbName | None = None
    entity: WandbName | None = None
    tags: Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=50)] | None = None


class Integration(_Block):
    type: Literal["wandb"]
    wandb: Wandb


class JobRequest(_Block):
    """The body of `POST /fine_tuning/jobs`. An explicit null is the same as leaving the field out."""

    model: str
    training_file: str
    validation_file: str | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] | None = None
    method: Method | None = None
    hyperparameters: OpenAIHyperparameters | None = None
    integrations: Annotated[list[Integration], Field(max_length=5)] | None = None
    metadata: Metadata | None = None


Status = Annotated[str, WithJsonSchema({"type": "string", "enum": list(states.ALL)})]


class JobError(TypedDict):
    code: str
    message: str
    param: str | None


class JobObject(TypedDict):
    id: str
    object: Literal["fine_tuning.job"]
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    status: Status
    model: str
    fine_tuned_model: str | None
    organization_id: str
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    seed: int
    error: JobError | None
    integrations: list[dict[str, Any]] | None
    metadata: dict[str, str] | None
    user_provided_suffix: str | None


class JobList(TypedDict):
    object: Literal["list"]
    data: list[JobObject]
    has_more: bool


def integration(asked: Integration, job_id: str) -> dict[str, Any]:
    """An integration as it is kept and echoed: as asked, with the id of the run, which is the job's."""
    return {"type": asked.type, "wandb": asked.wandb.model_dump(exclude_none=True) | {"run_id": job_id}}


def job(row: Job | Row[Any], organization_id: str) -> JobObject:
    """The job object, in the shape that OpenAI's client accepts in strict mode."""
    hyperparameters = row.resolved or row.request
    return {
        "id": row.id,
        "object": "fine_tuning.job",
        "created_at": int(row.created_at.timestamp()),
        "finished_at": _seconds(row.finished_at),
        "estimated_finish": _seconds(row.estimated_finish) if row.status == states.RUNNING else None,
        "status": row.status,
        "model": row.model,
        "fine_tuned_model": row.fine_tuned_model,
        "organization_id": organization_id,
        "training_file": row.training_file,
        "validation_file": row.validation_file,
        "result_files": [row.result_file] if row.result_file else [],
        "trained_tokens": row.trained_tokens if row.status == states.SUCCEEDED else None,
        "hyperparameters": {name: hyperparameters[name] for name in OPENAI_NAMES},
        "method": {"type": row.method, row.method: {"hyperparameters": hyperparameters}},
        "seed": row.seed,
        "error": cast("JobError | None", row.error),
        "integrations": row.integrations,
        "metadata": row.user_metadata,
        "user_provided_suffix": row.suffix,
    }


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


def metadata_filter(query: Iterable[tuple[str, str]]) -> dict[str, str] | None:
    """The pairs of `metadata[key]=value` in a query string, or None for `metadata=null`. Raises InvalidFilter.

    A job must have every pair; without any, every job passes.
    """
    pairs: list[tuple[str, str]] = []
    only_without = False
    for name, value in query:
        if name.startswith("metadata[") and name.endswith("]"):
            pairs.append((name[len("metadata[") : -1], value))
        elif name == "metadata":
            if value != "null":
                raise InvalidFilter
            only_without = True
    wanted = dict(pairs)
    if (pairs and only_without) or len(pairs) > 16 or len(wanted) < len(pairs):
        raise InvalidFilter
    if any("\0" in text for pair in pairs for text in pair):
        raise InvalidFilter
    return None if only_without else wanted
