"""The audit log. A trigger refuses UPDATE, DELETE and TRUNCATE; entries outlive what they name, so nothing is a key."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class AuditEntry(Base):
    __tablename__ = "audit_log"
    __table_args__ = (sa.Index("ix_audit_log_page", "organization_id", "seq"),)

    id: Mapped[str] = mapped_column(primary_key=True)  # audit_log-…
    seq: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), unique=True)
    at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
    organization_id: Mapped[str]
    project_id: Mapped[str | None]  # None: it concerns the organisation
    action: Mapped[str]  # a word of app/audit/actions.py
    target: Mapped[str]  # the id of what was changed
    details: Mapped[dict[str, Any]] = mapped_column(JSONB)
    key_id: Mapped[str | None]  # who: the key; None: the operator's command line
    account: Mapped[str | None]  # and there, the account of the operating system
    ip_address: Mapped[str | None]
    user_agent: Mapped[str | None]
    request_id: Mapped[str | None]
