"""`/v1/files`: upload, list, retrieve, delete, download."""

import base64
import math
from collections.abc import Iterable, Iterator
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool

from app import db
from app.audit import service as audit
from app.audit.actions import Action
from app.auth.deps import Caller, requires
from app.auth.scopes import Scope
from app.config import Settings
from app.errors import NotFound
from app.failpoints import failpoint
from app.files import schemas, service, upload
from app.files.errors import NotDownloadable
from app.files.purposes import LONGEST_EXPIRY_SECONDS, PURPOSES, SHORTEST_EXPIRY_SECONDS
from app.files.tables import File
from app.files.upload import Upload
from app.http import arrival, multipart, openapi, paging
from app.http.deps import CurrentSettings, CurrentStore
from app.http.once import Attempt, Once
from app.http.replies import JSONResponse

router = APIRouter(prefix="/v1/files", tags=["files"])

DOWNLOADABLE = frozenset({"fine-tune", "fine-tune-results", "batch", "batch_output", "evals"})

Reader = Annotated[Caller, requires(Scope.FILES_READ)]
Writer = Annotated[Caller, requires(Scope.FILES_WRITE)]
FileLimit = Annotated[int, Depends(paging.limit(default=10_000, most=10_000))]
UPLOAD_FORM = openapi.multipart(
    {
        "file": {"type": "string", "format": "binary", "required": True},
        "purpose": {"type": "string", "enum": sorted(PURPOSES), "required": True},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {
            "type": "integer",
            "minimum": SHORTEST_EXPIRY_SECONDS,
            "maximum": LONGEST_EXPIRY_SECONDS,
        },
    }
)
After = Annotated[str | None, Depends(paging.after)]
Ascending = Annotated[bool, Depends(paging.ascending)]
OfPurpose = Annotated[str | None, Depends(paging.filtered("purpose", "Only files of this purpose."))]


@router.post("", response_model=schemas.FileObject, openapi_extra=UPLOAD_FORM)
async def create(
    request: Request, caller: Writer, store: CurrentStore, settings: CurrentSettings, once: Once
) -> JSONResponse:
    """Upload a file."""
    await run_in_threadpool(_check_room, request, caller.project_id, settings)
    async with once.arriving(caller) as attempt:
        received = Upload(caller.project_id, store, settings)
        await multipart.receive(request, upload.form(settings), received, meanwhile=attempt.beat)
        return await run_in_threadpool(_insert, received, attempt, caller, settings)


@router.get("", response_model=schemas.FileList, responses=openapi.replies(NotFound))
def list_files(
    caller: Reader, limit: FileLimit, after: After, ascending: Ascending, purpose: OfPurpose
) -> JSONResponse:
    """List the project's files."""
    with db.reading() as session:
        page = service.page(session, caller.project_id, purpose=purpose, limit=limit, after=after, ascending=ascending)
    data = [schemas.file(row) for row in page.rows]
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return JSONResponse({"object": "list", "data": data, **ends, "has_more": page.has_more})


@router.get("/{file_id}", response_model=schemas.FileObject)
def retrieve(file_id: str, caller: Reader) -> JSONResponse:
    """Get a file's description."""
    with db.reading() as session:
        row = service.get(session, caller.project_id, file_id)
    return JSONResponse(schemas.file(row))


@router.delete("/{file_id}", response_model=schemas.FileDeleted)
def delete(file_id: str, caller: Writer) -> JSONResponse:
    """Delete a file."""
    with db.transaction() as session:
        service.delete(session, caller.project_id, file_id)
        audit.record(session, caller, Action.FILE_DELETED, file_id)
    return JSONResponse(schemas.deleted(file_id))


@router.get("/{file_id}/content", response_class=openapi.Bytes)
def content(file_id: str, caller: Reader, store: CurrentStore, settings: CurrentSettings) -> openapi.Bytes:
    """Download a file."""
    with db.reading() as session:
        row = service.get(session, caller.project_id, file_id)
    if row.purpose not in DOWNLOADABLE:
        raise NotDownloadable(f"Files of purpose '{row.purpose}' cannot be downloaded.")
    chunks: Iterable[bytes] = store.read(row.object_key)
    size = row.bytes
    if row.purpose == service.RESULTS and settings.results_base64:
        chunks, size = _base64(chunks), 4 * math.ceil(size / 3)
    return openapi.Bytes(chunks, headers=_download_headers(row) | {"Content-Length": str(size)})


def _check_room(request: Request, project_id: str, settings: Settings) -> None:
    """Refuse what can be seen not to fit before its bytes arrive; `_insert` decides."""
    least = arrival.told_length(request) - multipart.MAX_FORM_BYTES
    with db.transaction() as session:
        service.check_room(session, project_id, max(1, least), settings)


def _insert(received: Upload, attempt: Attempt, caller: Caller, settings: Settings) -> JSONResponse:
    """The row comes last; without it the object is removed again. A row that may be there keeps its object."""
    try:
        failpoint("file.stored")
        attempt.identify(received.described())
        with db.transaction() as session:
            row = service.add(
                session,
                file_id=received.file_id,
                project_id=caller.project_id,
                purpose=received.purpose,
                filename=received.filename or "",
                size=received.size,
                sha256=received.sha256.hexdigest(),
                expires_after=received.expires_after,
                settings=settings,
            )
            audit.record(session, caller, Action.FILE_CREATED, row.id, details={"bytes": row.bytes})
            return attempt.reply(session, schemas.file(row))
    except Exception as error:
        if not db.outcome_is_unknown(error):
            received.discard()
        raise


def _download_headers(row: File) -> dict[str, str]:
    """The name twice: plain for old clients, encoded for the rest; neither can break out of its quotes."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in row.filename)
    return {
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(row.filename, safe='')}",
        "Content-Security-Policy": "sandbox",
    }


def _base64(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        rest += chunk
        whole = len(rest) - len(rest) % 3
        yield base64.b64encode(rest[:whole])
        rest = rest[whole:]
    yield base64.b64encode(rest)
