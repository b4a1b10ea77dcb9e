"""Events of a job: order within a second, steps told once, and the line that clients parse."""

from typing import Any

import pytest
import sqlalchemy as sa

from app import db, ids
from app.auth.tables import Organization, Project
from app.events import schemas, service
from app.jobs.tables import Job


@pytest.fixture
def job_id(database: sa.Connection) -> str:
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
    return job.id


def metrics(step: int, **more: float) -> dict[str, Any]:
    return {"step": step, "total_steps": 4, "train_loss": 0.225, "train_mean_token_accuracy": 0.5} | more


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "Step 3/4: training loss=0.23"),
        ({"valid_loss": 0.5}, "Step 3/4: training loss=0.23, validation loss=0.50"),
        (
            {"valid_loss": 0.5, "full_valid_loss": 1.0},
            "Step 3/4: training loss=0.23, validation loss=0.50, full validation loss=1.00",
        ),
    ],
)
def test_step_message(more: dict[str, float], message: str) -> None:
    assert service.step_message(metrics(3, train_loss=0.23) | more) == message


def test_events_written_together_come_back_newest_first(job_id: str) -> None:
    with db.transaction() as session:
        for text in "abcd":
            service.append(session, job_id, text)
        first = service.page(session, job_id, limit=3, after_seq=None)
        rest = service.page(session, job_id, limit=3, after_seq=first.rows[-1].seq)
    assert [event.message for event in [*first.rows, *rest.rows]] == ["d", "c", "b", "a"]
    assert (first.has_more, rest.has_more) == (True, False)


def test_a_step_is_told_once_and_the_first_telling_stands(job_id: str) -> None:
    with db.transaction() as session:
        service.append_metrics(session, job_id, [metrics(1), metrics(2)])
        service.append_metrics(session, job_id, [metrics(2, train_loss=9.0), metrics(3)])
        told = service.metrics(session, job_id)
    assert [(data["step"], data["train_loss"]) for data in told] == [(1, 0.225), (2, 0.225), (3, 0.225)]


def test_an_event_on_the_wire(job_id: str) -> None:
    with db.transaction() as session:
        service.append(session, job_id, "The job failed", level="error")
        event = service.page(session, job_id, limit=1, after_seq=None).rows[0]
    wire = schemas.event(event)
    assert wire.pop("id").startswith("ftevent-")
    assert isinstance(wire.pop("created_at"), int)
    assert wire == {
        "object": "fine_tuning.job.event",
        "level": "error",
        "message": "The job failed",
        "type": "message",
        "data": {},
    }
