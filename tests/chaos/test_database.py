"""Postgres goes away, comes back, ends sessions, loses answers, or takes nothing but reads."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
import sqlalchemy as sa

from app import db
from app.embedded.postgres import Postgres
from app.jobs import states
from tests.chaos.child import Point
from tests.chaos.client import Client
from tests.chaos.fake_engine import STEP_SECONDS
from tests.chaos.history import Recovery
from tests.chaos.world import SLOW, World, lines, until
from tests.e2e.stack import ROOT

SLOWLY = {STEP_SECONDS: 0.02}
LONG = {"n_epochs": 40}


@contextmanager
def meanwhile(action: Callable[[], object], every: float) -> Iterator[None]:
    """Do something again and again beside the block."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(every):
            action()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(10)


@pytest.mark.short
def test_F57_postgres_stops_at_once_and_starts_again(world: World, postgres: Postgres) -> None:
    """The worker rides it out: no attempt is lost, and the API says 503 and is well again within 5 seconds."""
    (job,) = world.queued(1, **LONG)
    client = Client(world)
    world.spawn("gpu", lease_seconds=10 * SLOW, **SLOWLY)  # longer than Postgres takes to come back
    until(lambda: world.job(job).furthest_step > 3)
    pid = int((postgres.data / "postmaster.pid").read_text().split("\n", 1)[0])
    os.kill(pid, signal.SIGQUIT)  # an immediate shutdown: no checkpoint, the log is replayed
    try:
        until(lambda: client.get(f"/v1/fine_tuning/jobs/{job}").status_code == 503)
        until(lambda: not postgres.process.alive())
    finally:
        postgres.start()
        world.engine.dispose()  # the test's own connections are dead too, and were used too lately to be asked
    back = time.monotonic()
    until(lambda: client.get(f"/v1/fine_tuning/jobs/{job}").status_code == 200)
    recovered = Recovery("the API answers", time.monotonic() - back, 5.0 * SLOW)
    world.check([job], recoveries=(recovered,))
    assert world.job(job).attempts == {}


@pytest.mark.short
def test_F58_sessions_are_ended_in_the_middle_of_transactions(world: World) -> None:
    (job,) = world.queued(1, **LONG)
    world.spawn("gpu", **SLOWLY)
    with meanwhile(world.kill_backends, every=0.5 * SLOW):
        until(lambda: world.job(job).furthest_step > 40)
    world.check([job])


@pytest.mark.short
def test_F59_the_reply_to_a_commit_is_lost(world: World) -> None:
    """Every seventh commit is done, and nobody hears of it."""
    (job,) = world.queued(1, **LONG)
    counted = iter(range(10**6))

    def every_seventh(answer: bytes) -> bool:
        return b"COMMIT\0" in answer and next(counted) % 7 == 6

    world.database.swallow(every_seventh)
    world.spawn("gpu", **SLOWLY)
    world.settle([job])
    assert next(counted) > 14, "commits went through the proxy"
    world.database.mend()
    world.check([job])


def test_F59_a_client_creates_once_though_the_reply_to_its_commit_is_lost(world: World) -> None:
    client = Client(world)
    file_id = world.add_file(lines(12))
    counted = iter(range(10**6))
    world.database.swallow(lambda answer: b"COMMIT\0" in answer and next(counted) in {1, 3})
    job = client.create_job(file_id)
    world.database.mend()
    world.rescue()
    world.check([job])


@pytest.mark.short
def test_F60_the_database_takes_nothing_but_reads(world: World) -> None:
    """As a replica after a failover: reads are answered, writes get 503, and workers wait."""
    (job,) = world.queued(1, **LONG)
    client = Client(world)
    world.spawn("gpu", **SLOWLY)
    until(lambda: world.job(job).furthest_step > 3)
    read_only(world, on=True)
    body = {"model": "tiny-chat", "training_file": "file-a"}
    until(lambda: client.post("/v1/fine_tuning/jobs", body).status_code == 503)
    assert client.get(f"/v1/fine_tuning/jobs/{job}").status_code == 200
    read_only(world, on=False)
    world.check([job])


def read_only(world: World, *, on: bool) -> None:
    with db.transaction() as session:
        session.execute(sa.text("SET TRANSACTION READ WRITE"))
        name = session.scalar(sa.text("SELECT current_database()"))
        session.execute(sa.text(f"ALTER DATABASE {name} SET default_transaction_read_only = {'on' if on else 'off'}"))
    world.kill_backends()


