"""Quotas of a project: each at its limit and one beyond, counted from the rows, and never passed by a race."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
import sqlalchemy as sa
from job_rows import BASE, add_job, add_jobs, add_project, job

from app import db, ids
from app.auth.errors import QuotaExceeded, TooManyJobs
from app.auth.tables import Project
from app.config import Settings
from app.files import service as files
from app.jobs import claims, quotas, states

RACERS = 8
NONE = {"quota_storage_bytes": 0, "quota_running_jobs": 0, "quota_waiting_jobs": 0, "quota_monthly_tokens": 0}


def limits(**quota: int) -> Settings:
    return Settings(**(NONE | quota))


def own(project_id: str, **quota: int) -> None:
    """Give a project quotas of its own."""
    with db.transaction() as session:
        session.execute(sa.update(Project).where(Project.id == project_id).values(**quota))


def admit(project_id: str, settings: Settings) -> None:
    """Let one more job in, and add it."""
    with db.transaction() as session:
        quotas.admit(session, project_id, settings)
        _insert_job(session, project_id)


def _insert_job(session: db.Session, project_id: str) -> None:
    session.execute(
        sa.text("""
            INSERT INTO jobs (id, project_id, status, model, base_model, base_key, training_file, method, request, seed)
            VALUES (:id, :project, 'validating_files', 'm', 'm', 'k', 'file-a', 'supervised', '{}', 1)
        """),
        {"id": ids.new("ftjob-"), "project": project_id},
    )


def reserve(project_id: str, job_id: str, tokens: int, settings: Settings) -> None:
    with db.transaction() as session:
        quotas.reserve(session, project_id, tokens, settings)
        session.execute(sa.text("UPDATE jobs SET planned_tokens = :n WHERE id = :id"), {"n": tokens, "id": job_id})


def store(project_id: str, size: int, settings: Settings) -> str:
    with db.transaction() as session:
        return files.add(
            session, file_id=ids.new("file-"), project_id=project_id, purpose="user_data", filename="a", size=size,
            sha256="0", expires_after=None, settings=settings,
        ).id  # fmt: skip


def claim(settings: Settings, base_key: str = BASE) -> str | None:
    with db.transaction() as session:
        taken = claims.claim_queued(
            session, worker_id="w", lease_seconds=60, base_key=base_key, alone=True,
            running_jobs=settings.quota_running_jobs,
        )  # fmt: skip
        return taken.id if taken else None


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What each call gave when all began together; None where it was refused."""
    barrier = Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait()
        try:
            return call() or True
        except (QuotaExceeded, TooManyJobs):
            return None

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


# Waiting jobs.


def test_waiting_jobs_at_the_limit_and_one_beyond(database: sa.Connection) -> None:
    project, settings = add_project(), limits(quota_waiting_jobs=3)
    add_job(project, status=states.VALIDATING)
    add_job(project, status=states.PAUSED)
    for status in (states.RUNNING, states.PAUSING):
        add_job(project, status=status)
    add_job(project, status=states.SUCCEEDED, finished_at=datetime.now(UTC))
    admit(project, settings)
    with pytest.raises(TooManyJobs, match="3 waiting and 2 running"):
        admit(project, settings)
    admit(add_project(), settings)
    own(project, quota_waiting_jobs=0)
    admit(project, settings)


def test_race_for_the_last_waiting_place(scratch_database: sa.Engine) -> None:
    project, settings = add_project(), limits(quota_waiting_jobs=3)
    add_job(project)
    won = at_once(*[lambda: admit(project, settings)] * RACERS)
    assert sum(result is not None for result in won) == 2


# Running jobs.


def test_running_jobs_at_the_limit_and_one_beyond(database: sa.Connection) -> None:
    one, other, settings = add_project(), add_project(), limits(quota_running_jobs=2)
    add_job(one, status=states.PAUSING)
    mine, theirs = add_jobs(one, 3), add_jobs(other, 1)
    taken = [claim(settings) for _ in range(4)]
    assert set(taken) == {mine[0], theirs[0], None}
    own(one, quota_running_jobs=3)
    assert (claim(settings), claim(settings)) == (mine[1], None)
    own(one, quota_running_jobs=0)
    assert claim(settings) == mine[2]


def test_a_base_is_not_loaded_for_a_project_that_may_run_no_more(database: sa.Connection) -> None:
    project = add_project()
    add_job(project, status=states.RUNNING)
    add_job(project, queued_at=sa.func.now())
    with db.reading() as session:
        assert claims.queues(session, running_jobs=1) == []
        assert [queue.base_key for queue in claims.queues(session, running_jobs=2)] == [BASE]
        assert [queue.base_key for queue in claims.queues(session)] == [BASE]


