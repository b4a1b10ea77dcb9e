"""A hundred thousand queued jobs: how long a claim takes with sixteen claimers, and that no job is given twice.

First each claimer takes a job every 100 ms, twenty times as often as a worker looks; then all claim without a pause,
which says how many claims the machine does in a second: sixteen that are never idle wait for its cores.
"""

import secrets
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from app import db
from app.embedded.postgres import Postgres
from app.jobs import claims
from benchmarks import queue_rows
from benchmarks.figures import show
from migrations import run as migrations

QUEUED, FINISHED, PROJECTS = 100_000, 100_000, 50
CLAIMERS, CLAIMS = 16, 4_000
PACE_SECONDS = 0.1  # workers look every two seconds
TARGET_MS = 15.0


def run() -> None:
    with tempfile.TemporaryDirectory(prefix="claims-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        server = Postgres(folder / "postgres")
        server.start()
        try:
            engine = db.create_engine(server.url, pool_size=CLAIMERS + 2)
            migrations.upgrade(engine)
            db.configure(engine)
            _seed(engine)
            print(f"  {QUEUED} queued and {FINISHED} finished jobs of {PROJECTS} projects, {CLAIMERS} claimers")
            paced, hurried = _claim_all(PACE_SECONDS), _claim_all(0.0)
            _report(f"a claim each {1000 * PACE_SECONDS:.0f} ms", paced, f" (≤ {TARGET_MS:.0f})")
            _report("without a pause", hurried, "")
            jobs = [*paced.jobs, *hurried.jobs]
            show("jobs given twice (0)", [len(jobs) - len(set(jobs))], "")
            engine.dispose()
        finally:
            server.stop()


def _seed(engine: sa.Engine) -> None:
    """The queue at its longest."""
    with engine.begin() as connection:
        queue_rows.seed(connection, projects=PROJECTS, finished=FINISHED, queued=QUEUED)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))


@dataclass
class Claims:
    """seconds: of each claim; jobs: that were claimed; wall: seconds that all of it took."""

    seconds: list[float] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    wall: float = 0.0


def _claim_all(pace: float) -> Claims:
    """pace: seconds from one claim of a claimer to its next, or however long that takes."""
    done = Claims()
    began = time.perf_counter()
    with ThreadPoolExecutor(CLAIMERS) as pool:
        for seconds, jobs in pool.map(
            lambda number: _claim_some(began + pace * number / CLAIMERS, pace), range(CLAIMERS)
        ):
            done.seconds += seconds
            done.jobs += jobs
    done.wall = time.perf_counter() - began
    return done


def _claim_some(due: float, pace: float) -> tuple[list[float], list[str]]:
    worker = f"wkr_{secrets.token_hex(4)}"
    seconds, jobs = [], []
    for number in range(CLAIMS // CLAIMERS):
        time.sleep(max(0.0, due + pace * number - time.perf_counter()))
        started = time.perf_counter()
        with db.transaction() as session:
            job = claims.claim_queued(
                session, worker_id=worker, lease_seconds=600, base_key=queue_rows.BASE, alone=False
            )
        assert job is not None
        seconds.append(time.perf_counter() - started)
        jobs.append(job.id)
    return seconds, jobs


def _report(how: str, done: Claims, target: str) -> None:
    cuts = statistics.quantiles(done.seconds, n=100)
    show(f"{how}: claims", [len(done.jobs) / done.wall], "/s")
    show("  half of them within", [cuts[49] * 1000], "ms")
    show(f"  99 of 100 within{target}", [cuts[98] * 1000], "ms")
