"""Redis is a doorbell: whatever happens to it, no job is lost, and nothing waits for it."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as client_library

from app import queue
from app.embedded.redis import Redis
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


def create(client: Client, world: World) -> str:
    return client.create_job(world.add_file(lines(12)))


@pytest.mark.short
def test_F13_redis_is_down(world: World, doorbell: Doorbell) -> None:
    """Jobs are created without a delay and found by looking."""
    doorbell.proxy.cut()
    client = Client(world)
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
    client = Client(world)
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
        world.spawn("cpu")
        world.spawn("gpu")
        job = create(client, world)
        world.settle([job])
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
