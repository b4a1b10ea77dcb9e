"""Objects that no row names: what a killed worker had stored when it died, and prepared data nobody will ask for again.

What may still be on its way to a row is young. So only what has lain for `orphan_grace_seconds` is looked at, and the
names are read after the store. Projects that the database does not know are left alone: they are another's.
"""

import logging
import random
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import groupby

import sqlalchemy as sa

from app import db
from app.auth.tables import Project
from app.config import Settings
from app.db import Session
from app.files.tables import File
from app.jobs import states
from app.jobs.tables import Job
from app.models.tables import TunedModel
from app.storage import PARTIAL, Store, Stored, StoreUnavailable
from app.uploads import service as uploads
from app.uploads.tables import Upload

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
LIVE = Job.status.not_in(states.FINAL)


class Collector:
    """Collects now and then, until `stop`; the first time after a while, so that workers started together spread."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings, self._store = settings, store
        self._ended = threading.Event()

    def run(self) -> None:
        wait = random.uniform(0, self._settings.garbage_seconds)  # noqa: S311 - spreads, hides nothing
        while not self._ended.wait(wait):
            wait = self._settings.garbage_seconds
            try:
                collect(self._settings, self._store, datetime.now(UTC))
            except (StoreUnavailable, OSError, sa.exc.OperationalError, sa.exc.TimeoutError) as error:
                log.warning("garbage.unavailable", extra={"reason": type(error).__name__})
            except Exception:
                log.exception("garbage.failed")

    def stop(self) -> None:
        self._ended.set()


def collect(settings: Settings, store: Store, now: datetime) -> int:
    """Delete what has lain too long without a name; how many objects. Any number of workers may do so at once."""
    before = now - timedelta(seconds=settings.orphan_grace_seconds)
    deleted = 0
    for project_id, listed in groupby(store.listing("projects/"), key=lambda stored: stored.key.split("/")[1]):
        old = dict(_old_units(listed, before))
        with db.reading() as session:
            if session.get(Project, project_id) is None:
                log.warning("garbage.unknown_project", extra={"project": project_id})
                continue
            kept = _names(session, project_id) | _prepared(session, project_id, old)
        for unit in sorted(old.keys() - kept):
            for key in sorted(old[unit], key=lambda key: not key.endswith(MANIFEST)):  # without it, nothing else counts
                store.delete(key)
            deleted += len(old[unit])
            log.info("garbage.deleted", extra={"unit": unit, "objects": len(old[unit])})
    return deleted


def unit_of(key: str) -> str | None:
    """What a row would name: a folder of an adapter, a resume state, a prepared dataset or an upload; else the object.

    None for a key that is none of ours.
    """
    parts = key.split("/")
    if len(parts) < 4 or parts[2] not in {"files", "uploads", "prepared", "jobs"}:
        return None
    depth = {"prepared": 4, "uploads": 4}.get(parts[2], len(parts))
    if parts[2] == "jobs" and len(parts) > 5:
        depth = {"checkpoints": 7, "resume": 7, "final": 6}.get(parts[5], len(parts))
    if parts[-1].startswith(PARTIAL) or depth >= len(parts):
        return key
    return "/".join(parts[:depth]) + "/"


def _old_units(listed: Iterable[Stored], before: datetime) -> Iterator[tuple[str, list[str]]]:
    """The units whose newest object is old, with their keys."""
    units: dict[str, list[Stored]] = {}
    for stored in listed:
        if (unit := unit_of(stored.key)) is not None:
            units.setdefault(unit, []).append(stored)
    for unit, objects in units.items():
        if max(stored.modified for stored in objects) < before:
            yield unit, [stored.key for stored in objects]


def _names(session: Session, project_id: str) -> set[str]:
    """The units of a project that a row names, prepared datasets apart."""
    ours = Job.project_id == project_id
    open_uploads = sa.select(Upload.id).where(Upload.project_id == project_id, Upload.ended_at.is_(None))
    return {
        *session.scalars(sa.select(File.object_key).where(File.project_id == project_id)),
        *session.scalars(
            sa.select(TunedModel.object_prefix).where(
                TunedModel.project_id == project_id, TunedModel.deleted_at.is_(None)
            )
        ),
        *session.scalars(sa.select(Job.resume_prefix).where(ours, LIVE, Job.resume_prefix.is_not(None))),
        *(uploads.prefix(project_id, upload_id) for upload_id in session.scalars(open_uploads)),
    }


def _prepared(session: Session, project_id: str, units: Iterable[str]) -> set[str]:
    """The prepared datasets of live jobs, and of files that another job may be made with.

    All of them while a job is being prepared: it may be about to name one that was there already.
    """
    ours = Job.project_id == project_id
    if session.scalar(sa.select(Job.id).where(ours, Job.status == states.VALIDATING).limit(1)) is not None:
        return {unit for unit in units if unit.startswith(f"projects/{project_id}/prepared/")}
    kept: set[str] = set()
    for prefix, file_id in ((Job.prepared_key, Job.training_file), (Job.validation_key, Job.validation_file)):
        there = sa.exists().where(File.id == file_id, File.deleted_at.is_(None))
        query = sa.select(prefix).where(ours, prefix.is_not(None), sa.or_(LIVE, there))
        kept.update(name for name in session.scalars(query.distinct()) if name is not None)
    return kept
