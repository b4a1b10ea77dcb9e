"""`tunesmith catalog`: the base models an operator offers, fetched and pinned."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.errors import USAGE, CommandError
from app.cli.output import print_json, print_table

if TYPE_CHECKING:
    from app.models.catalog import Catalog

app = typer.Typer(help="List the base models of the catalogue, and fetch them.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataDir = Annotated[
    Path | None, typer.Option(help="The data directory of a `tunesmith up`; else TUNESMITH_MODELS_DIR is used.")
]


@app.command("list")
def list_entries(data_dir: DataDir = None, json: AsJson = False) -> None:
    """List the catalogue, and which base models are on this machine."""
    models_dir = _models_dir(data_dir)
    entries = _catalog(models_dir).entries
    if json:
        print_json([{"id": entry.id, "here": entry.available(models_dir)} for entry in entries])
        return
    rows = (
        (entry.id, "yes" if entry.available(models_dir) else "no", entry.licence, ", ".join(entry.aliases) or "-")
        for entry in entries
    )
    print_table(("BASE MODEL", "HERE", "LICENCE", "ALIASES"), rows)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="The id of a base model in the catalogue.", metavar="MODEL")],
    data_dir: DataDir = None,
) -> None:
    """Fetch a base model, and pin its revision and file hashes in a lock file. Restart the servers afterwards."""
    from app.models.catalog import lock_path
    from app.models.pull import HuggingFaceHub, pull

    models_dir = _models_dir(data_dir)
    entry = _catalog(models_dir).find(name)
    if entry is None:
        raise CommandError(f"{name} is not in the catalogue; `tunesmith catalog list` shows what is", USAGE)
    models_dir.mkdir(parents=True, exist_ok=True)
    locked = pull(entry, models_dir, lock_path(models_dir), hub=HuggingFaceHub(), say=_say)
    typer.echo(f"{entry.id} {locked.revision}: {len(locked.files)} files")


def _models_dir(data_dir: Path | None) -> Path:
    from app.config import Settings

    return Settings().models_dir if data_dir is None else data_dir.resolve() / "models"


def _catalog(models_dir: Path) -> "Catalog":
    from app.config import Settings
    from app.models import catalog

    return catalog.load(Settings().catalog_path, catalog.lock_path(models_dir))


def _say(text: str) -> None:
    typer.echo(text, err=True)
