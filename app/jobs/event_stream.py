"""A job's events as server-sent events (WHATWG HTML, section 9.2), from where the client left off to the job's end.

However many clients watch however many jobs, one query every `stream_poll_seconds` finds out which jobs have news.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa
from anyio import CapacityLimiter, to_thread

from app import db
from app.errors import TooManyRequests
from app.events import schemas
from app.events import service as events
from app.events.tables import Event
from app.jobs import states
from app.jobs.tables import Job

PING_SECONDS = 15.0  # proxies close what is silent for a minute
MOST_AT_ONCE = 500  # events read in one go
THREADS = 2  # that ask the database for streams
DONE = b"data: [DONE]\n\n"  # what OpenAI's clients take for the end of a stream
PING = b": still here\n\n"

Result = TypeVar("Result")


class TooManyStreams(TooManyRequests):
    """Too many event streams are open with this key."""


class Feed:
    """Who watches which job, and up to where there are events. One of it in a process, on its event loop."""

    def __init__(self, *, poll_seconds: float, streams_per_key: int) -> None:
        self._poll_seconds = poll_seconds
        self._streams_per_key = streams_per_key
        self._by_key: Counter[str] = Counter()
        self._watched: Counter[str] = Counter()
        self._newest: dict[str, int] = {}
        self._news = asyncio.Condition()
        self._poller: asyncio.Task[None] | None = None
        self._threads = CapacityLimiter(THREADS)

    async def ask(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Call what asks the database, in threads of the streams' own.

        A piece of news wakes hundreds of streams at once: requests do not wait behind them, nor are refused for them.
        """
        return await to_thread.run_sync(function, *arguments, limiter=self._threads)

    def check(self, key_id: str) -> None:
        """Raise TooManyStreams if this key has as many streams as it may."""
        if self._by_key[key_id] >= self._streams_per_key:
            raise TooManyStreams

    @contextmanager
    def watching(self, job_id: str, key_id: str) -> Iterator[None]:
        """Count a stream, and see to it that somebody looks for news."""
        counts = ((self._by_key, key_id), (self._watched, job_id))
        for counter, name in counts:
            counter[name] += 1
        if self._poller is None or self._poller.done():
            self._poller = asyncio.get_running_loop().create_task(self._poll())
        try:
            yield
        finally:
            for counter, name in counts:
                counter[name] -= 1
                if not counter[name]:
                    del counter[name]

    async def wait(self, job_id: str, beyond: int) -> bool:
        """Wait for an event of a job after `beyond`; False if none came in PING_SECONDS."""
        try:
            async with asyncio.timeout(PING_SECONDS), self._news:
                await self._news.wait_for(lambda: self._newest.get(job_id, 0) > beyond)
        except TimeoutError:
            return False
        return True

    async def _poll(self) -> None:
        while self._watched:
            newest = await self.ask(_newest, list(self._watched))
            async with self._news:
                self._newest = newest
                self._news.notify_all()
            await asyncio.sleep(self._poll_seconds)


def _newest(job_ids: Sequence[str]) -> dict[str, int]:
    """The last event's place of each job; nothing while the database does not answer: the streams wait it out."""
    try:
        with db.reading() as session:
            return events.newest(session, job_ids)
    except (sa.exc.OperationalError, sa.exc.TimeoutError):
        return {}


@dataclass(frozen=True)
class _Look:
    """What one look found: events, oldest first, and whether the job had ended before they were read."""

    events: Sequence[Event]
    ended: bool


async def stream(
    feed: Feed, job_id: str, after_seq: int, key_id: str, allowed: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """Every event after `after_seq`, then new ones as they come, until the job has ended or the key no longer works."""
    with feed.watching(job_id, key_id):
        seq = after_seq
        while True:
            look = await feed.ask(_look, job_id, seq)
            for event in look.events:
                seq = event.seq
                yield _message(event)
            if look.ended and not look.events:
                yield DONE
                return
            if look.events:
                continue
            if not await feed.wait(job_id, seq):
                yield PING
            if not await feed.ask(allowed):
                return


def _look(job_id: str, after_seq: int) -> _Look:
    """The status is read before the events: when it says that the job has ended, its last events are there."""
    with db.reading() as session:
        status = session.scalar(sa.select(Job.status).where(Job.id == job_id))
        found = events.after(session, job_id, after_seq, limit=MOST_AT_ONCE)
    return _Look(found, status in states.FINAL)


def _message(event: Event) -> bytes:
    data = json.dumps(schemas.event(event), ensure_ascii=False, separators=(",", ":"))
    return f"id: {event.id}\ndata: {data}\n\n".encode()
