"""One training job, top to bottom: fetch → admit → follow the engine's reports → publish → finish.

Every write carries the job's fence, and waits for a database that is away. `Lost` means that the job is not ours any
more: free the slot, touch nothing.
"""

import logging
import queue
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from app import metrics, tracing
from app.config import Settings
from app.failpoints import failpoint
from app.jobs import failures, hyperparameters, states
from app.jobs.tables import Job
from app.models.catalog import CatalogEntry
from app.storage import FULL, ObjectMissing, Store
from worker import artefacts, inputs, publishing, sweeps, tracking
from worker.artefacts import CorruptObject, StorageUnavailable
from worker.node import Held
from worker.outages import Lost, ride_out
from worker.supervisor import Engine, EngineDied, EngineRefused

log = logging.getLogger(__name__)

TRACE_SECONDS = 1.0
FLUSH_SECONDS = 1.0  # metrics are stored in batches this far apart
LOOK_SECONDS = 0.05  # how often a silent engine's job looks at its flags
LAST = ("finished", "failed")  # the reports that end a job

Reports = queue.SimpleQueue[dict[str, Any] | None]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Trouble:
    """Why a job did not come to its end. suspect: it was in company when the engine died of somebody."""

    cause: str
    message: str
    suspect: bool = False


class Runner:
    """What a GPU worker needs to run its jobs. One instance a worker, one `run` call and thread a job."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings, self._store = settings, store

    def run(self, job: Job, held: Held, entry: CatalogEntry, engine: Engine, *, alone: bool) -> None:
        """Run one claimed job to whatever end it comes to. alone: no other job is in the engine."""
        scratch = self._settings.scratch_dir / "jobs" / f"{job.id}-{job.fence}"
        training = Training(job, held, entry, engine, self._store, self._settings, scratch)
        try:
            trouble = _train(training, alone=alone)
            if trouble is not None:
                training.leave()
                reason = {"cause": trouble.cause, "reason": trouble.message}
                log.warning("job.interrupted", extra={"job": job.id, "fence": job.fence, **reason})
                ride_out(held, partial(sweeps.put_back, job, trouble.cause, suspect=trouble.suspect))
        except Lost:
            log.info("job.lost", extra={"job": job.id, "fence": job.fence})
            training.leave()
        finally:
            training.end_tracking()
            engine.forget(job.id)
            shutil.rmtree(scratch, ignore_errors=True)


def _train(training: "Training", *, alone: bool) -> Trouble | None:
    """Train a job as far as it goes; what stopped it before its end. Raises Lost."""
    try:
        return training.run()
    except Lost:
        raise
    except EngineRefused as error:
        # What does not fit beside others may fit alone.
        return _refusal(error.code, str(error), suspect=error.code == "no_room" and not alone)
    except Exception as error:  # whatever it is, the job must leave the engine, and somebody must have it
        cause = _cause(error)
        if cause == failures.INTERNAL_ERROR:
            log.exception("job.crashed", extra={"job": training.job.id, "fence": training.job.fence})
        suspect = cause == failures.ENGINE_CRASHED and not alone
        return Trouble(cause, f"{type(error).__name__}: {error}", suspect)


def _cause(error: Exception) -> str:
    if isinstance(error, EngineDied):
        return failures.ENGINE_CRASHED
    if isinstance(error, inputs.BadState):
        return failures.BAD_RESUME
    full = isinstance(error, OSError) and error.errno in FULL
    if full or isinstance(error, StorageUnavailable | CorruptObject | ObjectMissing):
        return failures.STORAGE_UNAVAILABLE
    return failures.INTERNAL_ERROR


def _refusal(code: str, message: str, *, suspect: bool = False) -> Trouble:
    """What the engine says, as a cause of ours."""
    return Trouble(failures.ENGINE_CODES.get(code, failures.INTERNAL_ERROR), f"{code}: {message}", suspect)


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
        self._trace_from = 0.0  # by the monotonic clock, when the next step is traced
        self._saved_step: int | None = None  # of the last resume state that was published

    def run(self) -> Trouble | None:
        """Until the job has ended or was handed back. Raises Lost, and whatever else may stop it."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        reports = self._admit()
        self._runs = tracking.runs(self.job, self.settings, self._tell)
        while True:
            if self.held.lost:
                raise Lost
            if self.held.pausing.is_set() or self.held.draining.is_set():
                return self._hand_back(reports)
            report = _next(reports)
            if report is not None and report["type"] in LAST:
                return self._end(report)
            if report is not None:
                self._follow(report)
            if self.progress.due(FLUSH_SECONDS):
                self._flush()

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
        assert job.resolved is not None
        needed = inputs.fetch(job, self.store, self.settings, self.scratch, self._parent_prefix)
        failpoint("job.fetched")
        reply, reports = self.engine.admit(
            job.id,
            spec=hyperparameters.engine_spec(job, job.resolved, self.settings),
            dataset=str(needed.dataset),
            validation=_text(needed.validation),
            resume=_text(needed.resume),
            adapter=_text(needed.adapter),
            out=str(self.scratch / "out"),
            tenant=job.project_id,
        )
        failpoint("job.admitted")
        if job.deterministic and reply["step"] == 0:
            self._tell("info", f"Deterministic training, on {reply['threads']} threads of {reply['device']}")
        return reports

    def _parent_prefix(self) -> str | None:
        """Where the adapter lies that training begins from; None: it begins from the base."""
        return self._do(inputs.parent_prefix, self.job)

    def _follow(self, report: dict[str, Any]) -> None:
        """Act on one report that is not the last."""
        kind = report["type"]
        if kind == "step":
            self.progress.add(report)
            self._trace(report)
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
            self._tell("warn", report["message"])

    def _trace(self, report: dict[str, Any]) -> None:
        """A span for the step, but for one in TRACE_SECONDS at most: traces of many thousand spans serve nobody."""
        if time.monotonic() >= self._trace_from:
            self._trace_from = time.monotonic() + TRACE_SECONDS
            tracing.passed("step", report["seconds"], step=report["step"], tokens=report["tokens"])

    def _end(self, report: dict[str, Any]) -> Trouble | None:
        """Act on the last report."""
        if report["type"] == "finished":
            self._finish(report)
            return None
        self._flush()
        return _refusal(report["code"], report["message"])

    def _do(self, phase: Callable[..., Result], *arguments: Any) -> Result:
        """A phase in the database, however long it takes to come back. Raises Lost."""
        return ride_out(self.held, partial(phase, *arguments))

    def _flush(self) -> None:
        self._do(self.progress.flush)
        failpoint("steps.stored")

    def _tell(self, level: str, message: str) -> None:
        self._do(publishing.tell, self.job, level, message)

    def _publish_checkpoint(self, report: dict[str, Any]) -> None:
        folder, step = Path(report["path"]), report["step"]
        prefix = f"{artefacts.job_prefix(self.job)}checkpoints/step-{step:06d}/"
        digest = self._upload_adapter(folder, prefix, report["metrics"])
        failpoint("checkpoint.uploaded")
        self._flush()
        self._do(publishing.checkpoint, self.job, report, prefix, digest)
        failpoint("checkpoint.published")
        shutil.rmtree(folder)

    def _publish_resume(self, folder: Path, step: int) -> None:
        """Upload a resume state and point the job at it. The engine tells the same step twice if it is asked twice."""
        if step == self._saved_step:
            return
        prefix = f"{artefacts.job_prefix(self.job)}resume/step-{step:06d}/"
        artefacts.write_manifest(folder)
        artefacts.upload(self.store, folder, prefix)
        failpoint("state.uploaded")
        self._flush()
        self._do(publishing.resume_state, self.job, prefix, step)
        failpoint("state.published")
        self._saved_step = step
        shutil.rmtree(folder, ignore_errors=True)

    def _finish(self, report: dict[str, Any]) -> None:
        self._flush()
        prefix = artefacts.job_prefix(self.job)
        digest = self._upload_adapter(Path(report["path"]), f"{prefix}final/", report["metrics"])
        failpoint("adapter.uploaded")
        result = self._do(publishing.store_result, self.store, self.job, f"{prefix}step_metrics.csv")
        failpoint("result.stored")
        self._do(publishing.finish, self.job, report, f"{prefix}final/", digest, result)
        failpoint("job.succeeded")
        self._failed = False
        metrics.JOBS_ENDED.labels(states.SUCCEEDED, "").inc()
        memory = {name: report[name] for name in ("predicted_bytes", "peak_bytes")}
        log.info("job.succeeded", extra={"job": self.job.id, "step": report["step"], **memory})

    def _hand_back(self, reports: "Reports") -> Trouble | None:
        """Save at the next step boundary, keep the state, and move the job to paused or back to queued."""
        try:
            reply = self.engine.release(self.job.id, save=True)
        except EngineRefused as error:
            if error.code != "unknown_job":
                raise
            return self._end(self._last(reports))  # it has ended by itself meanwhile
        failpoint("job.released")
        while (report := _next(reports, wait=False)) is not None:
            self._follow(report)
        if reply.get("resume"):
            self._publish_resume(Path(reply["resume"]), reply["step"])
        self._flush()
        self._failed = False
        self._do(publishing.hand_back, self.job, reply["step"], self.held.pausing.is_set())
        failpoint("job.handed_back")
        log.info("job.handed_back", extra={"job": self.job.id, "step": reply["step"]})
        return None

    def _last(self, reports: "Reports") -> dict[str, Any]:
        """Follow the reports of a job that has ended; its last one. Raises Lost."""
        while not self.held.lost:
            report = _next(reports)
            if report is not None and report["type"] in LAST:
                return report
            if report is not None:
                self._follow(report)
        raise Lost

    def _upload_adapter(self, folder: Path, prefix: str, metrics: dict[str, Any]) -> str:
        card = artefacts.Card(self.job, self.entry, self._do(publishing.data_hashes, self.job), metrics)
        digest = artefacts.complete(folder, self.entry.directory(self.settings.models_dir), card)
        artefacts.upload(self.store, folder, prefix)
        return digest


def _next(reports: "Reports", *, wait: bool = True) -> dict[str, Any] | None:
    """The next report, or None if there is none now. Raises EngineDied."""
    try:
        report = reports.get(timeout=LOOK_SECONDS) if wait else reports.get_nowait()
    except queue.Empty:
        return None
    if report is None:
        raise EngineDied("the engine is gone")
    return report


def _text(path: Path | None) -> str | None:
    return str(path) if path else None
