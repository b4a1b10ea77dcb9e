"""The one transaction: what commits, what rolls back, and what runs after."""

import pytest
import sqlalchemy as sa

from app import db, outbox
from app.outbox import OutboxRow
from migrations import run as migrations


def count() -> int:
    with db.reading() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(OutboxRow)) or 0


def test_a_block_that_ends_well_commits_and_then_runs_its_callbacks(scratch_database: sa.Engine) -> None:
    seen: list[int] = []
    with db.transaction() as session:
        outbox.put(session, outbox.DELETE_OBJECT, {"key": "k"})
        db.after_commit(session, lambda: seen.append(count()))
        assert seen == []
    assert seen == [1], "the callback ran once, and saw the committed row"


def test_a_block_that_raises_leaves_no_row_and_runs_no_callback(scratch_database: sa.Engine) -> None:
    seen: list[str] = []
    with pytest.raises(KeyError):  # noqa: PT012 - the rows come before the failure
        with db.transaction() as session:
            outbox.put(session, outbox.DELETE_OBJECT, {"key": "k"})
            db.after_commit(session, lambda: seen.append("ran"))
            raise KeyError
    assert count() == 0
    assert seen == []


def test_a_read_leaves_no_transaction_open(scratch_database: sa.Engine) -> None:
    with db.reading() as session:
        session.execute(sa.text("SELECT 1"))
        state = "SELECT state FROM pg_stat_activity WHERE pid = :pid"
        pid = session.scalar(sa.text("SELECT pg_backend_pid()"))
        with scratch_database.connect() as other:
            assert other.scalar(sa.text(state), {"pid": pid}) == "idle"


def test_the_schema_goes_up_has_no_drift_and_comes_down(scratch_database: sa.Engine) -> None:
    migrations.drift(scratch_database)
    migrations.downgrade(scratch_database, "base")
    assert sa.inspect(scratch_database).get_table_names() == ["alembic_version"]
    migrations.upgrade(scratch_database)
    migrations.drift(scratch_database)
