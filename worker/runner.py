"""One training job, top to bottom: fetch → admit → follow the engine's reports → publish → finish.

Every write carries the job's fence. `Lost` means that the job is not ours any more: free the slot, touch nothing.
"""

import logging
import queue
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from app import db, metrics
from app.config import Settings
from app.jobs import failures, hyperparameters, states, transitions
from app.jobs.tables import Job
from app.jobs.transitions import Note
from app.models import service as models
from app.models.catalog import CatalogEntry
from app.storage import ObjectMissing, Store
from worker import artefacts, publishing, sweeps, tracking
from worker.artefacts import CorruptObject, StorageUnavailable
from worker.node import Held
from worker.publishing import Lost
from worker.supervisor import Engine, EngineDied, EngineRefused

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0  # metrics are stored in batches this far apart
LOOK_SECONDS = 0.05  # how often a silent engine's job looks at its flags
KEPT_DATASETS = 16  # prepared datasets kept on a worker's disk

Reports = queue.SimpleQueue[dict[str, Any] | None]


class Runner:
    """What a GPU worker needs to run its jobs. One instance a worker, one `run` call and thread a job."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings, self._store = settings, store

    def run(self, job: Job, held: Held, entry: CatalogEntry, engine: Engine, *, alone: bool) -> None:
        """Run one claimed job to whatever end it comes to. alone: no other job is in the engine."""
        scratch = self._settings.scratch_dir / "jobs" / f"{job.id}-{job.fence}"
        scratch.mkdir(parents=True, exist_ok=True)
        training = Training(job, held, entry, engine, self._store, self._settings, scratch)
        try:
            training.run()
        except Lost:
            log.info("job.lost", extra={"job": job.id, "fence": job.fence})
            training.leave()
        except EngineDied:
            take_back(job, failures.ENGINE_CRASHED, suspect=not alone)
        except EngineRefused as error:
            training.leave()
            # What does not fit beside others may fit alone.
            crowded = error.code == "no_room" and not alone
            settle(job, failures.ENGINE_CODES.get(error.code, failures.INTERNAL_ERROR), str(error), suspect=crowded)
        except (StorageUnavailable, CorruptObject, ObjectMissing) as error:
            log.warning("job.storage", extra={"job": job.id, "reason": f"{type(error).__name__}: {error}"})
            training.leave()
            take_back(job, failures.STORAGE_UNAVAILABLE)
        finally:
            training.end_tracking()
            engine.forget(job.id)
            shutil.rmtree(scratch, ignore_errors=True)


class Training:
    """One job in one engine."""

    def __init__(
        self,
        job: Job,
        held: Held,
        entry: CatalogEntry,
        engine: Engine,
        store: Store,
        settings: Settings,
        scratch: Path,
    ) -> None:
        self.job, self.held, self.entry, self.engine = job, held, entry, engine
        self.store, self.settings, self.scratch = store, settings, scratch
        self.progress = publishing.Progress(job)
        self._runs: list[tracking.WandbRun] = []
        self._failed = True  # until it ends in another way
        self._saved_step: int | None = None  # of the last resume state that was published

    def run(self) -> None:
        reports = self._admit()
        self._runs = tracking.runs(self.job, self.settings, partial(publishing.tell, self.job))
        while True:
            if self.held.lost.is_set():
                raise Lost
            if self.held.pausing.is_set() or self.held.draining.is_set():
                self._hand_back(reports)
                return
            report = _next(reports)
            if report is not None and self._follow(report):
                return
            if self.progress.due(FLUSH_SECONDS):
                self.progress.flush()

    def end_tracking(self) -> None:
        for run in self._runs:
            run.end(failed=self._failed)

    def leave(self) -> None:
        """Free the slot without a trace."""
        try:
            self.engine.release(self.job.id, save=False)
        except (EngineDied, EngineRefused):
            return

    def _admit(self) -> "Reports":
        """Fetch what the engine needs and start the job; the queue of its reports."""
        job = self.job
        assert job.prepared_key is not None
        assert job.resolved is not None
        dataset = self._dataset(job.prepared_key)
        validation = self._dataset(job.validation_key) if job.validation_key else None
        resume = self._fetched("resume", job.resume_prefix)
        adapter = self._fetched("parent", self._parent_prefix()) if resume is None else None
        reply, reports = self.engine.admit(
            job.id,
            spec=hyperparameters.engine_spec(job, job.resolved, self.settings),
            dataset=str(dataset),
            validation=str(validation) if validation else None,
            resume=str(resume) if resume else None,
            adapter=str(adapter) if adapter else None,
            out=str(self.scratch / "out"),
            tenant=job.project_id,
        )
        if job.deterministic and reply["step"] == 0:
            publishing.tell(job, "info", f"Deterministic training, on {reply['threads']} threads of {reply['device']}")
        return reports

    def _follow(self, report: dict[str, Any]) -> bool:
        """Act on one report; whether it was the last."""
        kind = report["type"]
        if kind == "step":
            self.progress.add(report)
            metrics.STEP_SECONDS.observe(report["seconds"])
            metrics.TRAINED_TOKENS.inc(report["tokens"])
            metrics.DEVICE_BYTES.labels("used").set(report["device_bytes"])
            for run in self._runs:
                run.log(publishing.step_on_the_wire(report))
        elif kind == "checkpoint" and report["step"] < (self.job.total_steps or 0):
            self._publish_checkpoint(report)
        elif kind == "resume_state":
            self._publish_resume(Path(report["path"]), report["step"])
        elif kind == "notice":
            publishing.tell(self.job, "warn", report["message"])
        elif kind == "finished":
            self._finish(report)
            return True
        elif kind == "failed":
            self.progress.flush()
            settle(self.job, failures.ENGINE_CODES.get(report["code"], failures.INTERNAL_ERROR), report["message"])
            return True
        return False

    def _publish_checkpoint(self, report: dict[str, Any]) -> None:
        folder, step = Path(report["path"]), report["step"]
        prefix = f"{artefacts.job_prefix(self.job)}checkpoints/step-{step:06d}/"
        digest = self._upload_adapter(folder, prefix, report["metrics"])
        self.progress.flush()
        publishing.checkpoint(self.job, report, prefix, digest)
        shutil.rmtree(folder)

    def _publish_resume(self, folder: Path, step: int) -> None:
        """Upload a resume state and point the job at it. The engine tells the same step twice if it is asked twice."""
        if step == self._saved_step:
            return
        prefix = f"{artefacts.job_prefix(self.job)}resume/step-{step:06d}/"
        artefacts.write_manifest(folder)
        artefacts.upload(self.store, folder, prefix)
        self.progress.flush()
        publishing.resume_state(self.job, prefix, step)
        self._saved_step = step
        shutil.rmtree(folder, ignore_errors=True)

    def _finish(self, report: dict[str, Any]) -> None:
        self.progress.flush()
        prefix = artefacts.job_prefix(self.job)
        digest = self._upload_adapter(Path(report["path"]), f"{prefix}final/", report["metrics"])
        result = publishing.store_result(self.store, self.job, f"{prefix}step_metrics.csv")
        publishing.finish(self.job, report, f"{prefix}final/", digest, result)
        self._failed = False
        metrics.JOBS_ENDED.labels(states.SUCCEEDED, "").inc()
        memory = {name: report[name] for name in ("predicted_bytes", "peak_bytes")}
        log.info("job.succeeded", extra={"job": self.job.id, "step": report["step"], **memory})

    def _hand_back(self, reports: "Reports") -> None:
        """Save at the next step boundary, keep the state, and move the job to paused or back to queued."""
        reply = self.engine.release(self.job.id, save=True)
        while (report := _next(reports, wait=False)) is not None:
            if report["type"] in ("finished", "failed"):
                self._follow(report)
                return
            self._follow(report)
        if reply.get("resume"):
            self._publish_resume(Path(reply["resume"]), reply["step"])
        self.progress.flush()
        self._failed = False
        publishing.hand_back(self.job, reply["step"], paused=self.held.pausing.is_set())
        log.info("job.handed_back", extra={"job": self.job.id, "step": reply["step"]})

    def _upload_adapter(self, folder: Path, prefix: str, metrics: dict[str, Any]) -> str:
        card = artefacts.Card(self.job, self.entry, publishing.data_hashes(self.job), metrics)
        digest = artefacts.complete(folder, self.entry.directory(self.settings.models_dir), card)
        artefacts.upload(self.store, folder, prefix)
        return digest

    def _fetched(self, name: str, prefix: str | None) -> Path | None:
        if prefix is None:
            return None
        folder = self.scratch / name
        artefacts.download(self.store, prefix, folder)
        return folder

    def _parent_prefix(self) -> str | None:
        if self.job.parent_model is None:
            return None
        with db.reading() as session:
            parent = models.find(session, self.job.project_id, self.job.parent_model)
        if parent is None:
            raise EngineRefused("bad_adapter", f"{self.job.parent_model} was deleted")
        return parent.object_prefix

    def _dataset(self, prefix: str) -> Path:
        """A prepared dataset on this machine's disk, fetched if it is not there; the oldest are forgotten."""
        cache = self.settings.scratch_dir / "datasets"
        folder = cache / prefix.strip("/").replace("/", "-")
        if not folder.is_dir():
            partial = self.scratch / "dataset"
            artefacts.download(self.store, prefix, partial)
            cache.mkdir(parents=True, exist_ok=True)
            _replace(partial, folder)
            _forget_oldest(cache, keep=KEPT_DATASETS)
        return folder


