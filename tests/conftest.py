"""Fixtures for every test: a real Postgres migrated once a run, rolled back after each test."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest
import sqlalchemy as sa

from app import db
from app.embedded.postgres import Postgres
from migrations import run as migrations

os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("no clocks", deadline=None)
hypothesis.settings.load_profile("no clocks")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """One embedded Postgres for this test process, with the newest schema in the database `tunesmith`."""
    folder = tmp_path_factory.mktemp("postgres")
    _open_to_search(folder)
    server = Postgres(folder, durable=False)
    server.start()
    engine = db.create_engine(server.url)
    migrations.upgrade(engine)
    engine.dispose()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def engine(postgres: Postgres) -> Iterator[sa.Engine]:
    engine = db.create_engine(postgres.url)
    yield engine
    engine.dispose()


@pytest.fixture
def database(engine: sa.Engine) -> Iterator[sa.Connection]:
    """`app.db` on a connection whose work is rolled back after the test; one thread only."""
    with engine.connect() as connection:
        transaction = connection.begin()
        db.configure(connection)
        yield connection
        transaction.rollback()
    engine.dispose()  # whoever clones this database ends its idle sessions


@pytest.fixture
def scratch_database(postgres: Postgres) -> Iterator[sa.Engine]:
    """`app.db` on a database of its own, cloned from the migrated one: for races and real commits."""
    name = f"scratch_{secrets.token_hex(4)}"
    with psycopg.connect(host=str(postgres.sockets), user="tunesmith", dbname="postgres", autocommit=True) as admin:
        # A template must have no sessions; the session engine may hold pooled ones.
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'tunesmith' AND state = 'idle'"
        )
        admin.execute(f"CREATE DATABASE {name} TEMPLATE tunesmith")
        engine = db.create_engine(postgres.database_url(name), pool_size=20)
        db.configure(engine)
        yield engine
        engine.dispose()
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _open_to_search(folder: Path) -> None:
    """Postgres runs as another user when the tests run as root, and pytest's folders are private."""
    if os.geteuid() == 0:
        for parent in [folder, *folder.parents]:
            if parent.stat().st_mode & 0o001 == 0:
                parent.chmod(parent.stat().st_mode | 0o011)
