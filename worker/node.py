"""One worker process: it registers, keeps its leases alive, fills its free slots from Postgres, sweeps, and drains.

Kinds of thread: the claim loop, the heartbeat, two sweepers (one for jobs, which waits for nothing but the database),
the deliverer of webhooks, on a CPU worker the collector of garbage, and one for each job. A ring only wakes the claim
loop, which looks by itself every `poll_seconds` anyway.
"""

import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import sqlalchemy as sa

from app import db, ids, logs, metrics, tracing
from app.config import Settings
from app.failpoints import failpoint
from app.jobs import claims, states
from app.jobs.tables import Job
from app.storage import Store
from app.workers import service as workers
from app.workers.service import Condition
from worker import sweeps
from worker.deliverer import Deliverer
from worker.garbage import Collector

log = logging.getLogger(__name__)

WORK = {workers.CPU: "prepare", workers.GPU: "train"}  # what a worker does to a job, as traces call it
SURE = 0.8  # of a lease: so long after it was renewed a worker may believe that it has it


@dataclass
class Held:
    """A job in this worker's hands, and what others have said about it since it was claimed."""

    job_id: str
    fence: int
    until: float  # by the monotonic clock; whoever cannot renew a lease must stop before it ends, not after
    pausing: threading.Event = field(default_factory=threading.Event)
    draining: threading.Event = field(default_factory=threading.Event)  # save and hand back
    ended: threading.Event = field(default_factory=threading.Event)  # nothing of it is left in this process
    _lost: threading.Event = field(default_factory=threading.Event)

    @property
    def lost(self) -> bool:
        """Whether it is cancelled, another's, or may be another's by now: touch nothing."""
        return self._lost.is_set() or time.monotonic() > self.until

    @property
    def taken(self) -> bool:
        """Whether the database has said so; if not, and it is lost, then the database was not there to be asked."""
        return self._lost.is_set()

    def lose(self) -> None:
        self._lost.set()


Take = Callable[["Node"], Job | None]
Run = Callable[[Job, Held], None]