_DISK = """
    CREATE TABLE disk AS SELECT false AS is_full;
    CREATE FUNCTION refuse_when_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF (SELECT is_full FROM disk) THEN
            RAISE EXCEPTION 'could not extend file "base/1/2": No space left on device' USING ERRCODE = 'disk_full';
        END IF;
        RETURN NEW;
    END $$;
"""
_REFUSE = "CREATE TRIGGER a_disk BEFORE INSERT OR UPDATE ON {} FOR EACH ROW EXECUTE FUNCTION refuse_when_full()"


def install_disk(world: World) -> None:
    """Let every row that is written look first whether there is room."""
    with world.engine.begin() as connection:
        connection.execute(sa.text(_DISK))
        for table in db.Base.metadata.tables:
            connection.execute(sa.text(_REFUSE.format(table)))


def fill_disk(world: World, *, full: bool) -> None:
    with world.engine.begin() as connection:
        connection.execute(sa.text("UPDATE disk SET is_full = :full"), {"full": full})


@pytest.mark.short
@pytest.mark.parametrize("until_said", ["database.away", "lease.lost"])
def test_F61_the_databases_disk_is_full(world: World, until_said: str) -> None:
    """Nothing can be written: reads go on, also with a key that was not seen before; writes are told why not.

    Workers wait, or let go of their jobs if it takes too long; when there is room again, all goes on by itself.
    """
    install_disk(world)
    (job,) = world.queued(1, **LONG)
    client, stranger = Client(world), Client(world)
    file_id = world.add_file(lines(12))
    patient = {"lease_seconds": 10 * SLOW} if until_said == "database.away" else {}
    world.spawn("gpu", **SLOWLY, **patient)
    until(lambda: world.job(job).furthest_step > 3)
    fill_disk(world, full=True)
    refused = client.post("/v1/fine_tuning/jobs", {"model": "tiny-chat", "training_file": file_id})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "storage_full"), refused.text
    assert int(refused.headers["retry-after"]) > 0
    assert client.http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": lines(12)}).status_code == 503
    assert stranger.get(f"/v1/fine_tuning/jobs/{job}").json()["status"] == states.RUNNING
    assert client.get("/readyz").status_code == 200
    until(lambda: world.said(until_said))
    fill_disk(world, full=False)
    again = client.create_job(file_id)
    world.rescue("cpu")
    world.check([job, again])
    if until_said == "database.away":
        assert world.job(job).attempts == {}


@pytest.mark.short
def test_F07_every_connection_is_taken(world: World) -> None:
    """Requests that find no connection get 503 within the pool's two seconds; health stays well."""
    client = Client(world, database_pool_size=1)
    file_id = world.add_file(lines(12))
    slow: list[httpx.Response] = []
    with db.transaction() as session:
        session.execute(sa.text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
        threads = [
            threading.Thread(target=lambda: slow.append(client.get("/v1/fine_tuning/jobs", timeout=30)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        until(lambda: any(reply.status_code == 503 for reply in slow), seconds=10 * SLOW)
        refused = [reply for reply in slow if reply.status_code == 503]
        assert all("retry-after" in reply.headers for reply in refused)
        assert max(reply.elapsed.total_seconds() for reply in refused) < 2 + 2 * SLOW
        assert client.get("/healthz").status_code == 200
    for thread in threads:
        thread.join(30)
    assert client.get(f"/v1/files/{file_id}").status_code == 200


def test_F67_two_migrators_at_once(postgres: Postgres) -> None:
    """One works, the other waits and finds everything done."""
    engine = db.create_engine(postgres.url)
    name = "migrated_twice"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE template0"))
    environment = {**os.environ, "TUNESMITH_DATABASE_URL": postgres.database_url(name)}
    command = [sys.executable, "-m", "app.cli.main", "migrate"]
    both = [subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.mark.short
def test_F63_a_deadlock_is_tried_again(world: World) -> None:
    """A stranger locks a job's row and its project's the other way round, again and again."""
    (job,) = world.queued(1, **LONG)
    world.spawn("gpu", Point("never"), **SLOWLY)
    until(lambda: world.job(job).furthest_step > 2)

    def cross() -> None:
        try:
            with db.transaction() as session:
                session.execute(sa.text("SET LOCAL deadlock_timeout = '10s'"))  # the other one is the victim
                session.execute(sa.text("UPDATE projects SET served_at = served_at"))
                session.execute(sa.text("SELECT pg_sleep(0.05)"))
                session.execute(sa.text("SELECT 1 FROM jobs WHERE id = :job FOR UPDATE"), {"job": job})
        except sa.exc.OperationalError:
            pass

    with meanwhile(cross, every=0.5 * SLOW):
        until(lambda: world.job(job).furthest_step > 40)
    world.check([job])
