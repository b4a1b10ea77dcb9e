"""The commands that run servers: the whole stack, or one process of it."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.errors import CommandError

worker = typer.Typer(help="Run one worker.", no_args_is_help=True)
GARBAGE_THRESHOLDS = (20_000, 20, 20)  # one request makes a thousand objects; Python's own is 700


def up(
    data_dir: Annotated[Path, typer.Option(help="Everything lives here; made if it is not there.")] = Path(
        ".tunesmith"
    ),
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 for a free one.  [default: 8000]", min=0, max=65535)] = None,
) -> None:
    """Run everything on this machine: Postgres, Redis, the API and both workers. Ctrl-C stops it all.

    Prints the base URL and an API key, then "ready" once the API and both workers are there.
    """
    from app.embedded import supervisor
    from app.embedded.data_directory import AlreadyRunning
    from app.embedded.stack import NotReady

    settings = _settings(host=host, port=port)
    try:
        supervisor.run(data_dir, settings, _announce)
    except (AlreadyRunning, NotReady, RuntimeError) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        if error.filename is not None:
            raise
        raise CommandError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error


def api(
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [default: TUNESMITH_HOST]")] = None,
    port: Annotated[int | None, typer.Option(help="Port.  [default: TUNESMITH_PORT]", min=0, max=65535)] = None,
    listen_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the API server. Settings come from TUNESMITH_… environment variables."""
    import gc
    import socket

    from app import exposure, logs, metrics, tracing
    from app.backlog import Backlog
    from app.http import server
    from app.main import create_app

    settings = _settings(host=host, port=port)
    logs.configure(settings)
    tracing.configure(settings, "api")
    application = create_app(settings)
    exposure.refuse_unsafe(settings, keys=_usable_keys())
    gc.collect()
    gc.freeze()  # what is here now stays to the end: looking through it again and again took a tenth of the time
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    metrics.serve(settings, alive=lambda: True, collectors=[Backlog(settings.lease_seconds)])
    server.serve(application, settings, None if listen_fd is None else socket.socket(fileno=listen_fd))


@worker.command("cpu")
def worker_cpu() -> None:
    """Run the worker that checks and tokenises datasets."""
    _become("worker.cpu")


@worker.command("gpu")
def worker_gpu() -> None:
    """Run a worker that trains, on one GPU or on the CPU."""
    _become("worker.gpu")


def migrate() -> None:
    """Bring the database (TUNESMITH_DATABASE_URL) to the newest schema."""
    from app import db
    from migrations import run as migrations

    engine = db.create_engine(_settings().database_url, pool_size=1)
    migrations.upgrade(engine)
    current, newest = migrations.revisions(engine)
    engine.dispose()
    newer = f"the schema is {current}, newer than this program's {newest}, and was left as it is"
    typer.echo("the schema is up to date" if current == newest else newer)


def _usable_keys() -> int | None:
    """How many keys there are; None while the database does not answer."""
    import sqlalchemy as sa

    from app import db
    from app.auth import service as auth

    try:
        with db.reading() as session:
            return auth.usable_keys(session)
    except (sa.exc.OperationalError, sa.exc.ProgrammingError):  # the latter: not migrated yet
        return None


def _become(module: str) -> None:
    """Turn this process into a program of the worker package, which this one must not import."""
    os.execv(sys.executable, [sys.executable, "-m", module])  # noqa: S606 - no shell is wanted


def _settings(**changes: Any) -> Any:
    from app.config import Settings

    return Settings(**{name: value for name, value in changes.items() if value is not None})


def _announce(ready: Any) -> None:
    typer.echo(f"base URL  {ready.base_url}")
    typer.echo(f"API key   {ready.api_key}")
    typer.echo(f"key file  {ready.key_file}")
    typer.echo("ready")
    sys.stdout.flush()
