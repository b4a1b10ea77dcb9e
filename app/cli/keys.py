"""`tunesmith keys`: API keys, made, listed, rotated and revoked by the operator straight in the database."""

import getpass
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.errors import USAGE, CommandError
from app.cli.output import print_json, print_table, when

if TYPE_CHECKING:
    from app.audit.service import Operator
    from app.auth.tables import ApiKey

app = typer.Typer(help="Make, list, rotate and revoke API keys.", no_args_is_help=True)

UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
DataDir = Annotated[
    Path | None,
    typer.Option(help="The data directory of a running `tunesmith up`; else TUNESMITH_DATABASE_URL is used."),
]
Organization = Annotated[str, typer.Option(help="The organisation the key belongs to; made if unknown.")]
Expires = Annotated[str | None, typer.Option(help="When it stops working: 12h, 30d, 4w.  [default: never]")]
KeyId = Annotated[str, typer.Argument(help="The key's id, key_…", metavar="KEY")]


@app.command()
def create(
    data_dir: DataDir = None,
    organization: Organization = "default",
    project: Annotated[
        str | None, typer.Option(help="The project it opens; made if unknown.  [default: default]")
    ] = None,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    scope: Annotated[
        list[str] | None,
        typer.Option(help="What it may do, more than once: files:read, jobs:write, …  [default: all in its project]"),
    ] = None,
    expires: Expires = None,
) -> None:
    """Make an API key. The key alone is printed; it cannot be shown again.

    A key with the scope `admin` governs the organisation and opens none of its projects.
    """
    with _database(data_dir) as session:
        from app.audit import service as audit
        from app.audit.actions import Action
        from app.auth import service
        from app.auth.scopes import PROJECT_SCOPES, Scope

        scopes = frozenset(map(_scope, scope)) if scope else PROJECT_SCOPES
        if Scope.ADMIN in scopes and project is not None:
            raise CommandError("an admin key belongs to an organisation, not to a project: leave --project out", USAGE)
        issued = service.create_key(
            session,
            organization=organization,
            project=project if project is not None else "default",
            name=name,
            scopes=scopes,
            lifetime=_duration(expires, "--expires"),
        )
        details = {"scopes": issued.row.scopes}
        row = issued.row
        audit.record(session, _operator(row), Action.KEY_CREATED, row.id, project_id=row.project_id, details=details)
    typer.echo(issued.value)


@app.command("list")
def list_keys(
    data_dir: DataDir = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the keys that were not revoked, the newest first."""
    with _database(data_dir) as session:
        from app.auth import service

        found = [_described(*row) for row in service.all_keys(session)]
    if json:
        print_json(found)
        return
    columns = ("id", "organization", "project", "name", "key", "scopes", "last_used_at", "expires_at")
    rows = [[_cell(name, key[name]) for name in columns] for key in found]
    print_table([name.removesuffix("_at").replace("_", " ").upper() for name in columns], rows)


@app.command()
def revoke(key: KeyId, data_dir: DataDir = None) -> None:
    """Take a key back: it stops working everywhere within a few seconds."""
    with _database(data_dir) as session:
        from app.audit import service as audit
        from app.audit.actions import Action
        from app.auth import service

        row = service.get_key(session, None, key)
        service.revoke(row)
        audit.record(session, _operator(row), Action.KEY_DELETED, row.id, project_id=row.project_id)
    typer.echo(f"{key} is revoked")


@app.command()
def rotate(
    key: KeyId,
    data_dir: DataDir = None,
    overlap: Annotated[str, typer.Option(help="How long the old key goes on working: 0h, 24h, 7d.")] = "24h",
    expires: Expires = None,
) -> None:
    """Make a new key that may do what KEY may, and let KEY expire. The new key alone is printed.

    Unless --expires says otherwise, the new key lives as long as KEY was to live.
    """
    with _database(data_dir) as session:
        from app.audit import service as audit
        from app.audit.actions import Action
        from app.auth import service

        old = service.get_key(session, None, key)
        window = _duration(overlap, "--overlap") or timedelta()
        new = service.rotate(session, old, overlap=window, lifetime=_duration(expires, "--expires"))
        details = {"scopes": new.row.scopes, "replaces": old.id}
        by, project_id = _operator(old), old.project_id
        audit.record(session, by, Action.KEY_CREATED, new.row.id, project_id=project_id, details=details)
        audit.record(
            session, by, Action.KEY_UPDATED, old.id, project_id=project_id, details={"replaced_by": new.row.id}
        )
    typer.echo(new.value)


@contextmanager
def _database(data_dir: Path | None) -> Iterator[Any]:
    """A transaction in the database; what is refused in it is a wrong command line."""
    from app import db
    from app.errors import AppError

    engine = db.create_engine(_database_url(data_dir), pool_size=1)
    db.configure(engine)
    try:
        with db.transaction() as session:
            yield session
    except AppError as error:
        raise CommandError(error.message, USAGE) from None
    finally:
        engine.dispose()


def _database_url(data_dir: Path | None) -> str:
    if data_dir is None:
        from app.config import Settings

        return Settings().database_url
    from app.embedded.postgres import url_at

    if not (data_dir / "postgres").is_dir():
        raise typer.BadParameter(f"{data_dir} is no data directory of `tunesmith up`", param_hint="--data-dir")
    return url_at(data_dir / "postgres")


def _operator(key: "ApiKey") -> "Operator":
    from app.audit.service import Operator, Origin

    return Operator(key.organization_id, Origin(account=_account(), user_agent="tunesmith keys"))


def _account() -> str:
    """Whoever runs this; a container's user may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _scope(name: str) -> Any:
    from app.auth.scopes import Scope

    if name not in frozenset(Scope):
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(Scope)}", param_hint="--scope")
    return Scope(name)


def _duration(text: str | None, option: str) -> timedelta | None:
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,4})([hdw])", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no number of hours, days or weeks, such as 30d", param_hint=option)
    return int(match[1]) * UNITS[match[2]]


def _described(key: "ApiKey", organization: str, project: str | None) -> dict[str, Any]:
    from app.auth import service

    return {
        "id": key.id,
        "organization": organization,
        "project": project,
        "name": key.name,
        "key": service.redacted(key),
        "scopes": key.scopes,
        "created_at": _seconds(key.created_at),
        "last_used_at": _seconds(key.last_used_at),
        "expires_at": _seconds(key.expires_at),
    }


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


def _cell(name: str, value: Any) -> str:
    if name.endswith("_at"):
        return when(value)
    if isinstance(value, list):
        return ",".join(value)
    return value or "-"
