"""Files: rows over objects. A row is inserted after its object is whole, and removed before the object goes."""

import re
import unicodedata
from datetime import timedelta

import sqlalchemy as sa

from app import ids, outbox, pages
from app.auth import quotas
from app.auth.errors import QuotaExceeded
from app.config import Settings
from app.db import Session
from app.files.errors import FileNotFound, InvalidFilename
from app.files.tables import File

RESULTS = "fine-tune-results"
MAX_FILENAME_BYTES = 255
_NO_NAME = re.compile(r"|\.+[^.]*")
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}  # control, direction, surrogate, private, and what ends a line
# A deleted file's bytes stay while a job that is not over names it. The jobs feature builds on this one, so its
# table is named here without being imported.
_NOT_IN_USE = sa.text("""
    NOT EXISTS (
        SELECT 1 FROM jobs
        WHERE jobs.status NOT IN ('succeeded', 'failed', 'cancelled')
        AND files.id IN (jobs.training_file, jobs.validation_file)
    )
""")


def object_key(project_id: str, file_id: str) -> str:
    """Where a file's bytes lie."""
    return f"projects/{project_id}/files/{file_id}"


def add(
    session: Session,
    *,
    file_id: str,
    project_id: str,
    purpose: str,
    filename: str,
    size: int,
    sha256: str,
    expires_after: int | None,
    settings: Settings,
) -> File:
    """Insert the row of a stored object. expires_after: in seconds from now. Raises QuotaExceeded."""
    check_room(session, project_id, size, settings)
    expires = sa.func.now() + timedelta(seconds=expires_after) if expires_after is not None else None
    return _insert(
        session,
        File(
            id=file_id,
            project_id=project_id,
            purpose=purpose,
            filename=clean_filename(filename),
            bytes=size,
            sha256=sha256,
            object_key=object_key(project_id, file_id),
            expires_at=expires,
        ),
    )


def check_room(session: Session, project_id: str, size: int, settings: Settings) -> None:
    """Make sure that `size` bytes more fit into the project's quota, and hold the room until the transaction ends.

    Raises QuotaExceeded.
    """
    most = quotas.held(session, project_id, settings, "quota_storage_bytes").quota_storage_bytes
    if most and stored_bytes(session, project_id) + size > most:
        raise QuotaExceeded(f"The project's {most} bytes of storage do not leave room for this file.")


def stored_bytes(session: Session, project_id: str) -> int:
    """The size of the project's files together, results included."""
    return int(session.scalar(_visible(project_id).with_only_columns(sa.func.sum(File.bytes))) or 0)


def record_result(
    session: Session, *, project_id: str, object_key: str, size: int, sha256: str, filename: str = "step_metrics.csv"
) -> File:
    """Make a stored result file visible to its project."""
    return _insert(
        session,
        File(
            id=ids.new("file-"),
            project_id=project_id,
            purpose=RESULTS,
            filename=filename,
            bytes=size,
            sha256=sha256,
            object_key=object_key,
        ),
    )


def find(session: Session, project_id: str, file_id: str) -> File | None:
    """The project's file with this id, if there is one."""
    if not ids.is_plain(file_id):
        return None
    return session.scalar(_ONE, {"project_id": project_id, "file_id": file_id})


def get(session: Session, project_id: str, file_id: str) -> File:
    """The project's file with this id. Raises FileNotFound."""
    file = find(session, project_id, file_id)
    if file is None:
        raise FileNotFound(file_id)
    return file


def page(
    session: Session, project_id: str, *, purpose: str | None, limit: int, after: str | None, ascending: bool
) -> pages.Page[File]:
    """A page of the project's files, newest first unless `ascending`. Raises FileNotFound for an unknown cursor."""
    query = _visible(project_id)
    if purpose is not None:
        query = query.where(File.purpose == purpose) if ids.is_plain(purpose) else query.where(sa.false())
    after_seq = get(session, project_id, after).seq if after is not None else None
    return pages.fetch(session, query, File.seq, limit=limit, after_seq=after_seq, ascending=ascending)


def delete(session: Session, project_id: str, file_id: str) -> None:
    """Hide a file at once; a sweep removes its bytes when no live job needs them. Raises FileNotFound."""
    file = get(session, project_id, file_id)
    marked = sa.update(File).where(File.id == file.id, File.deleted_at.is_(None)).values(deleted_at=sa.func.now())
    if session.execute(marked.returning(File.id)).one_or_none() is None:
        raise FileNotFound(file_id)


def sweep_expired(session: Session) -> list[tuple[str, str]]:
    """Mark expired files deleted; their ids and projects."""
    expired = sa.update(File).where(File.expires_at <= sa.func.now(), File.deleted_at.is_(None))
    gone = expired.values(deleted_at=sa.func.now()).returning(File.id, File.project_id)
    return [(file_id, project_id) for file_id, project_id in session.execute(gone)]


def sweep_deleted(session: Session) -> int:
    """Remove deleted files that no live job names, and promise the deletion of their objects; how many."""
    gone = sa.delete(File).where(File.deleted_at.is_not(None), _NOT_IN_USE).returning(File.object_key)
    keys = session.scalars(gone).all()
    for key in keys:
        outbox.put(session, outbox.DELETE_OBJECT, {"key": key})
    return len(keys)


def clean_filename(name: str, *, param: str = "file") -> str:
    """The last part of a client's file name, without control and direction characters; data, never a path.

    Raises InvalidFilename if that leaves nothing, or only an ending.
    """
    name = unicodedata.normalize("NFC", re.split(r"[/\\]", name)[-1])
    name = "".join(character for character in name if unicodedata.category(character) not in _INVISIBLE)
    name = name.encode()[:MAX_FILENAME_BYTES].decode(errors="ignore").strip()
    if _NO_NAME.fullmatch(name):
        raise InvalidFilename(param=param)
    return name


def _visible(project_id: str | sa.BindParameter[str]) -> sa.Select[File]:
    living = sa.or_(File.expires_at.is_(None), File.expires_at > sa.func.now())
    return sa.select(File).where(File.project_id == project_id, File.deleted_at.is_(None), living)


_ONE = _visible(sa.bindparam("project_id", type_=sa.String())).where(File.id == sa.bindparam("file_id"))


def _insert(session: Session, file: File) -> File:
    session.add(file)
    session.flush()
    session.refresh(file)
    return file
