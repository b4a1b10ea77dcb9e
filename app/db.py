"""The database: one sync engine, one visible transaction per phase, and the only commit in the repository."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

import sqlalchemy as sa
from sqlalchemy import orm

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


_sessions = orm.sessionmaker(expire_on_commit=False)


def create_engine(url: str, *, pool_size: int = 8) -> sa.Engine:
    """An engine on Postgres through psycopg 3; a dead connection is noticed before it is used."""
    return sa.create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=2,  # seconds; a full pool answers 503 rather than hang
        pool_pre_ping=True,
        hide_parameters=True,  # an error's text goes to the log, and rows hold what users sent
        connect_args={"connect_timeout": 5, "application_name": "tunesmith", **_NOTICE_A_DEAD_PEER},
    )


def configure(bind: sa.Engine | sa.Connection) -> None:
    """Set what `transaction` and `reading` talk to; a test passes a connection it will roll back."""
    _sessions.configure(bind=bind, join_transaction_mode="create_savepoint")


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
    for callback in session.info.pop("after_commit", []):
        callback()


def outcome_is_unknown(error: BaseException) -> bool:
    """Whether a transaction that raised may have been committed all the same: its connection broke."""
    return isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated


@contextmanager
def reading() -> Iterator[Session]:
    """A session for hot reads on an autocommit connection: no BEGIN and no COMMIT on the wire."""
    bind = bound()
    source = bind.execution_options(isolation_level="AUTOCOMMIT") if isinstance(bind, sa.Engine) else bind
    with _sessions(bind=source) as session:
        yield session


def after_commit(session: Session, callback: Callable[[], object]) -> None:
    """Run `callback` once the transaction around `session` is committed; never if it rolls back."""
    session.info.setdefault("after_commit", []).append(callback)


def in_background(callback: Callable[[], object]) -> Callable[[], None]:
    """Wrap a side effect that must not hold up a request (a ring, say) so that it runs in a thread of its own."""
    return lambda: Thread(target=callback, daemon=True).start()
