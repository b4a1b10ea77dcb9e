"""Workers of this version beside an API, a schema and objects of a later one: what an upgrade in steps looks like."""

import json
from typing import Any

import pytest
import sqlalchemy as sa
from job_rows import add_job, add_project
from worker_bench import Bench, bench, lines

from app import db
from app.db import Base
from app.jobs import claims, states
from app.jobs.tables import Job
from app.workers import service as workers

__all__ = ["bench"]

BASE = "tiny-chat@local:none:auto"


def as_a_later_version_has_it(engine: sa.Engine) -> None:
    """New columns in every table (one that is never NULL), a new table, a schema with a number unknown here."""
    with engine.begin() as connection:
        for table in Base.metadata.sorted_tables:
            connection.execute(sa.text(f"ALTER TABLE {table.name} ADD COLUMN later_note text"))
            connection.execute(sa.text(f"ALTER TABLE {table.name} ADD COLUMN later_count integer NOT NULL DEFAULT 7"))
        connection.execute(sa.text("CREATE TABLE later_things (id text PRIMARY KEY)"))
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))


def claim(kind: str) -> Job | None:
    with db.transaction() as session:
        if kind == states.VALIDATING:
            return claims.claim_validating(session, worker_id="old", lease_seconds=30)
        return claims.claim_queued(session, worker_id="old", lease_seconds=30, base_key=BASE, alone=True)


def test_this_version_works_on_the_schema_of_a_later_one(bench: Bench, scratch_database: sa.Engine) -> None:
    as_a_later_version_has_it(scratch_database)
    bench.start("cpu", "gpu")
    job = bench.wait(bench.create(lines(12), lines(4)), states.SUCCEEDED)
    assert job.furthest_step == job.total_steps
    assert bench.events(job.id)[-1].message == "The job has successfully completed"
    with scratch_database.connect() as connection:
        rows = connection.execute(sa.text("SELECT DISTINCT later_note, later_count FROM jobs")).all()
    assert [tuple(row) for row in rows] == [(None, 7)], "what this version does not know keeps its default"


def test_what_a_later_version_notes_beside_our_own_is_let_be(bench: Bench) -> None:
    """Prepared by a later `worker cpu` (its manifest says more), trained by a `worker gpu` of this version."""
    bench.start("cpu")
    job = bench.wait(bench.create(lines(12)), states.QUEUED)
    key = f"{job.prepared_key}manifest.json"
    manifest: dict[str, Any] = json.loads(b"".join(bench.store.read(key)))
    with bench.store.writing(key) as target:
        target.write(json.dumps(manifest | {"later": {"columns": ["reward"]}}).encode())
    bench.start("gpu")
    bench.wait(job.id, states.SUCCEEDED)


@pytest.mark.parametrize("status", [states.VALIDATING, states.QUEUED])
@pytest.mark.parametrize("news", [{"request": {"n_epochs": "auto", "later_setting": 2}}, {"method": "later_method"}])
def test_what_this_version_would_have_to_ignore_waits_for_a_newer_worker(
    scratch_database: sa.Engine, status: str, news: dict[str, Any]
) -> None:
    project = add_project()
    later = add_job(project, status=status, base_key=BASE, **news)
    assert claim(status) is None
    known = add_job(project, status=status, base_key=BASE)
    claimed = claim(status)
    assert claimed is not None
    assert claimed.id == known, "the next one is not held up"
    with db.reading() as session:
        assert session.get_one(Job, later).status == status


def test_workers_say_their_version_and_one_from_before_that_is_listed(scratch_database: sa.Engine) -> None:
    with db.transaction() as session:
        workers.register(session, "wkr_new", kind=workers.CPU, host="h", device_group=None, slots=1)
        session.execute(
            sa.text("INSERT INTO workers (id, kind, host, slots, free_slots) VALUES ('wkr_old', 'cpu', 'h', 1, 1)")
        )
    with db.reading() as session:
        found = {worker.id: worker.version for worker in workers.living(session, 30)}
    assert found == {"wkr_new": workers.VERSION, "wkr_old": None}
