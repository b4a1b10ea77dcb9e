"""What a training job tells the database: steps, checkpoints, resume states, its end. Each function is one phase.

Every phase begins with the fenced write; when that touches no row the job is not ours any more and `Lost` undoes the
rest.
"""

import csv
import io
import time
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from app import db, outbox
from app.auth.tables import Organization, Project
from app.db import Session
from app.events import service as events
from app.failpoints import failpoint
from app.files import service as files
from app.files.tables import File
from app.jobs import claims, states, transitions
from app.jobs.tables import Job
from app.jobs.transitions import Note
from app.models import service as models
from app.storage import Store
from worker import artefacts
from worker.outages import Lost

WIRE_METRICS = (
    "step",
    "total_steps",
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)
CHECKPOINT_METRICS = tuple(name for name in WIRE_METRICS if name != "total_steps")
CSV_COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
}


class Progress:
    """Steps that wait to be stored, and how fast they come."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._steps: list[dict[str, Any]] = []
        self._seconds_a_step: float | None = None
        self._flushed = 0.0 if job.first_step_at is None else time.monotonic()  # the first step is told at once

    def add(self, report: dict[str, Any]) -> None:
        """Take one step report."""
        self._steps.append(report)
        seconds = report["seconds"]
        before = self._seconds_a_step if self._seconds_a_step is not None else seconds
        self._seconds_a_step = 0.9 * before + 0.1 * seconds

    def due(self, seconds: float) -> bool:
        """Whether steps have waited for so long."""
        return bool(self._steps) and time.monotonic() - self._flushed >= seconds

    def flush(self) -> None:
        """Store the waiting steps with the job's clocks, in one transaction; they wait until it worked. Raises Lost."""
        if not self._steps:
            return
        steps = self._steps
        last = steps[-1]
        remaining = (last["total_steps"] - last["step"]) * (self._seconds_a_step or 0.0)
        values = {
            "trained_tokens": last["trained_tokens"],
            "furthest_step": sa.func.greatest(Job.furthest_step, last["step"]),
            "progress_at": sa.func.now(),
            "first_step_at": sa.func.coalesce(Job.first_step_at, sa.func.now()),
            "estimated_finish": sa.func.now() + timedelta(seconds=remaining),
            "phase": "training",
        }
        with db.transaction() as session:
            _keep(session, self._job, values)
            events.append_metrics(session, self._job.id, [step_on_the_wire(step) for step in steps])
            claims.serve_tokens(session, self._job.project_id, sum(step["tokens"] for step in steps))
        self._steps, self._flushed = [], time.monotonic()


def checkpoint(job: Job, report: dict[str, Any], prefix: str, manifest_sha256: str) -> None:
    """Make an uploaded adapter a checkpoint. Raises Lost."""
    step = report["step"]
    with db.transaction() as session:
        _keep(session, job, {"progress_at": sa.func.now()})
        row = models.publish_checkpoint(
            session,
            job,
            step=step,
            metrics=_on_the_wire({**report["metrics"], "step": step}, CHECKPOINT_METRICS),
            prefix=prefix,
            manifest_sha256=manifest_sha256,
            organization_slug=_organization_slug(session, job),
        )
        _tell_checkpoint(session, job, step, models.model_of(session, row).name)


def resume_state(job: Job, prefix: str, step: int) -> None:
    """Point the job at an uploaded resume state and drop the one before the last. Raises Lost."""
    with db.transaction() as session:
        current = _keep(session, job, {"resume_prefix": prefix, "resume_step": step, "progress_at": sa.func.now()})
        if job.resume_prefix is not None and job.resume_prefix != current.resume_prefix:
            outbox.put(session, outbox.DELETE_PREFIX, {"prefix": job.resume_prefix})
    job.resume_prefix = prefix


def tell(job: Job, level: str, message: str) -> None:
    """Add an event, while the job is still this worker's."""
    with db.transaction() as session:
        transitions.update(session, job.id, job.fence, {"worker_id": Job.worker_id}, note=Note(message, level=level))


