"""Tuned models and checkpoints: publishing, finding, listing, deleting.

An adapter becomes real by its row. A step is published once: after a crash the same step may come again from another
attempt, and the first commit wins; the later copy of its objects is handed to the outbox.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from app import ids, outbox, pages
from app.db import Session
from app.models.catalog import Catalog, CatalogEntry
from app.models.errors import BaseModelKept, ModelNotAvailable, ModelNotFound, NotTheOwner
from app.models.tables import Checkpoint, CheckpointPermission, TunedModel

KEPT_CHECKPOINTS = 3
TRAINED = "trained"
CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class Start:
    """Where training begins: a base model, and the tuned model whose training goes on."""

    entry: CatalogEntry
    parent: TunedModel | None


class TrainingJob(Protocol):
    """What a model takes from the job that trained it."""

    @property
    def id(self) -> str: ...
    @property
    def project_id(self) -> str: ...
    @property
    def base_model(self) -> str: ...
    @property
    def base_key(self) -> str: ...
    @property
    def parent_model(self) -> str | None: ...
    @property
    def suffix(self) -> str | None: ...


def normalise_suffix(suffix: str) -> str:
    """Lower case, every run of other characters than letters and digits one hyphen, none at the ends."""
    return re.sub(r"[^a-z0-9]+", "-", suffix.lower()).strip("-")


def new_name(base_model: str, organization_slug: str, suffix: str | None) -> str:
    """`ft:<base>:<organisation>:<suffix>:<8 characters>`; without a suffix its place stays empty."""
    return f"ft:{base_model}:{organization_slug}:{normalise_suffix(suffix or '')}:{ids.model_tail()}"


def publish_checkpoint(
    session: Session,
    job: TrainingJob,
    *,
    step: int,
    metrics: dict[str, Any],
    prefix: str,
    manifest_sha256: str,
    organization_slug: str,
) -> Checkpoint:
    """Make the adapter under `prefix` a usable checkpoint; the job's newest three are kept.

    A step that was published before is returned as it was, and the new objects are deleted.
    """
    known = _checkpoint_at(session, job.id, step)
    if known is not None:
        _forget_copy(session, known.model_id, prefix)
        return known
    name = f"{new_name(job.base_model, organization_slug, job.suffix)}:ckpt-step-{step}"
    model = _add_model(session, job, name, CHECKPOINT, prefix, manifest_sha256)
    checkpoint = _add_checkpoint(session, job, step, metrics, model)
    _prune(session, job.id)
    return checkpoint


def publish_final(
    session: Session,
    job: TrainingJob,
    *,
    step: int,
    metrics: dict[str, Any],
    prefix: str,
    manifest_sha256: str,
    organization_slug: str,
) -> TunedModel:
    """Make the adapter under `prefix` the job's model, and its last checkpoint the same model.

    Where the last step was already published as a checkpoint, that checkpoint takes the final name and these objects.
    """
    name = new_name(job.base_model, organization_slug, job.suffix)
    model = _add_model(session, job, name, TRAINED, prefix, manifest_sha256)
    known = _checkpoint_at(session, job.id, step)
    if known is None:
        _add_checkpoint(session, job, step, metrics, model)
    else:
        former = known.model_id
        known.model_id, known.metrics = model.id, metrics
        session.flush()
        _retire(session, former)
    _prune(session, job.id)
    return model


def find(session: Session, project_id: str, name: str) -> TunedModel | None:
    """The tuned model or checkpoint of this name that the project may use: its own, or one it has a permission for."""
    if not ids.is_plain(name):
        return None
    own_first = (TunedModel.project_id == project_id).desc()
    return session.scalar(_usable(project_id).where(TunedModel.name == name).order_by(own_first).limit(1))


def get(session: Session, project_id: str, name: str) -> TunedModel:
    """The tuned model or checkpoint of this name that the project may use. Raises ModelNotFound."""
    model = find(session, project_id, name)
    if model is None:
        raise ModelNotFound(name)
    return model


def get_own(session: Session, project_id: str, name: str) -> TunedModel:
    """The project's own tuned model or checkpoint of this name. Raises ModelNotFound, and NotTheOwner if the project
    may only use it.
    """
    model = get(session, project_id, name)
    if model.project_id != project_id:
        raise NotTheOwner
    return model


def all_of(session: Session, project_id: str) -> list[TunedModel]:
    """Every tuned model and checkpoint that the project may use, newest first."""
    return list(session.scalars(_usable(project_id).order_by(TunedModel.seq.desc())))


def describe(
    session: Session, project_id: str, name: str, *, catalog: Catalog, models_dir: Path
) -> CatalogEntry | TunedModel:
    """The base model on this server, or the project's tuned model, of this name. Raises ModelNotFound."""
    entry = catalog.find(name)
    if entry is not None and entry.available(models_dir):
        return entry
    return get(session, project_id, name)


def trainable(session: Session, project_id: str, name: str, *, catalog: Catalog, models_dir: Path) -> Start:
    """What a job on `name` starts from: a base model, an alias of one, or a tuned model that the project may use.

    Raises ModelNotAvailable if it is unknown, another project's without a permission, or if its base is not on this
    server (any more).
    """
    entry, parent = catalog.find(name), None
    if entry is None:
        parent = find(session, project_id, name)
        entry = catalog.find(parent.base_model) if parent else None
    if entry is None or not entry.available(models_dir):
        raise ModelNotAvailable(name)
    if parent is not None and parent.base_key != entry.base_key:
        raise ModelNotAvailable(name)  # it was trained on a revision of the base that the catalogue no longer has
    return Start(entry, parent)