def test_race_for_the_last_running_place(scratch_database: sa.Engine) -> None:
    project, settings = add_project(), limits(quota_running_jobs=3)
    add_jobs(project, RACERS)
    taken = at_once(*[lambda: claim(settings)] * RACERS)
    assert sum(isinstance(result, str) for result in taken) == 3


def test_race_for_a_running_place_on_two_bases(scratch_database: sa.Engine) -> None:
    project, settings = add_project(), limits(quota_running_jobs=1)
    bases = [f"base-{n}@r:none:auto" for n in range(RACERS)]
    for base_key in bases:
        add_job(project, base_key=base_key)
    taken = at_once(*[lambda base_key=base_key: claim(settings, base_key) for base_key in bases])
    assert sum(isinstance(result, str) for result in taken) == 1


# Tokens of the month.


def test_tokens_at_the_limit_and_one_beyond(database: sa.Connection) -> None:
    project, settings = add_project(), limits(quota_monthly_tokens=1000)
    now = datetime.now(UTC)
    add_job(project, status=states.SUCCEEDED, finished_at=now, trained_tokens=300)
    add_job(project, status=states.CANCELLED, finished_at=now, trained_tokens=200, planned_tokens=900)
    add_job(project, status=states.FAILED, finished_at=now)
    add_job(project, status=states.RUNNING, planned_tokens=400, trained_tokens=50)
    new = add_job(project, status=states.VALIDATING)
    with pytest.raises(QuotaExceeded):
        reserve(project, new, 101, settings)
    admit(project, settings)
    reserve(project, new, 100, settings)
    with pytest.raises(QuotaExceeded, match="used up"):
        admit(project, settings)
    own(project, quota_monthly_tokens=2**63 - 1)
    reserve(project, new, 10**15, settings)


def test_a_month_begins_at_midnight_utc_of_its_first_day(database: sa.Connection) -> None:
    project = add_project()
    first = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    database.execute(sa.text("SET LOCAL TIME ZONE 'Pacific/Kiritimati'"))  # fourteen hours ahead
    for moment, tokens in ((first - timedelta(microseconds=1), 1), (first, 10), (datetime.now(UTC), 100)):
        add_job(project, status=states.SUCCEEDED, finished_at=moment, trained_tokens=tokens)
    with db.reading() as session:
        assert quotas.tokens_this_month(session, project) == 110


def test_sums_beyond_a_bigint_are_counted(database: sa.Connection) -> None:
    project = add_project()
    for _ in range(3):
        add_job(project, status=states.RUNNING, planned_tokens=2**62)
    with db.reading() as session:
        assert quotas.tokens_this_month(session, project) == 3 * 2**62


def test_race_for_the_last_tokens(scratch_database: sa.Engine) -> None:
    project, settings = add_project(), limits(quota_monthly_tokens=1000)
    waiting = add_jobs(project, RACERS, status=states.VALIDATING)
    won = at_once(*[lambda job_id=job_id: reserve(project, job_id, 400, settings) for job_id in waiting])
    assert sum(result is not None for result in won) == 2
    assert sorted(job(job_id).planned_tokens or 0 for job_id in waiting)[-3:] == [0, 400, 400]


# Storage.


def test_storage_at_the_limit_and_one_beyond(database: sa.Connection) -> None:
    project, settings = add_project(), limits(quota_storage_bytes=100)
    first = store(project, 60, settings)
    with pytest.raises(QuotaExceeded):
        store(project, 41, settings)
    store(project, 40, settings)
    store(add_project(), 100, settings)
    with db.transaction() as session:
        files.delete(session, project, first)
    store(project, 60, settings)
    own(project, quota_storage_bytes=0)
    store(project, 2**40, settings)


def test_race_for_the_last_bytes(scratch_database: sa.Engine) -> None:
    project, settings = add_project(), limits(quota_storage_bytes=100)
    won = at_once(*[lambda: store(project, 40, settings)] * RACERS)
    assert sum(result is not None for result in won) == 2


def test_a_projects_lock_does_not_hold_up_another_project(scratch_database: sa.Engine) -> None:
    one, other, settings = add_project(), add_project(), limits(quota_storage_bytes=100)
    with db.transaction() as session:
        files.check_room(session, one, 1, settings)
        store(other, 1, settings)
        with db.transaction() as blocked:
            blocked.execute(sa.text("SET LOCAL lock_timeout = '50ms'"))
            with pytest.raises(sa.exc.OperationalError):
                files.check_room(blocked, one, 1, settings)
            blocked.rollback()
