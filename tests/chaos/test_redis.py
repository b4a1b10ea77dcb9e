"""Redis is a doorbell: whatever happens to it, no job is lost, and nothing waits for it."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as client_library

from app import queue
from app.embedded.redis import Redis
from app.jobs import states
from tests.chaos.client import Client
from tests.chaos.fake_engine import STEP_SECONDS
from tests.chaos.history import Recovery
from tests.chaos.proxy import Proxy
from tests.chaos.world import SLOW, World, lines, until


class Doorbell:
    """A Redis behind a proxy, which the world's processes are given."""

    def __init__(self, world: World, folder: Path) -> None:
        self.server = Redis(folder)
        self.server.start()
        self.proxy = Proxy(str(self.server.socket))
        world.environment["TUNESMITH_REDIS_URL"] = f"redis://127.0.0.1:{self.proxy.port}/0"
        self.direct = client_library.Redis(unix_socket_path=str(self.server.socket))

    def close(self) -> None:
        self.direct.close()
        self.proxy.close()
        self.server.stop()


@pytest.fixture
def doorbell(world: World, tmp_path: Path) -> Iterator[Doorbell]:
    made = Doorbell(world, tmp_path / "redis")
    yield made
    world.stop()
    made.close()


def ready(world: World) -> Client:
    """Of a process that has answered once: its first reply takes longer."""
    client = Client(world)
    assert client.get("/v1/files").status_code == 200
    return client


def create(client: Client, world: World) -> str:
    return client.create_job(world.add_file(lines(12)))


@pytest.mark.short
def test_F13_redis_is_down(world: World, doorbell: Doorbell) -> None:
    """Jobs are created without a delay and found by looking."""
    doorbell.proxy.cut()
    client = ready(world)
    world.spawn("cpu")
    world.spawn("gpu")
    started = time.monotonic()
    job = create(client, world)
    quick = Recovery("created", time.monotonic() - started, 2.0 * SLOW)
    world.check([job], recoveries=(quick,))


def test_F14_redis_is_flushed_with_a_hundred_jobs_queued(world: World, doorbell: Doorbell) -> None:
    jobs = world.queued(100, n_epochs=1)
    doorbell.direct.flushall()
    started = time.monotonic()
    world.spawn("gpu", **{STEP_SECONDS: 0.001})
    until(lambda: any(world.job(job).finished_at for job in jobs), seconds=30 * SLOW)
    first = Recovery("the first of them ends", time.monotonic() - started, 10.0 * SLOW)
    doorbell.direct.flushall()
    world.settle(jobs, seconds=300 * SLOW)
    world.check(jobs, recoveries=(first,))


@pytest.mark.short
def test_F15_redis_is_killed_under_a_running_job(world: World, doorbell: Doorbell) -> None:
    (job,) = world.queued(1, n_epochs=10)
    world.spawn("gpu", **{STEP_SECONDS: 0.02})
    until(lambda: world.job(job).furthest_step > 3)
    doorbell.server.process.stop()
    history = world.check([job])
    assert max(version.fence for version in history.versions) == 2, "it ran once"


@pytest.mark.short
def test_F16_redis_is_a_black_hole(world: World, doorbell: Doorbell) -> None:
    client = ready(world)
    world.spawn("cpu")
    world.spawn("gpu")
    doorbell.proxy.blackhole()
    started = time.monotonic()
    job = create(client, world)
    quick = Recovery("created", time.monotonic() - started, 2.0 * SLOW)
    world.settle([job])
    doorbell.proxy.mend()
    world.check([job], recoveries=(quick,))


def test_F17_redis_has_no_memory_left(world: World, doorbell: Doorbell) -> None:
    client = Client(world)
    doorbell.direct.config_set("maxmemory", "1mb")
    for policy in ("allkeys-lru", "noeviction"):
        doorbell.direct.config_set("maxmemory-policy", policy)
        workers = [world.spawn("cpu"), world.spawn("gpu")]
        job = create(client, world)
        world.settle([job])
        assert all(worker.is_alive() for worker in workers), world.logs()
    assert world.said("redis.takes_no_writes")
    assert not world.said("Frequent restarts detected")
    world.check([job])


