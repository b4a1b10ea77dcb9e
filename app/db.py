"""The database: one sync engine, one visible transaction per phase, and the only commit in the repository."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg
import sqlalchemy as sa
from sqlalchemy import orm

from app.failpoints import failpoint

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

Session = orm.Session

# A server that vanished without a word is given up after about a quarter of a minute, not after the kernel's two hours.
_NOTICE_A_DEAD_PEER = {
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,  # ms
}


class Base(orm.DeclarativeBase):
    """The parent of every table."""

    metadata = sa.MetaData(naming_convention=NAMING)


FRESH_SECONDS = 1.0  # a connection used so lately is not asked whether it lives

_sessions = orm.sessionmaker(expire_on_commit=False)
_readers = orm.sessionmaker(expire_on_commit=False)


def create_engine(
    url: str, *, pool_size: int = 8, idle_seconds: float = 10.0, statement_seconds: float = 0.0
) -> sa.Engine:
    """An engine on Postgres through psycopg 3, with at most twice `pool_size` connections.

    A dead connection is noticed before it is used, unless it died within the last second (docs/decisions/0063).
    idle_seconds: the server ends a transaction in which nothing happens for so long. A process that stands still in one
    would hold its rows locked, and nobody could take its jobs from it.
    statement_seconds: the server ends a statement, or a wait for a lock, that takes so long; 0: it may take any time.
    """
    bounds = f"-c idle_in_transaction_session_timeout={idle_seconds * 1000:.0f}"
    bounds += f" -c statement_timeout={statement_seconds * 1000:.0f}"
    engine = sa.create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_use_lifo=True,
        pool_timeout=2,  # seconds; a full pool answers 503 rather than hang
        json_deserializer=msgspec.json.decode,
        hide_parameters=True,  # an error's text goes to the log, and rows hold what users sent
        connect_args={"connect_timeout": 5, "application_name": "tunesmith", **_NOTICE_A_DEAD_PEER, "options": bounds},
    )
    sa.event.listen(engine, "checkin", _note_use)
    sa.event.listen(engine, "checkout", _check_alive)
    return engine


def _note_use(_: object, record: sa.PoolProxiedConnection) -> None:
    record.info["used"] = time.monotonic()


def _check_alive(connection: psycopg.Connection, record: Any, _: object) -> None:
    """Ask a connection that was idle for a while whether it lives; if not, neither do those that are idle longer."""
    if time.monotonic() - record.info.get("used", 0.0) < FRESH_SECONDS:
        return
    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except psycopg.Error as error:
        raise sa.exc.InvalidatePoolError from error


def configure(bind: sa.Engine | sa.Connection) -> None:
    """Set what `transaction` and `reading` talk to; a test passes a connection it will roll back."""
    reads = bind.execution_options(isolation_level="AUTOCOMMIT") if isinstance(bind, sa.Engine) else bind
    _sessions.configure(bind=bind, join_transaction_mode="create_savepoint")
    _readers.configure(bind=reads, join_transaction_mode="create_savepoint")


def bound() -> sa.Engine | sa.Connection:
    """The engine (in a test, the connection) in use."""
    bind = _sessions.kw.get("bind")
    if bind is None:
        raise RuntimeError("db.configure() has not been called")
    return bind


@contextmanager
def transaction() -> Iterator[Session]:
    """One phase of work: commits at the end, rolls back if the block raises, then runs what `after_commit` kept."""
    with _sessions() as session, session.begin():
        yield session
    failpoint("transaction.committed")
    for callback in session.info.pop("after_commit", []):
        callback()


def outcome_is_unknown(error: BaseException) -> bool:
    """Whether a transaction that raised may have been committed all the same: its connection broke."""
    return isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated


@contextmanager
def reading() -> Iterator[Session]:
    """A session for hot reads on an autocommit connection: no BEGIN and no COMMIT on the wire."""
    with _readers() as session:
        yield session


def after_commit(session: Session, callback: Callable[[], object]) -> None:
    """Run `callback` once the transaction around `session` is committed; never if it rolls back."""
    session.info.setdefault("after_commit", []).append(callback)


def execute(session: Session, statement: sa.Executable, **values: Any) -> sa.CursorResult[*tuple[Any, ...]]:
    """Run a statement that was built once; the rows are plain, no session tracks them (docs/decisions/0063)."""
    session.flush()
    return session.connection().execute(statement, values)
