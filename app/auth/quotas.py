"""What a project may use, and the lock under which its use is counted.

Whoever adds to what a quota bounds calls `held` first in the transaction: it locks the project's row, so that what is
counted then still holds when the addition is committed. A project without that quota is not locked.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from app import db
from app.auth.tables import Project
from app.config import Settings
from app.db import Session

NAMES = ("quota_storage_bytes", "quota_running_jobs", "quota_waiting_jobs", "quota_monthly_tokens")
_OWN = sa.select(*(getattr(Project, name) for name in NAMES)).where(Project.id == sa.bindparam("project_id"))


@dataclass(frozen=True)
class Quotas:
    """The quotas of a project, 0 for none."""

    quota_storage_bytes: int
    quota_running_jobs: int
    quota_waiting_jobs: int
    quota_monthly_tokens: int


def of(session: Session, project_id: str, settings: Settings) -> Quotas:
    """The project's own quotas, and the server's where it has none."""
    own = db.execute(session, _OWN, project_id=project_id).one()
    pairs = zip(NAMES, own, strict=True)
    return Quotas(**{name: getattr(settings, name) if value is None else value for name, value in pairs})


def held(session: Session, project_id: str, settings: Settings, *names: str) -> Quotas:
    """The project's quotas; if one of `names` bounds it, no other transaction that asked so goes on beside this one."""
    quotas = of(session, project_id, settings)
    if any(getattr(quotas, name) for name in names):
        # Not FOR UPDATE: that would also wait for everybody who inserts a row of this project.
        session.execute(sa.select(Project.id).where(Project.id == project_id).with_for_update(key_share=True))
    return quotas
