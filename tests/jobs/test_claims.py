"""Taking jobs: each once, the least-served project first, under a new fence."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from job_rows import BASE, add_job, add_jobs, add_project, job

from app import db
from app.auth.tables import Project
from app.events.tables import Event
from app.jobs import claims, states, transitions
from app.jobs.transitions import Note

LEASE = 60.0


def claim(worker: str = "w", *, alone: bool = True, base_key: str = BASE, company: str | None = None) -> str | None:
    with db.transaction() as session:
        taken = claims.claim_queued(
            session, worker_id=worker, lease_seconds=LEASE, base_key=base_key, alone=alone, company=company
        )
        return taken.id if taken else None


def claim_all(worker: str = "w") -> list[str]:
    return list(iter(lambda: claim(worker), None))  # type: ignore[arg-type]


def serve(project: str, tokens: int, *, hours_ago: float = 0) -> None:
    with db.transaction() as session:
        claims.serve_tokens(session, project, tokens)
        when = sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, hours_ago * 3600)
        session.execute(sa.update(Project).where(Project.id == project).values(served_at=when))


def told(job_id: str) -> list[str]:
    with db.reading() as session:
        query = sa.select(Event.message).where(Event.job_id == job_id, Event.type == "message").order_by(Event.seq)
        return list(session.scalars(query))


def test_sixteen_claimers_take_every_job_once(scratch_database: sa.Engine) -> None:
    expected = [job_id for _ in range(4) for job_id in add_jobs(add_project(), 25)]
    with ThreadPoolExecutor(16) as pool:
        taken = [job_id for jobs in pool.map(claim_all, [f"w{n}" for n in range(16)]) for job_id in jobs]
        # A claimer that met only locked heads went home early; whoever comes later finds what it left.
        taken += claim_all()
    assert Counter(taken) == Counter(expected)
    assert {job(job_id).fence for job_id in expected} == {1}
    assert all(told(job_id) == [claims.STARTED] for job_id in expected[:10])


def test_a_claim_sets_lease_fence_and_phase(database: sa.Connection) -> None:
    job_id = add_job(add_project(), fence=4)
    assert claim("me") == job_id
    taken = job(job_id)
    assert (taken.status, taken.worker_id, taken.fence, taken.phase) == (states.RUNNING, "me", 5, "claimed")
    assert taken.lease_until is not None
    assert taken.claimed_at is not None
    assert (taken.lease_until - taken.claimed_at).total_seconds() == LEASE
    assert claim() is None


def test_the_oldest_of_the_highest_priority_comes_first(database: sa.Connection) -> None:
    project = add_project()
    first, second = add_jobs(project, 2)
    urgent = add_job(project, priority=3)
    assert claim_all() == [urgent, first, second]


def test_another_base_is_left_alone(database: sa.Connection) -> None:
    add_job(add_project())
    assert claim(base_key="other") is None


def test_the_least_served_project_comes_first(database: sa.Connection) -> None:
    served, fresh = add_project(), add_project()
    serve(served, 1000)
    mine, theirs = add_job(served), add_job(fresh)
    assert claim_all() == [theirs, mine]


def test_service_is_forgotten_by_half_every_hour(database: sa.Connection) -> None:
    early, late = add_project(), add_project()
    serve(early, 1500, hours_ago=1)
    serve(late, 1000)
    mine, theirs = add_job(early), add_job(late)
    assert claim_all() == [mine, theirs]


def test_projects_take_turns_by_tokens_whatever_their_queues(database: sa.Connection) -> None:
    """A project with 60 jobs waiting does not hold up one with 6."""
    many, few = add_project(), add_project()
    add_jobs(many, 60)
    add_jobs(few, 6)
    order = []
    for _ in range(20):
        job_id = claim()
        assert job_id is not None
        project = job(job_id).project_id
        order.append(project)
        serve(project, 100)
    assert order[:12].count(few) == 6


def test_a_suspect_waits_until_it_can_run_alone(database: sa.Connection) -> None:
    project = add_project()
    suspect, other = add_job(project, suspect=True), add_job(project)
    assert claim(alone=False) == other
    assert claim(alone=False) is None
    assert claim(alone=True) == suspect


def test_an_engine_kept_for_a_project_takes_no_other_and_falls_free_for_the_next(database: sa.Connection) -> None:
    served, waiting = add_project(), add_project()
    first, second = add_jobs(served, 2)
    assert claim(company=served) == first
    serve(served, 1000)
    other = add_job(waiting)
    assert claim(company=served) is None  # the other project is next, so even an own job has to wait
    assert claim(company=None) == other
    assert claim(company=served) == second


def test_a_job_that_comes_again_says_where_it_goes_on(database: sa.Connection) -> None:
    job_id = add_job(add_project())
    claim()
    with db.transaction() as session:
        transitions.move(session, job_id, states.QUEUED, note=None, fence=1, values={"resume_step": 7})
    claim()
    assert told(job_id) == [claims.STARTED, "Fine-tuning job resumed at step 7"]


def test_a_former_holder_changes_nothing(database: sa.Connection) -> None:
    """A worker that slept through its lease comes back with its old fence."""
    job_id = add_job(add_project())
    claim("sleeper")
    with db.transaction() as session:
        transitions.move(session, job_id, states.QUEUED, note=None, fence=1)
    claim("successor")
    with db.transaction() as session:
        assert transitions.update(session, job_id, 1, {"furthest_step": 99}, note=Note("step 99")) is None
        assert transitions.move(session, job_id, states.SUCCEEDED, note=Note("done"), fence=1) is None
        assert claims.heartbeat(session, held={job_id: 1}, lease_seconds=LEASE) == {}
    assert (job(job_id).status, job(job_id).furthest_step, job(job_id).worker_id) == (states.RUNNING, 0, "successor")
    assert "done" not in told(job_id)
    assert "step 99" not in told(job_id)


def test_one_beat_renews_the_leases_in_hand_and_tells_of_pauses(database: sa.Connection) -> None:
    project = add_project()
    running, pausing, gone, forgotten = add_jobs(project, 4)
    assert claim_all("me") == [running, pausing, gone, forgotten]
    with db.transaction() as session:
        transitions.move(session, pausing, states.PAUSING, note=None)
        transitions.move(session, gone, states.CANCELLED, note=None)
    before = job(running).lease_until
    held = {running: 1, pausing: 1, gone: 1}
    with db.transaction() as session:
        statuses = claims.heartbeat(session, held=held, lease_seconds=2 * LEASE)
    assert statuses == {running: states.RUNNING, pausing: states.PAUSING}
    assert job(forgotten).lease_until == before
    after = job(running).lease_until
    assert before is not None
    assert after is not None
    assert after > before


def test_files_to_prepare_are_claimed_by_lease(database: sa.Connection) -> None:
    job_id = add_job(add_project(), status=states.VALIDATING)

    def take() -> str | None:
        with db.transaction() as session:
            taken = claims.claim_validating(session, worker_id="w", lease_seconds=LEASE)
            return taken.id if taken else None

    assert take() == job_id
    assert take() is None
    assert job(job_id).status == states.VALIDATING
    with db.transaction() as session:
        transitions.update(session, job_id, 1, transitions.RELEASE)
    assert take() == job_id


def test_the_queues_by_base(database: sa.Connection) -> None:
    for project in (add_project(), add_project()):
        for base, age in (("x", 10), ("y", 100)):
            queued = sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, age)
            add_job(project, base_key=base, queued_at=queued)
    with db.reading() as session:
        found = {queue.base_key: queue.waited for queue in claims.queues(session)}
    assert found == {"x": pytest.approx(10, abs=1), "y": pytest.approx(100, abs=1)}
