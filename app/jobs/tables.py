"""Fine-tuning jobs. The row is the truth: what a job is, who holds it, how far it came."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base
from app.jobs import states

TIMESTAMP = sa.DateTime(timezone=True)


class Job(Base):
    __tablename__ = "jobs"
    __table_args__ = (
        sa.CheckConstraint(sa.column("status").in_(states.ALL), name="status"),
        sa.CheckConstraint("(status IN ('succeeded','failed','cancelled')) = (finished_at IS NOT NULL)", name="final"),
        sa.Index("ix_jobs_page", "project_id", "seq"),
        # One small index per queue, so that the head of each project's queue is one probe.
        sa.Index(
            "ix_jobs_queued",
            "base_key",
            "project_id",
            sa.text("priority DESC"),
            "seq",
            postgresql_where=sa.text("status = 'queued'"),
        ),
        sa.Index(
            "ix_jobs_validating",
            "project_id",
            sa.text("priority DESC"),
            "seq",
            postgresql_where=sa.text("status = 'validating_files' AND lease_until IS NULL"),
        ),
        sa.Index("ix_jobs_live", "project_id", "status", postgresql_where=sa.text("finished_at IS NULL")),
        sa.Index("ix_jobs_finished", "project_id", "finished_at", postgresql_where=sa.text("finished_at IS NOT NULL")),
        sa.Index("ix_jobs_leased", "lease_until", postgresql_where=sa.text("lease_until IS NOT NULL")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)  # ftjob-…
    seq: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), unique=True)  # page order and age
    project_id: Mapped[str] = mapped_column(sa.ForeignKey("projects.id"))
    status: Mapped[str] = mapped_column(server_default=states.VALIDATING)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())
    finished_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)
    first_step_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)
    estimated_finish: Mapped[datetime | None] = mapped_column(TIMESTAMP)

    # What was asked for.
    model: Mapped[str]  # the catalogue id, or the ft: name whose training goes on
    base_model: Mapped[str]  # the catalogue id
    base_key: Mapped[str]  # id@revision:quantization:dtype, what an engine must hold
    parent_model: Mapped[str | None]  # the ft: name of continued training
    training_file: Mapped[str]
    validation_file: Mapped[str | None]
    method: Mapped[str]  # supervised
    request: Mapped[dict[str, Any]] = mapped_column(JSONB)  # hyperparameters as asked, "auto" included
    resolved: Mapped[dict[str, Any] | None] = mapped_column(JSONB)  # hyperparameters in numbers, once prepared
    suffix: Mapped[str | None]
    seed: Mapped[int]
    user_metadata: Mapped[dict[str, str] | None] = mapped_column("metadata", JSONB)
    integrations: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB)
    deterministic: Mapped[bool] = mapped_column(server_default=sa.false())
    priority: Mapped[int] = mapped_column(sa.SmallInteger, server_default="0")
    trace: Mapped[str | None]  # the W3C traceparent of the request that made it, if traces are on

    # Who holds it.
    fence: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")  # one more at each claim
    worker_id: Mapped[str | None]
    lease_until: Mapped[datetime | None] = mapped_column(TIMESTAMP)
    claimed_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)
    progress_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)  # the progress clock: phase or step moved
    phase: Mapped[str | None]
    queued_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)  # since when it waits for a GPU worker
    attempts: Mapped[dict[str, int]] = mapped_column(JSONB, server_default=sa.text("'{}'"))  # cause → count
    suspect: Mapped[bool] = mapped_column(server_default=sa.false())  # runs alone next: its engine crashed in company

    # How far it came.
    prepared_key: Mapped[str | None]  # prefix of the prepared training data in the object store
    validation_key: Mapped[str | None]  # and of the prepared validation data
    total_steps: Mapped[int | None]
    planned_tokens: Mapped[int | None] = mapped_column(sa.BigInteger)  # what training will take, once prepared
    furthest_step: Mapped[int] = mapped_column(server_default="0")
    resume_prefix: Mapped[str | None]  # prefix of the last resume state in the object store
    resume_step: Mapped[int] = mapped_column(server_default="0")

    # What came of it.
    fine_tuned_model: Mapped[str | None]
    trained_tokens: Mapped[int | None] = mapped_column(sa.BigInteger)  # so far; on the wire once succeeded
    result_file: Mapped[str | None]
    error: Mapped[dict[str, Any] | None] = mapped_column(JSONB)  # {code, message, param}
