"""The API killed at each step of a request, left by its clients, stopped under load; webhooks; clocks gone wrong."""

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from app import db
from app.files.tables import File
from app.jobs.tables import Job
from tests.chaos.child import Point
from tests.chaos.client import Client
from tests.chaos.fake_engine import STEP_SECONDS
from tests.chaos.history import Recovery
from tests.chaos.sink import Sink
from tests.chaos.vanish import vanish
from tests.chaos.world import SLOW, World, died, kill, lines, until
from tests.receivers import OK, receiving

FORM = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.jsonl", lines(12))}}


def count(row: type) -> int:
    with db.reading() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(row)) or 0


def restart_when_dead(client: Client) -> threading.Thread:
    def wait() -> None:
        died(client.process)
        client.restart()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.short
def test_F01_killed_in_the_middle_of_an_upload(world: World) -> None:
    """No row and, after a while, no object; sent again it is there once."""
    client = Client(world)
    url = client.http.base_url
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: {url.host}\r\nAuthorization: {client.http.headers['authorization']}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 10000000\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        '--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    )
    with socket.create_connection((str(url.host), url.port or 80)) as upload:
        upload.sendall(head.encode() + 100 * lines(400))
        until(lambda: list((world.folder / "objects").rglob(".partial-*")))
        kill(client.process)
    assert count(File) == 0
    client.restart()
    assert client.persistently("/v1/files", **FORM).startswith("file-")
    assert count(File) == 1
    history = world.history(())
    assert history.orphans == ()
    assert list((world.folder / "objects").rglob(".partial-*")) == []


@pytest.mark.short
@pytest.mark.parametrize("point", [Point("file.stored"), Point("transaction.committed", nth=4)])
def test_F02_killed_after_a_file_was_stored(world: World, point: Point) -> None:
    """Before its row or after it: the client tries again and has one file, and no other object is left."""
    client = Client(world, point)
    again = restart_when_dead(client)
    assert client.persistently("/v1/files", **FORM).startswith("file-")
    again.join(60)
    assert count(File) == 1
    assert world.history(()).orphans == ()


@pytest.mark.short
@pytest.mark.parametrize("nth", [2, 3])
def test_F03_F10_killed_around_the_commit_that_creates_a_job(world: World, nth: int) -> None:
    """After the request took its slot, and after the job was committed: the retry gets the same job.

    The first commit of a request notes that its key is in use.
    """
    file_id = world.add_file(lines(12))
    client = Client(world, Point("transaction.committed", nth=nth))
    again = restart_when_dead(client)
    with ThreadPoolExecutor(1) as pool:
        created = pool.submit(client.create_job, file_id)
        again.join(60)
        with db.transaction() as session:
            session.execute(sa.text("UPDATE idempotency SET lease_until = now() - interval '1s' WHERE reply IS NULL"))
        job = created.result(60)
    assert count(Job) == 1
    world.rescue()
    world.check([job])


