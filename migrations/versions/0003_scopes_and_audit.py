"""scopes, admin keys and the audit log"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# What every key could do until now.
SCOPES = [
    "files:read",
    "files:write",
    "jobs:read",
    "jobs:write",
    "models:read",
    "models:write",
    "graders:run",
    "webhooks:read",
    "webhooks:write",
]


def upgrade() -> None:
    op.add_column("projects", sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False))
    op.add_column("projects", sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True))
    op.create_unique_constraint(op.f("uq_projects_seq"), "projects", ["seq"])
    op.add_column("api_keys", sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False))
    op.add_column("api_keys", sa.Column("organization_id", sa.String(), nullable=True))
    op.add_column("api_keys", sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=True))
    op.execute(
        sa.text("""
            UPDATE api_keys SET organization_id = projects.organization_id, scopes = :scopes
            FROM projects WHERE projects.id = api_keys.project_id
        """).bindparams(sa.bindparam("scopes", SCOPES, postgresql.ARRAY(sa.Text())))
    )
    op.alter_column("api_keys", "organization_id", nullable=False)
    op.alter_column("api_keys", "scopes", nullable=False)
    op.alter_column("api_keys", "project_id", nullable=True)
    op.create_unique_constraint(op.f("uq_api_keys_seq"), "api_keys", ["seq"])
    op.create_foreign_key(
        op.f("fk_api_keys_organization_id_organizations"), "api_keys", "organizations", ["organization_id"], ["id"]
    )
    op.create_check_constraint(
        op.f("ck_api_keys_admin"), "api_keys", "(project_id IS NULL) = (scopes = ARRAY['admin'])"
    )
    op.create_index("ix_api_keys_page", "api_keys", ["organization_id", "seq"])
    _create_audit_log()


def _create_audit_log() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("organization_id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=True),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("key_id", sa.String(), nullable=True),
        sa.Column("account", sa.String(), nullable=True),
        sa.Column("ip_address", sa.String(), nullable=True),
        sa.Column("user_agent", sa.String(), nullable=True),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
        sa.UniqueConstraint("seq", name=op.f("uq_audit_log_seq")),
    )
    op.create_index("ix_audit_log_page", "audit_log", ["organization_id", "seq"])
    op.execute("""
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
        END $$
    """)
    op.execute("""
        CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
    """)


def downgrade() -> None:
    op.drop_table("audit_log")
    op.execute("DROP FUNCTION refuse_change()")
    op.execute("DELETE FROM api_keys WHERE project_id IS NULL")
    op.drop_constraint(op.f("ck_api_keys_admin"), "api_keys")
    op.drop_index("ix_api_keys_page", table_name="api_keys")
    op.drop_column("api_keys", "scopes")
    op.drop_column("api_keys", "organization_id")
    op.drop_column("api_keys", "seq")
    op.alter_column("api_keys", "project_id", nullable=False)
    op.drop_column("projects", "archived_at")
    op.drop_column("projects", "seq")
