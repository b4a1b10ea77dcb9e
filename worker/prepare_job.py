"""One job's preparation: claimed files → prepared datasets → queued, or failed with the lines that are wrong."""

import json
import logging
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from app import db, metrics, queue, storage
from app.auth.errors import QuotaExceeded
from app.config import Settings
from app.events import service as events
from app.failpoints import failpoint
from app.files.tables import File
from app.jobs import claims, failures, hyperparameters, quotas, states, transitions
from app.jobs.tables import Job
from app.jobs.transitions import Note
from app.models import catalog
from app.models.catalog import Catalog, CatalogEntry, CatalogError
from app.queue import Bell
from app.storage import ObjectMissing, Store
from app.workers.service import CPU
from worker import artefacts, sweeps
from worker.artefacts import CorruptObject, StorageUnavailable
from worker.node import Held, Node
from worker.outages import Lost, ride_out
from worker.prepare import dataset, tokenizer
from worker.prepare.columns import MANIFEST
from worker.prepare.dataset import TRAINING, VALIDATION, InvalidDataset, Lines
from worker.prepare.template import TemplateRefused
from worker.prepare.tokenizer import LoadedTokenizer
from worker.shunned import Shunned

log = logging.getLogger(__name__)


@dataclass
class _Part:
    """One prepared file: where it lies in the store, its manifest, and what to tell the user."""

    prefix: str
    manifest: dict[str, Any]
    notes: list[str]


def create_node(settings: Settings) -> Node:
    """A CPU worker over the configured database and object store."""
    store = storage.open_store(settings)
    preparer = Preparer(settings, store, catalog.load(settings.catalog_path, catalog.lock_path(settings.models_dir)))

    def take(node: Node) -> Job | None:
        with db.transaction() as session:
            return claims.claim_validating(
                session,
                worker_id=node.id,
                lease_seconds=settings.lease_seconds,
                without=preparer.shunned.keys,
            )

    return Node(CPU, settings, store, slots=settings.prepare_slots, device_group=None, take=take, run=preparer.run)


