"""Deletions of objects that must not be lost: written in the transaction that causes them, carried out by a sweep.

Webhooks have an outbox of their own, `app/webhooks/lanes.py`: theirs has lanes, and can be looked at.
"""

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Session

DELETE_OBJECT = "delete_object"  # payload: {"key": …}
DELETE_PREFIX = "delete_prefix"  # payload: {"prefix": …}
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 30.0, 3600.0


class OutboxRow(Base):
    __tablename__ = "outbox"
    __table_args__ = (sa.Index("ix_outbox_due", "due_at"),)

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    kind: Mapped[str]
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    attempts: Mapped[int] = mapped_column(server_default="0")
    due_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())


def put(session: Session, kind: str, payload: dict[str, Any], *, delay: timedelta = timedelta(0)) -> None:
    """Promise a side effect: it happens at least once if, and only if, the caller's transaction commits."""
    session.add(OutboxRow(kind=kind, payload=payload, due_at=sa.func.now() + delay))


def claim(session: Session, limit: int) -> list[OutboxRow]:
    """Take some of what is due. Each is put off before it is tried: what fails, or whose sweeper dies, comes due again
    by itself, ever more rarely.
    """
    due = sa.select(OutboxRow).where(OutboxRow.due_at <= sa.func.now()).order_by(OutboxRow.due_at).limit(limit)
    rows = session.scalars(due.with_for_update(skip_locked=True)).all()
    for row in rows:
        delay = min(FIRST_RETRY_SECONDS * 2 ** min(row.attempts, 30), LONGEST_RETRY_SECONDS)
        row.attempts += 1
        row.due_at = sa.func.now() + timedelta(seconds=delay)
    return list(rows)


def done(session: Session, row_id: int) -> None:
    """Forget what was carried out."""
    session.execute(sa.delete(OutboxRow).where(OutboxRow.id == row_id))
