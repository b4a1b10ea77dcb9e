"""`/v1/models`: the base models on this server and the tuned ones; `/v1/fine_tuning/checkpoints`: who may use those."""

from typing import Annotated

from fastapi import APIRouter, Depends

from app import db
from app.audit import service as audit
from app.audit.actions import Action
from app.auth.deps import Admin, Caller, requires
from app.auth.scopes import Scope
from app.http import paging
from app.http.body import json_body
from app.http.deps import CurrentSettings
from app.http.once import Once
from app.http.replies import JSONResponse
from app.models import permissions, schemas, service
from app.models.deps import CurrentCatalog

router = APIRouter(prefix="/v1/models", tags=["models"])
checkpoints_router = APIRouter(prefix="/v1/fine_tuning/checkpoints", tags=["fine-tuning"])

Reader = Annotated[Caller, requires(Scope.MODELS_READ)]
Writer = Annotated[Caller, requires(Scope.MODELS_WRITE)]
PermissionReader = Annotated[Caller | Admin, requires(Scope.MODELS_READ, or_admin=True)]
PermissionWriter = Annotated[Caller | Admin, requires(Scope.MODELS_WRITE, or_admin=True)]
PermissionLimit = Annotated[int, Depends(paging.limit(default=10, most=1000))]
Ascending = Annotated[bool, Depends(paging.spelled_out_order)]
OfProject = Annotated[str | None, Depends(paging.filtered("project_id", "Only the permission of this project."))]
After = Annotated[str | None, Depends(paging.after)]
PermissionBody = Annotated[schemas.PermissionRequest, Depends(json_body(schemas.PermissionRequest))]


@router.get("", response_model=schemas.ModelList)
def list_models(caller: Reader, catalog: CurrentCatalog, settings: CurrentSettings) -> JSONResponse:
    """List the base models that are on this server, then the project's tuned models and checkpoints."""
    with db.reading() as session:
        tuned = service.all_of(session, caller.project_id)
    base = [schemas.base_model(entry) for entry in catalog.entries if entry.available(settings.models_dir)]
    data = base + [schemas.tuned_model(model, caller.organization_id) for model in tuned]
    return JSONResponse({"object": "list", "data": data})


# A name may hold colons, and a client may send %3A or %2F: the path converter takes what is left of the path.
@router.get("/{model:path}", response_model=schemas.ModelObject)
def retrieve(model: str, caller: Reader, catalog: CurrentCatalog, settings: CurrentSettings) -> JSONResponse:
    """Get a model."""
    with db.reading() as session:
        found = service.describe(session, caller.project_id, model, catalog=catalog, models_dir=settings.models_dir)
    return JSONResponse(schemas.model(found, caller.organization_id))


@router.delete("/{model:path}", response_model=schemas.ModelDeleted)
def delete(model: str, caller: Writer, catalog: CurrentCatalog) -> JSONResponse:
    """Delete one of the project's tuned models."""
    with db.transaction() as session:
        service.delete(session, caller.project_id, model, catalog=catalog)
        audit.record(session, caller, Action.MODEL_DELETED, model)
    return JSONResponse(schemas.deleted(model))


@checkpoints_router.post("/{model:path}/permissions", response_model=schemas.PermissionList)
def grant(model: str, caller: PermissionWriter, body: PermissionBody, once: Once) -> JSONResponse:
    """Let other projects of the organisation use a checkpoint."""
    with once.attempt(caller, body) as attempt, db.transaction() as session:
        granted, new = permissions.grant(session, caller, model, body.project_ids)
        for permission in new:
            details = {"fine_tuned_model_checkpoint": model, "project_id": permission.project_id}
            audit.record(session, caller, Action.PERMISSION_CREATED, permission.id, details=details)
        return attempt.reply(session, schemas.permissions(granted, has_more=False))


@checkpoints_router.get("/{model:path}/permissions", response_model=schemas.PermissionList)
def list_permissions(
    model: str,
    caller: PermissionReader,
    limit: PermissionLimit,
    after: After,
    ascending: Ascending,
    project_id: OfProject,
) -> JSONResponse:
    """List who may use a checkpoint."""
    with db.reading() as session:
        page = permissions.page(
            session, caller, model, project_id=project_id, limit=limit, after=after, ascending=ascending
        )
    return JSONResponse(schemas.permissions(page.rows, has_more=page.has_more))


@checkpoints_router.delete("/{model:path}/permissions/{permission_id}", response_model=schemas.PermissionDeleted)
def revoke(model: str, permission_id: str, caller: PermissionWriter) -> JSONResponse:
    """Take a permission back."""
    with db.transaction() as session:
        project_id = permissions.revoke(session, caller, model, permission_id)
        details = {"fine_tuned_model_checkpoint": model, "project_id": project_id}
        audit.record(session, caller, Action.PERMISSION_DELETED, permission_id, details=details)
    return JSONResponse(schemas.permission_deleted(permission_id))
