"""`/v1/uploads`: a large file in parts, which may be sent in parallel and become a file in the order that is named."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool

from app import db, ids
from app.audit import service as audit
from app.audit.actions import Action
from app.auth.deps import Caller, requires
from app.auth.scopes import Scope
from app.config import Settings
from app.errors import Gone
from app.files import service as files
from app.files.incoming import Incoming
from app.files.purposes import FINE_TUNE
from app.http import multipart, openapi
from app.http.body import json_body
from app.http.deps import CurrentSettings, CurrentStore
from app.http.multipart import Form
from app.http.once import Attempt, Once
from app.http.replies import JSONResponse
from app.slots import Slots
from app.storage import Store
from app.uploads import assembly, schemas, service
from app.uploads.errors import EmptyPart, MissingPart
from app.uploads.tables import Upload, UploadPart

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

PART_FORM = openapi.multipart({"data": {"type": "string", "format": "binary", "required": True}})


async def _assemblies(request: Request) -> Slots:
    return request.app.state.assemblies


Writer = Annotated[Caller, requires(Scope.FILES_WRITE)]
Assemblies = Annotated[Slots, Depends(_assemblies)]
UploadBody = Annotated[schemas.UploadRequest, Depends(json_body(schemas.UploadRequest))]
CompletionBody = Annotated[schemas.Completion, Depends(json_body(schemas.Completion))]


@router.post("", response_model=schemas.UploadObject)
def create(caller: Writer, body: UploadBody, settings: CurrentSettings, once: Once) -> JSONResponse:
    """Begin an upload in parts."""
    with once.attempt(caller, body) as attempt, db.transaction() as session:
        upload = service.create(session, caller.project_id, body, settings)
        audit.record(session, caller, Action.UPLOAD_CREATED, upload.id, details={"bytes": upload.bytes})
        return attempt.reply(session, schemas.upload(upload))


@router.post(
    "/{upload_id}/parts",
    response_model=schemas.PartObject,
    responses=openapi.replies(Gone),
    openapi_extra=PART_FORM,
)
async def add_part(
    request: Request, upload_id: str, caller: Writer, store: CurrentStore, settings: CurrentSettings, once: Once
) -> JSONResponse:
    """Add a part. Parts may be sent in parallel; `complete` names their order."""
    await run_in_threadpool(_check_open, caller.project_id, upload_id)
    part_id = ids.new("part_")
    key = service.prefix(caller.project_id, upload_id) + part_id
    received = Incoming(store, key, most=settings.max_part_bytes, param="data")
    async with once.arriving(caller) as attempt:
        form = Form(file="data", most=settings.max_part_bytes)
        await multipart.receive(request, form, received, meanwhile=attempt.beat)
        return await run_in_threadpool(_insert, received, attempt, caller, upload_id, part_id, settings)


@router.post("/{upload_id}/complete", response_model=schemas.UploadObject, responses=openapi.replies(Gone))
def complete(
    upload_id: str,
    caller: Writer,
    body: CompletionBody,
    store: CurrentStore,
    settings: CurrentSettings,
    assemblies: Assemblies,
    once: Once,
) -> JSONResponse:
    """Put the parts together in the order named, and make them a file."""
    with once.attempt(caller, body) as attempt, assemblies.taken(caller.project_id):
        with db.transaction() as session:
            upload, parts = service.begin_completion(session, caller.project_id, upload_id, body.part_ids)
        file_id = ids.new("file-")
        target = files.object_key(caller.project_id, file_id)
        try:
            sha256 = _assembled(store, upload, parts, body.md5, target, attempt)
            with db.transaction() as session:
                upload, file = service.complete(session, upload, file_id=file_id, sha256=sha256, settings=settings)
                details = {"bytes": file.bytes, "upload": upload.id}
                audit.record(session, caller, Action.FILE_CREATED, file.id, details=details)
                return attempt.reply(session, schemas.upload(upload, file))
        except BaseException as error:
            if not db.outcome_is_unknown(error):
                _give_up(store, upload, target)
            raise


@router.post("/{upload_id}/cancel", response_model=schemas.UploadObject, responses=openapi.replies(Gone))
def cancel(upload_id: str, caller: Writer) -> JSONResponse:
    """End an upload; its parts are deleted."""
    with db.transaction() as session:
        upload = service.cancel(session, caller.project_id, upload_id)
        audit.record(session, caller, Action.UPLOAD_CANCELLED, upload_id)
    return JSONResponse(schemas.upload(upload))


def _check_open(project_id: str, upload_id: str) -> None:
    """Refuse before the bytes arrive what can be seen to be wrong; `_insert` decides."""
    with db.reading() as session:
        service.open_upload(session, project_id, upload_id, lock=False)


def _insert(
    received: Incoming, attempt: Attempt, caller: Caller, upload_id: str, part_id: str, settings: Settings
) -> JSONResponse:
    """The row comes last; without it the object is removed again. A row that may be there keeps its object."""
    if received.filename is None:
        raise MissingPart
    if received.size == 0:
        raise EmptyPart
    try:
        attempt.identify({"sha256": received.sha256.hexdigest()})
        with db.transaction() as session:
            part = service.add_part(
                session,
                caller.project_id,
                upload_id,
                part_id=part_id,
                size=received.size,
                sha256=received.sha256.hexdigest(),
                settings=settings,
            )
            return attempt.reply(session, schemas.part(part))
    except Exception as error:
        if not db.outcome_is_unknown(error):
            received.discard()
        raise


def _assembled(
    store: Store, upload: Upload, parts: list[UploadPart], md5: str | None, target: str, attempt: Attempt
) -> str:
    def renew() -> None:
        attempt.beat()
        with db.transaction() as session:
            service.renew(session, upload)

    where = service.prefix(upload.project_id, upload.id)
    keys = [where + part.id for part in parts]
    return assembly.assemble(store, keys, target, lines=upload.purpose == FINE_TUNE, md5=md5, after_part=renew)


def _give_up(store: Store, upload: Upload, target: str) -> None:
    """Leave no object, and the upload as it was."""
    store.delete(target)
    with db.transaction() as session:
        service.reopen(session, upload)
