"""`tunesmith models`: list models, and download a tuned model's adapter."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.client import connect
from app.cli.output import print_json, print_table, when

app = typer.Typer(help="List models and download adapters.", no_args_is_help=True)


@app.command("list")
def list_models(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the base models on the server and your tuned models."""
    models = list(connect().models.list())
    if json:
        print_json(models)
        return
    print_table(("MODEL", "OWNER", "CREATED"), ((model.id, model.owned_by, when(model.created)) for model in models))


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="A tuned model's name, a checkpoint's name, or a job's id.")],
    out: Annotated[Path | None, typer.Option(help="Folder to make.  [default: the job's id, and step]")] = None,
) -> None:
    """Download an adapter in PEFT layout and check it against its manifest. Prints the folder."""
    from app.cli import adapters

    client = connect()
    source = adapters.locate(client, name)
    folder = out or Path(source.folder_name)
    adapters.download(client, source, folder)
    typer.echo(str(folder))
