"""`/v1/organization`: projects, keys, limits, the audit log and usage, for admin keys alone."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends

from app import db
from app.admin import queries, schemas, service, usage
from app.audit import service as audit
from app.audit.actions import Action
from app.auth import quotas
from app.auth import service as auth
from app.auth.deps import CurrentAdmin
from app.config import Settings
from app.db import Session
from app.files import service as files
from app.http import paging
from app.http.body import json_body
from app.http.deps import CurrentSettings
from app.http.once import Once
from app.http.replies import JSONResponse
from app.jobs import quotas as job_quotas

router = APIRouter(prefix="/v1/organization", tags=["administration"])

PROJECT_KEY, ADMIN_KEY = "organization.project.api_key", "organization.admin_api_key"

Limit = Annotated[int, Depends(paging.limit(default=20, most=100))]
Days = Annotated[int, Depends(paging.limit(default=7, most=queries.MOST_DAYS))]
After = Annotated[str | None, Depends(paging.after)]
Before = Annotated[str | None, Depends(paging.before)]
Ascending = Annotated[bool, Depends(paging.ascending)]
Archived = Annotated[bool, Depends(paging.flag("include_archived", "Whether archived projects are listed too."))]
ProjectBody = Annotated[schemas.ProjectRequest, Depends(json_body(schemas.ProjectRequest))]


@router.post("/projects", response_model=schemas.ProjectObject)
def create_project(admin: CurrentAdmin, body: ProjectBody, once: Once) -> JSONResponse:
    """Create a project."""
    with once.attempt(admin, body) as attempt, db.transaction() as session:
        project = service.create_project(session, admin.organization_id, body.name)
        details = {"name": project.name}
        audit.record(session, admin, Action.PROJECT_CREATED, project.id, project_id=project.id, details=details)
        return attempt.reply(session, schemas.project(project))


@router.get("/projects", response_model=schemas.ProjectList)
def list_projects(admin: CurrentAdmin, limit: Limit, after: After, archived: Archived) -> JSONResponse:
    """List the organisation's projects, newest first."""
    with db.reading() as session:
        page = service.projects_page(session, admin.organization_id, limit=limit, after=after, archived=archived)
    return JSONResponse(schemas.listed([schemas.project(row) for row in page.rows], has_more=page.has_more))


@router.get("/projects/{project_id}", response_model=schemas.ProjectObject)
def retrieve_project(project_id: str, admin: CurrentAdmin) -> JSONResponse:
    """Get a project."""
    with db.reading() as session:
        project = service.get_project(session, admin.organization_id, project_id)
    return JSONResponse(schemas.project(project))


@router.post("/projects/{project_id}", response_model=schemas.ProjectObject)
def update_project(project_id: str, admin: CurrentAdmin, body: ProjectBody) -> JSONResponse:
    """Rename a project."""
    with db.transaction() as session:
        project = service.get_active_project(session, admin.organization_id, project_id)
        service.rename(session, project, body.name)
        details = {"title": project.name}
        audit.record(session, admin, Action.PROJECT_UPDATED, project.id, project_id=project.id, details=details)
    return JSONResponse(schemas.project(project))


@router.post("/projects/{project_id}/archive", response_model=schemas.ProjectObject)
def archive_project(project_id: str, admin: CurrentAdmin) -> JSONResponse:
    """Archive a project: its keys stop working, its jobs go on, and nothing brings it back."""
    with db.transaction() as session:
        project = service.get_active_project(session, admin.organization_id, project_id)
        service.archive(session, project)
        audit.record(session, admin, Action.PROJECT_ARCHIVED, project.id, project_id=project.id)
    return JSONResponse(schemas.project(project))


@router.get("/projects/{project_id}/limits", response_model=schemas.LimitsObject)
def retrieve_limits(project_id: str, admin: CurrentAdmin, settings: CurrentSettings) -> JSONResponse:
    """Get a project's limits, and how much of them is used."""
    with db.reading() as session:
        return JSONResponse(_limits(session, admin.organization_id, project_id, settings))


