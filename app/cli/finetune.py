"""`tunesmith finetune`: upload, create, and if asked, follow."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.client import connect
from app.cli.output import print_json

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.fine_tuning import FineTuningJob

Dataset = Annotated[Path, typer.Argument(help="Training data: JSON lines.", exists=True, dir_okay=False)]


def finetune(
    training: Dataset,
    model: Annotated[str, typer.Option(help="The base model, or a tuned model to go on from.")],
    validation: Annotated[Path | None, typer.Option(help="Validation data.", exists=True, dir_okay=False)] = None,
    suffix: Annotated[str | None, typer.Option(help="Goes into the tuned model's name.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.  [default: auto]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples per step.  [default: auto]")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.  [default: the model's]")] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Rank of the adapter.  [default: the model's]")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the run repeatable.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show progress until the job ends.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the job as JSON.")] = False,
) -> None:
    """Upload a dataset and fine-tune a model on it. Prints the job's id.

    With --follow the exit status is 1 unless the job succeeds, and the tuned model's name is printed last.
    """
    client = connect()
    hyperparameters = {
        "n_epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "lora_rank": lora_rank,
    }
    chosen = {name: value for name, value in hyperparameters.items() if value is not None}
    request: dict[str, Any] = {
        "model": model,
        "training_file": upload(client, training),
        "method": {"type": "supervised", "supervised": {"hyperparameters": chosen}},
    }
    if validation is not None:
        request["validation_file"] = upload(client, validation)
    request |= {name: value for name, value in (("suffix", suffix), ("seed", seed)) if value is not None}
    job = client.fine_tuning.jobs.create(**request)
    if follow:
        typer.echo(job.id, err=json)
        finish(watch(client, job.id), as_json=json)
    elif json:
        print_json(job)
    else:
        typer.echo(job.id)


def upload(client: "OpenAI", path: Path) -> str:
    """Upload a dataset; returns the file's id."""
    with path.open("rb") as source:
        return client.files.create(file=source, purpose="fine-tune").id


def watch(client: "OpenAI", job_id: str) -> "FineTuningJob":
    """Show a job's progress on stderr until it ends. Whoever interrupts this is told that the job goes on."""
    from rich.console import Console

    from app.cli.progress import follow

    try:
        return follow(client, job_id, console=Console(stderr=True))
    except KeyboardInterrupt:
        commands = f"`tunesmith jobs watch {job_id}` shows it again, `tunesmith jobs cancel {job_id}` ends it"
        typer.echo(f"tunesmith: {job_id} goes on: {commands}", err=True)
        raise


def finish(job: "FineTuningJob", *, as_json: bool) -> None:
    """Print how a job ended; exits with 1 unless it succeeded."""
    if as_json:
        print_json(job)
    elif job.status == "succeeded":
        typer.echo(job.fine_tuned_model)
    if job.status != "succeeded":
        reason = f": {job.error.message}" if job.error and job.error.message else ""
        typer.echo(f"tunesmith: {job.id} {job.status}{reason}", err=True)
        sys.exit(1)
