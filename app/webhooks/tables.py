"""Webhook endpoints, what is to be delivered to them, and each attempt at it."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base
from app.webhooks import states

TIMESTAMP = sa.DateTime(timezone=True)


class Endpoint(Base):
    __tablename__ = "webhook_endpoints"
    __table_args__ = (sa.Index("ix_webhook_endpoints_page", "project_id", "seq"),)

    id: Mapped[str] = mapped_column(primary_key=True)  # whe_…
    seq: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), unique=True)
    project_id: Mapped[str] = mapped_column(sa.ForeignKey("projects.id"))
    name: Mapped[str]
    url: Mapped[str]
    event_types: Mapped[list[str]] = mapped_column(ARRAY(sa.Text))
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())
    updated_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())  # last change by the user

    # Both sealed by app/secrets.py. The old one signs too until its time is over.
    secret: Mapped[str]
    secret_hint: Mapped[str]
    old_secret: Mapped[str | None]
    old_secret_until: Mapped[datetime | None] = mapped_column(TIMESTAMP)

    # The lane: one deliverer at a time, under a lease and a fence; after failures it rests.
    fence: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    lease_until: Mapped[datetime | None] = mapped_column(TIMESTAMP)
    served_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)  # who waited longest goes first
    failures: Mapped[int] = mapped_column(server_default="0")  # since the last success
    rests_until: Mapped[datetime | None] = mapped_column(TIMESTAMP)


class Delivery(Base):
    """One event for one endpoint: written in the transaction that causes it, kept for a while when it is over."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        sa.CheckConstraint(sa.column("status").in_(states.ALL), name="status"),
        sa.CheckConstraint("(status = 'pending') = (ended_at IS NULL)", name="ended"),
        sa.UniqueConstraint("endpoint_id", "event_id"),
        sa.Index("ix_webhook_deliveries_page", "endpoint_id", "seq"),
        sa.Index("ix_webhook_deliveries_due", "endpoint_id", "due_at", postgresql_where=sa.text("status = 'pending'")),
        sa.Index("ix_webhook_deliveries_ended", "ended_at", postgresql_where=sa.text("ended_at IS NOT NULL")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)  # wh_…, the webhook-id of every attempt
    seq: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), unique=True)
    endpoint_id: Mapped[str] = mapped_column(sa.ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    event_id: Mapped[str]  # evt_…, the same for every endpoint
    event_type: Mapped[str]
    body: Mapped[str]  # the bytes of every attempt
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())
    status: Mapped[str] = mapped_column(server_default=states.PENDING)
    attempts: Mapped[int] = mapped_column(server_default="0")  # begun
    due_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())
    ended_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)


class Attempt(Base):
    """One request. A row without an end is an attempt whose worker died, or that is under way."""

    __tablename__ = "webhook_attempts"

    delivery_id: Mapped[str] = mapped_column(
        sa.ForeignKey("webhook_deliveries.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # from 1
    started_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())
    seconds: Mapped[float | None]
    status_code: Mapped[int | None]  # None: no answer
    error: Mapped[str | None]  # a word of app/egress.py, or of app/webhooks/sending.py
    error_message: Mapped[str | None]
    response_body: Mapped[str | None]  # its beginning
