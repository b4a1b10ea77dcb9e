"""Runs migrations on the connection it is handed, under an advisory lock so that two deployments cannot collide."""

import sqlalchemy as sa
from alembic import context

from app.tables import Base

MIGRATION_LOCK = 7_481_526  # any constant that nobody else in this database uses


def run(connection: sa.Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
    with context.begin_transaction():
        connection.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        context.run_migrations()


run(context.config.attributes["connection"])
