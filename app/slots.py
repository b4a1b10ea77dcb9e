"""A bound on requests that hold one of the API's threads for long: without it a few clients could take all.

Whoever holds a slot waits for somebody else (a receiver, a judge, a disk). Meanwhile its thread is not counted, so that
the quick requests keep theirs.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from anyio import from_thread, to_thread

from app.errors import TooManyRequests


class TooManyAtOnce(TooManyRequests):
    """Too many requests of this kind are going on; try again."""


class Slots:
    """How many such requests go on, in this process and for each project. Thread-safe."""

    def __init__(self, most: int, most_per_project: int) -> None:
        self._most = most
        self._most_per_project = most_per_project
        self._running: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def taken(self, project_id: str) -> Iterator[None]:
        """Hold a slot for the block. Raises TooManyAtOnce at once if there is none."""
        with self._lock:
            if self._running.total() >= self._most or self._running[project_id] >= self._most_per_project:
                raise TooManyAtOnce
            self._running[project_id] += 1
        try:
            with _uncounted_thread():
                yield
        finally:
            with self._lock:
                self._running[project_id] -= 1
                if not self._running[project_id]:
                    del self._running[project_id]


@contextmanager
def _uncounted_thread() -> Iterator[None]:
    try:
        from_thread.run_sync(_allow, 1)
    except from_thread.NoEventLoopError:  # this is not one of the server's threads
        yield
        return
    try:
        yield
    finally:
        from_thread.run_sync(_allow, -1)


def _allow(more: int) -> None:
    to_thread.current_default_thread_limiter().total_tokens += more
