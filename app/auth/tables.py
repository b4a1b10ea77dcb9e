"""Organisations, the projects inside them, and the keys that open a project."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class Organization(Base):
    __tablename__ = "organizations"

    id: Mapped[str] = mapped_column(primary_key=True)  # org-…
    slug: Mapped[str] = mapped_column(unique=True)  # stands in the names of tuned models
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())


class Project(Base):
    __tablename__ = "projects"
    __table_args__ = (sa.UniqueConstraint("organization_id", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)  # proj_…
    organization_id: Mapped[str] = mapped_column(sa.ForeignKey("organizations.id"))
    name: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
    priority: Mapped[int] = mapped_column(sa.SmallInteger, server_default="0")  # −10..10, set by the operator
    # Tokens trained for this project, decayed to `served_at`: the fair-share key of the claim.
    served_tokens: Mapped[float] = mapped_column(sa.Double, server_default="0")
    served_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())


class ApiKey(Base):
    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)  # key_…
    project_id: Mapped[str] = mapped_column(sa.ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(server_default="")
    public_id: Mapped[str] = mapped_column(unique=True)  # the eight characters after the prefix; finds the row
    secret_sha256: Mapped[bytes]  # of the whole key; a fast hash suits 190 random bits
    last_four: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
    last_used_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))
    expires_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))
    revoked_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))
