"""API keys: made once, kept as a hash, refused for every reason alike."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from app import db
from app.auth import key_format, service
from app.auth.deps import KeyCache
from app.auth.errors import InvalidKey
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
