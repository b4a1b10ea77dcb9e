"""The file object on the wire."""

from datetime import datetime
from typing import Literal

from typing_extensions import TypedDict

from app.files.tables import File


class FileObject(TypedDict):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: str | None


class FileList(TypedDict):
    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(TypedDict):
    id: str
    object: Literal["file"]
    deleted: bool


def file(row: File) -> FileObject:
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


def deleted(file_id: str) -> FileDeleted:
    """The reply to a deletion."""
    return {"id": file_id, "object": "file", "deleted": True}


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
