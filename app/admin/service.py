"""An organisation's projects, keys and audit log, as its administrator sees them."""

import operator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app import ids, pages
from app.admin.errors import NameTaken, ProjectArchived, ProjectNotFound
from app.admin.queries import AuditFilter
from app.audit.tables import AuditEntry
from app.auth import service as auth
from app.auth.errors import KeyNotFound
from app.auth.tables import ApiKey, Project
from app.db import Session

SIGNS = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


def create_project(session: Session, organization_id: str, name: str) -> Project:
    """A new project. Raises InvalidName, NameTaken."""
    auth.check_name(name)
    new = insert(Project).values(id=ids.new("proj_"), organization_id=organization_id, name=name)
    project = session.scalar(new.on_conflict_do_nothing().returning(Project))
    if project is None:
        raise NameTaken
    return project


def find_project(session: Session, organization_id: str, project_id: str) -> Project | None:
    """The organisation's project with this id, if there is one."""
    if not ids.is_plain(project_id):
        return None
    return session.scalar(
        sa.select(Project).where(Project.organization_id == organization_id, Project.id == project_id)
    )


def get_project(session: Session, organization_id: str, project_id: str) -> Project:
    """The organisation's project with this id. Raises ProjectNotFound."""
    project = find_project(session, organization_id, project_id)
    if project is None:
        raise ProjectNotFound(project_id)
    return project


def get_active_project(session: Session, organization_id: str, project_id: str) -> Project:
    """The same, held until the transaction ends. Raises ProjectNotFound, ProjectArchived."""
    project = get_project(session, organization_id, project_id)
    session.refresh(project, with_for_update={"key_share": True})
    if project.archived_at is not None:
        raise ProjectArchived
    return project


def rename(session: Session, project: Project, name: str) -> None:
    """Give a project another name. Raises InvalidName, NameTaken."""
    auth.check_name(name)
    project.name = name
    try:
        with session.begin_nested():
            session.flush()
    except sa.exc.IntegrityError:
        raise NameTaken from None


def archive(session: Session, project: Project) -> None:
    """Close a project for ever: its keys stop working within a few seconds, and it gets no new ones."""
    project.archived_at = sa.func.now()
    session.flush()
    session.refresh(project)


def projects_page(
    session: Session, organization_id: str, *, limit: int, after: str | None, archived: bool
) -> pages.Page[Project]:
    """A page of the organisation's projects, newest first. Raises UnknownCursor."""
    query = sa.select(Project).where(Project.organization_id == organization_id)
    if not archived:
        query = query.where(Project.archived_at.is_(None))
    after_seq = None if after is None else _cursor(find_project(session, organization_id, after))
    return pages.fetch(session, query, Project.seq, limit=limit, after_seq=after_seq)


def find_key(session: Session, organization_id: str, project_id: str | None, key_id: str) -> ApiKey | None:
    """A key of the project or, without one, an admin key of the organisation, if it is there and not revoked."""
    if not ids.is_plain(key_id):
        return None
    return session.scalar(_keys(organization_id, project_id).where(ApiKey.id == key_id))


def get_key(session: Session, organization_id: str, project_id: str | None, key_id: str) -> ApiKey:
    """The same, held until the transaction ends. Raises KeyNotFound."""
    key = find_key(session, organization_id, project_id, key_id)
    if key is None:
        raise KeyNotFound(key_id)
    return key


def take_key(session: Session, organization_id: str, project_id: str | None, key_id: str) -> ApiKey:
    """The same, held until the transaction ends, so that a change is made once. Raises KeyNotFound."""
    get_key(session, organization_id, project_id, key_id)
    return auth.get_key(session, organization_id, key_id)


def keys_page(
    session: Session,
    organization_id: str,
    project_id: str | None,
    *,
    limit: int,
    after: str | None,
    ascending: bool = False,
) -> pages.Page[ApiKey]:
    """A page of the keys of the project or, without one, of the admin keys, newest first. Raises UnknownCursor."""
    after_seq = None if after is None else _cursor(find_key(session, organization_id, project_id, after))
    query = _keys(organization_id, project_id)
    return pages.fetch(session, query, ApiKey.seq, limit=limit, after_seq=after_seq, ascending=ascending)


def audit_page(
    session: Session, organization_id: str, wanted: AuditFilter, *, limit: int, after: str | None, before: str | None
) -> tuple[list[tuple[AuditEntry, str | None]], bool]:
    """A page of the audit log, newest first, each entry with its project's name; and whether more follow.

    before: the page that ends before this entry, in place of the one that begins after `after`. Raises UnknownCursor.
    """
    query = sa.select(AuditEntry).where(AuditEntry.organization_id == organization_id, *_conditions(wanted))
    backwards = before is not None
    name, cursor = ("before", before) if backwards else ("after", after)
    seq = None if cursor is None else _cursor(_find_entry(session, organization_id, cursor), name)
    page = pages.fetch(session, query, AuditEntry.seq, limit=limit, after_seq=seq, ascending=backwards)
    rows = list(reversed(page.rows)) if backwards else list(page.rows)
    names = _project_names(session, {row.project_id for row in rows})
    return [(row, names.get(row.project_id)) for row in rows], page.has_more


def _conditions(wanted: AuditFilter) -> list[sa.ColumnElement[bool]]:
    columns: list[tuple[Any, Any]] = [
        (AuditEntry.project_id, wanted.project_ids),
        (AuditEntry.action, wanted.event_types),
        (AuditEntry.key_id, wanted.actor_ids),
        (AuditEntry.target, wanted.resource_ids),
    ]
    among = [column.in_(values) for column, values in columns if values is not None]
    # Whole seconds, as entries are shown: gt 5 begins at 6.
    second = sa.func.date_trunc("second", AuditEntry.at)
    return among + [SIGNS[sign](second, moment) for sign, moment in wanted.effective_at.items()]


def _find_entry(session: Session, organization_id: str, entry_id: str) -> AuditEntry | None:
    if not ids.is_plain(entry_id):
        return None
    ours = AuditEntry.organization_id == organization_id
    return session.scalar(sa.select(AuditEntry).where(ours, AuditEntry.id == entry_id))


def _project_names(session: Session, project_ids: set[str | None]) -> dict[str | None, str]:
    query = sa.select(Project.id, Project.name).where(Project.id.in_(project_ids - {None}))
    return {row.id: row.name for row in session.execute(query)}


def _keys(organization_id: str, project_id: str | None) -> sa.Select[ApiKey]:
    ours = sa.select(ApiKey).where(ApiKey.organization_id == organization_id, ApiKey.revoked_at.is_(None))
    return ours.where(ApiKey.project_id.is_(None) if project_id is None else ApiKey.project_id == project_id)


def _cursor(row: Project | ApiKey | AuditEntry | None, name: str = "after") -> int:
    if row is None:
        raise pages.UnknownCursor(f"The object named by '{name}' is not in this list.", param=name)
    return row.seq
