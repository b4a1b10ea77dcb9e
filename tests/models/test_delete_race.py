"""The races of a user's delete: against another delete, and against the publication of the final model."""

from collections.abc import Callable
from threading import Barrier, Thread

import pytest
import sqlalchemy as sa

from app import db, ids
from app.auth.tables import Organization, Project
from app.jobs.tables import Job
from app.models import service
from app.models.catalog import Catalog
from app.models.errors import ModelNotFound
from app.models.tables import Checkpoint, TunedModel
from app.outbox import OutboxRow

ROUNDS = 8
PLACE = {"manifest_sha256": "0", "organization_slug": "acme"}


@pytest.fixture
def job(scratch_database: sa.Engine) -> Job:
    with db.transaction() as session:
        organization = Organization(id=ids.new("org-"), slug="acme")
        session.add(organization)
        session.flush()
        project = Project(id=ids.new("proj_"), organization_id=organization.id, name="default")
        session.add(project)
        session.flush()
        job = Job(
            id=ids.new("ftjob-"),
            project_id=project.id,
            model="tiny-chat",
            base_model="tiny-chat",
            base_key="k",
            training_file="file-a",
            method="supervised",
            request={},
            seed=1,
        )
        session.add(job)
    return job


def publish_checkpoint(job: Job, step: int) -> str:
    with db.transaction() as session:
        row = service.publish_checkpoint(session, job, step=step, metrics={}, prefix=f"p/step-{step}", **PLACE)
        return service.model_of(session, row).name


def publish_final(job: Job, step: int) -> None:
    with db.transaction() as session:
        service.publish_final(session, job, step=step, metrics={}, prefix=f"p/final-{step}", **PLACE)


def delete(job: Job, name: str) -> bool:
    try:
        with db.transaction() as session:
            service.delete(session, job.project_id, name, catalog=Catalog([]))
    except ModelNotFound:
        return False
    return True


def at_once(*calls: Callable[[], object]) -> list[object]:
    """The results of calls that start together; one that raises fails the test by its missing result."""
    barrier = Barrier(len(calls))
    results: list[object] = []

    def run(call: Callable[[], object]) -> None:
        barrier.wait()
        results.append(call())

    threads = [Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_race_of_two_deletes(job: Job) -> None:
    for step in range(1, ROUNDS + 1):
        name = publish_checkpoint(job, step)
        results = at_once(lambda name=name: delete(job, name), lambda name=name: delete(job, name))
        assert sorted(map(bool, results)) == [False, True]
    with db.reading() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(OutboxRow)) == ROUNDS


def test_race_of_delete_against_the_final_publication(job: Job) -> None:
    for step in range(1, ROUNDS + 1):
        name = publish_checkpoint(job, step)
        results = at_once(lambda name=name: delete(job, name), lambda step=step: publish_final(job, step))
        assert len(results) == 2
        with db.reading() as session:
            assert service.find(session, job.project_id, name) is None
            last = session.scalars(sa.select(Checkpoint).where(Checkpoint.step == step)).one()
            assert session.get_one(TunedModel, last.model_id).object_prefix == f"p/final-{step}/"
            freed = sa.select(OutboxRow).where(OutboxRow.payload["prefix"].astext == f"p/step-{step}/")
            assert len(session.scalars(freed).all()) == 1
