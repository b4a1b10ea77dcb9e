"""`/v1/models`: the base models on this server and the project's own."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from app import db
from app.auth.deps import CurrentCaller
from app.http.deps import CurrentSettings
from app.models import schemas, service
from app.models.deps import CurrentCatalog

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", response_model=schemas.ModelList)
def list_models(caller: CurrentCaller, catalog: CurrentCatalog, settings: CurrentSettings) -> JSONResponse:
    """List the base models that are on this server, then the project's tuned models and checkpoints."""
    with db.reading() as session:
        tuned = service.all_of(session, caller.project_id)
    base = [schemas.base_model(entry) for entry in catalog.entries if entry.available(settings.models_dir)]
    data = base + [schemas.tuned_model(model, caller.organization_id) for model in tuned]
    return JSONResponse({"object": "list", "data": data})


# A name may hold colons, and a client may send %3A or %2F: the path converter takes what is left of the path.
@router.get("/{model:path}", response_model=schemas.ModelObject)
def retrieve(model: str, caller: CurrentCaller, catalog: CurrentCatalog, settings: CurrentSettings) -> JSONResponse:
    """Get a model."""
    with db.reading() as session:
        found = service.describe(session, caller.project_id, model, catalog=catalog, models_dir=settings.models_dir)
    return JSONResponse(schemas.model(found, caller.organization_id))


@router.delete("/{model:path}", response_model=schemas.ModelDeleted)
def delete(model: str, caller: CurrentCaller, catalog: CurrentCatalog) -> JSONResponse:
    """Delete one of the project's tuned models."""
    with db.transaction() as session:
        service.delete(session, caller.project_id, model, catalog=catalog)
    return JSONResponse(schemas.deleted(model))
