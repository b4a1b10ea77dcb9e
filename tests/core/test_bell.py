"""Rings are hints: they wake whoever listens, and do not pile up where nobody does."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from app import queue
from app.config import Settings
from app.embedded.redis import Redis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def bell(server: Redis, monkeypatch: pytest.MonkeyPatch) -> queue.Bell:
    monkeypatch.setattr(queue.Bell, "PAUSE_SECONDS", 0.0)
    return queue.Bell(Settings(redis_url=server.url))  # type: ignore[call-arg]


def ring(bell: queue.Bell, name: str) -> None:
    bell.ring(name)
    bell._ringer.submit(lambda: None).result(60)  # it has one thread: this comes after the ring


def waiting(server: Redis) -> dict[str, int]:
    client = redis.Redis.from_url(server.url)
    try:
        return {name: client.llen(f"tunesmith:{name}") for name in (queue.CPU, queue.GPU)}
    finally:
        client.close()


def test_a_ring_reaches_its_queue(bell: queue.Bell, server: Redis) -> None:
    ring(bell, queue.GPU)
    assert waiting(server) == {queue.CPU: 0, queue.GPU: 1}


def test_rings_that_nobody_hears_do_not_pile_up(bell: queue.Bell, server: Redis) -> None:
    for _ in range(bell.MOST_UNHEARD + 20):
        ring(bell, queue.GPU)
    ring(bell, queue.CPU)
    assert waiting(server) == {queue.CPU: 1, queue.GPU: bell.MOST_UNHEARD}