def delete(session: Session, project_id: str, name: str, *, catalog: Catalog) -> None:
    """Delete a tuned model or checkpoint of the project, its checkpoint entry and its objects.

    Raises BaseModelKept for a base model, NotTheOwner for another project's, ModelNotFound where there is none.
    """
    if catalog.find(name) is not None:
        raise BaseModelKept
    model = get_own(session, project_id, name)
    session.execute(sa.delete(Checkpoint).where(Checkpoint.model_id == model.id))
    if not _retire(session, model.id):
        raise ModelNotFound(name)


def checkpoints_page(
    session: Session, job_id: str, limit: int, after_seq: int | None
) -> pages.Page[tuple[Checkpoint, str]]:
    """A page of the job's checkpoints, newest first, each with its model's name."""
    page = pages.fetch(
        session,
        sa.select(Checkpoint).where(Checkpoint.job_id == job_id),
        Checkpoint.seq,
        limit=limit,
        after_seq=after_seq,
    )
    names = _names(session, [row.model_id for row in page.rows])
    return pages.Page([(row, names[row.model_id]) for row in page.rows], page.has_more)


def find_checkpoint(session: Session, job_id: str, checkpoint_id: str) -> Checkpoint | None:
    """The checkpoint of this job with this id, if there is one."""
    if not ids.is_plain(checkpoint_id):
        return None
    return session.scalar(sa.select(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.id == checkpoint_id))


def model_of(session: Session, checkpoint: Checkpoint) -> TunedModel:
    """The model a checkpoint names."""
    return session.get_one(TunedModel, checkpoint.model_id)


def _usable(project_id: str) -> sa.Select[TunedModel]:
    permitted = sa.select(CheckpointPermission.model_id).where(CheckpointPermission.project_id == project_id)
    either = sa.or_(TunedModel.project_id == project_id, TunedModel.id.in_(permitted))
    return sa.select(TunedModel).where(either, TunedModel.deleted_at.is_(None))


def _names(session: Session, model_ids: list[str]) -> dict[str, str]:
    query = sa.select(TunedModel.id, TunedModel.name).where(TunedModel.id.in_(model_ids))
    return {row.id: row.name for row in session.execute(query)}


def _checkpoint_at(session: Session, job_id: str, step: int) -> Checkpoint | None:
    """The checkpoint of this step, held against the user's delete until the transaction ends."""
    query = sa.select(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.step == step)
    return session.scalar(query.with_for_update())


def _add_model(
    session: Session, job: TrainingJob, name: str, source: str, prefix: str, manifest_sha256: str
) -> TunedModel:
    model = TunedModel(
        id=ids.new("model_"),
        project_id=job.project_id,
        name=name,
        source=source,
        job_id=job.id,
        parent=job.parent_model,
        base_model=job.base_model,
        base_key=job.base_key,
        object_prefix=_folder(prefix),
        manifest_sha256=manifest_sha256,
    )
    session.add(model)
    session.flush()
    return model


def _add_checkpoint(
    session: Session, job: TrainingJob, step: int, metrics: dict[str, Any], model: TunedModel
) -> Checkpoint:
    checkpoint = Checkpoint(id=ids.new("ftckpt_"), job_id=job.id, step=step, model_id=model.id, metrics=metrics)
    session.add(checkpoint)
    session.flush()
    return checkpoint


def _prune(session: Session, job_id: str) -> None:
    """Keep the checkpoints of the highest steps; a replayed older step does not push a newer one out."""
    newest = sa.select(Checkpoint.step).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step.desc())
    older = Checkpoint.step.not_in(newest.limit(KEPT_CHECKPOINTS))
    dropped = sa.delete(Checkpoint).where(Checkpoint.job_id == job_id, older).returning(Checkpoint.model_id)
    for model_id in session.scalars(dropped).all():
        _retire(session, model_id)


def _forget_copy(session: Session, model_id: str, prefix: str) -> None:
    """Hand the objects of a second attempt at a published step to the outbox, unless they are the published ones."""
    if session.get_one(TunedModel, model_id).object_prefix != _folder(prefix):
        outbox.put(session, outbox.DELETE_PREFIX, {"prefix": _folder(prefix)})


def _folder(prefix: str) -> str:
    """The prefix with one slash at its end, so that step-1 is not the beginning of step-10."""
    return prefix.rstrip("/") + "/"


def _retire(session: Session, model_id: str) -> bool:
    """Mark a model deleted, and its objects with it unless a living model shares them. False: it already was."""
    marked = (
        sa.update(TunedModel)
        .where(TunedModel.id == model_id, TunedModel.deleted_at.is_(None))
        .values(deleted_at=sa.func.now())
        .returning(TunedModel.object_prefix)
    )
    prefix = session.scalar(marked)
    if prefix is None:
        return False
    sharing = sa.select(TunedModel.id).where(TunedModel.object_prefix == prefix, TunedModel.deleted_at.is_(None))
    if session.scalar(sharing.limit(1)) is None:
        outbox.put(session, outbox.DELETE_PREFIX, {"prefix": prefix})
    return True