@router.post("/projects/{project_id}/limits", response_model=schemas.LimitsObject)
def update_limits(
    project_id: str,
    admin: CurrentAdmin,
    body: Annotated[schemas.LimitsRequest, Depends(json_body(schemas.LimitsRequest))],
    settings: CurrentSettings,
) -> JSONResponse:
    """Change a project's limits. What is used beyond a new limit stays."""
    changes = body.model_dump(exclude_unset=True)
    with db.transaction() as session:
        project = service.get_active_project(session, admin.organization_id, project_id)
        for name, value in changes.items():
            setattr(project, name, value)
        audit.record(session, admin, Action.LIMITS_UPDATED, project.id, project_id=project.id, details=changes)
        session.flush()
        reply = _limits(session, admin.organization_id, project_id, settings)
    return JSONResponse(reply)


@router.post("/projects/{project_id}/api_keys", response_model=schemas.NewKeyObject)
def create_key(
    project_id: str,
    admin: CurrentAdmin,
    body: Annotated[schemas.KeyRequest, Depends(json_body(schemas.KeyRequest))],
    once: Once,
) -> JSONResponse:
    """Make a key of a project. It is in this reply, and in no other."""
    scopes = auth.scopes_named(body.scopes)
    with once.attempt(admin, body, secret=True) as attempt, db.transaction() as session:
        project = service.get_active_project(session, admin.organization_id, project_id)
        lifetime = _lifetime(body.expires_in_seconds)
        issued = auth.issue(
            session, admin.organization_id, project.id, name=body.name, scopes=scopes, lifetime=lifetime
        )
        details = {"scopes": issued.row.scopes}
        audit.record(session, admin, Action.KEY_CREATED, issued.row.id, project_id=project.id, details=details)
        return attempt.reply(session, schemas.new_key(issued))


@router.get("/projects/{project_id}/api_keys", response_model=schemas.KeyList)
def list_keys(project_id: str, admin: CurrentAdmin, limit: Limit, after: After) -> JSONResponse:
    """List a project's keys, newest first."""
    with db.reading() as session:
        project = service.get_project(session, admin.organization_id, project_id)
        page = service.keys_page(session, admin.organization_id, project.id, limit=limit, after=after)
    return JSONResponse(schemas.listed([schemas.key(row) for row in page.rows], has_more=page.has_more))


@router.get("/projects/{project_id}/api_keys/{key_id}", response_model=schemas.KeyObject)
def retrieve_key(project_id: str, key_id: str, admin: CurrentAdmin) -> JSONResponse:
    """Get a project's key."""
    with db.reading() as session:
        key = service.get_key(session, admin.organization_id, project_id, key_id)
    return JSONResponse(schemas.key(key))


@router.post("/projects/{project_id}/api_keys/{key_id}", response_model=schemas.KeyObject)
def update_key(
    project_id: str,
    key_id: str,
    admin: CurrentAdmin,
    body: Annotated[schemas.KeyUpdate, Depends(json_body(schemas.KeyUpdate))],
) -> JSONResponse:
    """Change what a project's key may do, or when it expires."""
    scopes = None if body.scopes is None else auth.scopes_named(body.scopes)
    with db.transaction() as session:
        key = service.take_key(session, admin.organization_id, project_id, key_id)
        auth.change(session, key, scopes=scopes, lifetime=_lifetime(body.expires_in_seconds))
        details = body.model_dump(exclude_unset=True)
        audit.record(session, admin, Action.KEY_UPDATED, key.id, project_id=project_id, details=details)
    return JSONResponse(schemas.key(key))


@router.delete("/projects/{project_id}/api_keys/{key_id}", response_model=schemas.Deleted)
def delete_key(project_id: str, key_id: str, admin: CurrentAdmin) -> JSONResponse:
    """Revoke a project's key."""
    with db.transaction() as session:
        key = service.take_key(session, admin.organization_id, project_id, key_id)
        auth.revoke(key)
        audit.record(session, admin, Action.KEY_DELETED, key.id, project_id=project_id)
    return JSONResponse(schemas.deleted(key_id, PROJECT_KEY))


