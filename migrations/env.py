"""Runs migrations on the connection it is handed, each in its own transaction, one deployment at a time."""

import sqlalchemy as sa
from alembic import context

from app.tables import Base

MIGRATION_LOCK = 7_481_526  # any constant that nobody else in this database uses
LOCK_SECONDS = 3  # whoever comes after a waiting ALTER TABLE waits behind it, so it gives up soon; run.py tries again


def run(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    with connection.begin():
        connection.execute(sa.text(f"SET lock_timeout = '{LOCK_SECONDS}s'"))
        connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
    try:
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()  # what a comparison read, or a failed migration left
        with connection.begin():
            connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK})
            connection.execute(sa.text("RESET lock_timeout"))


run(context.config.attributes["connection"])