class Node:
    """The frame around a worker's jobs.

    take: claims one more job, or returns None; called with a free slot only. run: one job from start to end.
    """

    def __init__(
        self, kind: str, settings: Settings, store: Store, *, slots: int, device_group: str | None, take: Take, run: Run
    ) -> None:
        self.id = ids.new("wkr_")
        self.kind = kind
        self.settings = settings
        self.store = store
        self.slots = slots
        self.device_group = device_group
        self.base_key: str | None = None  # what a GPU worker's engine holds, for all to see
        self.memory_bytes: int | None = None
        self.held: dict[str, Held] = {}
        self.draining = threading.Event()
        self._take, self._run = take, run
        self._ended = threading.Event()
        self._bell = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._deliverer = Deliverer(settings)
        self._collector = Collector(settings, store)

    def start(self) -> None:
        """Register and start the threads."""
        with db.transaction() as session:
            self._register(session)
        loops = [self._claim_loop, self._heartbeat_loop, self._job_sweep_loop, self._sweep_loop, self._deliverer.run]
        if self.kind == workers.CPU:
            loops.append(self._collector.run)
        for loop in loops:
            thread = threading.Thread(target=loop, name=loop.__name__.strip("_"), daemon=True)
            thread.start()
            self._threads.append(thread)
        metrics.JOB_SLOTS.labels(self.kind).set(self.slots)
        metrics.JOBS_HELD.labels(self.kind).set_function(lambda: self.running)
        log.info("worker.started", extra={"worker": self.id, "kind": self.kind, "slots": self.slots})

    @property
    def alive(self) -> bool:
        """Whether every thread that this worker needs still runs; asked from outside, by whoever restarts it."""
        needed = self._threads[1:] if self.draining.is_set() else self._threads
        return all(thread.is_alive() for thread in needed) or self._ended.is_set()

    def _register(self, session: db.Session) -> None:
        workers.register(
            session,
            self.id,
            kind=self.kind,
            host=socket.gethostname(),
            device_group=self.device_group,
            slots=self.slots,
        )

    def ring(self) -> None:
        """Look for jobs now."""
        self._bell.set()

    def drain(self) -> None:
        """Take nothing more, and ask every job to save and hand itself back."""
        self.draining.set()
        with self._lock:
            for held in self.held.values():
                held.draining.set()
        self._bell.set()

    def stop(self) -> None:
        """Drain, wait for the jobs, stop beating, and take this worker off the list."""
        self.drain()
        deadline = time.monotonic() + self.settings.drain_seconds
        while self.running and time.monotonic() < deadline:
            time.sleep(0.05)
        self._ended.set()
        self._collector.stop()
        self._deliverer.stop()
        for thread in self._threads:
            thread.join(10)
        with db.transaction() as session:
            workers.forget(session, self.id)
        log.info("worker.stopped", extra={"worker": self.id, "left_behind": self.running})

    @property
    def running(self) -> int:
        """How many jobs are in this worker's hands."""
        with self._lock:
            return len(self.held)

    def hand_back_all(self) -> None:
        """Ask every running job to save and go back to the queue, as a drain does, but go on afterwards."""
        with self._lock:
            for held in self.held.values():
                held.draining.set()

    def _claim_loop(self) -> None:
        while not self.draining.is_set():
            try:
                while self._may_claim() and self._start_one():
                    pass
            except (sa.exc.OperationalError, sa.exc.TimeoutError) as error:
                log.warning("claim.database_unavailable", extra={"reason": type(error).__name__})
            except Exception:
                log.exception("claim.failed")
            self._bell.wait(self.settings.poll_seconds)
            self._bell.clear()

    def _may_claim(self) -> bool:
        if self.draining.is_set() or self.running >= self.slots:
            return False
        scratch = self.settings.scratch_dir
        scratch.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(scratch).free
        if free < self.settings.min_free_bytes:
            log.error("claim.disk_full", extra={"worker": self.id, "free_bytes": free, "folder": str(scratch)})
        return free >= self.settings.min_free_bytes

    def _start_one(self) -> bool:
        started = time.perf_counter()
        job = self._take(self)
        if job is None:
            return False
        took = time.perf_counter() - started
        metrics.CLAIM_SECONDS.labels(self.kind).observe(took)
        tracing.passed("claim", took, parent=job.trace, worker=self.id, kind=self.kind)
        if job.claimed_at is not None:
            waited = (job.claimed_at - (job.queued_at or job.created_at)).total_seconds()
            metrics.WAIT_SECONDS.labels(self.kind).observe(waited)
        held = Held(job.id, job.fence, self._sure_until(time.monotonic()))
        with self._lock:
            earlier = self.held.get(job.id)
            self.held[job.id] = held
        threading.Thread(target=self._run_one, args=(job, held, earlier), name=job.id, daemon=True).start()
        return True

    def _run_one(self, job: Job, held: Held, earlier: Held | None) -> None:
        whose = {"job": job.id, "fence": job.fence, "worker": self.id}
        with logs.bound(**whose), tracing.span(WORK[self.kind], parent=job.trace, **whose):
            self._run_bound(job, held, earlier)

    def _run_bound(self, job: Job, held: Held, earlier: Held | None) -> None:
        """earlier: this very worker's own, which has lost the job and may not know it yet; it clears up first."""
        log.info("job.claimed")
        if earlier is not None:
            earlier.lose()
            earlier.ended.wait()
        try:
            failpoint("job.claimed")
            self._run(job, held)
        except Exception:
            # The job's lease runs out and a sweep puts it back; nothing is hidden from the log.
            log.exception("job.crashed")
        finally:
            with self._lock:
                if self.held.get(job.id) is held:  # else it was lost, and claimed again by this very worker
                    del self.held[job.id]
            held.ended.set()
            self._bell.set()
            if held.lost:
                self._note_loss(held)

    def _note_loss(self, held: Held) -> None:
        reason = "gone" if held.taken else "unreachable"
        metrics.LEASES_LOST.labels(self.kind, reason).inc()
        log.warning("lease.lost", extra={"reason": reason})

    def _heartbeat_loop(self) -> None:
        while not self._ended.wait(self.settings.heartbeat_seconds):
            try:
                self._beat()
            except sa.exc.SQLAlchemyError as error:
                log.warning("heartbeat.database_unavailable", extra={"reason": type(error).__name__})
            except Exception:
                log.exception("heartbeat.failed")

    def _beat(self) -> None:
        # Taken before the UPDATE: a job claimed while it runs is not in its reply, and is not lost for that.
        with self._lock:
            held = list(self.held.values())
        until = self._sure_until(time.monotonic())
        condition = Condition(self.base_key, self.slots - len(held), self.draining.is_set(), self.memory_bytes)
        with db.transaction() as session:
            statuses = claims.heartbeat(
                session,
                held={one.job_id: one.fence for one in held},
                lease_seconds=self.settings.lease_seconds,
            )
            if not workers.beat(session, self.id, condition):
                self._register(session)  # it was away for so long that others forgot it
        for one in held:
            status = statuses.get(one.job_id)
            if status is None:
                one.lose()
                continue
            one.until = until
            if status == states.PAUSING:
                one.pausing.set()

    def _sure_until(self, now: float) -> float:
        return now + SURE * self.settings.lease_seconds

    def _job_sweep_loop(self) -> None:
        self._sweep(partial(sweeps.sweep_jobs, self.settings))

    def _sweep_loop(self) -> None:
        self._sweep(partial(sweeps.sweep, self.settings, self.store))

    def _sweep(self, sweep: Callable[[], None]) -> None:
        while not self._ended.wait(self.settings.sweep_seconds):
            with metrics.SWEEP_SECONDS.time():
                outcome = _outcome(sweep)
            metrics.SWEEPS.labels(outcome).inc()


def _outcome(sweep: Callable[[], None]) -> str:
    try:
        sweep()
    except (sa.exc.OperationalError, sa.exc.TimeoutError) as error:
        log.warning("sweep.database_unavailable", extra={"reason": type(error).__name__})
        return "database_unavailable"
    except Exception:
        log.exception("sweep.failed")
        return "failed"
    return "done"