@router.post("/admin_api_keys", response_model=schemas.NewAdminKeyObject)
def create_admin_key(
    admin: CurrentAdmin,
    body: Annotated[schemas.AdminKeyRequest, Depends(json_body(schemas.AdminKeyRequest))],
    once: Once,
) -> JSONResponse:
    """Make an admin key. It is in this reply, and in no other."""
    with once.attempt(admin, body, secret=True) as attempt, db.transaction() as session:
        lifetime = _lifetime(body.expires_in_seconds)
        issued = auth.issue(session, admin.organization_id, None, name=body.name, scopes=auth.ADMIN, lifetime=lifetime)
        audit.record(session, admin, Action.KEY_CREATED, issued.row.id, details={"scopes": issued.row.scopes})
        return attempt.reply(session, schemas.new_admin_key(issued))


@router.get("/admin_api_keys", response_model=schemas.AdminKeyList)
def list_admin_keys(admin: CurrentAdmin, limit: Limit, after: After, ascending: Ascending) -> JSONResponse:
    """List the organisation's admin keys, newest first."""
    with db.reading() as session:
        page = service.keys_page(session, admin.organization_id, None, limit=limit, after=after, ascending=ascending)
    return JSONResponse(schemas.listed([schemas.admin_key(row) for row in page.rows], has_more=page.has_more))


@router.get("/admin_api_keys/{key_id}", response_model=schemas.AdminKeyObject)
def retrieve_admin_key(key_id: str, admin: CurrentAdmin) -> JSONResponse:
    """Get an admin key."""
    with db.reading() as session:
        key = service.get_key(session, admin.organization_id, None, key_id)
    return JSONResponse(schemas.admin_key(key))


@router.delete("/admin_api_keys/{key_id}", response_model=schemas.Deleted)
def delete_admin_key(key_id: str, admin: CurrentAdmin) -> JSONResponse:
    """Revoke an admin key."""
    with db.transaction() as session:
        key = service.take_key(session, admin.organization_id, None, key_id)
        auth.revoke(key)
        audit.record(session, admin, Action.KEY_DELETED, key.id)
    return JSONResponse(schemas.deleted(key_id, ADMIN_KEY))


@router.get("/audit_logs", response_model=schemas.AuditLogList)
def list_audit_logs(
    admin: CurrentAdmin,
    limit: Limit,
    after: After,
    before: Before,
    wanted: Annotated[queries.AuditFilter, Depends(queries.audit_filter)],
) -> JSONResponse:
    """List who changed what, newest first."""
    with db.reading() as session:
        rows, has_more = service.audit_page(
            session, admin.organization_id, wanted, limit=limit, after=after, before=before
        )
    return JSONResponse(schemas.listed([schemas.audit_entry(*row) for row in rows], has_more=has_more))


@router.get("/usage/fine_tuning", response_model=schemas.UsagePage)
def list_usage(
    admin: CurrentAdmin, days: Days, question: Annotated[usage.Question, Depends(queries.usage_question)]
) -> JSONResponse:
    """Get what was trained, a bucket a day, by project and model if it is grouped so."""
    with db.reading() as session:
        buckets, following = usage.by_day(session, admin.organization_id, question, days)
    return JSONResponse(schemas.usage_page(buckets, None if following is None else queries.page_name(following)))


def _limits(session: Session, organization_id: str, project_id: str, settings: Settings) -> schemas.LimitsObject:
    project = service.get_project(session, organization_id, project_id)
    waiting, running = job_quotas.counts(session, project_id)
    rate = settings.requests_per_minute if project.requests_per_minute is None else project.requests_per_minute
    used: schemas.Used = {
        "storage_bytes": files.stored_bytes(session, project_id),
        "running_jobs": running,
        "waiting_jobs": waiting,
        "monthly_tokens": job_quotas.tokens_this_month(session, project_id),
    }
    return schemas.limits(project, quotas.of(session, project_id, settings), rate, used)


def _lifetime(seconds: int | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
