"""Uploads in parts; the bytes of each part lie in the object store until the parts have become a file."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base
from app.uploads import states

TIMESTAMP = sa.DateTime(timezone=True)


class Upload(Base):
    __tablename__ = "uploads"
    __table_args__ = (
        sa.CheckConstraint(sa.column("status").in_(states.ALL), name="status"),
        sa.CheckConstraint("(status IN ('pending','completing')) = (ended_at IS NULL)", name="ended"),
        sa.Index("ix_uploads_open", "expires_at", postgresql_where=sa.text("ended_at IS NULL")),
        sa.Index("ix_uploads_ended", "ended_at", postgresql_where=sa.text("ended_at IS NOT NULL")),
        sa.Index("ix_uploads_project_open", "project_id", postgresql_where=sa.text("ended_at IS NULL")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)  # upload_…
    project_id: Mapped[str] = mapped_column(sa.ForeignKey("projects.id"))
    status: Mapped[str] = mapped_column(server_default=states.PENDING)
    bytes: Mapped[int] = mapped_column(sa.BigInteger)  # as told at creation
    filename: Mapped[str]
    purpose: Mapped[str]
    mime_type: Mapped[str]
    file_expires_after: Mapped[int | None]  # seconds
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())
    expires_at: Mapped[datetime] = mapped_column(TIMESTAMP)
    ended_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)
    file_id: Mapped[str | None]  # of the file it became

    # Who puts the parts together.
    fence: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")  # one more at each attempt
    lease_until: Mapped[datetime | None] = mapped_column(TIMESTAMP)


class UploadPart(Base):
    __tablename__ = "upload_parts"
    __table_args__ = (sa.Index("ix_upload_parts_upload", "upload_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)  # part_…
    upload_id: Mapped[str] = mapped_column(sa.ForeignKey("uploads.id", ondelete="CASCADE"))
    bytes: Mapped[int] = mapped_column(sa.BigInteger)
    sha256: Mapped[str]  # hexadecimal
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())
