"""Checkpoint permissions: other projects of the organisation may see a tuned model or checkpoint, and train on it.

They are given and taken by the project that owns the model, and by the organisation's administrators.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app import ids, pages
from app.auth.service import Admin, Caller
from app.auth.tables import Project
from app.db import Session
from app.models import service
from app.models.errors import ModelNotFound, PermissionNotFound, UnknownProject
from app.models.tables import CheckpointPermission, TunedModel


def grant(
    session: Session, caller: Caller | Admin, name: str, project_ids: list[str]
) -> tuple[list[CheckpointPermission], list[CheckpointPermission]]:
    """Let some projects use a model the caller governs: one permission a project, in their order, and the new ones.

    A permission that is there already is returned as it is. Raises ModelNotFound, NotTheOwner, UnknownProject.
    """
    model = _governed(session, caller, name)
    wanted = list(dict.fromkeys(project_ids))
    _check_projects(session, caller.organization_id, wanted)
    rows = [{"id": ids.new("cp_"), "model_id": model.id, "project_id": project_id} for project_id in wanted]
    added = insert(CheckpointPermission).values(rows).on_conflict_do_nothing().returning(CheckpointPermission.id)
    new = set(session.scalars(added))
    found = session.scalars(_of(model.id).where(CheckpointPermission.project_id.in_(wanted)))
    granted = sorted(found, key=lambda row: wanted.index(row.project_id))
    return granted, [row for row in granted if row.id in new]


def page(
    session: Session,
    caller: Caller | Admin,
    name: str,
    *,
    project_id: str | None,
    limit: int,
    after: str | None,
    ascending: bool,
) -> pages.Page[CheckpointPermission]:
    """A page of a model's permissions, newest first unless `ascending`. Raises ModelNotFound, NotTheOwner,
    UnknownCursor.
    """
    model = _governed(session, caller, name)
    query = _of(model.id)
    if project_id is not None:
        known = ids.is_plain(project_id)
        query = query.where(CheckpointPermission.project_id == project_id if known else sa.false())
    after_seq = None if after is None else _cursor(session, model.id, after)
    seq = CheckpointPermission.seq
    return pages.fetch(session, query, seq, limit=limit, after_seq=after_seq, ascending=ascending)


def revoke(session: Session, caller: Caller | Admin, name: str, permission_id: str) -> str:
    """Take a permission back, and say whose it was. Jobs that already train on the model are not disturbed.

    Raises ModelNotFound, NotTheOwner, PermissionNotFound.
    """
    model = _governed(session, caller, name)
    theirs = sa.and_(CheckpointPermission.model_id == model.id, CheckpointPermission.id == permission_id)
    gone = sa.delete(CheckpointPermission).where(theirs).returning(CheckpointPermission.project_id)
    project_id = session.scalar(gone) if ids.is_plain(permission_id) else None
    if project_id is None:
        raise PermissionNotFound(permission_id)
    return project_id


def _governed(session: Session, caller: Caller | Admin, name: str) -> TunedModel:
    """A model of the caller's project or, for an administrator, of any in the organisation. Raises ModelNotFound,
    NotTheOwner.
    """
    if caller.project_id is not None:
        return service.get_own(session, caller.project_id, name)
    query = sa.select(TunedModel).join(Project, Project.id == TunedModel.project_id)
    theirs = sa.and_(Project.organization_id == caller.organization_id, TunedModel.deleted_at.is_(None))
    named = query.where(theirs, TunedModel.name == name).order_by(TunedModel.seq).limit(1)
    found = session.scalar(named) if ids.is_plain(name) else None
    if found is None:
        raise ModelNotFound(name)
    return found


def _of(model_id: str) -> sa.Select[CheckpointPermission]:
    return sa.select(CheckpointPermission).where(CheckpointPermission.model_id == model_id)


def _find(session: Session, model_id: str, permission_id: str) -> CheckpointPermission | None:
    if not ids.is_plain(permission_id):
        return None
    return session.scalar(_of(model_id).where(CheckpointPermission.id == permission_id))


def _cursor(session: Session, model_id: str, permission_id: str) -> int:
    permission = _find(session, model_id, permission_id)
    if permission is None:
        raise pages.UnknownCursor
    return permission.seq


def _check_projects(session: Session, organization_id: str, project_ids: list[str]) -> None:
    plain = [project_id for project_id in project_ids if ids.is_plain(project_id)]
    query = sa.select(Project.id).where(
        Project.organization_id == organization_id, Project.id.in_(plain), Project.archived_at.is_(None)
    )
    known = set(session.scalars(query))
    for project_id in project_ids:
        if project_id not in known:
            raise UnknownProject(project_id)