@pytest.mark.short
def test_F18_twenty_rings_for_one_job(world: World, doorbell: Doorbell) -> None:
    """A ring carries nothing and starts nothing twice."""
    (job,) = world.queued(1, n_epochs=2)
    worker = world.spawn("gpu")
    settings = world.settings.model_copy(update={"redis_url": world.environment["TUNESMITH_REDIS_URL"]})
    bell = queue.Bell(settings)
    for _ in range(20):
        bell.ring(queue.GPU)
    history = world.check([job])
    assert max(version.fence for version in history.versions) == 2
    assert worker.exitcode in {None, -9}, "it lives until it is stopped"


def envelope(**changes: object) -> dict[str, object]:
    """A ring as Celery sends it, but for some changes; None takes a field away."""
    delivery = {"exchange": "", "routing_key": queue.CPU}
    properties = {"body_encoding": "base64", "delivery_tag": "t", "delivery_info": delivery, "priority": 0}
    whole = {
        "body": base64.b64encode(b"[[], {}, {}]").decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": queue.RING, "id": "garbage", "retries": 0},
        "properties": properties,
    } | changes
    return {name: value for name, value in whole.items() if value is not None}


TAG = {"delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": queue.CPU}}
NO_RINGS: dict[str, bytes | object] = {
    "not JSON": b"\x80\x04garbage",
    "nothing at all": b"",
    "too deep": b"[" * 100_000,
    "a number": 7,
    "a list": [],
    "no headers": envelope(headers=None),
    "headers of another shape": envelope(headers=["task"]),
    "no task": envelope(headers={}),
    "a task that is no name": envelope(headers={"task": ["x"]}),
    "another task": envelope(headers={"task": "os.system", "id": "garbage"}),
    "a task of Celery's own": envelope(headers={"task": "celery.backend_cleanup", "id": "garbage"}),
    "a megabyte": envelope(headers={"task": "x" * 2**20, "id": "garbage"}),
}
ODD_RINGS: dict[str, object] = {
    "a pickle": envelope(**{"content-type": "application/x-python-serialize"}),
    "no content type": envelope(**{"content-type": None}),
    "no properties": envelope(properties=None),
    "an unknown encoding of the body": envelope(properties={**TAG, "body_encoding": "rot13"}),
    "a body that is no base64": envelope(body="a"),
    "a body of another shape": envelope(body=base64.b64encode(b"7").decode()),
    "no delivery tag": envelope(properties={"body_encoding": "base64"}),
    "no delivery info": envelope(properties={"delivery_tag": "t"}),
    "long expired": envelope(headers={"task": queue.RING, "id": "old", "expires": "2020-01-01T00:00:00+00:00"}),
    "for the year 2999": envelope(headers={"task": queue.RING, "id": "eta", "eta": "2999-01-01T00:00:00+00:00"}),
    "a strange expiry": envelope(headers={"task": queue.RING, "id": "odd", "expires": {"a": 1}}),
    "a strange limit": envelope(headers={"task": queue.RING, "id": "odd", "timelimit": "x"}),
    "no id": envelope(headers={"task": queue.RING}),
    "a megabyte of arguments": envelope(headers={"task": queue.RING, "id": "big", "argsrepr": "x" * 2**20}),
}


@pytest.mark.short
def test_F20_garbage_in_redis(world: World, doorbell: Doorbell) -> None:
    """Each message that is no ring is logged once and dropped, and the worker goes on to hear those that are."""
    client = Client(world)
    worker = world.spawn("cpu", poll_seconds=3600)
    until(lambda: world.said("worker.started"))
    jobs = []
    for name, garbage in {**NO_RINGS, **ODD_RINGS}.items():
        raw = garbage if isinstance(garbage, bytes) else json.dumps(garbage)
        doorbell.direct.lpush(f"tunesmith:{queue.CPU}", raw)
        jobs.append(create(client, world))
        until(lambda: world.job(jobs[-1]).status == states.QUEUED, what=f"deaf after {name}\n{world.logs()}")
        assert worker.is_alive(), name
    until(lambda: doorbell.direct.llen(f"tunesmith:{queue.CPU}") == 0)  # the last ring may come after its job was taken
    assert world.said_all().count('"ring.garbled"') == len(NO_RINGS)
    assert max(len(line) for line in world.said_all().splitlines()) < 20_000, "nothing of a megabyte is logged"
    assert [key for key in doorbell.direct.scan_iter() if b"unacked" in key] == [], "nothing comes back"
    world.spawn("gpu", **{STEP_SECONDS: 0.001})
    world.check(jobs)
