"""Ten million events, and a report that reads for hours: what claims and pages of events cost beside them.

A transaction that stays open keeps vacuum, and every index, from forgetting rows that were changed since it began. The
figures are ratios to a database that is the same but for the events and the report, asked in turns. It needs 10 GB of
disk.
"""

import random
import secrets
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from app import db
from app.embedded.postgres import Postgres
from app.events import service as events
from app.jobs import claims
from benchmarks import queue_rows
from benchmarks.figures import show
from migrations import run as migrations

EVENTS_PER_JOB = 500
MANY, FEW = 20_000, 200  # jobs that have events
QUEUED, PROJECTS = 20_000, 50
BATCH = 1_000  # jobs whose events are written in one transaction
ROUNDS, CLAIMS, PAGES = 5, 200, 400
CLAIMS_MEANWHILE = 2_000  # while the report reads, before anything is measured: what vacuum cannot clear away
PAGE = 100
DISK_BYTES = 10 * 10**9
TARGET = 1.2  # of claims

Ask = Callable[[], float]


def run() -> None:
    with tempfile.TemporaryDirectory(prefix="many-events-") as name:
        folder = Path(name)
        if shutil.disk_usage(folder).free < DISK_BYTES:
            raise SystemExit(f"{folder}: less than {DISK_BYTES // 10**9} GB free; TMPDIR may name another folder")
        folder.chmod(0o711)
        server = Postgres(folder / "postgres")
        server.start()
        try:
            _compare(_Database(server, "few", FEW), _Database(server, "many", MANY))
        finally:
            server.stop()


class _Database:
    """A database with a queue, and with events of so many jobs."""

    def __init__(self, server: Postgres, name: str, jobs_with_events: int) -> None:
        self._jobs = jobs_with_events
        self._random = random.Random(1)  # noqa: S311 - the same rows each time
        admin = db.create_engine(server.database_url("postgres"))
        with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        admin.dispose()
        self.engine = db.create_engine(server.database_url(name), pool_size=4)
        migrations.upgrade(self.engine)
        started = time.perf_counter()
        self._seed()
        print(
            f"  {name}: {jobs_with_events * EVENTS_PER_JOB:,} events in {time.perf_counter() - started:.0f} s",
            flush=True,
        )

    def claim(self) -> float:
        """The seconds of one claim, as a worker makes it."""
        db.configure(self.engine)
        started = time.perf_counter()
        with db.transaction() as session:
            job = claims.claim_queued(
                session, worker_id="wkr_b", lease_seconds=600, base_key=queue_rows.BASE, alone=False
            )
        took = time.perf_counter() - started
        assert job is not None
        return took

    def page(self) -> float:
        """The seconds of one page of a job's events, somewhere in the middle."""
        db.configure(self.engine)
        job = f"ftjob-succeeded{self._random.randrange(self._jobs)}"
        with db.reading() as session:
            newest = events.newest(session, [job])[job]
        after = newest - self._random.randrange(EVENTS_PER_JOB - PAGE)
        started = time.perf_counter()
        with db.reading() as session:
            page = events.page(session, job, limit=PAGE, after_seq=after)
        took = time.perf_counter() - started
        assert len(page.rows) == PAGE
        return took

    @contextmanager
    def report(self) -> Iterator[None]:
        """A transaction that has seen the database once and stays open."""
        with self.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            connection.execute(sa.text("SET idle_in_transaction_session_timeout = 0"))
            connection.execute(sa.text("SELECT count(*) FROM projects"))
            yield

    def _seed(self) -> None:
        with self.engine.begin() as connection:
            queue_rows.seed(connection, projects=PROJECTS, finished=MANY, queued=QUEUED)
        for first in range(0, self._jobs, BATCH):
            last = min(first + BATCH, self._jobs) - 1
            with self.engine.begin() as connection:
                # The foreign key of ten million rows is known to hold.
                connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
                names = {"first": first, "last": last, "steps": EVENTS_PER_JOB, "salt": secrets.token_hex(4)}
                connection.execute(sa.text(_EVENTS), names)
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM ANALYZE"))


# Ten jobs run at once, so that as many share a page.
_EVENTS = """
    INSERT INTO events (id, job_id, level, type, message, data, step)
    SELECT 'ftevent-' || substr(md5(CAST(:salt AS text) || job || '.' || step), 1, 24), 'ftjob-succeeded' || job,
           'info', 'metrics', 'Step ' || step || '/' || CAST(:steps AS text) || ': training loss=0.50',
           jsonb_build_object('step', step, 'total_steps', CAST(:steps AS int), 'train_loss', random(),
                              'train_mean_token_accuracy', random()),
           step
    FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS job,
         generate_series(1, CAST(:steps AS int)) AS step
    ORDER BY job / 10, step, job
"""


def _compare(few: _Database, many: _Database) -> None:
    _turns("10 M events", few, many)
    with many.report():
        for _ in range(CLAIMS_MEANWHILE):
            few.claim()
            many.claim()
        _turns("10 M events, a report", few, many)
    few.engine.dispose()
    many.engine.dispose()


def _turns(label: str, few: _Database, many: _Database) -> None:
    """Both databases are asked in turns; the ratio of what they took in each round."""
    for what, target, count, of_few, of_many in (
        ("claim", f" (≤ {TARGET})", CLAIMS, few.claim, many.claim),
        (f"page of {PAGE}", "", PAGES, few.page, many.page),
    ):
        rounds = [_asked(of_few, of_many, count) for _ in range(ROUNDS)]
        for cut in (50, 99):
            without, beside = ([one[side][cut - 1] for one in rounds] for side in (0, 1))
            show(f"{what}, p{cut}: few events", [1000 * one for one in without], "ms")
            show(f"{what}, p{cut}: {label}", [1000 * one for one in beside], "ms")
            ratios = [b / a for a, b in zip(without, beside, strict=True)]
            show(f"{what}, p{cut}: ratio{target}", ratios, "")


def _asked(of_few: Ask, of_many: Ask, count: int) -> tuple[list[float], list[float]]:
    """The hundredths of how long each takes, in seconds."""
    pairs = [(of_few(), of_many()) for _ in range(count)]
    few, many = zip(*pairs, strict=True)
    return statistics.quantiles(few, n=100), statistics.quantiles(many, n=100)
