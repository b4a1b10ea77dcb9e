"""Fine-tuning jobs as their owner sees them: create, find, list, cancel, pause, resume."""

import secrets
from typing import Any

import sqlalchemy as sa

from app import db, ids, pages, tracing
from app.auth.service import Caller
from app.auth.tables import Project
from app.config import Settings
from app.db import Session
from app.errors import quoted
from app.events import service as events
from app.files import service as files
from app.jobs import hyperparameters, quotas, schemas, states, transitions, views
from app.jobs.errors import (
    CheckpointNotFound,
    IntegrationNotConfigured,
    InvalidFile,
    InvalidHyperparameter,
    InvalidSuffix,
    JobCannotPause,
    JobCannotResume,
    JobIsFinal,
    JobNotFound,
    MethodNotOffered,
)
from app.jobs.schemas import JobRequest
from app.jobs.tables import Job
from app.models import service as models
from app.models.catalog import Catalog
from app.models.errors import AdapterMissing
from app.models.tables import Checkpoint, TunedModel

SUPERVISED = "supervised"
FINE_TUNE = "fine-tune"
_PRIORITY = sa.select(Project.priority).where(Project.id == sa.bindparam("project_id"))


def create(session: Session, caller: Caller, body: JobRequest, *, catalog: Catalog, settings: Settings) -> Job:
    """Check what can be known now, and write the job and its first events. Raises the BadRequest that fits, and
    TooManyJobs and QuotaExceeded.
    """
    _check_offered(body, settings)
    start = models.trainable(session, caller.project_id, body.model, catalog=catalog, models_dir=settings.models_dir)
    _check_file(session, caller.project_id, body.training_file, "training_file")
    if body.validation_file is not None:
        _check_file(session, caller.project_id, body.validation_file, "validation_file")
    asked = _hyperparameters(session, body, start)
    quotas.admit(session, caller.project_id, settings)
    job = _new_job(session, caller.project_id, body, start, asked)
    events.append(session, job.id, f"Created fine-tuning job: {job.id}")
    beside = f" and validation file: {body.validation_file}" if body.validation_file else ""
    events.append(session, job.id, f"Validating training file: {body.training_file}{beside}")
    return job


def find(session: Session, project_id: str, job_id: str) -> Job | None:
    """The project's job with this id, if there is one."""
    if not ids.is_plain(job_id):
        return None
    return session.scalar(sa.select(Job).where(Job.project_id == project_id, Job.id == job_id))


def get(session: Session, project_id: str, job_id: str) -> Job:
    """The project's job with this id. Raises JobNotFound."""
    job = find(session, project_id, job_id)
    if job is None:
        raise JobNotFound(job_id)
    return job


def _locked(session: Session, project_id: str, job_id: str) -> Job:
    """The project's job, held against other movers until the transaction ends. Raises JobNotFound."""
    job = get(session, project_id, job_id)
    session.refresh(job, with_for_update=True)
    return job


def stream_start(session: Session, project_id: str, job_id: str, last_event_id: str | None) -> int:
    """The place after which a stream of a job's events begins: that of the last one its client has seen, or 0.

    Raises JobNotFound, UnknownCursor.
    """
    views.check_job(session, project_id, job_id)
    return 0 if last_event_id is None else events.place(session, job_id, last_event_id)


def checkpoints_page(
    session: Session, project_id: str, job_id: str, *, limit: int, after: str | None
) -> pages.Page[tuple[Checkpoint, str]]:
    """A page of a job's checkpoints, newest first, each with its model's name. Raises JobNotFound, UnknownCursor."""
    job = get(session, project_id, job_id)
    after_seq = None if after is None else _cursor(models.find_checkpoint(session, job.id, after))
    return models.checkpoints_page(session, job.id, limit, after_seq)


def cancel(session: Session, project_id: str, job_id: str) -> Job:
    """Cancel a job that is not over. Raises JobNotFound, JobIsFinal."""
    note = transitions.Note("The job was cancelled on the user's request", level="warn")
    if ids.is_plain(job_id):
        cancelled = transitions.move(session, job_id, states.CANCELLED, note=note, project_id=project_id)
        if cancelled is not None:
            return cancelled
    raise JobIsFinal(job_id, get(session, project_id, job_id).status)


def pause(session: Session, project_id: str, job_id: str) -> Job:
    """Stop a job until it is resumed: at once if it waits, at its next step if it runs. Raises JobNotFound,
    JobCannotPause.
    """
    job = _locked(session, project_id, job_id)
    if job.status == states.QUEUED:
        note = transitions.Note(f"The job was paused at step {job.resume_step} on the user's request")
        paused = transitions.move(session, job.id, states.PAUSED, note=note, sources=(states.QUEUED,))
    else:
        note = transitions.Note("The job will pause at its next step, on the user's request")
        paused = transitions.move(session, job.id, states.PAUSING, note=note)
    if paused is None:
        raise JobCannotPause(job.id, job.status)
    return paused


