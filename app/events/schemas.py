"""Events on the wire."""

from typing import Annotated, Any, Literal

from pydantic import WithJsonSchema
from sqlalchemy import Row
from typing_extensions import TypedDict

from app.events.tables import Event

Level = Annotated[str, WithJsonSchema({"type": "string", "enum": ["info", "warn", "error"]})]
Type = Annotated[str, WithJsonSchema({"type": "string", "enum": ["message", "metrics"]})]


class EventObject(TypedDict):
    id: str
    object: Literal["fine_tuning.job.event"]
    created_at: int
    level: Level
    message: str
    type: Type
    data: dict[str, Any] | None


class EventList(TypedDict):
    object: Literal["list"]
    data: list[EventObject]
    has_more: bool


def event(row: Event | Row[Any]) -> EventObject:
    """One event of a job."""
    return {
        "id": row.id,
        "object": "fine_tuning.job.event",
        "created_at": int(row.created_at.timestamp()),
        "level": row.level,
        "message": row.message,
        "type": row.type,
        "data": row.data,
    }
