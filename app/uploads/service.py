"""Uploads as their owner moves them. Each move locks the upload's row, so that of two only one happens."""

from collections.abc import Sequence
from datetime import timedelta

import sqlalchemy as sa

from app import ids, outbox
from app.auth import quotas
from app.auth.errors import QuotaExceeded
from app.config import Settings
from app.db import Session
from app.files import service as files
from app.files.purposes import default_expiry
from app.files.tables import File
from app.uploads import states
from app.uploads.errors import (
    DuplicatePart,
    InvalidPart,
    SizeMismatch,
    TooManyParts,
    UploadExpired,
    UploadNotFound,
    UploadNotPending,
)
from app.uploads.schemas import MAX_PARTS, UploadRequest
from app.uploads.tables import Upload, UploadPart

LEASE = timedelta(seconds=60)  # renewed after each part
STRAGGLERS = timedelta(hours=1)  # a part that was on its way when its upload ended has arrived by then
REMEMBERED = timedelta(days=30)  # how long an ended upload answers as itself, and not as unknown
BATCH = 100


def prefix(project_id: str, upload_id: str) -> str:
    """Where the parts of an upload lie."""
    return f"projects/{project_id}/uploads/{upload_id}/"


def create(session: Session, project_id: str, body: UploadRequest, settings: Settings) -> Upload:
    """Begin an upload. Raises QuotaExceeded."""
    _check_room(session, project_id, body.bytes, settings)
    upload = Upload(
        id=ids.new("upload_"),
        project_id=project_id,
        bytes=body.bytes,
        filename=files.clean_filename(body.filename, param="filename"),
        purpose=body.purpose,
        mime_type=body.mime_type,
        file_expires_after=body.expires_after.seconds if body.expires_after else default_expiry(body.purpose),
        expires_at=sa.func.now() + timedelta(seconds=settings.upload_seconds),
    )
    session.add(upload)
    session.flush()
    session.refresh(upload)
    return upload


def open_upload(session: Session, project_id: str, upload_id: str, *, lock: bool = True) -> Upload:
    """The project's upload, if it still takes parts; held against other movers until the transaction ends.

    Raises UploadNotFound, UploadExpired, UploadNotPending.
    """
    query = sa.select(Upload, _lapsed(), Upload.expires_at <= sa.func.now()).where(
        Upload.project_id == project_id, Upload.id == upload_id
    )
    if lock:
        query = query.with_for_update(of=Upload, key_share=True)
    found = session.execute(query).one_or_none() if ids.is_plain(upload_id) else None
    if found is None:
        raise UploadNotFound(upload_id)
    upload, lapsed, late = found
    if upload.status == states.COMPLETING and not lapsed:
        raise UploadNotPending(upload_id, "being completed")
    if upload.status == states.EXPIRED or (upload.ended_at is None and late):
        raise UploadExpired(upload_id)
    if upload.ended_at is not None:
        raise UploadNotPending(upload_id, upload.status)
    return upload


def add_part(
    session: Session, project_id: str, upload_id: str, *, part_id: str, size: int, sha256: str, settings: Settings
) -> UploadPart:
    """Insert the row of a stored part. Raises what `open_upload` raises, TooManyParts, QuotaExceeded."""
    upload = open_upload(session, project_id, upload_id)
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(UploadPart.bytes), 0))
    count, stored = session.execute(query.where(UploadPart.upload_id == upload_id)).one()
    # Parts may be sent again after a reply was lost, so there may be more of them than the upload will need.
    if count >= MAX_PARTS or stored + size > 2 * upload.bytes + settings.max_part_bytes:
        raise TooManyParts
    _check_room(session, project_id, size, settings)
    part = UploadPart(id=part_id, upload_id=upload_id, bytes=size, sha256=sha256)
    session.add(part)
    session.flush()
    session.refresh(part)
    return part


def begin_completion(
    session: Session, project_id: str, upload_id: str, part_ids: Sequence[str]
) -> tuple[Upload, list[UploadPart]]:
    """Keep everybody else out while the parts are put together, and give them in their order.

    Raises what `open_upload` raises, InvalidPart, DuplicatePart, SizeMismatch.
    """
    upload = open_upload(session, project_id, upload_id)
    parts = _in_order(session, upload, part_ids)
    upload.status, upload.fence = states.COMPLETING, upload.fence + 1
    upload.lease_until = sa.func.now() + LEASE
    session.flush()
    return upload, parts


def renew(session: Session, upload: Upload) -> None:
    """Go on keeping everybody else out. Raises UploadNotPending if that was not possible."""
    _guarded(session, upload, lease_until=sa.func.now() + LEASE)


def reopen(session: Session, upload: Upload) -> None:
    """Give up completing; the upload takes parts again. Nothing happens if somebody else has it meanwhile."""
    mine = sa.update(Upload).where(Upload.id == upload.id, Upload.fence == upload.fence)
    session.execute(mine.where(Upload.status == states.COMPLETING).values(status=states.PENDING, lease_until=None))


