"""A project with a job of it, in the rolled-back database."""

import pytest
import sqlalchemy as sa
from live_server import live

from app import db, ids
from app.auth.tables import Organization, Project
from app.jobs.tables import Job

__all__ = ["live"]

BASE_KEY = "tiny-chat@r1:none:auto"


@pytest.fixture
def project_id(database: sa.Connection) -> str:
    return new_project("acme")


@pytest.fixture
def job(project_id: str) -> Job:
    return new_job(project_id)


def new_project(slug: str) -> str:
    with db.transaction() as session:
        organization = Organization(id=ids.new("org-"), slug=slug)
        session.add(organization)
        session.flush()
        project = Project(id=ids.new("proj_"), organization_id=organization.id, name="default")
        session.add(project)
    return project.id


def new_job(project_id: str, suffix: str | None = "My Suffix!") -> Job:
    with db.transaction() as session:
        job = Job(
            id=ids.new("ftjob-"),
            project_id=project_id,
            model="tiny-chat",
            base_model="tiny-chat",
            base_key=BASE_KEY,
            training_file="file-a",
            method="supervised",
            request={},
            suffix=suffix,
            seed=1,
        )
        session.add(job)
    return job
