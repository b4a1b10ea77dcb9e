"""`tunesmith migrate`: bring a database to the newest schema."""

from io import StringIO
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory


def upgrade(engine: sa.Engine, revision: str = "head") -> None:
    """Apply every migration up to `revision`. Safe to run twice, and from two machines at once."""
    with engine.begin() as connection:
        command.upgrade(_config(connection), revision)


def downgrade(engine: sa.Engine, revision: str) -> None:
    """Take back every migration after `revision`."""
    with engine.begin() as connection:
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
    with engine.begin() as connection:
        command.check(_config(connection))


def _config(connection: sa.Connection) -> Config:
    config = Config(Path(__file__).parent / "alembic.ini", stdout=StringIO())
    config.attributes["connection"] = connection
    return config
