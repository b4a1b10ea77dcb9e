"""Models and checkpoints on the wire."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from app.models.catalog import CatalogEntry
from app.models.tables import Checkpoint, CheckpointPermission, TunedModel


class ModelObject(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[ModelObject]


class ModelDeleted(TypedDict):
    id: str
    object: Literal["model"]
    deleted: bool


class CheckpointObject(TypedDict):
    id: str
    object: Literal["fine_tuning.job.checkpoint"]
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, float]
    step_number: int


class CheckpointList(TypedDict):
    object: Literal["list"]
    data: list[CheckpointObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class PermissionRequest(BaseModel):
    """The body of `POST …/permissions`: the projects that may use the checkpoint."""

    model_config = ConfigDict(strict=True, extra="forbid")

    project_ids: Annotated[list[str], Field(min_length=1, max_length=100)]


class PermissionObject(TypedDict):
    id: str
    object: Literal["checkpoint.permission"]
    created_at: int
    project_id: str


class PermissionList(TypedDict):
    object: Literal["list"]
    data: list[PermissionObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class PermissionDeleted(TypedDict):
    id: str
    object: Literal["checkpoint.permission"]
    deleted: bool


def base_model(entry: CatalogEntry) -> ModelObject:
    """A base model of the catalogue. The operator owns it; its age is not known."""
    return {"id": entry.id, "object": "model", "created": 0, "owned_by": "system"}


def tuned_model(model: TunedModel, organization_id: str) -> ModelObject:
    """A tuned model or checkpoint of the caller's project."""
    created = int(model.created_at.timestamp())
    return {"id": model.name, "object": "model", "created": created, "owned_by": organization_id}


def model(found: CatalogEntry | TunedModel, organization_id: str) -> ModelObject:
    """Either kind of model."""
    if isinstance(found, TunedModel):
        return tuned_model(found, organization_id)
    return base_model(found)


def deleted(name: str) -> ModelDeleted:
    return {"id": name, "object": "model", "deleted": True}


def checkpoint(row: Checkpoint, model_name: str) -> CheckpointObject:
    """A checkpoint of a job; `model_name` is what a client trains on or asks for."""
    return {
        "id": row.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": int(row.created_at.timestamp()),
        "fine_tuned_model_checkpoint": model_name,
        "fine_tuning_job_id": row.job_id,
        "metrics": row.metrics,
        "step_number": row.step,
    }


def permissions(rows: Sequence[CheckpointPermission], *, has_more: bool) -> PermissionList:
    """Permissions in the envelope that both the create and the list call answer with."""
    data = [_permission(row) for row in rows]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more}


def permission_deleted(permission_id: str) -> PermissionDeleted:
    return {"id": permission_id, "object": "checkpoint.permission", "deleted": True}


def _permission(row: CheckpointPermission) -> PermissionObject:
    created = int(row.created_at.timestamp())
    return {"id": row.id, "object": "checkpoint.permission", "created_at": created, "project_id": row.project_id}
