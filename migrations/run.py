"""`tunesmith migrate`: bring a database to the newest schema, while others use it."""

import logging
import time
from io import StringIO
from pathlib import Path

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
PAUSE_SECONDS = 1.0  # lets those pass who queued behind a lock that was not to be had
PATIENCE_SECONDS = 300.0


def upgrade(engine: sa.Engine, revision: str = "head", *, patience_seconds: float = PATIENCE_SECONDS) -> None:
    """Apply every migration up to `revision`, each in its own transaction. Safe to run twice, and from two machines.

    A lock that others hold is asked for again and again, each time only for moments, so that nobody waits behind it.
    Raises OperationalError if it is not to be had within `patience_seconds`; the next run goes on from there.
    The schema of a newer version is left as it is: who goes back to an older one finds all that it needs in there.
    """
    current, newest = revisions(engine)
    if current is not None and current > newest:
        log.warning("migrate.schema_is_newer", extra={"schema": current, "newest_here": newest})
        return
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            with engine.connect() as connection:
                command.upgrade(_config(connection), revision)
        except sa.exc.OperationalError as error:
            if not isinstance(error.orig, psycopg.errors.LockNotAvailable) or time.monotonic() > deadline:
                raise
            log.warning("migrate.waits", extra={"reason": str(error.orig).strip()})
            time.sleep(PAUSE_SECONDS)
        else:
            return


def downgrade(engine: sa.Engine, revision: str) -> None:
    """Take back every migration after `revision`."""
    with engine.connect() as connection:
        command.downgrade(_config(connection), revision)


def revisions(engine: sa.Engine) -> tuple[str | None, str]:
    """The database's revision (None: no table yet) and the newest one here. Revisions are numbers of four digits."""
    with engine.begin() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        newest = ScriptDirectory.from_config(_config(connection)).get_current_head()
    assert newest is not None
    return current, newest


def drift(engine: sa.Engine) -> None:
    """Raise if the tables in the code differ from the migrated schema."""
    with engine.connect() as connection:
        command.check(_config(connection))


def _config(connection: sa.Connection) -> Config:
    config = Config(HERE / "alembic.ini", stdout=StringIO())
    config.attributes["connection"] = connection
    return config
