"""Tuned models and the checkpoints they came from; the adapters lie in the object store."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class TunedModel(Base):
    """One usable adapter: a job's final model, or one of its checkpoints."""

    __tablename__ = "tuned_models"
    __table_args__ = (
        sa.UniqueConstraint("project_id", "name"),
        sa.Index("ix_tuned_models_page", "project_id", "seq"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)  # model_…, never on the wire
    seq: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), unique=True)
    project_id: Mapped[str] = mapped_column(sa.ForeignKey("projects.id"))
    name: Mapped[str]  # ft:<base>:<org>:<suffix>:<8 characters>[:ckpt-step-<n>]
    source: Mapped[str]  # trained, checkpoint, imported
    job_id: Mapped[str | None] = mapped_column(sa.ForeignKey("jobs.id"))
    parent: Mapped[str | None]  # the model it was trained on from
    base_model: Mapped[str]
    base_key: Mapped[str]
    object_prefix: Mapped[str]  # the adapter's folder in the object store
    manifest_sha256: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
    deleted_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))


class Checkpoint(Base):
    """What `GET …/checkpoints` lists: an adapter at the end of an epoch. The last three of a job are kept."""

    __tablename__ = "checkpoints"
    __table_args__ = (sa.UniqueConstraint("job_id", "step"), sa.Index("ix_checkpoints_page", "job_id", "seq"))

    id: Mapped[str] = mapped_column(primary_key=True)  # ftckpt_…
    seq: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), unique=True)
    job_id: Mapped[str] = mapped_column(sa.ForeignKey("jobs.id", ondelete="CASCADE"))
    step: Mapped[int]
    model_id: Mapped[str] = mapped_column(sa.ForeignKey("tuned_models.id"))
    metrics: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())


class CheckpointPermission(Base):
    """Another project of the same organisation may see and train on a tuned model or checkpoint."""

    __tablename__ = "checkpoint_permissions"
    __table_args__ = (
        sa.UniqueConstraint("model_id", "project_id"),
        sa.Index("ix_checkpoint_permissions_project", "project_id", "model_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)  # cp_…
    seq: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), unique=True)
    model_id: Mapped[str] = mapped_column(sa.ForeignKey("tuned_models.id", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(sa.ForeignKey("projects.id"))  # who may use it
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
