"""Side effects that must not be lost: written in the transaction that causes them, carried out by a sweep."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Session

DELETE_OBJECT = "delete_object"  # payload: {"key": …}
DELETE_PREFIX = "delete_prefix"  # payload: {"prefix": …}


class OutboxRow(Base):
    __tablename__ = "outbox"
    __table_args__ = (sa.Index("ix_outbox_due", "due_at"),)

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    kind: Mapped[str]
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    attempts: Mapped[int] = mapped_column(server_default="0")
    due_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())


def put(session: Session, kind: str, payload: dict[str, Any]) -> None:
    """Promise a side effect: it happens at least once if, and only if, the caller's transaction commits."""
    session.add(OutboxRow(kind=kind, payload=payload))
