"""The state machine as a table, and the one door that obeys it."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from app import db, ids
from app.auth.tables import Organization, Project
from app.events.tables import Event
from app.jobs import states, transitions
from app.jobs.tables import Job

MakeJob = Callable[..., str]


@pytest.fixture
def make_job(database: sa.Connection) -> MakeJob:
    def make(status: str, *, fence: int = 0) -> str:
        job_id, org, project = ids.new("ftjob-"), ids.new("org-"), ids.new("proj_")
        with db.transaction() as session:
            session.add(Organization(id=org, slug=org.lower()))
            session.flush()
            session.add(Project(id=project, organization_id=org, name="p"))
            session.flush()
            session.add(
                Job(
                    id=job_id,
                    project_id=project,
                    status=status,
                    model="m",
                    base_model="m",
                    base_key="m@1",
                    training_file="file-1",
                    method="supervised",
                    request={},
                    seed=1,
                    fence=fence,
                    worker_id="wkr_1" if status in states.LEASED else None,
                    lease_until=datetime.now(UTC) if status in states.LEASED else None,
                    finished_at=datetime.now(UTC) if status in states.FINAL else None,
                )
            )
        return job_id

    return make


def move(job_id: str, target: str, **guards: object) -> Job | None:
    with db.transaction() as session:
        return transitions.move(session, job_id, target, note=transitions.Note(f"to {target}"), **guards)


def events_of(job_id: str) -> list[str]:
    with db.reading() as session:
        return list(session.scalars(sa.select(Event.message).where(Event.job_id == job_id)))


def test_final_statuses_are_never_left() -> None:
    assert not [pair for pair in states.MOVES if pair[0] in states.FINAL]


def test_every_status_but_the_first_can_be_reached() -> None:
    assert {target for _, target in states.MOVES} == set(states.ALL) - {states.VALIDATING}


def test_a_user_can_cancel_from_every_status_that_is_not_final() -> None:
    assert set(states.sources(states.CANCELLED)) == set(states.ALL) - set(states.FINAL)


@pytest.mark.parametrize(("source", "target"), itertools.product(states.ALL, states.ALL))
def test_a_job_moves_exactly_where_the_table_says(make_job: MakeJob, source: str, target: str) -> None:
    job_id = make_job(source)
    moved = move(job_id, target)
    legal = (source, target) in states.MOVES
    assert (moved is not None) == legal
    assert events_of(job_id) == ([f"to {target}"] if legal else [])
    with db.reading() as session:
        job = session.get_one(Job, job_id)
        assert job.status == (target if legal else source)
        if legal:
            assert (job.finished_at is not None) == (target in states.FINAL)
            assert (job.lease_until is None) == (target not in states.LEASED or source not in states.LEASED)


def test_an_old_fence_changes_nothing(make_job: MakeJob) -> None:
    job_id = make_job(states.RUNNING, fence=7)
    assert move(job_id, states.SUCCEEDED, fence=6) is None
    assert events_of(job_id) == []
    assert move(job_id, states.SUCCEEDED, fence=7) is not None


def test_another_project_changes_nothing(make_job: MakeJob) -> None:
    job_id = make_job(states.QUEUED)
    assert move(job_id, states.CANCELLED, project_id="proj_other") is None
    assert events_of(job_id) == []


def test_a_fenced_update_needs_the_lease_to_stand(make_job: MakeJob) -> None:
    job_id = make_job(states.RUNNING, fence=2)
    with db.transaction() as session:
        assert transitions.update(session, job_id, 2, {"furthest_step": 5}) is not None
        assert transitions.update(session, job_id, 1, {"furthest_step": 9}) is None
    assert move(job_id, states.CANCELLED) is not None
    with db.transaction() as session:
        assert transitions.update(session, job_id, 2, {"furthest_step": 9}) is None
        assert session.get_one(Job, job_id).furthest_step == 5
