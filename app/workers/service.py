"""Workers say that they live; others look who does."""

from dataclasses import dataclass
from importlib import metadata

import sqlalchemy as sa

from app.db import Session
from app.workers.tables import Worker

CPU, GPU = "cpu", "gpu"
VERSION = metadata.version("tunesmith")


@dataclass(frozen=True)
class Condition:
    """What changes in a worker's life."""

    base_key: str | None
    free_slots: int
    draining: bool
    memory_bytes: int | None = None


def register(session: Session, worker_id: str, *, kind: str, host: str, device_group: str | None, slots: int) -> None:
    """Add a worker that has just started."""
    session.add(
        Worker(
            id=worker_id,
            kind=kind,
            host=host,
            version=VERSION,
            device_group=device_group,
            slots=slots,
            free_slots=slots,
        )
    )


def beat(session: Session, worker_id: str, condition: Condition) -> bool:
    """Say that a worker lives, and how it is. False: nobody knows it any more."""
    known = session.scalar(
        sa.update(Worker)
        .where(Worker.id == worker_id)
        .values(
            last_seen=sa.func.now(),
            base_key=condition.base_key,
            free_slots=condition.free_slots,
            draining=condition.draining,
            memory_bytes=condition.memory_bytes,
        )
        .returning(Worker.id)
    )
    return known is not None


def living(session: Session, within_seconds: float) -> list[Worker]:
    """The workers seen within so many seconds."""
    age = sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, within_seconds)
    return list(session.scalars(sa.select(Worker).where(Worker.last_seen >= age)))


def forget(session: Session, worker_id: str) -> None:
    """Remove a worker that has stopped."""
    session.execute(sa.delete(Worker).where(Worker.id == worker_id))


def forget_lost(session: Session, after_seconds: float) -> None:
    """Remove the workers that were not seen for so many seconds."""
    age = sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, after_seconds)
    session.execute(sa.delete(Worker).where(Worker.last_seen < age))
