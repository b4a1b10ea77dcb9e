"""Append-only events of a job; a training step's metrics are an event with a step."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class Event(Base):
    __tablename__ = "events"
    __table_args__ = (
        sa.Index("ix_events_page", "job_id", "seq"),
        # A step that ran twice (before and after a crash) is told once: the first commit wins.
        sa.Index("uq_events_step", "job_id", "step", unique=True, postgresql_where=sa.text("step IS NOT NULL")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)  # ftevent-…
    seq: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), unique=True)
    job_id: Mapped[str] = mapped_column(sa.ForeignKey("jobs.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.clock_timestamp())
    level: Mapped[str]  # info, warn, error
    type: Mapped[str]  # message, metrics
    message: Mapped[str]
    data: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    step: Mapped[int | None]  # only on metrics
