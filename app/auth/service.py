"""Organisations, projects and API keys: made, looked up, rotated, revoked. How a key looks: `key_format.py`."""

import hmac
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from psycopg.errors import DiskFull
from sqlalchemy.dialects.postgresql import insert

from app import ids
from app.audit.service import NOWHERE, Origin
from app.auth import key_format
from app.auth.errors import InvalidExpiry, InvalidKey, InvalidName, InvalidScopes, InvalidSlug, KeyNotFound
from app.auth.scopes import PROJECT_SCOPES, Scope
from app.auth.tables import ApiKey, Organization, Project
from app.db import Session

LAST_USED_EVERY = timedelta(minutes=1)
MOST_NAME = 256  # characters
MOST_SLUG = 64  # it is part of every tuned model's name
LIFETIME_SECONDS = range(60, 10 * 365 * 24 * 3600 + 1)
ADMIN = frozenset({Scope.ADMIN})


@dataclass(frozen=True)
class Caller:
    """Who asks with a project's key: everything a request may touch hangs on `project_id`."""

    organization_id: str
    organization_slug: str
    project_id: str
    key_id: str
    scopes: frozenset[str] = frozenset()
    requests_per_minute: int | None = None  # None: the server's default
    origin: Origin = NOWHERE


@dataclass(frozen=True)
class Admin:
    """Who asks with an admin key: it governs an organisation, and opens nothing inside its projects."""

    organization_id: str
    key_id: str
    project_id: None = None
    scopes: frozenset[str] = ADMIN
    requests_per_minute: int | None = None
    origin: Origin = NOWHERE


@dataclass(frozen=True)
class Issued:
    """A new key: its row, and the key itself, which is shown once and kept nowhere."""

    row: ApiKey
    value: str


def create_key(
    session: Session,
    *,
    project: str = "default",
    organization: str = "default",
    name: str = "",
    scopes: Collection[Scope] = PROJECT_SCOPES,
    lifetime: timedelta | None = None,
) -> Issued:
    """A key by names: the organisation and the project are made if they are not there. With the scope `admin` it is a
    key of the organisation. Raises InvalidName, InvalidSlug, InvalidScopes, InvalidExpiry.
    """
    organization_id = open_organization(session, organization)
    project_id = None if Scope.ADMIN in scopes else open_project(session, organization_id, project)
    return issue(session, organization_id, project_id, name=name, scopes=scopes, lifetime=lifetime)


def issue(
    session: Session,
    organization_id: str,
    project_id: str | None,
    *,
    name: str,
    scopes: Collection[Scope] = PROJECT_SCOPES,
    lifetime: timedelta | None = None,
) -> Issued:
    """A new key of a project or, without one, of the organisation. Raises InvalidName, InvalidScopes, InvalidExpiry."""
    check_name(name, empty=True)
    _check_scopes(scopes, admin=project_id is None)
    public, value = key_format.mint(key_format.ADMIN_PREFIX if project_id is None else key_format.PROJECT_PREFIX)
    row = ApiKey(
        id=ids.new("key_"),
        organization_id=organization_id,
        project_id=project_id,
        scopes=sorted(scopes),
        name=name,
        public_id=public,
        secret_sha256=key_format.digest(value),
        last_four=value[-4:],
        expires_at=None if lifetime is None else _from_now(lifetime),
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return Issued(row, value)


def usable_keys(session: Session) -> int:
    """How many keys open something: neither revoked nor expired."""
    living = sa.or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > sa.func.now())
    return session.scalars(sa.select(sa.func.count()).where(ApiKey.revoked_at.is_(None), living)).one()


def authenticate(session: Session, presented: str) -> Caller | Admin:
    """Whom a key stands for. Raises InvalidKey, for every reason alike."""
    public = key_format.public_part(presented)
    if public is None:
        raise InvalidKey
    query = (
        sa.select(ApiKey, Organization.slug, Project.requests_per_minute)
        .join(Organization, Organization.id == ApiKey.organization_id)
        .outerjoin(Project, Project.id == ApiKey.project_id)
        .where(ApiKey.public_id == public, _alive(), Project.archived_at.is_(None))
    )
    found = session.execute(query).one_or_none()
    # Without a row the comparison runs against nothing that could match, so that both take the same time.
    kept = found[0].secret_sha256 if found else bytes(32)
    if not hmac.compare_digest(kept, key_format.digest(presented)) or found is None:
        raise InvalidKey
    key, slug, rate = found
    _touch(session, key)
    if key.project_id is None:
        return Admin(key.organization_id, key.id)
    return Caller(key.organization_id, slug, key.project_id, key.id, frozenset(key.scopes), rate)


def get_key(session: Session, organization_id: str | None, key_id: str) -> ApiKey:
    """A key that was not revoked, held until the transaction ends; of any organisation for the operator, who gives
    None. Raises KeyNotFound.
    """
    query = sa.select(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None)).with_for_update()
    if organization_id is not None:
        query = query.where(ApiKey.organization_id == organization_id)
    key = session.scalar(query) if ids.is_plain(key_id) else None
    if key is None:
        raise KeyNotFound(key_id)
    return key


