"""Events on the wire."""

from typing import Any

from app.events.tables import Event


def event(row: Event) -> dict[str, Any]:
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