def hand_back(job: Job, step: int, paused: bool) -> None:
    """Give the job up with its state saved: to paused, or to the queue for another worker. Raises Lost."""
    target = states.PAUSED if paused else states.QUEUED
    text = f"The job is paused at step {step}" if paused else f"The job was handed back at step {step}; it will go on"
    note = Note(text, level="info" if paused else "warn", data={"step": step})
    with db.transaction() as session:
        if transitions.move(session, job.id, target, note=note, fence=job.fence) is None:
            raise Lost


def store_result(store: Store, job: Job, key: str) -> tuple[str, int, str]:
    """Write the result CSV from the stored steps; its key, size and sha256."""
    with db.reading() as session:
        steps = events.metrics(session, job.id)
    data = result_csv(steps)
    return key, len(data), artefacts.put_bytes(store, key, data)


def result_csv(steps: list[dict[str, Any]]) -> bytes:
    """`step_metrics.csv`: cells that were not measured are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for step in steps:
        writer.writerow([_cell(step.get(name)) for name in CSV_COLUMNS.values()])
    return text.getvalue().encode()


def finish(job: Job, report: dict[str, Any], prefix: str, manifest_sha256: str, result: tuple[str, int, str]) -> None:
    """The one transaction that makes the job succeeded, its model real and its result file visible. Raises Lost."""
    key, size, digest = result
    step = report["step"]
    with db.transaction() as session:
        _keep(session, job, {"progress_at": sa.func.now()})
        model = models.publish_final(
            session,
            job,
            step=step,
            metrics=_on_the_wire({**report["metrics"], "step": step}, CHECKPOINT_METRICS),
            prefix=prefix,
            manifest_sha256=manifest_sha256,
            organization_slug=_organization_slug(session, job),
        )
        file = files.record_result(session, project_id=job.project_id, object_key=key, size=size, sha256=digest)
        _tell_checkpoint(session, job, step, model.name)
        events.append(session, job.id, f"New fine-tuned model created: {model.name}")
        values = {
            "fine_tuned_model": model.name,
            "result_file": file.id,
            "trained_tokens": report["trained_tokens"],
            "resume_prefix": None,
        }
        done = Note("The job has successfully completed")
        if transitions.move(session, job.id, states.SUCCEEDED, note=done, fence=job.fence, values=values) is None:
            raise Lost
        if job.resume_prefix is not None:
            outbox.put(session, outbox.DELETE_PREFIX, {"prefix": job.resume_prefix})
        failpoint("job.finishing")


def data_hashes(job: Job) -> dict[str, str]:
    """The job's files and their sha256, for the model card."""
    wanted = [file_id for file_id in (job.training_file, job.validation_file) if file_id is not None]
    with db.reading() as session:
        found = {row.id: row.sha256 for row in session.scalars(sa.select(File).where(File.id.in_(wanted)))}
    return {file_id: found.get(file_id, "unknown: the file was deleted") for file_id in wanted}


def _tell_checkpoint(session: Session, job: Job, step: int, name: str) -> None:
    """Once for each step, though a job that was interrupted may come past it again."""
    beginning = f"Checkpoint created at step {step} with"
    if not events.told(session, job.id, beginning):
        events.append(session, job.id, f"{beginning} Snapshot ID: {name}")


def _keep(session: Session, job: Job, values: dict[str, Any]) -> Job:
    current = transitions.update(session, job.id, job.fence, values)
    if current is None:
        raise Lost
    return current


def _organization_slug(session: Session, job: Job) -> str:
    query = sa.select(Organization.slug).join(Project).where(Project.id == job.project_id)
    return session.scalars(query).one()


def _on_the_wire(report: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The members that clients know, and only those that were measured."""
    return {name: report[name] for name in names if report.get(name) is not None}


def step_on_the_wire(report: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's members, and the step's tokens and their speed: what a progress bar wants beside them."""
    speed = {"tokens": report["tokens"], "tokens_per_second": round(report["tokens"] / report["seconds"], 1)}
    return _on_the_wire(report, WIRE_METRICS) | speed


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.5f}"
