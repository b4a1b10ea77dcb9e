"""`tunesmith keys`: API keys, made by the operator straight in the database."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make API keys.", no_args_is_help=True)


@app.callback()
def _keys() -> None:
    """Make API keys."""


@app.command()
def create(
    data_dir: Annotated[Path | None, typer.Option(help="The data directory of a running `tunesmith up`.")] = None,
    project: Annotated[str, typer.Option(help="The project the key opens; made if unknown.")] = "default",
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
) -> None:
    """Make an API key. The key alone is printed; it cannot be shown again.

    Without --data-dir the database is TUNESMITH_DATABASE_URL.
    """
    from app import db
    from app.auth import service

    engine = db.create_engine(_database_url(data_dir), pool_size=1)
    db.configure(engine)
    with db.transaction() as session:
        key = service.create_key(session, project=project, name=name)
    engine.dispose()
    typer.echo(key)


def _database_url(data_dir: Path | None) -> str:
    if data_dir is None:
        from app.config import Settings

        return Settings().database_url
    from app.embedded.postgres import url_at

    if not (data_dir / "postgres").is_dir():
        raise typer.BadParameter(f"{data_dir} is no data directory of `tunesmith up`", param_hint="--data-dir")
    return url_at(data_dir / "postgres")
