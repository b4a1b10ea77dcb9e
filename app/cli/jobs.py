"""`tunesmith jobs`: look at fine-tuning jobs, follow them, cancel, pause and resume them."""

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.client import connect
from app.cli.finetune import finish, watch
from app.cli.output import print_json, print_table, when

if TYPE_CHECKING:
    from openai.types.fine_tuning import FineTuningJob

app = typer.Typer(help="List, show, watch, cancel, pause and resume fine-tuning jobs.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(help="ftjob-…", metavar="JOB")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_jobs(limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 20, json: AsJson = False) -> None:
    """List the newest jobs."""
    jobs = list(islice(connect().fine_tuning.jobs.list(limit=min(limit, 100)), limit))
    if json:
        print_json(jobs)
        return
    rows = ((job.id, job.status, job.model, job.fine_tuned_model or "-", when(job.created_at)) for job in jobs)
    print_table(("JOB", "STATUS", "MODEL", "TUNED MODEL", "CREATED"), rows)


@app.command()
def show(job_id: JobId, json: AsJson = False) -> None:
    """Show one job."""
    job = connect().fine_tuning.jobs.retrieve(job_id)
    if json:
        print_json(job)
        return
    rows = [("id", job.id), ("status", job.status), ("model", job.model), ("tuned model", job.fine_tuned_model or "-")]
    rows += [("training file", job.training_file), ("validation file", job.validation_file or "-")]
    rows += [("created", when(job.created_at)), ("finished", when(job.finished_at))]
    rows += [("trained tokens", str(job.trained_tokens or "-")), ("seed", str(job.seed))]
    rows += [("hyperparameters", _listed(job.hyperparameters.to_dict())), ("metadata", _listed(job.metadata or {}))]
    rows += [("result files", ", ".join(job.result_files) or "-")]
    if job.error and job.error.message:
        rows.append(("error", f"{job.error.code}: {job.error.message}"))
    print_table(("FIELD", "VALUE"), rows)


@app.command("watch")
def watch_job(job_id: JobId, json: AsJson = False) -> None:
    """Show a job's progress until it ends. The exit status is 1 unless it succeeds."""
    finish(watch(connect(), job_id), as_json=json)


@app.command()
def cancel(job_id: JobId, json: AsJson = False) -> None:
    """Cancel a job."""
    _tell(connect().fine_tuning.jobs.cancel(job_id), as_json=json)


@app.command()
def pause(job_id: JobId, json: AsJson = False) -> None:
    """Pause a job; it keeps its progress."""
    _tell(connect().fine_tuning.jobs.pause(job_id), as_json=json)


@app.command()
def resume(job_id: JobId, json: AsJson = False) -> None:
    """Resume a paused job."""
    _tell(connect().fine_tuning.jobs.resume(job_id), as_json=json)


def _listed(pairs: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in pairs.items()) or "-"


def _tell(job: "FineTuningJob", *, as_json: bool) -> None:
    if as_json:
        print_json(job)
    else:
        typer.echo(f"{job.id} {job.status}")
