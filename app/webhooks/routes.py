"""`/v1/webhook_endpoints`: who is told of the ends of jobs, and how the telling went."""

import time
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from app import db
from app.audit import service as audit
from app.audit.actions import Action
from app.auth.deps import Caller, requires
from app.auth.scopes import Scope
from app.http import paging
from app.http.body import json_body
from app.http.deps import CurrentSettings
from app.http.once import Once
from app.http.replies import JSONResponse
from app.webhooks import events, schemas, sending, service
from app.webhooks.errors import NoAnswer
from app.webhooks.runtime import Runtime
from app.webhooks.sending import Letter

router = APIRouter(prefix="/v1/webhook_endpoints", tags=["webhooks"])
event_types_router = APIRouter(prefix="/v1/webhook_event_types", tags=["webhooks"])


async def _runtime(request: Request) -> Runtime:
    return request.app.state.webhooks


Reader = Annotated[Caller, requires(Scope.WEBHOOKS_READ)]
Writer = Annotated[Caller, requires(Scope.WEBHOOKS_WRITE)]
CurrentRuntime = Annotated[Runtime, Depends(_runtime)]
Limit = Annotated[int, Depends(paging.limit(default=20, most=1000))]
After = Annotated[str | None, Depends(paging.after)]
EndpointBody = Annotated[schemas.EndpointRequest, Depends(json_body(schemas.EndpointRequest))]
UpdateBody = Annotated[schemas.EndpointUpdate, Depends(json_body(schemas.EndpointUpdate))]
RotationBody = Annotated[schemas.SecretRotation, Depends(json_body(schemas.SecretRotation, optional=True))]
TestBody = Annotated[schemas.EndpointTest, Depends(json_body(schemas.EndpointTest))]


@router.post("", response_model=schemas.EndpointWithSecret)
def create(
    request: Request,
    caller: Writer,
    body: EndpointBody,
    runtime: CurrentRuntime,
    settings: CurrentSettings,
    once: Once,
) -> JSONResponse:
    """Create a webhook endpoint. Its signing secret is shown now and never again."""
    runtime.check_offered()
    with runtime.slots.taken(caller.project_id):
        runtime.check_url(body.url, own=request.url.netloc)
    with once.attempt(caller, body, secret=True) as attempt, db.transaction() as session:
        endpoint, secret = service.create(
            session, caller.project_id, body, vault=runtime.vault, most=settings.webhook_endpoints_per_project
        )
        audit.record(session, caller, Action.WEBHOOK_CREATED, endpoint.id)
        return attempt.reply(session, schemas.with_secret(endpoint, secret))


@router.get("", response_model=schemas.EndpointList)
def list_endpoints(caller: Reader, limit: Limit, after: After) -> JSONResponse:
    """List the project's webhook endpoints, newest first."""
    with db.reading() as session:
        page = service.page(session, caller.project_id, limit=limit, after=after)
    return JSONResponse(schemas.endpoints(page.rows, has_more=page.has_more))


@router.get("/{endpoint_id}", response_model=schemas.EndpointObject)
def retrieve(endpoint_id: str, caller: Reader) -> JSONResponse:
    """Get a webhook endpoint."""
    with db.reading() as session:
        endpoint = service.get(session, caller.project_id, endpoint_id)
    return JSONResponse(schemas.endpoint(endpoint))


@router.post("/{endpoint_id}", response_model=schemas.EndpointObject)
def update(
    request: Request, endpoint_id: str, caller: Writer, body: UpdateBody, runtime: CurrentRuntime
) -> JSONResponse:
    """Update a webhook endpoint. Event types replace those it had."""
    changes = body.changes()
    with db.reading() as session:
        service.get(session, caller.project_id, endpoint_id)
    if "url" in changes:
        with runtime.slots.taken(caller.project_id):
            runtime.check_url(body.url, own=request.url.netloc)
    with db.transaction() as session:
        endpoint = service.update(session, caller.project_id, endpoint_id, changes)
        audit.record(session, caller, Action.WEBHOOK_UPDATED, endpoint_id, details={"named": sorted(changes)})
    return JSONResponse(schemas.endpoint(endpoint))


@router.delete("/{endpoint_id}", response_model=schemas.EndpointDeleted)
def delete(endpoint_id: str, caller: Writer) -> JSONResponse:
    """Delete a webhook endpoint. What was not delivered yet never will be."""
    with db.transaction() as session:
        service.delete(session, caller.project_id, endpoint_id)
        audit.record(session, caller, Action.WEBHOOK_DELETED, endpoint_id)
    return JSONResponse(schemas.deleted(endpoint_id))


@router.post("/{endpoint_id}/rotate_secret", response_model=schemas.EndpointWithSecret)
def rotate_secret(
    endpoint_id: str, caller: Writer, body: RotationBody, runtime: CurrentRuntime, once: Once
) -> JSONResponse:
    """Give a webhook endpoint a new signing secret; the old one may go on signing beside it for 24 hours."""
    runtime.check_offered()
    with once.attempt(caller, body, secret=True) as attempt, db.transaction() as session:
        endpoint, secret = service.rotate_secret(
            session,
            caller.project_id,
            endpoint_id,
            vault=runtime.vault,
            keep_old=body.keep_old_secret_active_for_24_hours,
        )
        audit.record(session, caller, Action.WEBHOOK_SECRET_ROTATED, endpoint_id)
        return attempt.reply(session, schemas.with_secret(endpoint, secret))


@router.post("/{endpoint_id}/test", response_model=schemas.EndpointTestResult)
def test(endpoint_id: str, caller: Writer, body: TestBody, runtime: CurrentRuntime) -> JSONResponse:
    """Send a sample event now, once, and say with which status the endpoint answered."""
    with runtime.slots.taken(caller.project_id):
        with db.transaction() as session:
            endpoint = service.get(session, caller.project_id, endpoint_id)
            secrets = service.secrets(session, endpoint, runtime.vault)
            audit.record(session, caller, Action.WEBHOOK_TESTED, endpoint_id)
        now = int(time.time())
        object_id = events.sample_object_id(body.event_type)
        sample = events.body(events.new_event_id(), body.event_type, now, object_id).encode()
        outcome = sending.send(runtime.egress, Letter(endpoint.url, secrets, events.new_webhook_id(), now, sample))
    if outcome.status is None:
        raise NoAnswer(outcome.message)
    return JSONResponse(schemas.tested(endpoint_id, body.event_type, outcome.status))


@router.get("/{endpoint_id}/deliveries", response_model=schemas.DeliveryList)
def list_deliveries(endpoint_id: str, caller: Reader, limit: Limit, after: After) -> JSONResponse:
    """List what was and is to be delivered to a webhook endpoint, newest first."""
    with db.reading() as session:
        page = service.deliveries_page(session, caller.project_id, endpoint_id, limit=limit, after=after)
    return JSONResponse(schemas.deliveries(page.rows, has_more=page.has_more))


@router.get("/{endpoint_id}/deliveries/{delivery_id}", response_model=schemas.DeliveryWithAttempts)
def retrieve_delivery(endpoint_id: str, delivery_id: str, caller: Reader) -> JSONResponse:
    """Get a delivery with every attempt at it."""
    with db.reading() as session:
        delivery, attempts = service.delivery(session, caller.project_id, endpoint_id, delivery_id)
    return JSONResponse(schemas.with_attempts(delivery, attempts))


@event_types_router.get("", response_model=schemas.EventTypeList)
def list_event_types(caller: Reader) -> JSONResponse:
    """List the types of the events that this server tells of."""
    return JSONResponse(schemas.event_types())
