"""A small installation that a test may break: a database of its own behind a proxy, a store, workers in processes of
their own, and the test itself as one more node that nobody kills.
"""

import contextlib
import json
import os
import random
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

from app import db, storage
from app.auth import service as auth
from app.config import Settings
from app.embedded.postgres import SOCKET, Postgres
from app.jobs import states
from app.jobs.tables import Job
from app.models import catalog
from tests.chaos import child, fake_engine, recorder
from tests.chaos.child import Point
from tests.chaos.history import History, violations
from tests.chaos.proxy import Proxy
from tests.worker_bench import Bench, lines
from worker import supervisor

SEED = 3  # of every job of `Bench.create`
ROLE = "processes"  # as whom they are in the database: their sessions can be told from the test's
SLOW = float(os.environ.get("CHAOS_SLOW", "1"))  # how much slower than a quiet laptop this machine is
CLOCKS = {"heartbeat_seconds": 0.3, "lease_seconds": 3.0 * SLOW, "sweep_seconds": 0.5, "poll_seconds": 0.2}
OFTEN = {"resume_interval_seconds": 0.05}  # for short jobs whose states matter: one at nearly every step
# From the death of a worker to the next claim of its job: the lease, and a process that starts.
PICK_UP_SECONDS = 3.0 * SLOW + 2.0 * SLOW**2
if os.environ.get("CHAOS_CLOCKS") == "default":
    CLOCKS = {name: Settings.model_fields[name].default for name in CLOCKS}
    PICK_UP_SECONDS = 60.0


@dataclass
class World(Bench):
    """The bench of the worker tests, with processes."""

    folder: Path = field(default_factory=Path)
    database: Proxy = field(init=False)
    engine: sa.Engine = field(init=False)  # the test's own
    hits: Path = field(init=False)  # the names of the failpoints that its processes came past
    processes: list[ForkServerProcess] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)  # what its processes are started with
    replies: list[Any] = field(default_factory=list)
    closing: list[Callable[[], object]] = field(default_factory=list)  # what is to be closed in the end

    def spawn(self, kind: str, *points: Point, engine: str = child.FAKE_ENGINE, **changes: object) -> ForkServerProcess:
        """Start an API or a worker in a process of its own. changes: settings, or variables in capitals."""
        environment = self.environment | {
            name if name.isupper() else f"TUNESMITH_{name.upper()}": str(value) for name, value in changes.items()
        }
        log = self.folder / f"{kind}-{len(self.processes)}.log"
        process = child.start(kind, environment, log=log, points=points, hits=self.hits, engine=engine)
        self.processes.append(process)
        return process

    def rescue(self, *kinds: str) -> None:
        """Start workers that stay whole, in this very process."""
        self.start(*(kinds or ("cpu", "gpu")))

    def queued(self, count: int = 1, **hyperparameters: Any) -> list[str]:
        """Jobs that are prepared and wait for a GPU worker."""
        jobs = [self.create(lines(12), **hyperparameters) for _ in range(count)]
        (node,) = self.start("cpu")
        for job_id in jobs:
            self.wait(job_id, states.QUEUED)
        node.stop()
        self.nodes.remove(node)
        return jobs

    def settle(self, jobs: Sequence[str], seconds: float = 60 * SLOW) -> list[Job]:
        """Wait until each of these jobs has come to its end, whatever it is."""
        deadline = time.monotonic() + seconds
        while True:
            with db.reading() as session:
                found = session.scalars(sa.select(Job).where(Job.id.in_(jobs)).order_by(Job.seq)).all()
            unsettled = {job.id: (job.status, job.phase, job.attempts) for job in found if job.finished_at is None}
            if not unsettled:
                return list(found)
            assert time.monotonic() < deadline, f"not settled: {unsettled}\n{self.logs()}"
            time.sleep(0.05)

    def said(self, word: str) -> bool:
        """Whether a process logged this."""
        return any(word in path.read_text(errors="replace") for path in self.folder.glob("*.log"))

    def said_all(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def logs(self) -> str:
        """The end of what each process logged."""
        return "\n".join(path.read_text(errors="replace")[-4000:] for path in sorted(self.folder.glob("*.log")))

    def history(self, jobs: Sequence[str], **more: object) -> History:
        """What happened to these jobs, once every worker has stopped."""
        self.stop()
        return recorder.take(self, jobs).but(**more)

    def check(self, jobs: Sequence[str], *, status: str = states.SUCCEEDED, **more: object) -> History:
        """Wait for the end, and judge the run: every job has this status, and every invariant holds."""
        ended = {job.id: (job.status, job.error) for job in self.settle(jobs)}
        assert {found for found, _ in ended.values()} == {status}, (ended, self.logs())
        history = self.history(jobs, **more)
        found = violations(history)
        assert found == [], "\n".join([*found, self.logs()])
        return history

    def undisturbed(self, job: Job) -> str | None:
        """The hash of the weights of this job in a run in which nothing happens."""
        if job.prepared_key is None or job.total_steps is None:
            return None
        manifest = b"".join(self.store.read(job.prepared_key + "manifest.json"))
        return fake_engine.undisturbed(manifest, job.seed, job.total_steps)

    def trace(self) -> list[dict[str, Any]]:
        path = self.folder / "trace.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def pause_nodes(self) -> None:
        """Stop the workers of this process."""
        for node in self.nodes:
            node.stop()
        self.nodes.clear()

    def stop(self) -> None:
        """Stop what still runs: the processes by their ids, and the nodes of this process."""
        for process in self.processes:
            kill(process)
        self.pause_nodes()

    def kill_backends(self) -> int:
        """End every session of the world's processes, as an administrator or a failover does."""
        theirs = "FROM pg_stat_activity WHERE datname = current_database() AND usename = :role"
        with db.transaction() as session:
            query = sa.text(f"SELECT count(pg_terminate_backend(pid)) {theirs}")
            return session.scalar(query, {"role": ROLE}) or 0


def kill(process: ForkServerProcess, number: int = signal.SIGKILL) -> None:
    """Send a signal, and wait for the end if it is a deadly one."""
    if process.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid or 0, signal.SIGCONT)
            os.kill(process.pid or 0, number)
    if number == signal.SIGKILL:
        process.join(30)


