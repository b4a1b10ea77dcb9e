"""Who gets the next free slot, and how a job is taken, kept and given back.

A worker first picks the base model (`choose_base`, pure), then the job: the least-served project, then priority, then
age, looking only at the head of each project's queue. A claim sets a lease by the database's clock and a new fence.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.auth.tables import Project
from app.db import Session
from app.events import service as events
from app.jobs import hyperparameters, states
from app.jobs.tables import Job

BASE_WAIT_SECONDS = 120.0  # another base's job may ask for a switch after so long …
BASE_SLICE_SECONDS = 600.0  # … once the resident base has had so long
BASE_DRAIN_SECONDS = 60.0  # running jobs get so long to end by themselves before they are checkpointed
SERVED_HALF_LIFE_SECONDS = 3600.0  # an hour: long enough to see a burst, short enough to forgive it by tomorrow
STARTED = "Fine-tuning job started"
MOST_TOLD = 100  # jobs that hear at once what they wait for


@dataclass(frozen=True)
class Queue:
    """Jobs waiting for one base: how long the one at the head has waited, in seconds."""

    base_key: str
    waited: float


@dataclass(frozen=True)
class Residence:
    """An engine's base: since when it is held, how many jobs run on it, since when it admits no more (seconds)."""

    base_key: str | None
    held: float = 0.0
    running: int = 0
    yielding: float | None = None


@dataclass(frozen=True)
class Serve:
    """Claim jobs for the resident base."""

    base_key: str


@dataclass(frozen=True)
class Load:
    """Load another base, then serve it."""

    base_key: str


@dataclass(frozen=True)
class Yield:
    """Admit nothing more: another base has waited its time."""


@dataclass(frozen=True)
class GiveBack:
    """Checkpoint what still runs and put it back into the queue."""


@dataclass(frozen=True)
class Idle:
    """Nothing to do."""


Choice = Serve | Load | Yield | GiveBack | Idle


def choose_base(residence: Residence, queues: Sequence[Queue]) -> Choice:
    """What an engine should do next. Pure: time comes in as durations.

    The resident base is kept while it has jobs, until another base's job has waited BASE_WAIT_SECONDS and the resident
    has had its slice. So bases do not thrash, and no job waits longer than a slice and a drain for its turn to come.
    """
    others = [queue for queue in queues if queue.base_key != residence.base_key]
    hungriest = max(others, key=lambda queue: queue.waited, default=None)
    if residence.base_key is None:
        return Load(hungriest.base_key) if hungriest else Idle()
    due = hungriest is not None and hungriest.waited >= BASE_WAIT_SECONDS and residence.held >= BASE_SLICE_SECONDS
    if hungriest is not None and due:
        return _give_way(residence, hungriest)
    if len(others) < len(queues) or residence.running:
        return Serve(residence.base_key)
    return Load(hungriest.base_key) if hungriest else Idle()


def _give_way(residence: Residence, successor: Queue) -> Choice:
    if residence.running == 0:
        return Load(successor.base_key)
    if residence.yielding is None or residence.yielding < BASE_DRAIN_SECONDS:
        return Yield()
    return GiveBack()


CLAIMING = 0x7475_6E65  # the advisory lock of whoever counts running jobs to start one more
_WITHIN_QUOTA = """(
    coalesce(projects.quota_running_jobs, :running_jobs) = 0
    OR coalesce(projects.quota_running_jobs, :running_jobs) > (
        SELECT count(*) FROM jobs AS runs
        WHERE runs.project_id = projects.id AND runs.finished_at IS NULL AND runs.status IN ('running', 'pausing')
    )
)"""

# Each (base, project) that has queued jobs, found by jumping along the partial index from one pair to the next.
_PAIRS = """
    WITH RECURSIVE pairs AS (
        (SELECT base_key, project_id FROM jobs WHERE status = 'queued' ORDER BY base_key, project_id LIMIT 1)
        UNION ALL
        SELECT next.base_key, next.project_id FROM pairs CROSS JOIN LATERAL (
            SELECT base_key, project_id FROM jobs
            WHERE status = 'queued' AND (base_key, project_id) > (pairs.base_key, pairs.project_id)
            ORDER BY base_key, project_id LIMIT 1
        ) AS next
    )
    SELECT pairs.base_key, max(extract(epoch FROM now() - head.queued_at)) AS waited
    FROM pairs CROSS JOIN LATERAL (
        SELECT queued_at FROM jobs
        WHERE status = 'queued' AND base_key = pairs.base_key AND project_id = pairs.project_id
        ORDER BY priority DESC, seq LIMIT 1
    ) AS head
    JOIN projects ON projects.id = pairs.project_id
    WHERE {within_quota}
    GROUP BY pairs.base_key
"""
_QUEUES = sa.text(_PAIRS.format(within_quota=_WITHIN_QUOTA))

