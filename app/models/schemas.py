"""Models and checkpoints on the wire."""

from typing import Literal

from typing_extensions import TypedDict

from app.models.catalog import CatalogEntry
from app.models.tables import Checkpoint, TunedModel


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
