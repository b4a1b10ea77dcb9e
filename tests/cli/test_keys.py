"""`tunesmith keys` against a real database: what is printed, what the keys may do, and what is written down."""

import json

import pytest
import sqlalchemy as sa
from click.testing import Result
from typer.testing import CliRunner

from app import db
from app.audit.tables import AuditEntry
from app.auth import service
from app.cli.errors import CommandError
from app.cli.main import app


@pytest.fixture(autouse=True)
def url(scratch_database: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_DATABASE_URL", scratch_database.url.render_as_string(hide_password=False))


def keys(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments])


def created(*arguments: str) -> str:
    done = keys("create", *arguments)
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


def listed() -> list[dict[str, object]]:
    return json.loads(keys("list", "--json").stdout)


def caller(engine: sa.Engine, key: str) -> service.Caller | service.Admin:
    with db.Session(engine) as session:  # not `db.transaction`: the command left its own, closed engine there
        return service.authenticate(session, key)


def test_a_key_with_scopes_and_an_expiry(scratch_database: sa.Engine) -> None:
    key = created("--organization", "acme", "--project", "lab", "--scope", "jobs:read", "--expires", "30d")
    assert caller(scratch_database, key).scopes == {"jobs:read"}
    (row,) = listed()
    assert (row["organization"], row["project"], row["scopes"]) == ("acme", "lab", ["jobs:read"])
    assert row["expires_at"] == row["created_at"] + 30 * 24 * 3600  # type: ignore[operator]
    assert key not in json.dumps(row)
    assert str(row["id"]) in keys("list").stdout


def test_an_admin_key(scratch_database: sa.Engine) -> None:
    assert isinstance(caller(scratch_database, created("--scope", "admin")), service.Admin)
    assert listed()[0]["project"] is None


def test_rotate_and_revoke_are_written_down(scratch_database: sa.Engine) -> None:
    created("--name", "ci")
    old = str(listed()[0]["id"])
    new = keys("rotate", old, "--overlap", "1h").stdout.strip()
    caller(scratch_database, new)
    new_id = str(listed()[0]["id"])
    assert keys("revoke", old).exit_code == 0
    assert [row["id"] for row in listed()] == [new_id]
    with db.Session(scratch_database) as session:
        log = session.scalars(sa.select(AuditEntry).order_by(AuditEntry.seq)).all()
    assert [(entry.action, entry.target) for entry in log] == [
        ("api_key.created", old),
        ("api_key.created", new_id),
        ("api_key.updated", old),
        ("api_key.deleted", old),
    ]
    assert all(entry.account and entry.key_id is None for entry in log)


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "--scope", "files"],
        ["create", "--scope", "admin", "--project", "lab"],
        ["create", "--scope", "admin", "--scope", "files:read"],
        ["create", "--expires", "30"],
        ["create", "--expires", "6m"],
        ["create", "--expires", "0d"],
        ["create", "--expires", "9999w"],
        ["create", "--expires", "99999999999d"],
        ["create", "--project", "a\nb"],
        ["create", "--project", ""],
        ["create", "--organization", "Not A Slug"],
        ["create", "--name", "x" * 257],
        ["create", "--name", "\udc80"],
        ["revoke", "key_none"],
        ["revoke", "\udc80"],
        ["rotate", "key_none"],
    ],
)
def test_wrong_command_lines_make_nothing(arguments: list[str]) -> None:
    done = keys(*arguments)
    wrong = done.exit_code == 2 or (isinstance(done.exception, CommandError) and done.exception.status == 2)
    assert wrong, (done.exception, done.output)
    assert listed() == []
