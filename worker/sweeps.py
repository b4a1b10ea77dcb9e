"""What every worker tidies on a timer. Sweeps are idempotent and skip locked rows, so any number may run at once."""

import logging
from datetime import timedelta

import sqlalchemy as sa

from app import db, idempotency, metrics, outbox, storage
from app.audit import service as audit
from app.audit.actions import Action
from app.audit.service import Clock
from app.auth.tables import Project
from app.config import Settings
from app.db import Session
from app.failpoints import failpoint
from app.files import service as files
from app.jobs import failures, states, transitions
from app.jobs.tables import Job
from app.jobs.transitions import Note
from app.secrets import Vault
from app.storage import Store
from app.uploads import service as uploads
from app.webhooks import lanes
from app.webhooks import service as webhooks
from app.workers import service as workers

log = logging.getLogger(__name__)

BATCH = 100
FORGET_WORKER_SECONDS = 3600.0


def sweep_jobs(settings: Settings) -> None:
    """What jobs wait for if their worker is gone. Nothing but the database can hold it up."""
    cut_leases(settings)
    expired_leases()
    stalled_jobs(settings)
    jobs_without_capacity(settings)


def sweep(settings: Settings, store: Store) -> None:
    """All other sweeps once, each in transactions of its own."""
    with db.transaction() as session:
        _expire(session)
        files.sweep_deleted(session)
        uploads.sweep_ended(session)
        idempotency.sweep(session)
        workers.forget_lost(session, FORGET_WORKER_SECONDS)
    due_outbox(store)
    webhook_upkeep(settings)


def _expire(session: Session) -> None:
    """End what was to live so long and no longer, with an entry in its organisation's audit log."""
    expired = [(Action.FILE_EXPIRED, *file) for file in files.sweep_expired(session)]
    expired += [(Action.UPLOAD_EXPIRED, *upload) for upload in uploads.sweep_expired(session)]
    for action, target, project_id in expired:
        project = session.get_one(Project, project_id)
        audit.record(session, Clock(project.organization_id, project_id), action, target)


def cut_leases(settings: Settings) -> int:
    """Shorten the leases that end later than any can, as when the database's clock was set back; how many."""
    lease = sa.func.make_interval(0, 0, 0, 0, 0, 0, settings.lease_seconds)
    far = sa.select(Job.id).where(Job.lease_until > sa.func.now() + 2 * lease).with_for_update(skip_locked=True)
    cut = sa.update(Job).where(Job.id.in_(far)).values(lease_until=sa.func.now() + lease).returning(Job.id)
    with db.transaction() as session:
        return len(session.scalars(cut).all())


def expired_leases() -> int:
    """Take jobs back from workers that are gone; how many."""
    query = _locked(sa.select(Job).where(Job.lease_until < sa.func.now()))
    with db.transaction() as session:
        jobs = session.scalars(query).all()
        for job in jobs:
            take_back(session, job, failures.WORKER_LOST)
        return len(jobs)


def stalled_jobs(settings: Settings) -> int:
    """Take back jobs whose worker beats but whose phase or step does not move; how many."""
    budget = sa.case(
        (Job.status == states.VALIDATING, settings.prepare_budget_seconds), else_=settings.step_budget_seconds
    )
    late = Job.progress_at < sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, budget)
    with db.transaction() as session:
        jobs = session.scalars(_locked(sa.select(Job).where(Job.lease_until.is_not(None), late))).all()
        for job in jobs:
            take_back(session, job, failures.STALLED)
        return len(jobs)


def put_back(job: Job, cause: str, *, suspect: bool = False) -> None:
    """Take back a job that its own worker cannot finish; nothing, if it is not that worker's any more."""
    mine = sa.select(Job).where(Job.id == job.id, Job.fence == job.fence, Job.lease_until.is_not(None))
    with db.transaction() as session:
        current = session.scalar(mine.with_for_update())
        if current is not None:
            take_back(session, current, cause, suspect=suspect)