def died(process: ForkServerProcess, seconds: float = 60) -> None:
    """Wait until it was killed by its failpoint."""
    process.join(seconds)
    assert process.exitcode == -signal.SIGKILL, f"it was to die at its failpoint: {process.exitcode}"


def until(condition: Callable[[], object], seconds: float = 30 * SLOW, what: str = "it did not happen in time") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def free_port() -> int:
    """A port that nobody listens on, and that the system gives to nobody who connects while an API starts again."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextlib.contextmanager
def world(postgres: Postgres, folder: Path, monkeypatch: Any) -> Iterator[World]:
    """A world over a fresh database."""
    name = f"chaos_{secrets.token_hex(4)}"
    monkeypatch.setattr(supervisor, "MODULE", child.FAKE_ENGINE)
    monkeypatch.setenv(fake_engine.TRACE, str(folder / "trace.jsonl"))
    hits = folder / "hits"
    hits.touch()
    child.arm((), hits)  # this process's own workers come past the failpoints too
    with _database(postgres, name) as engine, Proxy(str(postgres.sockets / SOCKET)) as proxy:
        db.configure(engine)
        recorder.install(engine)
        settings = _settings(folder)
        made = _world(settings, folder)
        made.database, made.engine, made.hits = proxy, engine, hits
        url = f"postgresql+psycopg://{ROLE}@127.0.0.1:{proxy.port}/{name}"
        made.environment = _environment(settings, url)
        try:
            yield made
        finally:
            proxy.mend()
            made.stop()
            for close in made.closing:
                close()


@contextlib.contextmanager
def _database(postgres: Postgres, name: str) -> Iterator[sa.Engine]:
    with psycopg.connect(host=str(postgres.sockets), user="tunesmith", dbname="postgres", autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'tunesmith'")
        admin.execute(f"CREATE DATABASE {name} TEMPLATE tunesmith")
        # The tests' server forgets its last commits when it is killed; this database may not.
        admin.execute(f"ALTER DATABASE {name} SET synchronous_commit = on")
        if admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [ROLE]).fetchone() is None:
            admin.execute(f"CREATE ROLE {ROLE} LOGIN SUPERUSER")
    engine = db.create_engine(postgres.database_url(name), pool_size=20)
    try:
        yield engine
    finally:
        engine.dispose()
        with psycopg.connect(host=str(postgres.sockets), user="tunesmith", dbname="postgres", autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _settings(folder: Path) -> Settings:
    return Settings(
        storage_url=f"file://{folder}/objects",
        scratch_dir=folder / "scratch",
        models_dir=folder / "models",
        drain_seconds=20,
        engine_threads=1,
        engine_isolation="off",
        resume_interval_seconds=0.3,
        requests_per_minute=0,
        webhook_loopback_http=True,
        webhook_poll_seconds=0.2,
        secret_keys="MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
        **CLOCKS,
    )  # type: ignore[arg-type]


def _environment(settings: Settings, url: str) -> dict[str, str]:
    names = ("storage_url", "models_dir", "drain_seconds", "engine_threads", "resume_interval_seconds", *CLOCKS)
    names += ("engine_isolation", "requests_per_minute", "webhook_loopback_http", "webhook_poll_seconds")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TUNESMITH_")}
    given = {f"TUNESMITH_{name.upper()}": str(getattr(settings, name)) for name in names}
    return kept | given | {
        "TUNESMITH_DATABASE_URL": url,
        "TUNESMITH_SCRATCH_DIR": str(settings.scratch_dir.with_name("scratch-of-processes")),
        "TUNESMITH_SECRET_KEYS": settings.secret_keys.get_secret_value(),
    }  # fmt: skip


def _world(settings: Settings, folder: Path) -> World:
    with db.transaction() as session:
        caller = auth.authenticate(session, auth.create_key(session).value)
    models = catalog.load(settings.catalog_path)
    return World(settings, storage.open_store(settings), caller, models, folder=folder)
