"""The file object on the wire."""

from datetime import datetime
from typing import Any

from app.files.tables import File


def file(row: File) -> dict[str, Any]:
    """The file object. A stored file is always `processed`: what is wrong with its lines, a job says."""
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.bytes,
        "created_at": int(row.created_at.timestamp()),
        "expires_at": _seconds(row.expires_at),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
        "status_details": None,
    }


def deleted(file_id: str) -> dict[str, Any]:
    """The reply to a deletion."""
    return {"id": file_id, "object": "file", "deleted": True}


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
