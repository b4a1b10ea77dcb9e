"""replies kept for repeated requests"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TIMESTAMP = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "idempotency",
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("slot", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=True),
        sa.Column("attempt", sa.String(), nullable=False),
        sa.Column("lease_until", TIMESTAMP, nullable=False),
        sa.Column("reply", sa.LargeBinary(), nullable=True),
        sa.Column("sealed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("expires_at", TIMESTAMP, nullable=False),
        sa.PrimaryKeyConstraint("owner", "slot", name=op.f("pk_idempotency")),
    )
    op.create_index("ix_idempotency_expiry", "idempotency", ["expires_at"])


def downgrade() -> None:
    op.drop_table("idempotency")