_CLAIM = """
    WITH RECURSIVE waiting AS (
        (SELECT project_id FROM jobs WHERE {queue} ORDER BY project_id LIMIT 1)
        UNION ALL
        SELECT next.project_id FROM waiting CROSS JOIN LATERAL (
            SELECT project_id FROM jobs WHERE {queue} AND project_id > waiting.project_id ORDER BY project_id LIMIT 1
        ) AS next
    ), chosen AS (
        SELECT head.id
        FROM waiting
        JOIN projects ON projects.id = waiting.project_id
        CROSS JOIN LATERAL (
            SELECT id, priority, seq FROM jobs WHERE {queue} AND project_id = waiting.project_id {fitting}
            ORDER BY priority DESC, seq LIMIT 1 FOR UPDATE SKIP LOCKED
        ) AS head
        WHERE {within_quota}
        ORDER BY
            projects.served_tokens * exp(-:decay * extract(epoch FROM now() - projects.served_at)),
            head.priority DESC,
            head.seq
        LIMIT 1
    )
    UPDATE jobs SET
        status = :status,
        fence = fence + 1,
        worker_id = :worker,
        lease_until = now() + make_interval(secs => :lease),
        claimed_at = now(),
        progress_at = now(),
        phase = 'claimed'
    FROM chosen WHERE jobs.id = chosen.id {company}
    RETURNING jobs.id
"""
# A newer API may have let in what this version's workers would have to ignore: that waits for a newer worker.
_UNDERSTOOD = "AND method = ANY(:methods) AND request - CAST(:settings AS text[]) = '{}'"
_CLAIM_VALIDATING = sa.text(
    _CLAIM.format(
        queue="status = 'validating_files' AND lease_until IS NULL",
        fitting=f"AND base_key <> ALL(:without) {_UNDERSTOOD}",
        within_quota="true",
        company="",
    )
)
_CLAIM_QUEUED = sa.text(
    _CLAIM.format(
        queue="status = 'queued' AND base_key = :base_key",
        fitting=f"AND (NOT suspect OR :alone) {_UNDERSTOOD}",
        within_quota=_WITHIN_QUOTA,
        company="AND (CAST(:company AS text) IS NULL OR jobs.project_id = :company)",
    )
)


def queues(session: Session, *, running_jobs: int = 0) -> list[Queue]:
    """The jobs that could start now, by base. running_jobs: how many a project may have running, 0 for any number."""
    found = session.execute(_QUEUES, {"running_jobs": running_jobs})
    return [Queue(base_key, float(waited)) for base_key, waited in found]


def claim_validating(
    session: Session, *, worker_id: str, lease_seconds: float, without: Sequence[str] = ()
) -> Job | None:
    """Take the next job whose files wait to be prepared. without: the base keys that this worker has no use of."""
    parameters = {"without": list(without)}
    return _claim(session, _CLAIM_VALIDATING, states.VALIDATING, worker_id, lease_seconds, parameters)


def claim_queued(
    session: Session,
    *,
    worker_id: str,
    lease_seconds: float,
    base_key: str,
    alone: bool,
    running_jobs: int = 0,
    company: str | None = None,
) -> Job | None:
    """Take the next job for `base_key` and say that it started, or where it goes on.

    alone: nothing else runs on this engine, so that a job suspected of crashing engines may be taken.
    running_jobs: how many a project may have running, unless it has a quota of its own; 0 for any number.
    company: the project that has the engine to itself; where another's job is next, nothing is taken, so that the
    engine falls free for it.
    """
    if running_jobs or session.scalar(sa.select(sa.exists().where(Project.quota_running_jobs > 0))):
        # One claim at a time, and a statement of its own: the next one sees what was claimed before it.
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(CLAIMING)))
    parameters = {"base_key": base_key, "alone": alone, "running_jobs": running_jobs, "company": company}
    job = _claim(session, _CLAIM_QUEUED, states.RUNNING, worker_id, lease_seconds, parameters)
    if job is not None:
        again = events.told(session, job.id, STARTED)
        events.append(session, job.id, f"Fine-tuning job resumed at step {job.resume_step}" if again else STARTED)
    return job


def _claim(
    session: Session, statement: sa.TextClause, status: str, worker_id: str, lease: float, more: dict[str, Any]
) -> Job | None:
    decay = math.log(2) / SERVED_HALF_LIFE_SECONDS
    understood = {"methods": list(hyperparameters.METHODS), "settings": list(hyperparameters.KNOWN)}
    parameters = {"status": status, "worker": worker_id, "lease": lease, "decay": decay, **understood, **more}
    job_id = session.scalar(statement, parameters)
    return session.get(Job, job_id, populate_existing=True) if job_id is not None else None


def waiting(session: Session, base_key: str) -> list[str]:
    """The first queued jobs for a base, held until the end of the transaction; none that somebody else holds."""
    query = sa.select(Job.id).where(Job.status == states.QUEUED, Job.base_key == base_key).order_by(Job.seq)
    return list(session.scalars(query.limit(MOST_TOLD).with_for_update(skip_locked=True)))


def heartbeat(session: Session, *, held: dict[str, int], lease_seconds: float) -> dict[str, str]:
    """Renew the leases of the jobs a worker holds (id → fence) in one UPDATE; the status of those it still holds.

    Only what is really in its hands is renewed: a job that a worker claimed and lost sight of must run out, and one
    that was taken back stays free.
    """
    if not held:
        return {}
    renewed = (
        sa.update(Job)
        .where(sa.tuple_(Job.id, Job.fence).in_(held.items()), Job.lease_until.is_not(None))
        .values(lease_until=sa.func.now() + sa.func.make_interval(0, 0, 0, 0, 0, 0, lease_seconds))
        .returning(Job.id, Job.status)
    )
    return {row.id: row.status for row in session.execute(renewed)}


def serve_tokens(session: Session, project_id: str, tokens: int) -> None:
    """Count trained tokens for a project's fair share; what was counted before decays."""
    session.execute(
        sa.text("""
            UPDATE projects SET
                served_tokens = served_tokens * exp(-:decay * extract(epoch FROM now() - served_at)) + :tokens,
                served_at = now()
            WHERE id = :project
        """),
        {"project": project_id, "tokens": tokens, "decay": math.log(2) / SERVED_HALF_LIFE_SECONDS},
    )
