"""An API process over a database and an object folder of its own, for the benchmarks."""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from app import db
from app.auth import service as auth
from app.embedded.postgres import Postgres
from migrations import run as migrations
from tests.e2e.stack import ROOT, clean_environment, command


@dataclass(frozen=True)
class Backend:
    """A migrated database, a folder for objects, and a key."""

    folder: Path
    database_url: str
    key: str


@dataclass(frozen=True)
class Api:
    """A running API process; `started` is how many seconds it took to its first 200."""

    url: str
    pid: int
    started: float


@contextmanager
def backend(*, durable: bool = False) -> Iterator[Backend]:
    """durable: Postgres as it runs in production, with every commit on the disk."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # Postgres runs as another user when this runs as root
        postgres = Postgres(folder / "postgres", durable=durable)
        postgres.start()
        engine = db.create_engine(postgres.url)
        try:
            migrations.upgrade(engine)
            db.configure(engine)
            with db.transaction() as session:
                key = auth.create_key(session).value
            yield Backend(folder, postgres.url, key)
        finally:
            engine.dispose()
            postgres.stop()


@contextmanager
def running(behind: Backend, **changes: object) -> Iterator[Api]:
    """One API process; `changes` of settings. No Redis answers behind it unless one is named: it can serve without."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = clean_environment()
    environment |= {
        "TUNESMITH_DATABASE_URL": behind.database_url,
        "TUNESMITH_STORAGE_URL": f"file://{behind.folder}/objects",
        "TUNESMITH_REDIS_URL": "redis://127.0.0.1:1/0",
        "TUNESMITH_REQUESTS_PER_MINUTE": "200000",  # counted, but out of the way
        "TUNESMITH_QUOTA_WAITING_JOBS": "0",
        "OMP_NUM_THREADS": str(os.cpu_count()),
    }
    environment |= {f"TUNESMITH_{name.upper()}": str(value) for name, value in changes.items()}
    url = f"http://127.0.0.1:{port}"
    began = time.perf_counter()
    with (
        (behind.folder / "api.log").open("ab") as log,
        subprocess.Popen(command("api", "--port", str(port)), env=environment, cwd=ROOT, stdout=log, stderr=log) as api,
    ):
        try:
            _wait(f"{url}/readyz", api)
            yield Api(url, api.pid, time.perf_counter() - began)
        finally:
            api.terminate()


def _wait(url: str, process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.01)
    raise RuntimeError("the API process ended")
