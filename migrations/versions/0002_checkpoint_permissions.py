"""checkpoint permissions"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "checkpoint_permissions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["tuned_models.id"],
            name=op.f("fk_checkpoint_permissions_model_id_tuned_models"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_checkpoint_permissions_project_id_projects")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoint_permissions")),
        sa.UniqueConstraint("model_id", "project_id", name=op.f("uq_checkpoint_permissions_model_id_project_id")),
        sa.UniqueConstraint("seq", name=op.f("uq_checkpoint_permissions_seq")),
    )
    op.create_index("ix_checkpoint_permissions_project", "checkpoint_permissions", ["project_id", "model_id"])


def downgrade() -> None:
    op.drop_table("checkpoint_permissions")
