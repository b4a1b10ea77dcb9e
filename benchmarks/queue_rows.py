"""A queue of jobs of many projects, as the API and the workers leave them in the database."""

import sqlalchemy as sa

BASE = "tiny-chat@local:none:auto"
_PROJECTS = """
    INSERT INTO projects (id, organization_id, name)
    SELECT 'proj_' || n, 'org-b', 'project ' || n FROM generate_series(0, :projects - 1) AS n
"""
_JOBS = """
    INSERT INTO jobs (id, project_id, status, finished_at, model, base_model, base_key, training_file,
                      method, request, seed, queued_at, priority)
    SELECT 'ftjob-' || :status || n, 'proj_' || (n % :projects), :status,
           CASE WHEN :status = 'queued' THEN NULL ELSE now() END,
           'tiny-chat', 'tiny-chat', :base, 'file-a', 'supervised', '{}', 1, now(), n % 3
    FROM generate_series(0, :count - 1) AS n
"""


def seed(connection: sa.Connection, *, projects: int, finished: int, queued: int) -> None:
    """Jobs `ftjob-succeeded0 …` and `ftjob-queued0 …`, the projects' mixed, of one base."""
    connection.execute(sa.text("INSERT INTO organizations (id, slug) VALUES ('org-b', 'b')"))
    connection.execute(sa.text(_PROJECTS), {"projects": projects})
    for status, count in (("succeeded", finished), ("queued", queued)):
        names = {"status": status, "count": count, "projects": projects, "base": BASE}
        connection.execute(sa.text(_JOBS), names)
