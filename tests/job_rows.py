"""Rows of jobs in any state, without the API."""

from typing import Any

from app import db, ids
from app.auth.tables import Organization, Project
from app.jobs import states
from app.jobs.tables import Job

BASE = "tiny-chat@local:none:auto"
DEFAULTS: dict[str, Any] = {
    "status": states.QUEUED,
    "model": "tiny-chat",
    "base_model": "tiny-chat",
    "base_key": BASE,
    "training_file": "file-a",
    "method": "supervised",
    "request": {},
    "seed": 1,
}


def add_project(name: str = "default") -> str:
    """A project in an organisation of its own; returns its id."""
    with db.transaction() as session:
        organization = Organization(id=ids.new("org-"), slug=ids.new("o"))
        session.add(organization)
        session.flush()
        project = Project(id=ids.new("proj_"), organization_id=organization.id, name=name)
        session.add(project)
        return project.id


def add_job(project_id: str, **values: Any) -> str:
    """A job of a project, queued unless said otherwise; returns its id."""
    (job_id,) = add_jobs(project_id, 1, **values)
    return job_id


def add_jobs(project_id: str, count: int, **values: Any) -> list[str]:
    """Some jobs of a project, the oldest first."""
    jobs = [Job(id=ids.new("ftjob-"), project_id=project_id, **(DEFAULTS | values)) for _ in range(count)]
    with db.transaction() as session:
        for job in jobs:
            session.add(job)
            session.flush()
        return [job.id for job in jobs]


def job(job_id: str) -> Job:
    with db.reading() as session:
        return session.get_one(Job, job_id)
