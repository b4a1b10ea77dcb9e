"""Organisations, the projects inside them, and the keys that open a project."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base

TIMESTAMP = sa.DateTime(timezone=True)


class Organization(Base):
    __tablename__ = "organizations"

    id: Mapped[str] = mapped_column(primary_key=True)  # org-…
    slug: Mapped[str] = mapped_column(unique=True)  # stands in the names of tuned models
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())


class Project(Base):
    __tablename__ = "projects"
    __table_args__ = (sa.UniqueConstraint("organization_id", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)  # proj_…
    seq: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), unique=True)
    organization_id: Mapped[str] = mapped_column(sa.ForeignKey("organizations.id"))
    name: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())
    archived_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)  # for ever; its keys no longer work
    priority: Mapped[int] = mapped_column(sa.SmallInteger, server_default="0")  # −10..10, set by the operator
    # Limits of this project, in place of the server's settings of these names; None: those, 0: no limit.
    requests_per_minute: Mapped[int | None]
    quota_storage_bytes: Mapped[int | None] = mapped_column(sa.BigInteger)
    quota_running_jobs: Mapped[int | None]
    quota_waiting_jobs: Mapped[int | None]
    quota_monthly_tokens: Mapped[int | None] = mapped_column(sa.BigInteger)
    # Tokens trained for this project, decayed to `served_at`: the fair-share key of the claim.
    served_tokens: Mapped[float] = mapped_column(sa.Double, server_default="0")
    served_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())


class ApiKey(Base):
    """A key of a project with some scopes, or of a whole organisation with the scope `admin` alone."""

    __tablename__ = "api_keys"
    __table_args__ = (
        sa.CheckConstraint("(project_id IS NULL) = (scopes = ARRAY['admin'])", name="admin"),
        sa.Index("ix_api_keys_page", "organization_id", "seq"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)  # key_…
    seq: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), unique=True)
    organization_id: Mapped[str] = mapped_column(sa.ForeignKey("organizations.id"))
    project_id: Mapped[str | None] = mapped_column(sa.ForeignKey("projects.id"))
    scopes: Mapped[list[str]] = mapped_column(ARRAY(sa.Text))
    name: Mapped[str] = mapped_column(server_default="")
    public_id: Mapped[str] = mapped_column(unique=True)  # the eight characters after the prefix; finds the row
    secret_sha256: Mapped[bytes]  # of the whole key; a fast hash suits 190 random bits
    last_four: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())
    last_used_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)
    expires_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)
    revoked_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)
