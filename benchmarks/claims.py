"""A hundred thousand queued jobs: how long a claim takes with sixteen claimers, and that no job is given twice."""

import secrets
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import sqlalchemy as sa

from app import db
from app.embedded.postgres import Postgres
from app.jobs import claims
from benchmarks.figures import show
from migrations import run as migrations

QUEUED, FINISHED, PROJECTS = 100_000, 100_000, 50
CLAIMERS, CLAIMS = 16, 4_000
BASE = "tiny-chat@local:none:auto"
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
            _report(*_claim_all())
            engine.dispose()
        finally:
            server.stop()


def _seed(engine: sa.Engine) -> None:
    """Rows as the API and the workers leave them, many projects' jobs mixed, the queue at its longest."""
    with db.transaction() as session:
        session.execute(sa.text("INSERT INTO organizations (id, slug) VALUES ('org-b', 'b')"))
        session.execute(
            sa.text("""
                INSERT INTO projects (id, organization_id, name)
                SELECT 'proj_' || n, 'org-b', 'project ' || n FROM generate_series(0, :last) AS n
            """),
            {"last": PROJECTS - 1},
        )
        for status, count in (("succeeded", FINISHED), ("queued", QUEUED)):
            session.execute(
                sa.text("""
                    INSERT INTO jobs (id, project_id, status, finished_at, model, base_model, base_key, training_file,
                                      method, request, seed, queued_at, priority)
                    SELECT 'ftjob-' || :status || n, 'proj_' || (n % :projects), :status,
                           CASE WHEN :status = 'queued' THEN NULL ELSE now() END,
                           'tiny-chat', 'tiny-chat', :base, 'file-a', 'supervised', '{}', 1, now(), n % 3
                    FROM generate_series(1, :count) AS n
                """),
                {"status": status, "count": count, "projects": PROJECTS, "base": BASE},
            )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))


def _claim_all() -> tuple[list[float], list[str], float]:
    """Seconds of each claim, the jobs that were claimed, and how long all of it took."""

    def claim(_: int) -> list[tuple[float, str]]:
        worker = f"wkr_{secrets.token_hex(4)}"
        taken = []
        for _number in range(CLAIMS // CLAIMERS):
            started = time.perf_counter()
            with db.transaction() as session:
                job = claims.claim_queued(
                    session, worker_id=worker, lease_seconds=600, base_key=BASE, alone=False
                )  # fmt: skip
            assert job is not None
            taken.append((time.perf_counter() - started, job.id))
        return taken

    started = time.perf_counter()
    with ThreadPoolExecutor(CLAIMERS) as pool:
        taken = [one for some in pool.map(claim, range(CLAIMERS)) for one in some]
    return [seconds for seconds, _ in taken], [job for _, job in taken], time.perf_counter() - started


def _report(seconds: list[float], jobs: list[str], wall: float) -> None:
    cuts = statistics.quantiles(seconds, n=100)
    print(f"  {QUEUED} queued and {FINISHED} finished jobs of {PROJECTS} projects, {CLAIMERS} claimers")
    show("claims", [len(jobs) / wall], "/s")
    show("half of them within", [cuts[49] * 1000], "ms")
    show(f"99 of 100 within (≤ {TARGET_MS:.0f})", [cuts[98] * 1000], "ms")
    show("jobs given twice (0)", [len(jobs) - len(set(jobs))], "")
