"""The race between a user's cancel and the worker's finish: one wins, and the loser changes nothing."""

from threading import Barrier, Thread

import sqlalchemy as sa
from job_rows import add_job, add_project

from app import db
from app.events.tables import Event
from app.jobs import service, states, transitions
from app.jobs.errors import JobIsFinal
from app.jobs.tables import Job

ROUNDS = 12


def running_job() -> tuple[str, str]:
    project_id = add_project()
    return project_id, add_job(project_id, status=states.RUNNING, fence=1)


def race(project_id: str, job_id: str) -> list[str]:
    """Both at once; returns who won."""
    barrier = Barrier(2)
    winners: list[str] = []

    def cancel() -> None:
        barrier.wait()
        try:
            with db.transaction() as session:
                service.cancel(session, project_id, job_id)
            winners.append(states.CANCELLED)
        except JobIsFinal:
            pass

    def finish() -> None:
        barrier.wait()
        with db.transaction() as session:
            note = transitions.Note("The job has successfully completed")
            moved = transitions.move(session, job_id, states.SUCCEEDED, note=note, fence=1)
        if moved is not None:
            winners.append(states.SUCCEEDED)

    threads = [Thread(target=cancel), Thread(target=finish)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return winners


def test_race_cancel_against_finish(scratch_database: sa.Engine) -> None:
    for _ in range(ROUNDS):
        project_id, job_id = running_job()
        winners = race(project_id, job_id)

        assert len(winners) == 1
        with db.reading() as session:
            job = session.get_one(Job, job_id)
            told = session.scalars(sa.select(Event.message).where(Event.job_id == job_id)).all()
        assert job.status == winners[0]
        assert len(told) == 1, "only the winner wrote an event"
        assert job.finished_at is not None
