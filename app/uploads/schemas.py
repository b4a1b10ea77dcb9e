"""Uploads and parts on the wire."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator
from typing_extensions import TypedDict

from app.files import schemas as file_schemas
from app.files.purposes import LONGEST_EXPIRY_SECONDS, SHORTEST_EXPIRY_SECONDS
from app.files.schemas import FileObject
from app.files.tables import File
from app.uploads import states
from app.uploads.tables import Upload, UploadPart

MAX_UPLOAD_BYTES = 8 * 1024**3
MAX_PARTS = 10_000

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
ShortText = Annotated[str, Field(min_length=1, max_length=255)]
WireStatus = Annotated[str, WithJsonSchema({"enum": ["pending", "completed", "cancelled", "expired"]})]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class ExpiresAfter(_Body):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=SHORTEST_EXPIRY_SECONDS, le=LONGEST_EXPIRY_SECONDS)]


class UploadRequest(_Body):
    """The body of `POST /uploads`."""

    bytes: Annotated[int, Field(ge=1, le=MAX_UPLOAD_BYTES)]
    filename: ShortText
    mime_type: ShortText
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class Completion(_Body):
    """The body of `POST /uploads/{upload_id}/complete`: the parts in their order."""

    part_ids: Annotated[list[ShortText], Field(min_length=1, max_length=MAX_PARTS)]
    md5: Annotated[str, Field(pattern="^[0-9a-fA-F]{32}$")] | None = None

    @field_validator("md5")
    @classmethod
    def _lower(cls, md5: str | None) -> str | None:
        return md5.lower() if md5 else md5


class UploadObject(TypedDict):
    id: str
    object: Literal["upload"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: WireStatus
    file: FileObject | None


class PartObject(TypedDict):
    id: str
    object: Literal["upload.part"]
    created_at: int
    upload_id: str


def upload(row: Upload, file: File | None = None) -> UploadObject:
    """The upload object, once completed with its file."""
    return {
        "id": row.id,
        "object": "upload",
        "bytes": row.bytes,
        "created_at": int(row.created_at.timestamp()),
        "expires_at": int(row.expires_at.timestamp()),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": states.PENDING if row.status == states.COMPLETING else row.status,
        "file": file_schemas.file(file) if file is not None else None,
    }


def part(row: UploadPart) -> PartObject:
    """The part object."""
    return {
        "id": row.id,
        "object": "upload.part",
        "created_at": int(row.created_at.timestamp()),
        "upload_id": row.upload_id,
    }
