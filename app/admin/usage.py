"""What was trained, by day (UTC), project and base model: summed from the jobs that ended, not counted beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from app.auth.tables import Project
from app.db import Session
from app.jobs import states
from app.jobs.tables import Job

DAY = 24 * 3600
LAST = 4_102_444_800  # the year 2100: no job ends later, and every clock can say it
GROUPS = {"project_id": Job.project_id, "model": Job.base_model}


@dataclass(frozen=True)
class Use:
    """Jobs that ended in one bucket; a member by which was not grouped is None."""

    project_id: str | None
    model: str | None
    trained_tokens: int
    num_jobs: int
    num_succeeded_jobs: int


@dataclass(frozen=True)
class Bucket:
    """One day, from `start` to `end` in Unix seconds."""

    start: int
    end: int
    uses: Sequence[Use]


@dataclass(frozen=True)
class Question:
    """start, end: Unix seconds. project_ids, models: None for all. group_by: names out of GROUPS."""

    start: int
    end: int
    group_by: frozenset[str] = frozenset()
    project_ids: Sequence[str] | None = None
    models: Sequence[str] | None = None


def by_day(session: Session, organization_id: str, question: Question, days: int) -> tuple[list[Bucket], int | None]:
    """A bucket for each day from `start` on, at most `days`; and where the next page begins, if there is one.

    The first and the last bucket hold only what lies between `start` and `end`.
    """
    first = question.start - question.start % DAY
    starts = list(range(first, question.end, DAY))[:days] if question.start < question.end else []
    if not starts:
        return [], None
    after = starts[-1] + DAY
    uses = _uses(session, organization_id, question, min(after, question.end))
    buckets = [Bucket(start, start + DAY, uses.get(start, [])) for start in starts]
    return buckets, after if after < question.end else None


def _uses(session: Session, organization_id: str, question: Question, until: int) -> dict[int, list[Use]]:
    day = sa.cast(sa.func.floor(sa.extract("epoch", Job.finished_at) / DAY) * DAY, sa.BigInteger).label("day")
    groups = [column.label(name) for name, column in GROUPS.items() if name in question.group_by]
    query = (
        sa.select(
            day,
            *groups,
            sa.func.coalesce(sa.func.sum(Job.trained_tokens), 0).label("trained_tokens"),
            sa.func.count().label("num_jobs"),
            sa.func.count().filter(Job.status == states.SUCCEEDED).label("num_succeeded_jobs"),
        )
        .join(Project, Project.id == Job.project_id)
        .where(Project.organization_id == organization_id)
        .where(Job.finished_at >= _moment(question.start), Job.finished_at < _moment(until))
        .group_by(day, *groups)
        .order_by(day, *groups)
    )
    if question.project_ids is not None:
        query = query.where(Job.project_id.in_(question.project_ids))
    if question.models is not None:
        query = query.where(Job.base_model.in_(question.models))
    found: dict[int, list[Use]] = {}
    for row in session.execute(query).mappings():
        use = Use(
            project_id=row.get("project_id"),
            model=row.get("model"),
            trained_tokens=int(row["trained_tokens"]),
            num_jobs=row["num_jobs"],
            num_succeeded_jobs=row["num_succeeded_jobs"],
        )
        found.setdefault(row["day"], []).append(use)
    return found


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
