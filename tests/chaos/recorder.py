"""Takes the history of a run from what it left: the rows, each version of a job's row, the objects and the trace."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from app import db
from app.auth.tables import Project
from app.events.tables import Event
from app.files.tables import File
from app.jobs.tables import Job
from app.models.tables import TunedModel
from app.storage import ObjectMissing, Store
from tests.chaos.fake_engine import WEIGHTS
from tests.chaos.history import FINAL, Artefact, Computed, History, Told, Version
from worker import garbage, sweeps

if TYPE_CHECKING:
    from tests.chaos.world import World

_VERSIONS = """
    CREATE TABLE job_versions (
        place bigint GENERATED ALWAYS AS IDENTITY, job text, status text, fence bigint, leased boolean, worker text,
        trained_tokens bigint, resume_step integer
    );
    CREATE FUNCTION keep_version() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO job_versions (job, status, fence, leased, worker, trained_tokens, resume_step)
        VALUES (NEW.id, NEW.status, NEW.fence, NEW.lease_until IS NOT NULL, NEW.worker_id,
                coalesce(NEW.trained_tokens, 0), NEW.resume_step);
        RETURN NULL;
    END $$;
    CREATE TRIGGER keep_version AFTER INSERT OR UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION keep_version();
"""


def install(engine: sa.Engine) -> None:
    """Let the database keep every version of a job's row."""
    with engine.begin() as connection:
        connection.execute(sa.text(_VERSIONS))


def take(world: "World", jobs: Sequence[str]) -> History:
    """The history of a run that has come to rest. What is garbage is collected first, as time would."""
    undisturbed = {job: world.undisturbed(world.job(job)) for job in jobs}  # while the data is there
    sweeps.due_outbox(world.store)
    later = datetime.now(UTC) + timedelta(days=100)
    garbage.collect(world.settings, world.store, later)
    with db.reading() as session:
        rows = {job.id: job for job in session.scalars(sa.select(Job).where(Job.id.in_(jobs)))}
        return History(
            accepted=tuple(jobs),
            versions=tuple(_versions(session, jobs)),
            events=tuple(_events(session, jobs)),
            computed=tuple(Computed(**line) for line in world.trace() if line["job"] in rows),
            artefacts=tuple(_artefacts(session, world.store, rows)),
            undisturbed={job: sha for job, sha in undisturbed.items() if sha is not None},
            replies=tuple(world.replies),
            orphans=tuple(_orphans(session, world.store)),
            counters=tuple(_counters(session)),
            logs=world.said_all(),
            canaries=(world.settings.secret_keys.get_secret_value(),),
        )


def _versions(session: db.Session, jobs: Sequence[str]) -> Iterator[Version]:
    query = sa.text("SELECT * FROM job_versions WHERE job = ANY(:jobs) ORDER BY place")
    for row in session.execute(query, {"jobs": list(jobs)}):
        yield Version(row.job, row.status, row.fence, row.leased, row.worker, row.trained_tokens, row.resume_step)


def _events(session: db.Session, jobs: Sequence[str]) -> Iterator[Told]:
    for event in session.scalars(sa.select(Event).where(Event.job_id.in_(jobs)).order_by(Event.seq)):
        loss = (event.data or {}).get("train_loss")
        yield Told(event.job_id, event.created_at, event.message, event.step, loss)


def _artefacts(session: db.Session, store: Store, jobs: dict[str, Job]) -> Iterator[Artefact]:
    query = sa.select(TunedModel).where(TunedModel.job_id.in_(jobs), TunedModel.deleted_at.is_(None))
    names = {job.fine_tuned_model: job.id for job in jobs.values()}
    for model in session.scalars(query):
        problems, weights = _folder(store, model.object_prefix, model.manifest_sha256)
        job = model.job_id or ""
        yield Artefact(job, model.object_prefix, weights if names.get(model.name) == job else None, tuple(problems))
    results = {job.result_file: job.id for job in jobs.values() if job.result_file is not None}
    for file in session.scalars(sa.select(File).where(File.id.in_(results))):
        found = _sha256(store, file.object_key)
        problem = () if found == file.sha256 else (f"is {found}, its row says {file.sha256}",)
        yield Artefact(results[file.id], file.object_key, problems=problem)


def _folder(store: Store, prefix: str, manifest_sha256: str | None) -> tuple[list[str], str | None]:
    """What is wrong with an adapter's folder, and the hash of its weights."""
    if _sha256(store, prefix + garbage.MANIFEST) != manifest_sha256:
        return ["its manifest is missing, or not the one that was published"], None
    listed = json.loads(b"".join(store.read(prefix + garbage.MANIFEST)))["files"]
    wrong = [
        f"{name} is not as written down" for name in listed if _sha256(store, prefix + name) != listed[name]["sha256"]
    ]
    return wrong, listed[WEIGHTS]["sha256"]


def weights(world: "World", job: str) -> str:
    """The hash of the weights of a job that succeeded."""
    with db.reading() as session:
        model = session.scalars(sa.select(TunedModel).where(TunedModel.name == world.job(job).fine_tuned_model)).one()
    _, found = _folder(world.store, model.object_prefix, model.manifest_sha256)
    assert found is not None
    return found


def _sha256(store: Store, key: str) -> str | None:
    try:
        return hashlib.sha256(b"".join(store.read(key))).hexdigest()
    except ObjectMissing:
        return None


def _orphans(session: db.Session, store: Store) -> Iterator[str]:
    """The objects that no row names."""
    by_project: dict[str, set[str]] = {}
    for stored in store.listing("projects/"):
        unit = garbage.unit_of(stored.key)
        if unit is not None:
            by_project.setdefault(stored.key.split("/")[1], set()).add(unit)
    for project in session.scalars(sa.select(Project.id)):
        units = by_project.get(project, set())
        named = garbage._names(session, project) | garbage._prepared(session, project, units)
        yield from sorted(units - named)


def _counters(session: db.Session) -> Iterator[tuple[str, float, float]]:
    """Leases and places that nothing holds any more, and tokens."""
    held = sa.select(sa.func.count()).where(Job.status.in_(FINAL), Job.lease_until.is_not(None)).select_from(Job)
    yield "leases of ended jobs", session.scalar(held) or 0, 0
    lost = sa.select(sa.func.count()).where(Job.lease_until.is_not(None), Job.worker_id.is_(None)).select_from(Job)
    yield "leases of nobody", session.scalar(lost) or 0, 0