def scopes_named(names: Collection[str]) -> frozenset[Scope]:
    """The scopes of a project's key by their names; all of them for none. Raises InvalidScopes."""
    if not names:
        return PROJECT_SCOPES
    if not set(names) <= PROJECT_SCOPES:
        raise InvalidScopes(f"A project's key may have these scopes: {', '.join(sorted(PROJECT_SCOPES))}.")
    return frozenset(map(Scope, names))


def change(
    session: Session, key: ApiKey, *, scopes: Collection[Scope] | None = None, lifetime: timedelta | None = None
) -> None:
    """Change what a project's key may do, and how long from now on it lives; None leaves it. Raises InvalidExpiry."""
    if scopes is not None:
        key.scopes = sorted(scopes)
    if lifetime is not None:
        key.expires_at = _from_now(lifetime)
    session.flush()
    session.refresh(key)


def all_keys(session: Session) -> list[tuple[ApiKey, str, str | None]]:
    """Every key that was not revoked, newest first, with its organisation's slug and its project's name."""
    query = (
        sa.select(ApiKey, Organization.slug, Project.name)
        .join(Organization, Organization.id == ApiKey.organization_id)
        .outerjoin(Project, Project.id == ApiKey.project_id)
        .where(ApiKey.revoked_at.is_(None))
        .order_by(ApiKey.seq.desc())
    )
    return [(key, slug, project) for key, slug, project in session.execute(query)]


def redacted(key: ApiKey) -> str:
    """What may be shown of a key."""
    return key_format.redacted(key.public_id, key.last_four, admin=key.project_id is None)


def revoke(key: ApiKey) -> None:
    """Take a key back: it stops working everywhere within a few seconds."""
    key.revoked_at = sa.func.now()


def rotate(session: Session, key: ApiKey, *, overlap: timedelta, lifetime: timedelta | None = None) -> Issued:
    """A new key that may do what the old one may; the old one goes on working for `overlap`, so that nothing breaks.

    The new one lives as long as the old one was to live when it was made, unless `lifetime` says otherwise.
    """
    if lifetime is None and key.expires_at is not None:
        lifetime = key.expires_at - key.created_at
    scopes = [Scope(name) for name in key.scopes]
    new = issue(session, key.organization_id, key.project_id, name=key.name, scopes=scopes, lifetime=lifetime)
    key.expires_at = sa.func.least(ApiKey.expires_at, sa.func.now() + overlap)  # LEAST passes over NULL
    session.flush()
    return new


def open_organization(session: Session, slug: str) -> str:
    """The id of an organisation, which is made if it is not there. Raises InvalidSlug."""
    _check_slug(slug)
    new = insert(Organization).values(id=ids.new("org-"), slug=slug).on_conflict_do_nothing(index_elements=["slug"])
    session.execute(new)
    return session.scalars(sa.select(Organization.id).where(Organization.slug == slug)).one()


def open_project(session: Session, organization_id: str, name: str) -> str:
    """The id of a project, which is made if it is not there. Raises InvalidName, also if it is archived."""
    check_name(name)
    new = insert(Project).values(id=ids.new("proj_"), organization_id=organization_id, name=name)
    session.execute(new.on_conflict_do_nothing(index_elements=["organization_id", "name"]))
    query = sa.select(Project).where(Project.organization_id == organization_id, Project.name == name)
    project = session.scalars(query).one()
    if project.archived_at is not None:
        raise InvalidName(f"The project '{name}' is archived.")
    return project.id


def _alive() -> sa.ColumnElement[bool]:
    unexpired = sa.or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > sa.func.now())
    return sa.and_(ApiKey.revoked_at.is_(None), unexpired)


def _touch(session: Session, key: ApiKey) -> None:
    """Note now and then that a key is in use, if the database takes notes: after a failover, or when its disk is full,
    it may not, and reads go on.
    """
    writable = sa.func.current_setting("transaction_read_only") == "off"
    stale = sa.or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < sa.func.now() - LAST_USED_EVERY)
    if not session.scalar(sa.select(sa.and_(writable, stale)).where(ApiKey.id == key.id)):
        return
    try:
        with session.begin_nested():
            session.execute(sa.update(ApiKey).where(ApiKey.id == key.id, stale).values(last_used_at=sa.func.now()))
    except sa.exc.OperationalError as error:
        if not isinstance(error.orig, DiskFull):
            raise


def _from_now(lifetime: timedelta) -> sa.ColumnElement[datetime]:
    if int(lifetime.total_seconds()) not in LIFETIME_SECONDS:
        raise InvalidExpiry
    return sa.func.now() + lifetime


def check_name(name: str, *, empty: bool = False) -> None:
    """Raise InvalidName for a name that could not be shown in a line of its own."""
    if len(name) > MOST_NAME or not name.isprintable() or (name != name.strip()) or (not name and not empty):
        raise InvalidName


def _check_slug(slug: str) -> None:
    plain = set(slug) <= set(ids.LOWER_ALPHABET) | {"-"}
    if not plain or not slug.strip("-") or slug.strip("-") != slug or len(slug) > MOST_SLUG:
        raise InvalidSlug


def _check_scopes(scopes: Collection[Scope], *, admin: bool) -> None:
    if not scopes or (set(scopes) != {Scope.ADMIN} if admin else Scope.ADMIN in scopes):
        raise InvalidScopes
