"""API keys: made once, kept as a hash, refused for every reason alike."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from app import db
from app.auth import key_format, service
from app.auth.deps import KeyCache
from app.auth.errors import InvalidExpiry, InvalidKey, InvalidName, InvalidScopes, InvalidSlug
from app.auth.scopes import PROJECT_SCOPES, Scope
from app.auth.tables import ApiKey, Project


@pytest.fixture
def key(database: sa.Connection) -> str:
    with db.transaction() as session:
        return service.create_key(session, organization="acme", project="lab").value


def authenticate(key: str) -> service.Caller:
    with db.transaction() as session:
        return service.authenticate(session, key)


def change(**values: object) -> None:
    with db.transaction() as session:
        session.execute(sa.update(ApiKey).values(values))


def test_a_key_stands_for_its_project(key: str) -> None:
    caller = authenticate(key)
    assert caller.organization_slug == "acme"
    with db.reading() as session:
        assert session.get_one(Project, caller.project_id).name == "lab"


def test_two_keys_of_one_project_share_it(key: str) -> None:
    with db.transaction() as session:
        second = service.create_key(session, organization="acme", project="lab").value
        other = service.create_key(session, organization="acme", project="other").value
    assert authenticate(second).project_id == authenticate(key).project_id
    assert authenticate(other).project_id != authenticate(key).project_id


def test_the_key_itself_is_nowhere_in_the_database(key: str) -> None:
    with db.reading() as session:
        row = session.scalars(sa.select(ApiKey)).one()
    secret = key.split("_")[2]
    assert all(secret not in str(value) for value in vars(row).values())


def spoiled(key: str) -> dict[str, str]:
    prefix, public, secret, checksum = key.split("_")
    return {
        "empty": "",
        "another service's": "sk-proj-abcdefghijklmnop",
        "wrong secret": f"{prefix}_{public}_{secret[::-1]}_{key_format.checksum(public + secret[::-1])}",
        "wrong checksum": f"{prefix}_{public}_{secret}_{checksum[::-1]}",
        "unknown public part": f"{prefix}_AAAAAAAA_{secret}_{key_format.checksum('AAAAAAAA' + secret)}",
        "cut": key[:-1],
        "longer": key + "_x",
        "nul": key.replace(secret[0], "\0"),
    }


@pytest.mark.parametrize("reason", list(spoiled("sk-ts_aaaaaaaa_bc_d")))
def test_what_is_not_the_key_is_refused(key: str, reason: str) -> None:
    with pytest.raises(InvalidKey):
        authenticate(spoiled(key)[reason])


def test_revoked_and_expired_keys_are_refused(key: str) -> None:
    change(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(InvalidKey):
        authenticate(key)
    change(expires_at=None, revoked_at=datetime.now(UTC))
    with pytest.raises(InvalidKey):
        authenticate(key)


def test_last_use_is_written_at_most_once_a_minute(key: str) -> None:
    authenticate(key)
    with db.reading() as session:
        first = session.scalars(sa.select(ApiKey.last_used_at)).one()
    assert first is not None
    change(last_used_at=first - timedelta(seconds=59))
    authenticate(key)
    with db.reading() as session:
        assert session.scalars(sa.select(ApiKey.last_used_at)).one() == first - timedelta(seconds=59)


def test_the_cache_forgets_a_revoked_key_in_time(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = KeyCache()
    caller = cache.caller(key)
    change(revoked_at=datetime.now(UTC))
    assert cache.caller(key) == caller
    monkeypatch.setattr("app.auth.deps.time.monotonic", lambda: 10**9)
    with pytest.raises(InvalidKey):
        cache.caller(key)


def test_one_request_asks_again_ahead_of_time_and_the_others_go_on(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, now = KeyCache(), time.monotonic()
    caller = cache.caller(key)
    monkeypatch.setattr("app.auth.deps.time.monotonic", lambda: now + 4)
    assert [cache.known(key) for _ in range(3)] == [None, caller, caller]
    cache.caller(key)  # by the first
    monkeypatch.setattr("app.auth.deps.time.monotonic", lambda: now + 6)
    assert cache.known(key) == caller
    monkeypatch.setattr("app.auth.deps.time.monotonic", lambda: now + 10)
    assert cache.known(key) is None


def issue(**options: Any) -> service.Issued:
    with db.transaction() as session:
        return service.create_key(session, organization="acme", project="lab", **options)


def test_a_key_has_its_scopes_and_no_others(key: str) -> None:
    reader = issue(scopes=[Scope.FILES_READ, Scope.JOBS_READ])
    assert authenticate(reader.value).scopes == {"files:read", "jobs:read"}
    assert authenticate(key).scopes == PROJECT_SCOPES


def test_an_admin_key_is_the_organisations(key: str) -> None:
    admin = authenticate(issue(scopes=[Scope.ADMIN]).value)
    assert isinstance(admin, service.Admin)
    assert admin.organization_id == authenticate(key).organization_id
    assert admin.project_id is None


@pytest.mark.parametrize("scopes", [[], [Scope.ADMIN, Scope.FILES_READ]], ids=["none", "admin and another"])
def test_scopes_that_make_no_key(database: sa.Connection, scopes: list[Scope]) -> None:
    with pytest.raises(InvalidScopes):
        issue(scopes=scopes)


@pytest.mark.parametrize("seconds", [0, 59, -60, 10 * 365 * 24 * 3600 + 1, 10**13])
def test_lifetimes_that_make_no_key(database: sa.Connection, seconds: int) -> None:
    with pytest.raises(InvalidExpiry):
        issue(lifetime=timedelta(seconds=seconds))


@pytest.mark.parametrize("name", ["a\nb", "a\x00", "\udc80", "x" * 257, " edge", "\u202e"])
def test_names_that_make_no_key(database: sa.Connection, name: str) -> None:
    with pytest.raises(InvalidName):
        issue(name=name)
    with db.transaction() as session, pytest.raises(InvalidName):
        service.create_key(session, project=name)


@pytest.mark.parametrize("slug", ["", "-", "a-", "Acme", "a:b", "a/b", "ä", "x" * 65, "\udc80", "a\n"])
def test_names_that_are_no_organisation(database: sa.Connection, slug: str) -> None:
    with db.transaction() as session, pytest.raises(InvalidSlug):
        service.create_key(session, organization=slug)


def test_a_project_of_the_same_name_in_another_organisation_is_another(key: str) -> None:
    with db.transaction() as session:
        theirs = service.create_key(session, organization="other", project="lab").value
    assert authenticate(theirs).project_id != authenticate(key).project_id


def test_rotation_leaves_both_keys_working_for_a_while(database: sa.Connection) -> None:
    old = issue(scopes=[Scope.FILES_READ], name="ci", lifetime=timedelta(days=30))
    with db.transaction() as session:
        row = service.get_key(session, None, old.row.id)
        new = service.rotate(session, row, overlap=timedelta(hours=1))
    assert authenticate(old.value).scopes == authenticate(new.value).scopes == {"files:read"}
    with db.reading() as session:
        kept = session.get_one(ApiKey, old.row.id, populate_existing=True)
        assert kept.expires_at is not None
        assert kept.expires_at <= datetime.now(UTC) + timedelta(hours=1)
        assert new.row.expires_at is not None
        assert new.row.expires_at - new.row.created_at == timedelta(days=30)
        assert new.row.name == "ci"


def test_rotation_never_makes_an_old_key_live_longer(database: sa.Connection) -> None:
    old = issue(lifetime=timedelta(minutes=5))
    with db.transaction() as session:
        service.rotate(session, service.get_key(session, None, old.row.id), overlap=timedelta(days=1))
    with db.reading() as session:
        assert session.get_one(ApiKey, old.row.id, populate_existing=True).expires_at == old.row.expires_at


def test_the_key_of_an_archived_project_is_refused(key: str) -> None:
    with db.transaction() as session:
        session.execute(sa.update(Project).values(archived_at=sa.func.now()))
    with pytest.raises(InvalidKey):
        authenticate(key)
    with db.transaction() as session, pytest.raises(InvalidName):
        service.create_key(session, organization="acme", project="lab")