class Preparer:
    """Prepares jobs' files; keeps the tokenizers it has loaded."""

    def __init__(self, settings: Settings, store: Store, catalog: Catalog) -> None:
        self._settings, self._store, self._catalog = settings, store, catalog
        self._bell = Bell(settings)
        self._tokenizers: dict[str, LoadedTokenizer] = {}
        self._lock = threading.Lock()
        self.shunned = Shunned()

    def run(self, job: Job, held: Held) -> None:
        """Prepare one claimed job; every write is fenced."""
        try:
            verdict = self._verdict(job, held)
            if verdict is not None:
                ride_out(held, verdict)
        except Lost:
            log.info("job.lost", extra={"job": job.id, "fence": job.fence})

    def _verdict(self, job: Job, held: Held) -> Callable[[], None] | None:
        """Prepare; what is to be done with a job that could not be. Raises Lost."""
        try:
            self._prepare(job, held)
        except (StorageUnavailable, CorruptObject):
            return partial(sweeps.put_back, job, failures.STORAGE_UNAVAILABLE)
        except CatalogError as error:
            log.error("base.not_as_pulled", extra={"base": job.base_key, "reason": str(error)})  # noqa: TRY400 - a known reason
            return self._without_base(job)
        except (InvalidDataset, QuotaExceeded, ObjectMissing, TemplateRefused, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in storage.FULL:
                return partial(sweeps.put_back, job, failures.STORAGE_UNAVAILABLE)
            return partial(_fail, job, _error(job, error))
        return None

    def _without_base(self, job: Job) -> Callable[[], None]:
        """Leave a job to a worker that has its base, and others of that base as well."""
        metrics.BASES_NOT_LOADED.labels(CPU).inc()
        self.shunned.add(job.base_key)
        return partial(sweeps.put_back, job, failures.BASE_UNAVAILABLE)

    def _prepare(self, job: Job, held: Held) -> None:
        entry = self._catalog.find(job.base_model)
        if entry is None or not entry.available(self._settings.models_dir):
            raise CatalogError(f"{job.base_model} is not on this machine")
        loaded = self._tokenizer(entry)
        training = self._part(job, held, entry, loaded, job.training_file, TRAINING)
        validation = None
        if job.validation_file is not None and not held.lost:
            validation = self._part(job, held, entry, loaded, job.validation_file, VALIDATION)
        if not held.lost:
            ride_out(held, partial(self._queue, job, entry, training, validation))

    def _queue(self, job: Job, entry: CatalogEntry, training: _Part, validation: _Part | None) -> None:
        """The one transaction that ends preparation: numbers for every "auto", and the job into the queue.

        Raises QuotaExceeded.
        """
        examples = training.manifest["examples"]
        resolved = hyperparameters.resolve(job.request, n_examples=examples, entry=entry)
        steps = resolved["n_epochs"] * -(-examples // resolved["batch_size"])
        tokens = resolved["n_epochs"] * training.manifest["tokens"]
        values = {
            "resolved": resolved,
            "total_steps": steps,
            "planned_tokens": tokens,
            "prepared_key": training.prefix,
            "validation_key": validation.prefix if validation else None,
        }
        notes = [*training.notes, *(validation.notes if validation else [])]
        with db.transaction() as session:
            quotas.reserve(session, job.project_id, tokens, self._settings)
            kept = transitions.update(session, job.id, job.fence, values) is not None
            if kept:
                for text in notes:
                    events.append(session, job.id, text, level="warn")
                queued = Note("Files validated, moving job to queued state")
                transitions.move(session, job.id, states.QUEUED, note=queued, fence=job.fence)
                db.after_commit(session, partial(self._bell.ring, queue.GPU))
        failpoint("job.queued")
        log.info("job.prepared", extra={"job": job.id, "examples": examples, "kept": kept})

    def _tokenizer(self, entry: CatalogEntry) -> LoadedTokenizer:
        with self._lock:
            if entry.base_key not in self._tokenizers:
                directory = entry.directory(self._settings.models_dir)
                entry.verify(self._settings.models_dir)
                self._tokenizers[entry.base_key] = tokenizer.load(directory)
            return self._tokenizers[entry.base_key]

    def _part(
        self, job: Job, held: Held, entry: CatalogEntry, loaded: LoadedTokenizer, file_id: str, role: str
    ) -> _Part:
        """One file's prepared dataset: from the store if the same work was done before, else made and stored."""
        file = ride_out(held, partial(_file, file_id))
        if file is None:
            raise ObjectMissing(file_id)
        length = hyperparameters.max_sequence_length(job.request, entry)
        key = dataset.cache_key(file.sha256, loaded, length)
        prefix = f"projects/{job.project_id}/prepared/{key}/"
        manifest = self._stored(prefix)
        if manifest is None or "notes" not in manifest:
            manifest = self._make(job, loaded, file, role, prefix, length)
        _check_minimum(manifest, role, file_id)
        return _Part(prefix, manifest, manifest["notes"])

    def _stored(self, prefix: str) -> dict[str, Any] | None:
        try:
            chunks = artefacts.persistently(lambda: b"".join(self._store.read(prefix + MANIFEST)))
        except ObjectMissing:
            return None
        return json.loads(chunks)

    def _make(
        self, job: Job, loaded: LoadedTokenizer, file: File, role: str, prefix: str, length: int
    ) -> dict[str, Any]:
        self._settings.scratch_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="prepare-", dir=self._settings.scratch_dir) as name:
            folder = Path(name)
            source = folder / "source.jsonl"
            artefacts.persistently(lambda: storage.get_file(self._store, file.object_key, source))
            failpoint("file.fetched")
            out = folder / "prepared"
            with source.open("rb") as lines:
                prepared = dataset.prepare(
                    lines, tokenizer=loaded, max_sequence_length=length, role=role, file_id=file.id, out=out
                )
            notes = [*_told("truncated", prepared.truncated, length), *_told("dropped", prepared.dropped, length)]
            manifest = prepared.manifest | {"notes": notes, "lines": prepared.lines}
            (out / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            source.unlink()
            artefacts.upload(self._store, out, prefix)
            failpoint("prepared.uploaded")
            shutil.rmtree(out)
        return manifest


def _check_minimum(manifest: dict[str, Any], role: str, file_id: str) -> None:
    """A dataset that was prepared for validation may be too short for training."""
    if role == TRAINING and manifest["lines"] < dataset.MIN_EXAMPLES:
        raise dataset.too_few(manifest["lines"], file_id)


def _told(what: str, lines: Lines, length: int) -> list[str]:
    if not lines.count:
        return []
    examples = f"{lines.count} example{'s' * (lines.count > 1)}"
    if what == "truncated":
        return [f"{examples} longer than {length} tokens truncated at the end: {lines}"]
    return [f"{examples} dropped, as no trained token is left within {length} tokens: {lines}"]


def _file(file_id: str) -> File | None:
    with db.reading() as session:
        return session.get(File, file_id)


def _error(job: Job, error: Exception) -> dict[str, Any]:
    """What the user is told of a job whose files cannot be prepared."""
    if isinstance(error, InvalidDataset):
        return {"code": error.code, "message": error.message, "param": error.param}
    if isinstance(error, QuotaExceeded):
        return failures.public_error(failures.QUOTA_EXCEEDED, error.message)
    if isinstance(error, ObjectMissing):
        message = "A file of this job was deleted before it could be read."
        return failures.public_error(failures.INVALID_FILE, message, "training_file")
    log.error("prepare.base_unavailable", extra={"job": job.id, "base": job.base_key}, exc_info=error)
    return failures.public_error(failures.BASE_UNAVAILABLE, f"The base model cannot be used: {error}")


def _fail(job: Job, error: dict[str, Any]) -> None:
    with db.transaction() as session:
        note = Note(error["message"], level="error", data={"code": error["code"]})
        transitions.move(session, job.id, states.FAILED, note=note, fence=job.fence, values={"error": error})
    metrics.JOBS_ENDED.labels(states.FAILED, error["code"]).inc()
    log.info("job.failed", extra={"job": job.id, "code": error["code"]})
