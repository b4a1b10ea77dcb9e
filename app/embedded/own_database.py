"""What `tunesmith up` does in its own database: bring the schema up to date, and see to the first API key."""

from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from app import db, errors
from app.auth import service as auth
from app.embedded.data_directory import write_private
from app.workers.tables import Worker
from migrations import run as migrations


def open_with_key(database_url: str, key_file: Path) -> str:
    """Migrate, point `app.db` here, and return the key in `key_file`: a new one unless this database knows the old."""
    engine = db.create_engine(database_url, pool_size=1)
    migrations.upgrade(engine)
    db.configure(engine)
    key = _read(key_file)
    if key is None or not _known(key):
        with db.transaction() as session:
            key = auth.create_key(session, name="tunesmith up").value
        write_private(key_file, f"{key}\n")
    return key


def now() -> datetime:
    """The database's time."""
    with db.reading() as session:
        return session.scalars(sa.select(sa.func.now())).one()


def worker_kinds(since: datetime) -> set[str]:
    """The kinds of the workers that started since then."""
    with db.reading() as session:
        return set(session.scalars(sa.select(Worker.kind).where(Worker.started_at >= since)))


def _read(key_file: Path) -> str | None:
    try:
        return key_file.read_text("utf-8").strip() or None
    except FileNotFoundError:
        return None


def _known(key: str) -> bool:
    try:
        with db.transaction() as session:
            auth.authenticate(session, key)
    except errors.Unauthorized:
        return False
    return True
