"""`/v1/fine_tuning/jobs`: jobs, their events and checkpoints, and their adapters."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from app import db, queue
from app.audit import service as audit
from app.audit.actions import Action
from app.auth.deps import Caller, requires, still_works
from app.auth.scopes import Scope
from app.events import schemas as event_schemas
from app.http import openapi, paging
from app.http.body import json_body
from app.http.deps import CurrentBell, CurrentSettings, CurrentStore
from app.http.once import Once
from app.http.replies import JSONResponse
from app.jobs import event_stream, schemas, service, views
from app.jobs.event_stream import Feed
from app.models import archive
from app.models import schemas as model_schemas
from app.models.deps import CurrentCatalog
from app.models.tables import TunedModel
from app.storage import Store

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])

Reader = Annotated[Caller, requires(Scope.JOBS_READ)]
Writer = Annotated[Caller, requires(Scope.JOBS_WRITE)]
AdapterReader = Annotated[Caller, requires(Scope.MODELS_READ)]
JobLimit = Annotated[int, Depends(paging.limit(default=20, most=1000))]
CheckpointLimit = Annotated[int, Depends(paging.limit(default=10, most=1000))]
After = Annotated[str | None, Depends(paging.after)]
Streamed = Annotated[bool, Depends(paging.streamed)]
LastSeen = Annotated[str | None, Depends(paging.last_event_id)]


@router.post("", response_model=schemas.JobObject)
def create(
    caller: Writer,
    body: Annotated[schemas.JobRequest, Depends(json_body(schemas.JobRequest))],
    catalog: CurrentCatalog,
    settings: CurrentSettings,
    bell: CurrentBell,
    once: Once,
) -> JSONResponse:
    """Create a fine-tuning job."""
    with once.attempt(caller, body) as attempt, db.transaction() as session:
        job = service.create(session, caller, body, catalog=catalog, settings=settings)
        audit.record(session, caller, Action.JOB_CREATED, job.id, details={"model": job.model})
        db.after_commit(session, partial(bell.ring, queue.CPU))
        return attempt.reply(session, schemas.job(job, caller.organization_id))


@router.get("", response_model=schemas.JobList)
def list_jobs(request: Request, caller: Reader, limit: JobLimit, after: After) -> JSONResponse:
    """List the project's jobs, newest first."""
    metadata = schemas.metadata_filter(request.query_params.multi_items())
    with db.reading() as session:
        page = views.jobs_page(session, caller.project_id, limit=limit, after=after, metadata=metadata)
    data = [schemas.job(job, caller.organization_id) for job in page.rows]
    return JSONResponse({"object": "list", "data": data, "has_more": page.has_more})


@router.get("/{job_id}", response_model=schemas.JobObject)
def retrieve(job_id: str, caller: Reader) -> JSONResponse:
    """Get a job."""
    with db.reading() as session:
        job = views.job(session, caller.project_id, job_id)
    return JSONResponse(schemas.job(job, caller.organization_id))


@router.post("/{job_id}/cancel", response_model=schemas.JobObject)
def cancel(job_id: str, caller: Writer) -> JSONResponse:
    """Cancel a job that is not over."""
    with db.transaction() as session:
        job = service.cancel(session, caller.project_id, job_id)
        audit.record(session, caller, Action.JOB_CANCELLED, job_id)
    return JSONResponse(schemas.job(job, caller.organization_id))


@router.post("/{job_id}/pause", response_model=schemas.JobObject)
def pause(job_id: str, caller: Writer) -> JSONResponse:
    """Pause a job that waits or runs: it keeps its progress and frees its slot."""
    with db.transaction() as session:
        job = service.pause(session, caller.project_id, job_id)
        audit.record(session, caller, Action.JOB_PAUSED, job_id)
    return JSONResponse(schemas.job(job, caller.organization_id))


@router.post("/{job_id}/resume", response_model=schemas.JobObject)
def resume(job_id: str, caller: Writer, bell: CurrentBell) -> JSONResponse:
    """Resume a paused job where it was."""
    with db.transaction() as session:
        job = service.resume(session, caller.project_id, job_id)
        audit.record(session, caller, Action.JOB_RESUMED, job_id)
        db.after_commit(session, partial(bell.ring, queue.GPU))
    return JSONResponse(schemas.job(job, caller.organization_id))


@router.get(
    "/{job_id}/events",
    response_model=event_schemas.EventList,
    responses=openapi.event_stream(event_schemas.EventObject),
)
def list_events(
    request: Request,
    job_id: str,
    caller: Reader,
    limit: JobLimit,
    after: After,
    streamed: Streamed,
    last_seen: LastSeen,
) -> Response:
    """List a job's events, newest first; or with `stream=true` follow them as server-sent events, oldest first.

    A stream begins after the event that `Last-Event-ID` or else `after` names; it has no `limit`.
    """
    if streamed:
        return _follow(request, job_id, caller, after if last_seen is None else last_seen)
    with db.reading() as session:
        page = views.events_page(session, caller.project_id, job_id, limit=limit, after=after)
    data = [event_schemas.event(row) for row in page.rows]
    return JSONResponse({"object": "list", "data": data, "has_more": page.has_more})


@router.get("/{job_id}/checkpoints", response_model=model_schemas.CheckpointList)
def list_checkpoints(job_id: str, caller: Reader, limit: CheckpointLimit, after: After) -> JSONResponse:
    """List a job's checkpoints, newest first."""
    with db.reading() as session:
        page = service.checkpoints_page(session, caller.project_id, job_id, limit=limit, after=after)
    data = [model_schemas.checkpoint(row, name) for row, name in page.rows]
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return JSONResponse({"object": "list", "data": data, **ends, "has_more": page.has_more})


@router.get("/{job_id}/adapter", response_class=openapi.Tar)
def download_adapter(job_id: str, caller: AdapterReader, store: CurrentStore) -> openapi.Tar:
    """Download the adapter a job made, as a tar archive."""
    with db.reading() as session:
        model = service.adapter(session, caller.project_id, job_id)
    return _tar(store, model, f"{job_id}.tar")


@router.get("/{job_id}/checkpoints/{checkpoint_id}/adapter", response_class=openapi.Tar)
def download_checkpoint_adapter(
    job_id: str, checkpoint_id: str, caller: AdapterReader, store: CurrentStore
) -> openapi.Tar:
    """Download the adapter of one checkpoint, as a tar archive."""
    with db.reading() as session:
        model = service.checkpoint_adapter(session, caller.project_id, job_id, checkpoint_id)
    return _tar(store, model, f"{job_id}-{checkpoint_id}.tar")


def _follow(request: Request, job_id: str, caller: Caller, last_seen: str | None) -> openapi.EventStream:
    feed: Feed = request.app.state.feed
    with db.reading() as session:
        start = service.stream_start(session, caller.project_id, job_id, last_seen)
    feed.check(caller.key_id)
    messages = event_stream.stream(feed, job_id, start, caller.key_id, still_works(request, Scope.JOBS_READ))
    return openapi.EventStream(messages, headers={"X-Accel-Buffering": "no"})


def _tar(store: Store, model: TunedModel, filename: str) -> openapi.Tar:
    tar = archive.open_archive(store, model)
    headers = {"Content-Length": str(tar.size), "Content-Disposition": f'attachment; filename="{filename}"'}
    return openapi.Tar(tar.chunks, headers=headers)
