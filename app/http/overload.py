"""More requests than this process can work on: those that would have to wait too long are refused at once.

Were nobody refused, the queue before the few threads that requests are worked on with would grow until each reply came
later than its client waits for it: all work, no use. And a refusal has to cost next to nothing, or to refuse is all
that the process does: the protocol writes it, before there is a task, a log line or a session.
"""

import asyncio
import logging
import secrets
import time

from anyio import to_thread

from app import metrics
from app.errors import Unavailable

log = logging.getLogger(__name__)

PROBES = frozenset({"/healthz", "/readyz"})  # a process with much to do is neither dead nor to be left alone
SPREAD_SECONDS = 3  # those who were refused together do not come back together
TELL_SECONDS = 1.0


class Overloaded(Unavailable):
    """The server has more to do than it can answer in time; try again soon."""

    code = "overloaded"

    def __init__(self) -> None:
        super().__init__()
        self.retry_after = 1 + secrets.randbelow(SPREAD_SECONDS)


class Admission:
    """Knows how many requests wait for a thread. Made in the event loop whose threads it looks at."""

    def __init__(self, backlog: int) -> None:
        """backlog: how many may wait."""
        self._backlog = backlog
        self._threads = to_thread.current_default_thread_limiter()
        self._loop = asyncio.get_running_loop()
        self._fresh = 0  # let in during this turn of the loop: they do not wait for a thread yet
        self._refused = 0
        self._told = time.monotonic()

    def grants(self, path: str) -> bool:
        """Whether a request may come in."""
        if path in PROBES:
            return True
        if self._fresh + self._threads.statistics().tasks_waiting >= self._backlog:
            return False
        if not self._fresh:
            self._loop.call_soon(self._loop.call_soon, self._turn)  # after the tasks of this turn have begun
        self._fresh += 1
        return True

    def _turn(self) -> None:
        self._fresh = 0

    def refuse(self, method: str) -> Overloaded:
        """What a request that may not is answered."""
        metrics.REQUESTS.labels(method, "none", Overloaded.status).inc()
        self._refused += 1
        if time.monotonic() - self._told >= TELL_SECONDS:
            log.warning("requests.refused", extra={"count": self._refused})
            self._refused, self._told = 0, time.monotonic()
        return Overloaded()
