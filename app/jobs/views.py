"""What the API shows of jobs: the reads that clients repeat all day, as plain rows of statements that are built once.

An entity that a session tracks costs three times as much (docs/decisions/0063). Who changes a job takes `service.get`.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from app import db, ids, pages
from app.db import Session
from app.events import service as events
from app.jobs.errors import JobNotFound
from app.jobs.tables import Job

Row = Any  # a row of these columns

_OURS = Job.project_id == sa.bindparam("project_id")
_THIS_ONE = sa.and_(_OURS, Job.id == sa.bindparam("job_id"))
_COLUMNS = [
    Job.id,
    Job.created_at,
    Job.finished_at,
    Job.estimated_finish,
    Job.status,
    Job.model,
    Job.fine_tuned_model,
    Job.training_file,
    Job.validation_file,
    Job.result_file,
    Job.trained_tokens,
    Job.method,
    Job.request,
    Job.resolved,
    Job.seed,
    Job.error,
    Job.integrations,
    Job.user_metadata.label("user_metadata"),
    Job.suffix,
]
_SHOWN = sa.select(*_COLUMNS).where(_OURS)
_JOB = _SHOWN.where(Job.id == sa.bindparam("job_id"))
_PLACE = sa.select(Job.seq).where(_THIS_ONE)
_JOBS = pages.Listing(_SHOWN, Job.seq)
_JOBS_WITHOUT_METADATA = pages.Listing(_SHOWN.where(Job.user_metadata.is_(None)), Job.seq)
_JOBS_WITH = pages.Listing(_SHOWN.where(Job.user_metadata.contains(sa.bindparam("metadata", type_=JSONB))), Job.seq)


def job(session: Session, project_id: str, job_id: str) -> Row:
    """The project's job with this id. Raises JobNotFound."""
    if ids.is_plain(job_id):
        found = db.execute(session, _JOB, project_id=project_id, job_id=job_id).one_or_none()
        if found is not None:
            return found
    raise JobNotFound(job_id)


def jobs_page(
    session: Session, project_id: str, *, limit: int, after: str | None, metadata: dict[str, str] | None
) -> pages.Page[Row]:
    """A page of the project's jobs, newest first. Raises UnknownCursor.

    `metadata` holds pairs that a job must have, all of them; None selects the jobs without metadata.
    """
    after_seq = None if after is None else _place(session, project_id, after)
    if after is not None and after_seq is None:
        raise pages.UnknownCursor
    if metadata:
        return _JOBS_WITH.page(session, limit, after_seq, project_id=project_id, metadata=metadata)
    listing = _JOBS_WITHOUT_METADATA if metadata is None else _JOBS
    return listing.page(session, limit, after_seq, project_id=project_id)


def events_page(session: Session, project_id: str, job_id: str, *, limit: int, after: str | None) -> pages.Page[Row]:
    """A page of a job's events, newest first. Raises JobNotFound, UnknownCursor."""
    check_job(session, project_id, job_id)
    after_seq = None if after is None else events.place(session, job_id, after)
    return events.page(session, job_id, limit=limit, after_seq=after_seq)


def check_job(session: Session, project_id: str, job_id: str) -> None:
    """Raise JobNotFound unless the project has this job."""
    if _place(session, project_id, job_id) is None:
        raise JobNotFound(job_id)


def _place(session: Session, project_id: str, job_id: str) -> int | None:
    if not ids.is_plain(job_id):
        return None
    return db.execute(session, _PLACE, project_id=project_id, job_id=job_id).scalar()
