"""What a job needs from the object store before it is admitted: rows, and the state or adapter it goes on from."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app import db
from app.config import Settings
from app.jobs.tables import Job
from app.models import service as models
from app.storage import ObjectMissing, Store
from worker import artefacts
from worker.artefacts import CorruptObject
from worker.supervisor import EngineRefused

KEPT_DATASETS = 16  # prepared datasets kept on a worker's disk


@dataclass(frozen=True)
class Inputs:
    """Folders on this machine's disk."""

    dataset: Path
    validation: Path | None
    resume: Path | None
    adapter: Path | None


class BadState(Exception):
    """A resume state that is damaged or gone."""


def fetch(job: Job, store: Store, settings: Settings, scratch: Path, parent_prefix: Callable[[], str | None]) -> Inputs:
    """Bring it all here. parent_prefix is asked where the adapter lies that a new job begins from.

    Raises BadState where the resume state is no good, so that the job has to begin again; CorruptObject, ObjectMissing
    and StorageUnavailable for all else.
    """
    assert job.prepared_key is not None
    dataset = _dataset(job.prepared_key, store, settings, scratch)
    validation = _dataset(job.validation_key, store, settings, scratch) if job.validation_key else None
    resume = _state(job.resume_prefix, store, scratch)
    parent = parent_prefix() if resume is None else None
    adapter = _fetched(parent, store, scratch / "parent") if parent else None
    return Inputs(dataset, validation, resume, adapter)


def parent_prefix(job: Job) -> str | None:
    """Where the adapter of the model lies that a job trains further. Raises EngineRefused if it was deleted."""
    if job.parent_model is None:
        return None
    with db.reading() as session:
        found = models.find(session, job.project_id, job.parent_model)
    if found is None:
        raise EngineRefused("bad_adapter", f"{job.parent_model} was deleted")
    return found.object_prefix


def _state(prefix: str | None, store: Store, scratch: Path) -> Path | None:
    try:
        return _fetched(prefix, store, scratch / "resume") if prefix else None
    except (CorruptObject, ObjectMissing) as error:
        raise BadState(f"{type(error).__name__}: {error}") from error


def _fetched(prefix: str, store: Store, folder: Path) -> Path:
    artefacts.download(store, prefix, folder)
    return folder


def _dataset(prefix: str, store: Store, settings: Settings, scratch: Path) -> Path:
    """A prepared dataset on this machine's disk, fetched if it is not there; the oldest are forgotten."""
    cache = settings.scratch_dir / "datasets"
    folder = cache / prefix.strip("/").replace("/", "-")
    if not folder.is_dir():
        partial = _fetched(prefix, store, scratch / "dataset")
        cache.mkdir(parents=True, exist_ok=True)
        _move(partial, folder)
        _forget_oldest(cache, keep=KEPT_DATASETS)
    return folder


def _move(partial: Path, folder: Path) -> None:
    """Move a folder to its place unless another job of this worker was first."""
    try:
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _forget_oldest(cache: Path, *, keep: int) -> None:
    """An engine that has a forgotten dataset mapped keeps its pages."""
    folders = sorted((path for path in cache.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for folder in folders[:-keep]:
        shutil.rmtree(folder, ignore_errors=True)
