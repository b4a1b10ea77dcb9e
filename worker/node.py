"""One worker process: it registers, keeps its leases alive, fills its free slots from Postgres, sweeps, and drains.

Kinds of thread: the claim loop, the heartbeat, the sweeper, the deliverer of webhooks, on a CPU worker the collector of
garbage, and one for each job. A ring only wakes the claim loop, which looks by itself every `poll_seconds` anyway.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa

from app import db, ids, logs, metrics
from app.config import Settings
from app.jobs import claims, states
from app.jobs.tables import Job
from app.storage import Store
from app.workers import service as workers
from app.workers.service import Condition
from worker import sweeps
from worker.deliverer import Deliverer
from worker.garbage import Collector

log = logging.getLogger(__name__)


@dataclass
class Held:
    """A job in this worker's hands, and what others have said about it since it was claimed."""

    job_id: str
    fence: int
    lost: threading.Event = field(default_factory=threading.Event)  # cancelled, or another's by now: touch nothing
    pausing: threading.Event = field(default_factory=threading.Event)
    draining: threading.Event = field(default_factory=threading.Event)  # save and hand back


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
            workers.register(
                session,
                self.id,
                kind=self.kind,
                host=socket.gethostname(),
                device_group=self.device_group,
                slots=self.slots,
            )
        loops = [self._claim_loop, self._heartbeat_loop, self._sweep_loop, self._deliverer.run]
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
                while self.running < self.slots and not self.draining.is_set() and self._start_one():
                    pass
            except (sa.exc.OperationalError, sa.exc.TimeoutError) as error:
                log.warning("claim.database_unavailable", extra={"reason": type(error).__name__})
            except Exception:
                log.exception("claim.failed")
            self._bell.wait(self.settings.poll_seconds)
            self._bell.clear()

    def _start_one(self) -> bool:
        started = time.perf_counter()
        job = self._take(self)
        if job is None:
            return False
        metrics.CLAIM_SECONDS.labels(self.kind).observe(time.perf_counter() - started)
        if job.claimed_at is not None:
            waited = (job.claimed_at - (job.queued_at or job.created_at)).total_seconds()
            metrics.WAIT_SECONDS.labels(self.kind).observe(waited)
        held = Held(job.id, job.fence)
        with self._lock:
            self.held[job.id] = held
        threading.Thread(target=self._run_one, args=(job, held), name=job.id, daemon=True).start()
        return True

    def _run_one(self, job: Job, held: Held) -> None:
        with logs.bound(job=job.id, fence=job.fence, worker=self.id):
            self._run_bound(job, held)

    def _run_bound(self, job: Job, held: Held) -> None:
        log.info("job.claimed")
        try:
            self._run(job, held)
        except Exception:
            # The job's lease runs out and a sweep puts it back; nothing is hidden from the log.
            log.exception("job.crashed")
        finally:
            with self._lock:
                if self.held.get(job.id) is held:  # else it was lost, and claimed again by this very worker
                    del self.held[job.id]
            self._bell.set()

    def _heartbeat_loop(self) -> None:
        renewed = time.monotonic()
        while not self._ended.wait(self.settings.heartbeat_seconds):
            started = time.monotonic()
            try:
                self._beat()
                renewed = started
            except (sa.exc.OperationalError, sa.exc.TimeoutError) as error:
                log.warning("heartbeat.database_unavailable", extra={"reason": type(error).__name__})
            # A worker that cannot renew must stop before its leases end, not after.
            if time.monotonic() - renewed > 0.8 * self.settings.lease_seconds:
                self._lose_all()

    def _beat(self) -> None:
        # Taken before the UPDATE: a job claimed while it runs is not in its reply, and is not lost for that.
        with self._lock:
            held = list(self.held.values())
        condition = Condition(self.base_key, self.slots - len(held), self.draining.is_set(), self.memory_bytes)
        with db.transaction() as session:
            statuses = claims.heartbeat(
                session,
                held={one.job_id: one.fence for one in held},
                lease_seconds=self.settings.lease_seconds,
            )
            workers.beat(session, self.id, condition)
        for one in held:
            status = statuses.get(one.job_id)
            if status is None:
                self._lose(one, "gone")
            elif status == states.PAUSING:
                one.pausing.set()

    def _lose_all(self) -> None:
        with self._lock:
            for held in self.held.values():
                self._lose(held, "unreachable")

    def _lose(self, held: Held, reason: str) -> None:
        if not held.lost.is_set():
            held.lost.set()
            metrics.LEASES_LOST.labels(self.kind, reason).inc()
            log.warning("lease.lost", extra={"job": held.job_id, "fence": held.fence, "reason": reason})

    def _sweep_loop(self) -> None:
        while not self._ended.wait(self.settings.sweep_seconds):
            with metrics.SWEEP_SECONDS.time():
                outcome = self._sweep()
            metrics.SWEEPS.labels(outcome).inc()

    def _sweep(self) -> str:
        try:
            sweeps.sweep(self.settings, self.store)
        except (sa.exc.OperationalError, sa.exc.TimeoutError) as error:
            log.warning("sweep.database_unavailable", extra={"reason": type(error).__name__})
            return "database_unavailable"
        except Exception:
            log.exception("sweep.failed")
            return "failed"
        return "done"
