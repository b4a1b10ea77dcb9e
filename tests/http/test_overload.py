"""More requests than a process can work on: those that would wait too long are refused at once, and nobody else."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
import pytest
import sqlalchemy as sa
from live_server import Live, serving

from app import db
from app.http.overload import Admission
from app.main import create_app

JOBS = "/v1/fine_tuning/jobs"


@dataclass
class Stuck:
    """A server whose one thread stands still until it is released, with as many requests before it as may wait."""

    url: str
    entered: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        self.entered.set()
        assert self.release.wait(60)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def stuck(live: Live, pool: ThreadPoolExecutor) -> Iterator[Stuck]:
    """It lets go before the pool waits for its thread."""
    before = db.bound()
    app = create_app(live.app.state.settings.model_copy(update={"request_threads": 1, "request_backlog": 2}))
    with serving(app) as url:
        server = Stuck(url)
        app.state.store.check = server.check
        yield server
        server.release.set()
    assert isinstance(before, sa.Engine)
    db.configure(before)


@pytest.fixture
def http(live: Live, stuck: Stuck) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {live.key}"}
    with httpx.Client(base_url=stuck.url, headers=headers, timeout=60) as http:
        yield http


@pytest.fixture
def holder(stuck: Stuck, http: httpx.Client, pool: ThreadPoolExecutor) -> "Future[httpx.Response]":
    """The request that holds the thread."""
    holder = pool.submit(http.get, "/readyz")
    assert stuck.entered.wait(60)
    return holder


def refusal(http: httpx.Client) -> httpx.Response:
    """Ask until somebody is refused: the others wait on, though nobody waits for them."""
    for _ in range(20):
        try:
            return http.get(JOBS, timeout=0.5)
        except httpx.ReadTimeout:
            continue
    pytest.fail("nobody was refused")


def test_what_would_wait_too_long_is_refused_at_once(
    stuck: Stuck, http: httpx.Client, holder: "Future[httpx.Response]"
) -> None:
    reply = refusal(http)
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "overloaded"
    assert reply.json()["error"]["type"] == "service_unavailable_error"
    assert 1 <= int(reply.headers["Retry-After"]) <= 3
    assert reply.headers["x-request-id"]
    assert http.get("/healthz").status_code == 200
    stuck.release.set()
    assert holder.result().status_code == 200
    assert http.get("/readyz").status_code == 200  # the last in the queue
    assert http.get(JOBS).status_code == 200


def test_a_refused_upload_leaves_its_connection_usable(
    stuck: Stuck, http: httpx.Client, holder: "Future[httpx.Response]"
) -> None:
    """The rest of its body is not taken for the next request."""
    assert refusal(http).status_code == 503
    assert http.post("/v1/files", content=b"GET / HTTP/1.1\r\n" * 20_000).status_code == 503
    assert http.get("/healthz").json() == {"status": "ok"}
    stuck.release.set()
    assert holder.result().status_code == 200


def test_a_crowd_that_comes_at_once_is_counted() -> None:
    """Those who came in a moment ago do not wait for a thread yet, and count."""

    async def crowd() -> list[bool]:
        admission = Admission(backlog=2)
        first = [admission.grants(JOBS) for _ in range(4)]
        for _ in range(3):
            await asyncio.sleep(0)  # a turn of the loop
        return [*first, admission.grants(JOBS)]

    assert asyncio.run(crowd()) == [True, True, False, False, True]
