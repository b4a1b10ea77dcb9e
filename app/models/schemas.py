"""Models and checkpoints on the wire."""

from typing import Any

from app.models.catalog import CatalogEntry
from app.models.tables import Checkpoint, TunedModel


def base_model(entry: CatalogEntry) -> dict[str, Any]:
    """A base model of the catalogue. The operator owns it; its age is not known."""
    return {"id": entry.id, "object": "model", "created": 0, "owned_by": "system"}


def tuned_model(model: TunedModel, organization_id: str) -> dict[str, Any]:
    """A tuned model or checkpoint of the caller's project."""
    created = int(model.created_at.timestamp())
    return {"id": model.name, "object": "model", "created": created, "owned_by": organization_id}


def model(found: CatalogEntry | TunedModel, organization_id: str) -> dict[str, Any]:
    """Either kind of model."""
    if isinstance(found, TunedModel):
        return tuned_model(found, organization_id)
    return base_model(found)


def deleted(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "deleted": True}


def checkpoint(row: Checkpoint, model_name: str) -> dict[str, Any]:
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