def resume(session: Session, project_id: str, job_id: str) -> Job:
    """Put a paused job back into the queue. Raises JobNotFound, JobCannotResume."""
    job = _locked(session, project_id, job_id)
    note = transitions.Note("The job was resumed on the user's request, moving job to queued state")
    resumed = transitions.move(session, job.id, states.QUEUED, note=note, sources=(states.PAUSED,))
    if resumed is None:
        raise JobCannotResume(job.id, job.status)
    return resumed


def adapter(session: Session, project_id: str, job_id: str) -> TunedModel:
    """The model a job made. Raises JobNotFound, and AdapterMissing before it exists and after it was deleted."""
    job = get(session, project_id, job_id)
    model = models.find(session, project_id, job.fine_tuned_model) if job.fine_tuned_model else None
    if model is None:
        raise AdapterMissing
    return model


def checkpoint_adapter(session: Session, project_id: str, job_id: str, checkpoint_id: str) -> TunedModel:
    """The model of one checkpoint of a job. Raises JobNotFound, CheckpointNotFound."""
    job = get(session, project_id, job_id)
    checkpoint = models.find_checkpoint(session, job.id, checkpoint_id)
    if checkpoint is None:
        raise CheckpointNotFound(checkpoint_id)
    return models.model_of(session, checkpoint)


def _cursor(row: Checkpoint | None) -> int:
    if row is None:
        raise pages.UnknownCursor
    return row.seq


def _check_offered(body: JobRequest, settings: Settings) -> None:
    if body.method is not None and body.method.type != SUPERVISED:
        raise MethodNotOffered(body.method.type)
    if body.integrations and not settings.wandb_is_offered:
        raise IntegrationNotConfigured
    if body.suffix is not None and not models.normalise_suffix(body.suffix):
        raise InvalidSuffix


def _check_file(session: Session, project_id: str, file_id: str, param: str) -> None:
    file = files.find(session, project_id, file_id)
    if file is None:
        raise InvalidFile(f"The file '{quoted(file_id)}' does not exist.", param=param)
    if file.purpose != FINE_TUNE:
        raise InvalidFile(f"The file '{file_id}' has purpose '{file.purpose}', not '{FINE_TUNE}'.", param=param)


def _hyperparameters(session: Session, body: JobRequest, start: models.Start) -> dict[str, Any]:
    """What the two places of a body ask for together, checked against the base model and the model it starts from."""
    block = body.method.supervised.hyperparameters if body.method and body.method.supervised else None
    asked = hyperparameters.merge(body.hyperparameters, block)
    try:
        hyperparameters.check(asked, start.entry)
    except InvalidHyperparameter as error:
        if getattr(block, error.name, None) is None:
            error.param = f"hyperparameters.{error.name}"  # it was asked for in the older place
        raise
    if "early_stopping_patience" in asked and body.validation_file is None:
        raise InvalidHyperparameter("early_stopping_patience", "Early stopping needs a validation_file.")
    return hyperparameters.with_shape_of(_shape(session, start.parent), asked, start.entry)


def _shape(session: Session, parent: TunedModel | None) -> dict[str, Any]:
    """The hyperparameters that fix an adapter's shape, as the job that made `parent` had them."""
    made_by = session.get(Job, parent.job_id) if parent is not None and parent.job_id else None
    if made_by is None or made_by.resolved is None:
        return {}
    return {name: made_by.resolved[name] for name in hyperparameters.SHAPE_NAMES}


def _new_job(session: Session, project_id: str, body: JobRequest, start: models.Start, asked: dict[str, Any]) -> Job:
    priority = db.execute(session, _PRIORITY, project_id=project_id).scalar()
    job = Job(
        id=ids.new("ftjob-"),
        project_id=project_id,
        status=states.VALIDATING,
        model=start.parent.name if start.parent else start.entry.id,
        base_model=start.entry.id,
        base_key=start.entry.base_key,
        parent_model=start.parent.name if start.parent else None,
        training_file=body.training_file,
        validation_file=body.validation_file,
        method=SUPERVISED,
        request=asked,
        suffix=body.suffix,
        seed=secrets.randbelow(2**31) if body.seed is None else body.seed,
        deterministic=asked.get("deterministic", False),
        priority=priority or 0,
        trace=tracing.here(),
    )
    # A JSONB attribute that is set to None becomes JSON's null; left alone it becomes SQL's, which filters expect.
    if body.metadata is not None:
        job.user_metadata = body.metadata
    if body.integrations is not None:
        job.integrations = [schemas.integration(asked, job.id) for asked in body.integrations]
    session.add(job)
    session.flush()
    return job
