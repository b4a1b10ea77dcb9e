"""What a project's quotas leave for its jobs. Counted from the jobs themselves, under the lock of `app.auth.quotas`.

Three places ask: creating a job (`admit`), the end of its preparation, when its tokens are known (`reserve`), and the
claim of a free slot (`claims.py`, which counts running jobs in SQL).
"""

import sqlalchemy as sa

from app.auth import quotas
from app.auth.errors import QuotaExceeded, TooManyJobs
from app.config import Settings
from app.db import Session
from app.jobs import states
from app.jobs.tables import Job

LIVE = Job.finished_at.is_(None)
THIS_MONTH = sa.func.date_trunc("month", sa.func.now(), "UTC")


def admit(session: Session, project_id: str, settings: Settings) -> None:
    """Let one more job of the project in. Raises TooManyJobs, QuotaExceeded."""
    held = quotas.held(session, project_id, settings, "quota_waiting_jobs", "quota_monthly_tokens")
    if held.quota_waiting_jobs:
        waiting, running = counts(session, project_id)
        if waiting >= held.quota_waiting_jobs:
            raise TooManyJobs(held.quota_waiting_jobs, waiting, running)
    if held.quota_monthly_tokens and tokens_this_month(session, project_id) >= held.quota_monthly_tokens:
        raise _used_up(held.quota_monthly_tokens)


def reserve(session: Session, project_id: str, tokens: int, settings: Settings) -> None:
    """Make sure that the month has room for a job's tokens, before the job says that it will take them.

    Raises QuotaExceeded.
    """
    most = quotas.held(session, project_id, settings, "quota_monthly_tokens").quota_monthly_tokens
    if most and tokens_this_month(session, project_id) + tokens > most:
        raise QuotaExceeded(
            f"This job would train on {tokens} tokens, more than is left of the project's {most} for this month."
        )


def tokens_this_month(session: Session, project_id: str) -> int:
    """What the project's jobs have trained on in this calendar month (UTC), and what those that are live will."""
    ours = Job.project_id == project_id
    trained = sa.select(sa.func.sum(Job.trained_tokens)).where(ours, Job.finished_at >= THIS_MONTH)
    planned = sa.select(sa.func.sum(Job.planned_tokens)).where(ours, LIVE)
    return int((session.scalar(trained) or 0) + (session.scalar(planned) or 0))


def counts(session: Session, project_id: str) -> tuple[int, int]:
    """How many of the project's jobs wait, and how many run."""
    runs = Job.status.in_((states.RUNNING, states.PAUSING))
    counts = sa.select(sa.func.count().filter(~runs), sa.func.count().filter(runs))
    waiting, running = session.execute(counts.where(Job.project_id == project_id, LIVE)).one()
    return waiting, running


def _used_up(most: int) -> QuotaExceeded:
    return QuotaExceeded(f"The project's {most} training tokens for this month are used up.")