def complete(session: Session, upload: Upload, *, file_id: str, sha256: str, settings: Settings) -> tuple[Upload, File]:
    """Make the file that the parts became visible, and promise the deletion of the parts.

    Raises QuotaExceeded, and UploadNotPending if somebody else has taken over meanwhile.
    """
    completed = _guarded(
        session, upload, status=states.COMPLETED, ended_at=sa.func.now(), lease_until=None, file_id=file_id
    )
    _discard_parts(session, completed)
    file = files.add(
        session,
        file_id=file_id,
        project_id=upload.project_id,
        purpose=upload.purpose,
        filename=upload.filename,
        size=upload.bytes,
        sha256=sha256,
        expires_after=upload.file_expires_after,
        settings=settings,
    )
    return completed, file


def cancel(session: Session, project_id: str, upload_id: str) -> Upload:
    """End an upload that nobody is completing. Raises what `open_upload` raises."""
    upload = open_upload(session, project_id, upload_id)
    _end(session, upload, states.CANCELLED)
    return upload


def sweep_expired(session: Session) -> list[tuple[str, str]]:
    """End uploads whose time is over; their ids and projects."""
    late = sa.select(Upload).where(Upload.ended_at.is_(None), Upload.expires_at <= sa.func.now())
    idle = sa.or_(Upload.status == states.PENDING, _lapsed())
    uploads = session.scalars(late.where(idle).limit(BATCH).with_for_update(skip_locked=True)).all()
    for upload in uploads:
        _end(session, upload, states.EXPIRED)
    return [(upload.id, upload.project_id) for upload in uploads]


def sweep_ended(session: Session) -> int:
    """Forget uploads that ended long ago; how many."""
    old = sa.delete(Upload).where(Upload.ended_at < sa.func.now() - REMEMBERED).returning(Upload.id)
    return len(session.scalars(old).all())


def _in_order(session: Session, upload: Upload, part_ids: Sequence[str]) -> list[UploadPart]:
    query = sa.select(UploadPart).where(UploadPart.upload_id == upload.id)
    known = {part.id: part for part in session.scalars(query)}
    seen = set()
    for number, part_id in enumerate(part_ids):
        if part_id not in known:
            raise InvalidPart(f"Upload '{upload.id}' has no part '{part_id[:64]}'.", param=f"part_ids.[{number}]")
        if part_id in seen:
            raise DuplicatePart(f"Part '{part_id}' is named twice.", param=f"part_ids.[{number}]")
        seen.add(part_id)
    parts = [known[part_id] for part_id in part_ids]
    total = sum(part.bytes for part in parts)
    if total != upload.bytes:
        raise SizeMismatch(f"The parts have {total} bytes together; the upload was created with {upload.bytes}.")
    return parts


def _lapsed() -> sa.ColumnElement[bool]:
    """Whether whoever was completing an upload is gone."""
    return sa.and_(Upload.status == states.COMPLETING, Upload.lease_until < sa.func.now())


def _guarded(session: Session, upload: Upload, **values: object) -> Upload:
    """Change an upload that this request is completing. Raises UploadNotPending if it no longer is."""
    mine = sa.update(Upload).where(
        Upload.id == upload.id, Upload.fence == upload.fence, Upload.status == states.COMPLETING
    )
    changed = session.scalar(mine.values(**values).returning(Upload))
    if changed is None:
        raise UploadNotPending(upload.id, "being completed by another request")
    return changed


def _end(session: Session, upload: Upload, status: str) -> None:
    upload.status, upload.ended_at, upload.lease_until = status, sa.func.now(), None
    session.flush()
    session.refresh(upload)
    _discard_parts(session, upload)


def _discard_parts(session: Session, upload: Upload) -> None:
    """The parts go now, and once more for those that were still on their way."""
    session.execute(sa.delete(UploadPart).where(UploadPart.upload_id == upload.id))
    payload = {"prefix": prefix(upload.project_id, upload.id)}
    outbox.put(session, outbox.DELETE_PREFIX, payload)
    outbox.put(session, outbox.DELETE_PREFIX, payload, delay=STRAGGLERS)


def _check_room(session: Session, project_id: str, size: int, settings: Settings) -> None:
    """Make sure that `size` bytes more fit into the project's quota beside its files and the parts of its uploads."""
    most = quotas.held(session, project_id, settings, "quota_storage_bytes").quota_storage_bytes
    if not most:
        return
    arrived = (
        sa.select(sa.func.coalesce(sa.func.sum(UploadPart.bytes), 0))
        .join(Upload, Upload.id == UploadPart.upload_id)
        .where(Upload.project_id == project_id, Upload.ended_at.is_(None))
    )
    if files.stored_bytes(session, project_id) + int(session.scalar(arrived) or 0) + size > most:
        raise QuotaExceeded(f"The project's {most} bytes of storage do not leave room for this upload.")
