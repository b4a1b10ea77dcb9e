"""Webhook endpoints on the wire, and what is ours beside them: deliveries and their attempts."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from typing_extensions import TypedDict

from app.addresses import MOST_CHARACTERS
from app.webhooks import states
from app.webhooks.events import FINE_TUNING, EventType
from app.webhooks.tables import Attempt, Delivery, Endpoint


def _once_each(event_types: list[EventType]) -> list[EventType]:
    return list(dict.fromkeys(event_types))


Name = Annotated[str, Field(min_length=1, max_length=256)]
Url = Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS)]
EventTypes = Annotated[list[EventType], Field(min_length=1, max_length=100), AfterValidator(_once_each)]
DeliveryStatus = Annotated[str, WithJsonSchema({"type": "string", "enum": list(states.ALL)})]


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class EndpointRequest(_Request):
    """The body of `POST /webhook_endpoints`."""

    name: Name
    url: Url
    event_types: EventTypes


class EndpointUpdate(_Request):
    """The body of `POST /webhook_endpoints/{id}`: what is named is replaced, nothing may be null."""

    name: Name = Field(default=None)  # type: ignore[assignment]
    url: Url = Field(default=None)  # type: ignore[assignment]
    event_types: EventTypes = Field(default=None)  # type: ignore[arg-type]

    def changes(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)


class SecretRotation(_Request):
    """The body of `POST /webhook_endpoints/{id}/rotate_secret`; there may be none."""

    keep_old_secret_active_for_24_hours: bool = False


class EndpointTest(_Request):
    """The body of `POST /webhook_endpoints/{id}/test`."""

    event_type: EventType


class EndpointObject(TypedDict):
    id: str
    object: Literal["webhook_endpoint"]
    name: str
    url: str
    event_types: list[str]
    created_at: int
    updated_at: int
    signing_secret_hint: str


class EndpointWithSecret(EndpointObject):
    signing_secret: str


class EndpointList(TypedDict):
    object: Literal["list"]
    data: list[EndpointObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class EndpointDeleted(TypedDict):
    id: str
    object: Literal["webhook_endpoint.deleted"]
    deleted: Literal[True]


class EndpointTestResult(TypedDict):
    object: Literal["webhook_endpoint.test"]
    webhook_endpoint_id: str
    event_type: str
    status_code: int
    success: Literal[True]


class EventTypeList(TypedDict):
    object: Literal["list"]
    data: list[str]


class AttemptError(TypedDict):
    code: str
    message: str


class AttemptObject(TypedDict):
    number: int
    started_at: int
    duration_ms: int | None
    status_code: int | None
    error: AttemptError | None
    response_body: str | None


class DeliveryObject(TypedDict):
    id: str
    object: Literal["webhook_endpoint.delivery"]
    webhook_endpoint_id: str
    event_id: str
    event_type: str
    created_at: int
    status: DeliveryStatus
    attempt_count: int
    next_attempt_at: int | None
    ended_at: int | None


class DeliveryWithAttempts(DeliveryObject):
    attempts: list[AttemptObject]


class DeliveryList(TypedDict):
    object: Literal["list"]
    data: list[DeliveryObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


def endpoint(row: Endpoint) -> EndpointObject:
    """An endpoint, without its secret."""
    return {
        "id": row.id,
        "object": "webhook_endpoint",
        "name": row.name,
        "url": row.url,
        "event_types": row.event_types,
        "created_at": int(row.created_at.timestamp()),
        "updated_at": int(row.updated_at.timestamp()),
        "signing_secret_hint": row.secret_hint,
    }


def with_secret(row: Endpoint, secret: str) -> EndpointWithSecret:
    """An endpoint with its secret: after it was made or rotated, and never again."""
    return {**endpoint(row), "signing_secret": secret}


def endpoints(rows: Sequence[Endpoint], *, has_more: bool) -> EndpointList:
    data = [endpoint(row) for row in rows]
    return {"object": "list", "data": data, **_ends(rows), "has_more": has_more}  # type: ignore[typeddict-item]


def deleted(endpoint_id: str) -> EndpointDeleted:
    return {"id": endpoint_id, "object": "webhook_endpoint.deleted", "deleted": True}


def tested(endpoint_id: str, event_type: str, status_code: int) -> EndpointTestResult:
    return {
        "object": "webhook_endpoint.test",
        "webhook_endpoint_id": endpoint_id,
        "event_type": event_type,
        "status_code": status_code,
        "success": True,
    }


def event_types() -> EventTypeList:
    """The types of the events that happen here."""
    return {"object": "list", "data": list(FINE_TUNING)}


def delivery(row: Delivery) -> DeliveryObject:
    return {
        "id": row.id,
        "object": "webhook_endpoint.delivery",
        "webhook_endpoint_id": row.endpoint_id,
        "event_id": row.event_id,
        "event_type": row.event_type,
        "created_at": int(row.created_at.timestamp()),
        "status": row.status,
        "attempt_count": row.attempts,
        "next_attempt_at": int(row.due_at.timestamp()) if row.status == states.PENDING else None,
        "ended_at": _seconds(row.ended_at),
    }


def deliveries(rows: Sequence[Delivery], *, has_more: bool) -> DeliveryList:
    data = [delivery(row) for row in rows]
    return {"object": "list", "data": data, **_ends(rows), "has_more": has_more}  # type: ignore[typeddict-item]


def with_attempts(row: Delivery, attempts: Sequence[Attempt]) -> DeliveryWithAttempts:
    return {**delivery(row), "attempts": [attempt(one) for one in attempts]}


def attempt(row: Attempt) -> AttemptObject:
    error: AttemptError | None = None
    if row.error is not None:
        error = {"code": row.error, "message": row.error_message or row.error}
    return {
        "number": row.number,
        "started_at": int(row.started_at.timestamp()),
        "duration_ms": None if row.seconds is None else round(row.seconds * 1000),
        "status_code": row.status_code,
        "error": error,
        "response_body": row.response_body,
    }


def _ends(rows: Sequence[Endpoint] | Sequence[Delivery]) -> dict[str, str | None]:
    return {"first_id": rows[0].id if rows else None, "last_id": rows[-1].id if rows else None}


def _seconds(time: datetime | None) -> int | None:
    return None if time is None else int(time.timestamp())
