"""Writing and reading a job's events."""

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app import db, ids, pages
from app.db import Session
from app.events.tables import Event

_OF_JOB = Event.job_id == sa.bindparam("job_id")
_PLACE = sa.select(Event.seq).where(_OF_JOB, Event.id == sa.bindparam("event_id"))
_SHOWN = sa.select(Event.id, Event.seq, Event.created_at, Event.level, Event.type, Event.message, Event.data)
_APPEND = sa.insert(Event)
_EVENTS = pages.Listing(_SHOWN.where(_OF_JOB), Event.seq)


def append(
    session: Session, job_id: str, message: str, *, level: str = "info", data: dict[str, Any] | None = None
) -> None:
    """Add a message event to the caller's transaction."""
    values = {"id": new_id(), "job_id": job_id, "level": level, "message": message, "data": data or {}}
    db.execute(session, _APPEND, type="message", **values)


def append_metrics(session: Session, job_id: str, steps: Iterable[dict[str, Any]]) -> None:
    """Add one metrics event a step. A step that was told before (by an earlier attempt) is passed over.

    `steps` holds the wire's `data` objects: step, total_steps, train_loss, train_mean_token_accuracy, and the valid_*
    and full_valid_* members on steps that were evaluated.
    """
    rows = [_metrics_row(job_id, data) for data in steps]
    if rows:
        target = insert(Event).values(rows)
        session.execute(
            target.on_conflict_do_nothing(index_elements=["job_id", "step"], index_where=sa.text("step IS NOT NULL"))
        )


def told(session: Session, job_id: str, beginning: str) -> bool:
    """Whether the job has a message event that begins so: some things are said once, whatever is done again."""
    query = sa.select(Event.id).where(Event.job_id == job_id, Event.message.startswith(beginning, autoescape=True))
    return session.scalar(query.limit(1)) is not None


def page(session: Session, job_id: str, *, limit: int, after_seq: int | None) -> pages.Page[Any]:
    """A page of events, newest first, as plain rows."""
    return _EVENTS.page(session, limit, after_seq, job_id=job_id)


def after(session: Session, job_id: str, seq: int, *, limit: int) -> list[Event]:
    """The events after a place, oldest first. A job's events become visible in the order of their places, because
    whoever writes one holds the job's row.
    """
    query = sa.select(Event).where(Event.job_id == job_id, Event.seq > seq).order_by(Event.seq).limit(limit)
    return list(session.scalars(query))


def newest(session: Session, job_ids: Sequence[str]) -> dict[str, int]:
    """The place of each job's last event."""
    query = (
        sa.select(Event.job_id, sa.func.max(Event.seq).label("seq"))
        .where(Event.job_id.in_(job_ids))
        .group_by(Event.job_id)
    )
    return {row.job_id: row.seq for row in session.execute(query)}


def place(session: Session, job_id: str, event_id: str) -> int:
    """The place of an event of this job. Raises UnknownCursor."""
    if ids.is_plain(event_id):
        found = db.execute(session, _PLACE, job_id=job_id, event_id=event_id).scalar()
        if found is not None:
            return int(found)
    raise pages.UnknownCursor


def metrics(session: Session, job_id: str) -> list[dict[str, Any]]:
    """The data of every metrics event, in the order of steps: what the result CSV is made from."""
    query = sa.select(Event.data).where(Event.job_id == job_id, Event.step.is_not(None)).order_by(Event.step)
    return [data for data in session.scalars(query) if data is not None]


def new_id() -> str:
    return ids.new("ftevent-")


def _metrics_row(job_id: str, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": new_id(),
        "job_id": job_id,
        "level": "info",
        "type": "metrics",
        "message": step_message(data),
        "data": data,
        "step": data["step"],
    }


def step_message(data: dict[str, Any]) -> str:
    """The line some clients parse: `Step 3/12: training loss=0.22, validation loss=0.31`."""
    text = f"Step {data['step']}/{data['total_steps']}: training loss={data['train_loss']:.2f}"
    if data.get("valid_loss") is not None:
        text += f", validation loss={data['valid_loss']:.2f}"
    if data.get("full_valid_loss") is not None:
        text += f", full validation loss={data['full_valid_loss']:.2f}"
    return text
