"""limits of projects, and what jobs will have trained"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("requests_per_minute", "quota_running_jobs", "quota_waiting_jobs"):
        op.add_column("projects", sa.Column(name, sa.Integer(), nullable=True))
    for name in ("quota_storage_bytes", "quota_monthly_tokens"):
        op.add_column("projects", sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("planned_tokens", sa.BigInteger(), nullable=True))
    op.create_index(
        "ix_jobs_live",
        "jobs",
        ["project_id", "status"],
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_index(
        "ix_jobs_finished",
        "jobs",
        ["project_id", "finished_at"],
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_finished", table_name="jobs")
    op.drop_index("ix_jobs_live", table_name="jobs")
    op.drop_column("jobs", "planned_tokens")
    for name in ("quota_monthly_tokens", "quota_storage_bytes", "quota_waiting_jobs", "quota_running_jobs"):
        op.drop_column("projects", name)
    op.drop_column("projects", "requests_per_minute")
