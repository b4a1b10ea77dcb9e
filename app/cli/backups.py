"""`tunesmith backup` and `tunesmith restore`: a data directory of `tunesmith up`, saved and brought back."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.errors import CommandError

DataDir = Annotated[Path, typer.Option(help="The data directory of a `tunesmith up`.")]
DEFAULT_DATA_DIR = Path(".tunesmith")


def backup(
    target: Annotated[Path, typer.Argument(help="A folder to write; it must not be there yet.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Save database, objects, base models and keys of a `tunesmith up`, which may run meanwhile.

    The backup holds keys: keep it as private as the data directory.
    """
    from app.embedded import backup as backups

    try:
        backups.create(data_dir.resolve(), target.resolve())
    except (backups.BackupFailed, RuntimeError) as error:
        raise CommandError(str(error)) from error
    typer.echo(f"{data_dir} is saved in {target}")


def restore(
    source: Annotated[Path, typer.Argument(help="A folder that `tunesmith backup` wrote.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Make a new data directory from a backup; `tunesmith up` goes on from there."""
    from app.embedded import backup as backups

    try:
        backups.restore(source.resolve(), data_dir.resolve())
    except (backups.BackupFailed, RuntimeError) as error:
        raise CommandError(str(error)) from error
    typer.echo(f"{data_dir} is ready for `tunesmith up --data-dir {data_dir}`")
