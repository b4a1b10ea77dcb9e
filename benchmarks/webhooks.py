"""Deliveries of webhooks by two worker processes, while an endpoint with a long queue answers nothing."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import sqlalchemy as sa

from app import config, db
from app.embedded.postgres import Postgres
from app.webhooks.tables import Delivery, Endpoint
from benchmarks.figures import show
from migrations import run as migrations
from tests.e2e.stack import ROOT
from tests.job_rows import add_project
from tests.webhooks.rows import KEYS, add_endpoint, announce

RUNS, ENDPOINTS, EVENTS = 3, 10, 200
BACKLOG = 10_000  # of the dead endpoint
RECEIVER = """
import threading
from tests.receivers import receiving
silence = threading.Event()
with receiving() as sound, receiving(lambda *_: silence.wait()) as dead:
    print(sound.url, dead.url, flush=True)
    silence.wait()
"""
DELIVERER = """
from app import db
from app.config import Settings
from worker.deliverer import Deliverer
settings = Settings()
db.configure(db.create_engine(settings.database_url))
Deliverer(settings).run()
"""


def run() -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        Path(folder).chmod(0o755)  # Postgres runs as another user when this runs as root
        postgres = Postgres(Path(folder) / "postgres")
        postgres.start()
        stack.callback(postgres.stop)
        engine = db.create_engine(postgres.url)
        stack.callback(engine.dispose)
        migrations.upgrade(engine)
        db.configure(engine)
        sound, dead = stack.enter_context(running(RECEIVER, postgres)).split()
        add_endpoint(silent := add_project(), dead)
        announce(silent, BACKLOG)
        project = add_project()
        for _ in range(ENDPOINTS):
            add_endpoint(project, sound)
        for _ in range(2):
            stack.enter_context(running(DELIVERER, postgres, talks=False))
        measure(project)


def measure(project: str) -> None:
    announce(project)
    wait(lambda: delivered(project) == ENDPOINTS)  # both are warm
    rates, waits = [], []
    for _ in range(RUNS):
        before, started = delivered(project), time.perf_counter()
        announce(project, EVENTS)
        wait(lambda before=before: delivered(project) == before + EVENTS * ENDPOINTS)  # type: ignore[misc]
        rates.append(EVENTS * ENDPOINTS / (time.perf_counter() - started))
        for _ in range(10):
            before, started = delivered(project), time.perf_counter()
            announce(project)
            wait(lambda before=before: delivered(project) == before + ENDPOINTS)  # type: ignore[misc]
            waits.append(time.perf_counter() - started)
    show(f"webhooks to {ENDPOINTS} endpoints beside a dead one (> 200)", rates, "/s")
    show("one event to all of them, beside a dead one", waits, "s")


def delivered(project: str) -> int:
    counted = sa.select(sa.func.count()).select_from(Delivery).join(Endpoint, Endpoint.id == Delivery.endpoint_id)
    with db.reading() as session:
        return session.scalar(counted.where(Endpoint.project_id == project, Delivery.status == "delivered")) or 0


def wait(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


@contextmanager
def running(script: str, postgres: Postgres, *, talks: bool = True) -> Iterator[str]:
    """A child process; the value is the first line it says."""
    changes = {"database_url": postgres.url, "secret_keys": KEYS, "webhook_loopback_http": True}
    environment = config.environment(changes) | {"PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert child.stdout is not None
    try:
        yield child.stdout.readline() if talks else ""
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