def take_back(session: Session, job: Job, cause: str, *, suspect: bool = False) -> None:
    """Put a job that its worker could not finish back where another may take it, or fail it after too many tries.

    suspect: it was one of several of which any may be to blame; it is not charged, and runs alone next.
    """
    verdict = failures.judge(cause, job.attempts, job.furthest_step, charged=not suspect)
    values = {"attempts": verdict.attempts, "suspect": suspect or job.suspect}
    log.warning("job.taken_back", extra={"job": job.id, "cause": cause, "retry": verdict.retry})
    metrics.JOBS_TAKEN_BACK.labels(cause).inc()
    begin_again = cause == failures.BAD_RESUME
    if begin_again:
        values |= {"resume_prefix": None, "resume_step": 0}
    step = 0 if begin_again else job.resume_step
    failpoint("job.taking_back")
    if not verdict.retry:
        metrics.JOBS_ENDED.labels(states.FAILED, cause).inc()
        error = failures.public_error(cause)
        note = Note(error["message"], level="error", data={"code": error["code"]})
        transitions.move(session, job.id, states.FAILED, note=note, fence=job.fence, values={**values, "error": error})
    elif job.status == states.VALIDATING:
        transitions.update(session, job.id, job.fence, {**values, **transitions.RELEASE})
    elif job.status == states.PAUSING:
        note = Note(f"The job is paused at step {step}")
        transitions.move(session, job.id, states.PAUSED, note=note, fence=job.fence, values=values)
    else:
        note = Note(
            f"{failures.TABLE[cause].interrupted} and was put back into the queue; it goes on from step {step}",
            level="warn",
            data={"cause": cause, "step": step},
        )
        transitions.move(session, job.id, states.QUEUED, note=note, fence=job.fence, values=values)


def jobs_without_capacity(settings: Settings) -> int:
    """Fail queued jobs that waited too long while no GPU worker lived; how many."""
    waited = sa.func.now() - timedelta(seconds=settings.no_capacity_seconds)
    with db.transaction() as session:
        if any(worker.kind == workers.GPU for worker in workers.living(session, settings.lease_seconds)):
            return 0
        jobs = session.scalars(_locked(sa.select(Job).where(Job.status == states.QUEUED, Job.queued_at < waited))).all()
        for job in jobs:
            error = failures.public_error(failures.NO_CAPACITY)
            note = Note(error["message"], level="error", data={"code": error["code"]})
            transitions.move(session, job.id, states.FAILED, note=note, values={"error": error})
            metrics.JOBS_ENDED.labels(states.FAILED, failures.NO_CAPACITY).inc()
        return len(jobs)


def due_outbox(store: Store) -> int:
    """Carry out what is due; how much was. A failure is tried again later, ever more rarely."""
    done = 0
    with db.transaction() as session:
        rows = outbox.claim(session, BATCH)
    for row in rows:
        failpoint("deletion.claimed")
        try:
            _carry_out(store, row.kind, row.payload)
            failpoint("deletion.done")
        except Exception as error:  # noqa: BLE001 - any failure of the store is tried again, whatever its type
            metrics.OUTBOX_FAILURES.labels(row.kind).inc()
            log.warning("outbox.failed", extra={"row": row.id, "kind": row.kind, "reason": type(error).__name__})
            continue
        with db.transaction() as session:
            outbox.done(session, row.id)
        done += 1
    return done


def webhook_upkeep(settings: Settings) -> None:
    """Forget old deliveries, and seal secrets again that are under an older key."""
    vault = Vault(settings.secret_keys.get_secret_value())
    with db.transaction() as session:
        lanes.sweep_ended(session, older_than=settings.webhook_history_seconds)
        if vault.usable and (resealed := webhooks.sweep_reseal(session, vault)):
            log.info("secrets.resealed", extra={"endpoints": resealed})


def _carry_out(store: Store, kind: str, payload: dict[str, str]) -> None:
    """Deleting twice is the same as once: a row may come due again while its prefix is still being deleted."""
    if kind == outbox.DELETE_OBJECT:
        store.delete(payload["key"])
    elif kind == outbox.DELETE_PREFIX:
        storage.delete_prefix(store, payload["prefix"])
    else:
        raise ValueError(f"unknown outbox kind {kind!r}")


def _locked(query: sa.Select[Job]) -> sa.Select[Job]:
    return query.limit(BATCH).with_for_update(skip_locked=True)