def settle(job: Job, cause: str, message: str | None = None, *, suspect: bool = False) -> None:
    """Fail a job for good, or put it back if its cause is forgiven once more; a suspect then runs alone."""
    with db.transaction() as session:
        verdict = failures.judge(cause, job.attempts, job.furthest_step)
        if verdict.retry:
            sweeps.take_back(session, job, cause, suspect=suspect)
            return
        error = failures.public_error(cause)
        note = Note(error["message"], level="error", data={"code": error["code"]})
        values = {"error": error, "attempts": verdict.attempts}
        transitions.move(session, job.id, states.FAILED, note=note, fence=job.fence, values=values)
    metrics.JOBS_ENDED.labels(states.FAILED, cause).inc()
    log.warning("job.failed", extra={"job": job.id, "cause": cause, "reason": message})


def take_back(job: Job, cause: str, *, suspect: bool = False) -> None:
    """Put a job back after something that was not its fault."""
    with db.transaction() as session:
        current = session.get(Job, job.id)
        if current is not None and current.fence == job.fence and current.status in states.LEASED:
            sweeps.take_back(session, current, cause, suspect=suspect)


def _next(reports: "Reports", *, wait: bool = True) -> dict[str, Any] | None:
    """The next report, or None if there is none now. Raises EngineDied."""
    try:
        report = reports.get(timeout=LOOK_SECONDS) if wait else reports.get_nowait()
    except queue.Empty:
        return None
    if report is None:
        raise EngineDied("the engine is gone")
    return report


def _replace(partial: Path, folder: Path) -> None:
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
