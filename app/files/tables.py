"""Uploaded datasets and result files; the bytes lie in the object store."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class File(Base):
    __tablename__ = "files"
    __table_args__ = (sa.Index("ix_files_page", "project_id", "seq", postgresql_where=sa.text("deleted_at IS NULL")),)

    id: Mapped[str] = mapped_column(primary_key=True)  # file-…
    seq: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), unique=True)  # page order
    project_id: Mapped[str] = mapped_column(sa.ForeignKey("projects.id"))
    purpose: Mapped[str]
    filename: Mapped[str]
    bytes: Mapped[int] = mapped_column(sa.BigInteger)
    sha256: Mapped[str]  # hexadecimal
    object_key: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
    expires_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))
    # Set by DELETE; the object itself goes when no live job needs it any more, then the row with it.
    deleted_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))
