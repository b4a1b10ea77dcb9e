"""What becomes of jobs whose worker is gone, stands still or never comes, and of promised deletions."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from job_rows import BASE, add_job, add_jobs, add_project, job

from app import db, ids, outbox, storage
from app.config import Settings
from app.events.tables import Event
from app.files import service as files
from app.files.tables import File
from app.jobs import claims, failures, states, transitions
from app.jobs.tables import Job
from app.outbox import OutboxRow
from app.storage import Store, StoreUnavailable
from app.workers import service as workers
from worker import sweeps

SETTINGS = Settings(step_budget_seconds=100, prepare_budget_seconds=1000, no_capacity_seconds=500)


def ago(seconds: float) -> Any:
    return sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def change(job_id: str, **values: Any) -> None:
    with db.transaction() as session:
        session.execute(sa.update(Job).where(Job.id == job_id).values(values))


def held(status: str = states.RUNNING, **values: Any) -> str:
    """A job whose lease ran out a second ago."""
    settings = {"worker_id": "gone", "lease_until": ago(1), "phase": "training", "fence": 3}
    return add_job(add_project(), status=status, **(settings | values))


def messages(job_id: str) -> list[str]:
    with db.reading() as session:
        return list(session.scalars(sa.select(Event.message).where(Event.job_id == job_id).order_by(Event.seq)))


def test_a_lost_workers_job_waits_for_another(database: sa.Connection) -> None:
    job_id = held(resume_step=20, furthest_step=25)
    assert sweeps.expired_leases() == 1
    assert sweeps.expired_leases() == 0
    found = job(job_id)
    assert (found.status, found.worker_id, found.lease_until, found.fence) == (states.QUEUED, None, None, 3)
    assert found.attempts["worker_lost"] == 1
    assert messages(job_id) == ["The job lost its worker and was put back into the queue; it goes on from step 20"]


def test_a_living_lease_is_left_alone(database: sa.Connection) -> None:
    job_id = held(lease_until=ago(-30))
    assert sweeps.expired_leases() == 0
    assert job(job_id).status == states.RUNNING


def test_losses_without_progress_fail_the_job_at_last(database: sa.Connection) -> None:
    job_id = held()
    for _ in range(2):
        assert sweeps.expired_leases() == 1
        assert job(job_id).status == states.QUEUED
        change(job_id, status=states.RUNNING, worker_id="next", lease_until=ago(1))
    assert sweeps.expired_leases() == 1
    failed = job(job_id)
    assert failed.status == states.FAILED
    assert failed.finished_at is not None
    assert failed.error == failures.public_error(failures.WORKER_LOST)
    assert messages(job_id)[-1] == failures.TABLE[failures.WORKER_LOST].message


@pytest.mark.parametrize("status", [states.RUNNING, states.PAUSING, states.VALIDATING])
def test_who_lost_a_job_can_do_nothing_more_with_it_even_before_another_claims_it(
    database: sa.Connection, status: str
) -> None:
    job_id = held(status)
    sweeps.expired_leases()
    after, told = job(job_id), messages(job_id)
    for target in (states.FAILED, states.PAUSED, states.QUEUED, states.SUCCEEDED):
        with db.transaction() as session:
            assert transitions.move(session, job_id, target, note=None, fence=3) is None
    with db.transaction() as session:
        assert transitions.update(session, job_id, 3, {"phase": "training"}) is None
        assert claims.heartbeat(session, held={job_id: 3}, lease_seconds=9) == {}
    sweeps.put_back(after, failures.ENGINE_CRASHED)
    now = job(job_id)
    assert (now.status, now.lease_until, now.attempts) == (after.status, None, after.attempts)
    assert messages(job_id) == told


def test_a_lease_that_ends_after_the_clock_was_set_back_is_cut(database: sa.Connection) -> None:
    far, near = held(lease_until=ago(-3600)), held(lease_until=ago(-SETTINGS.lease_seconds))
    before = job(near).lease_until
    assert sweeps.cut_leases(SETTINGS) == 1
    assert job(near).lease_until == before
    cut = job(far).lease_until
    assert cut is not None
    assert before is not None
    assert abs((cut - before).total_seconds()) < 1


def test_a_validating_job_is_free_again(database: sa.Connection) -> None:
    job_id = held(states.VALIDATING)
    sweeps.expired_leases()
    assert job(job_id).status == states.VALIDATING
    with db.transaction() as session:
        taken = claims.claim_validating(session, worker_id="next", lease_seconds=9)
    assert taken is not None
    assert (taken.id, taken.fence) == (job_id, 4)


def test_a_pausing_job_is_paused(database: sa.Connection) -> None:
    job_id = held(states.PAUSING, resume_step=8)
    sweeps.expired_leases()
    assert job(job_id).status == states.PAUSED
    assert messages(job_id) == ["The job is paused at step 8"]


@pytest.mark.parametrize(
    ("status", "still", "taken"),
    [
        (states.RUNNING, 99, 0),
        (states.RUNNING, 101, 1),
        (states.VALIDATING, 999, 0),
        (states.VALIDATING, 1001, 1),
    ],
)
def test_a_job_that_stands_still_is_taken_from_a_worker_that_beats(
    database: sa.Connection, status: str, still: float, taken: int
) -> None:
    job_id = held(status, lease_until=ago(-60), progress_at=ago(still))
    assert sweeps.stalled_jobs(SETTINGS) == taken
    assert (job(job_id).worker_id is None) == bool(taken)


@pytest.mark.parametrize("kind", [None, workers.CPU, workers.GPU])
def test_a_job_fails_if_no_gpu_worker_comes(database: sa.Connection, kind: str | None) -> None:
    late = add_job(add_project(), queued_at=ago(501))
    early = add_job(add_project(), queued_at=ago(499))
    if kind is not None:
        with db.transaction() as session:
            workers.register(session, "w", kind=kind, host="h", device_group=None, slots=1)
    assert sweeps.jobs_without_capacity(SETTINGS) == (0 if kind == workers.GPU else 1)
    assert job(early).status == states.QUEUED
    if kind != workers.GPU:
        assert (job(late).error or {})["code"] == "no_capacity"


def test_many_sweepers_take_a_job_back_once(scratch_database: sa.Engine) -> None:
    project = add_project()
    jobs = add_jobs(project, 30, status=states.RUNNING, worker_id="gone", lease_until=ago(1), base_key=BASE)
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda _: sweeps.expired_leases(), range(16)))
    assert sum(counts) == len(jobs)
    assert all(len(messages(job_id)) == 1 for job_id in jobs)
    assert {job(job_id).attempts["worker_lost"] for job_id in jobs} == {1}


class BrokenStore:
    """A store that cannot be reached."""

    def delete(self, key: str) -> None:
        raise StoreUnavailable(key)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return storage.open_store(Settings(storage_url=f"file://{tmp_path}/objects"))


def promise(*keys: str) -> None:
    with db.transaction() as session:
        for key in keys:
            outbox.put(session, outbox.DELETE_OBJECT, {"key": key})


def rows() -> list[OutboxRow]:
    with db.reading() as session:
        return list(session.scalars(sa.select(OutboxRow)))


def test_a_promised_deletion_is_carried_out_once(database: sa.Connection, store: Store) -> None:
    for key in ("a/1", "a/2", "b/1"):
        with store.writing(key) as target:
            target.write(b"x")
    promise("a/1", "missing")
    with db.transaction() as session:
        outbox.put(session, outbox.DELETE_PREFIX, {"prefix": "b/"})
    assert sweeps.due_outbox(store) == 3
    assert sweeps.due_outbox(store) == 0
    assert rows() == []
    assert list(store.keys("")) == ["a/2"]


def test_what_cannot_be_deleted_now_is_tried_later(database: sa.Connection) -> None:
    promise("a/1")
    assert sweeps.due_outbox(BrokenStore()) == 0  # type: ignore[arg-type]
    (row,) = rows()
    assert row.attempts == 1
    assert sweeps.due_outbox(BrokenStore()) == 0  # type: ignore[arg-type]
    assert rows()[0].attempts == 1, "not due yet"


def test_a_deletion_whose_sweeper_died_comes_due_again(database: sa.Connection, store: Store) -> None:
    promise("a/1")
    with db.transaction() as session:
        assert len(outbox.claim(session, 10)) == 1  # and then nothing more is heard of it
    assert sweeps.due_outbox(store) == 0
    with db.transaction() as session:
        session.execute(sa.update(OutboxRow).values(due_at=ago(1)))
    assert sweeps.due_outbox(store) == 1
    assert rows() == []


def test_many_sweepers_take_a_deletion_once(scratch_database: sa.Engine) -> None:
    promise(*(f"a/{number}" for number in range(100)))

    def claim(_: int) -> list[int]:
        with db.transaction() as session:
            return [row.id for row in outbox.claim(session, 10)]

    with ThreadPoolExecutor(8) as pool:
        claimed = [row_id for some in pool.map(claim, range(30)) for row_id in some]
    assert len(claimed) == len(set(claimed)) == 100


def add_file(project: str, store: Store) -> File:
    file_id = ids.new("file-")
    with store.writing(files.object_key(project, file_id)) as target:
        target.write(b"{}")
    with db.transaction() as session:
        return files.add(
            session, file_id=file_id, project_id=project, purpose="fine-tune", filename="a.jsonl", size=2,
            sha256="0" * 64, expires_after=None, settings=Settings(),
        )  # fmt: skip


def test_a_deleted_file_goes_when_no_living_job_needs_it(database: sa.Connection, store: Store) -> None:
    project = add_project()
    free, trained, validated = (add_file(project, store) for _ in range(3))
    waiting = [add_job(project, training_file=trained.id), add_job(project, validation_file=validated.id)]
    with db.transaction() as session:
        for file in (free, trained, validated):
            files.delete(session, project, file.id)
    sweeps.sweep(SETTINGS, store)
    assert sorted(store.keys("")) == sorted([trained.object_key, validated.object_key])
    for job_id in waiting:
        change(job_id, status=states.CANCELLED, finished_at=sa.func.now())
    sweeps.sweep(SETTINGS, store)
    assert list(store.keys("")) == []
    with db.reading() as session:
        assert list(session.scalars(sa.select(File))) == []


def test_an_expired_file_goes_with_its_bytes(database: sa.Connection, store: Store) -> None:
    file = add_file(add_project(), store)
    with db.transaction() as session:
        session.execute(sa.update(File).where(File.id == file.id).values(expires_at=ago(1)))
    sweeps.sweep(SETTINGS, store)
    assert list(store.keys("")) == []