@pytest.mark.short
def test_F04_clients_vanish_at_random_points(world: World) -> None:
    """Two hundred half requests later the API answers as before, holds no connection and left no rows."""
    client = Client(world)
    url = client.http.base_url
    authorization = client.http.headers["authorization"]
    body = b'{"model": "tiny-chat", "training_file": "file-a"}'
    request = (
        f"POST /v1/fine_tuning/jobs HTTP/1.1\r\nHost: {url.host}\r\nAuthorization: {authorization}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    for number in range(200):
        with socket.create_connection((str(url.host), url.port or 80)) as gone:
            gone.sendall(request[: 1 + number * (len(request) - 1) // 199])
    until(lambda: _open_transactions() == 0)
    assert client.get("/v1/fine_tuning/jobs").json()["data"] == []
    log = (world.folder / "api-0.log").read_text()
    assert "Traceback" not in log
    assert "request.failed" not in log
    assert world.history(()).orphans == ()


def _open_transactions() -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%' AND datname = current_database()"
    with db.reading() as session:
        return session.scalar(sa.text(query)) or 0


@pytest.mark.short
def test_F05_every_request_thread_of_a_process_hangs(world: World) -> None:
    """Another process answers as ever; this one is not ready, and ends itself, saying where its threads stood."""
    bound = 3.0 * SLOW
    hurried = {"HANG_SECONDS": bound, "BEAT_SECONDS": 0.2}
    well = Client(world, **hurried)
    hanging = Client(world, Point("transaction.committed", "hang", nth=0), **hurried)
    file_id = world.add_file(lines(12))
    well.get("/v1/files")  # the first reply of a process takes longer
    with ThreadPoolExecutor(world.settings.request_threads) as pool:
        before = world.hits.read_text().count("transaction.committed")
        stuck = [pool.submit(hanging.get, "/v1/files") for _ in range(world.settings.request_threads)]
        until(lambda: world.hits.read_text().count("transaction.committed") >= before + len(stuck))
        with pytest.raises(httpx.TimeoutException):
            hanging.http.get("/readyz", timeout=1)
        while hanging.process.is_alive():
            started = time.monotonic()
            assert well.get("/v1/files").status_code == 200
            assert time.monotonic() - started < 1.0 * SLOW
            time.sleep(0.05)
            assert hanging.process.is_alive() or hanging.process.exitcode == 1
        assert all(isinstance(request.exception(60), httpx.TransportError) for request in stuck)
    log = (world.folder / "api-1.log").read_text()
    assert "Timeout (" in log
    assert " in failpoint" in log, log
    hanging.restart()
    job = hanging.create_job(file_id)
    assert well.process.is_alive()
    world.rescue()
    world.check([job])


def descriptors(pid: int | None) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident_bytes(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def watching(client: Client, job: str, streams: int) -> Iterator[list[socket.socket]]:
    """So many streams of a job's events, each of which has told the first one."""
    url = client.http.base_url
    request = (
        f"GET /v1/fine_tuning/jobs/{job}/events?stream=true HTTP/1.1\r\nHost: {url.host}\r\n"
        f"Authorization: {client.http.headers['authorization']}\r\n\r\n"
    ).encode()
    with ExitStack() as opened:
        sockets = []
        for _ in range(streams):
            one = opened.enter_context(socket.create_connection((str(url.host), url.port or 80), timeout=30 * SLOW))
            one.sendall(request)
            told = b""
            while b"Created fine-tuning job" not in told:
                more = one.recv(65536)
                assert more, told
                told += more
            sockets.append(one)
        yield sockets


@pytest.mark.short
def test_F08_two_hundred_event_streams_whose_clients_are_gone(world: World) -> None:
    """Nobody closes them: no packet comes any more. They are given up in time, with all that they held."""
    job = world.create(lines(12))
    client = Client(world, streams_per_key=200, PING_SECONDS=0.5, VANISHED_SECONDS=2.0 * SLOW)
    pid = client.process.pid
    with watching(client, job, 20):
        pass
    until(lambda: client.get(f"/v1/fine_tuning/jobs/{job}").status_code == 200)
    open_before = descriptors(pid)
    memory, recoveries = [], []
    for _ in range(3):
        with watching(client, job, 200) as sockets:
            assert descriptors(pid) >= 200
            assert client.get(f"/v1/fine_tuning/jobs/{job}/events?stream=true").status_code == 429
            for one in sockets:
                vanish(one)
            gone = time.monotonic()
            until(lambda: descriptors(pid) <= open_before + 5, seconds=60)
            recoveries.append(Recovery("streams given up", time.monotonic() - gone, 2.0 * SLOW + 5))
            memory.append(resident_bytes(pid))
    with watching(client, job, 1):
        pass  # the key has its streams back
    assert memory[2] < 1.1 * memory[0], memory
    world.rescue()
    world.check([job], recoveries=tuple(recoveries))


@pytest.mark.short
def test_F06_stopped_and_started_again_under_load(world: World) -> None:
    """Requests under way are answered; who tries again, as the SDK does, notices nothing."""
    client = Client(world)
    ended = threading.Event()
    answered: Counter[int] = Counter()

    def ask(number: int) -> None:
        with httpx.Client(base_url=client.http.base_url, headers=client.http.headers, timeout=10 * SLOW) as http:
            while not ended.is_set():
                try:
                    reply = http.get("/v1/fine_tuning/jobs")
                except httpx.TransportError:
                    time.sleep(0.05)
                    continue
                assert reply.status_code == 200, reply.text
                answered[number] += 1

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, number) for number in range(8)]

        def everybody_is_answered() -> None:
            before = answered.copy()
            until(lambda: all(answered[n] > before[n] for n in range(8)) or any(task.done() for task in asking))

        try:
            for _ in range(2):
                everybody_is_answered()
                client.process.terminate()
                client.process.join(30 * SLOW)
                assert client.process.exitcode is not None
                client.restart()
            everybody_is_answered()
        finally:
            ended.set()
        for task in asking:
            task.result(60)


@pytest.mark.short
@pytest.mark.parametrize("point", ["webhook.counted", "webhook.sent"])
def test_F86_killed_before_or_after_a_webhook_is_sent(world: World, point: str) -> None:
    """It arrives, perhaps twice, under one id and with one body."""
    with receiving(OK) as receiver:
        sink = Sink(world, receiver)
        (job,) = world.queued(1, n_epochs=1)
        dying = world.spawn("gpu", Point(point), **{STEP_SECONDS: 0.001})
        died(dying)
        world.settle([job])
        with db.transaction() as session:
            session.execute(sa.text("UPDATE webhook_deliveries SET due_at = now()"))
            session.execute(sa.text("UPDATE webhook_endpoints SET lease_until = NULL"))
        world.rescue("gpu")
        sink.wait()
        world.check([job], subscribed=(sink.endpoint,), webhooks=sink.delivered())
        assert len(receiver.requests) == (2 if point == "webhook.sent" else 1)


@pytest.mark.short
@pytest.mark.parametrize("days", [2, -2])
def test_F79_a_workers_clock_is_two_days_off(world: World, days: int) -> None:
    """Leases are the database's; events too."""
    (job,) = world.queued(1, n_epochs=4)
    other = world.create(lines(12))
    world.spawn("cpu", CLOCK_SHIFT=str(days * 86400))
    world.spawn("gpu", CLOCK_SHIFT=str(days * 86400), **{STEP_SECONDS: 0.02})
    world.check([job, other])
    assert world.job(job).attempts == {}
