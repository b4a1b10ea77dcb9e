"""The one door for a job's changes: a guarded UPDATE that writes the event in the same transaction, and promises the
webhooks that tell of a job's end.

Losing a race is a return value. A worker's write carries its fence, and needs the lease that came with it: once the
job was taken back, even before anybody claims it again, zero rows say that it is no longer its own.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.db import Session
from app.events import service as events
from app.jobs import states
from app.jobs.tables import Job
from app.webhooks import service as webhooks

RELEASE = {"worker_id": None, "lease_until": None, "phase": None}


@dataclass(frozen=True)
class Note:
    """The event that goes with a transition."""

    message: str
    level: str = "info"
    data: dict[str, Any] | None = None


def move(
    session: Session,
    job_id: str,
    target: str,
    *,
    note: Note | None,
    fence: int | None = None,
    sources: tuple[str, ...] | None = None,
    project_id: str | None = None,
    values: dict[str, Any] | None = None,
) -> Job | None:
    """Move a job to `target` if it is in a legal source status and, where given, under `fence` and in `project_id`.

    Returns the job as it now is, or None if it was not there to be moved: it is final, has another fence, or another
    project. A final status sets `finished_at`; leaving a leased status clears the lease.
    """
    changes: dict[str, Any] = {"status": target, **(values or {})}
    if target in states.FINAL:
        changes |= {"finished_at": sa.func.now(), "estimated_finish": None}
    if target not in states.LEASED:
        changes |= RELEASE
    if target == states.QUEUED:
        changes.setdefault("queued_at", sa.func.now())
    allowed = sources if sources is not None else states.sources(target)
    job = _update(session, job_id, changes, note, fence, allowed, project_id)
    if job is not None and target in states.FINAL:
        webhooks.announce(session, job.project_id, f"fine_tuning.job.{target}", job.id)
    return job


def update(
    session: Session, job_id: str, fence: int, values: dict[str, Any], *, note: Note | None = None
) -> Job | None:
    """Change a job that its worker holds, without changing its status. None: the fence is lost, stop."""
    return _update(session, job_id, values, note, fence, states.LEASED, None)


def _update(
    session: Session,
    job_id: str,
    changes: dict[str, Any],
    note: Note | None,
    fence: int | None,
    allowed: tuple[str, ...],
    project_id: str | None,
) -> Job | None:
    statement = sa.update(Job).where(Job.id == job_id, Job.status.in_(allowed)).values(changes).returning(Job)
    if fence is not None:
        statement = statement.where(Job.fence == fence, Job.lease_until.is_not(None))
    if project_id is not None:
        statement = statement.where(Job.project_id == project_id)
    job = session.scalar(statement, execution_options={"populate_existing": True})
    if job is not None and note is not None:
        events.append(session, job_id, note.message, level=note.level, data=note.data)
    return job
