"""What this process grades with: the means, from the settings, and how many runs it lets go on at once."""

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.config import Settings
from app.graders.endpoint import Endpoint
from app.graders.errors import TooManyRuns
from app.graders.grading import Means
from app.graders.sandbox import Limits, Sandbox


class Slots:
    """How many runs go on, in this process and for each project. Thread-safe.

    A run holds one of the API's request threads, for minutes at worst: without a bound a few clients could take all.
    """

    def __init__(self, most: int, most_per_project: int) -> None:
        self._most = most
        self._most_per_project = most_per_project
        self._running: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def taken(self, project_id: str) -> Iterator[None]:
        """Hold a slot for the block. Raises TooManyRuns at once if there is none."""
        with self._lock:
            if self._running.total() >= self._most or self._running[project_id] >= self._most_per_project:
                raise TooManyRuns
            self._running[project_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[project_id] -= 1
                if not self._running[project_id]:
                    del self._running[project_id]


@dataclass(frozen=True)
class Runtime:
    """The means of grading and the bound on it."""

    means: Means
    slots: Slots

    def close(self) -> None:
        """Let go of connections."""
        if self.means.endpoint is not None:
            self.means.endpoint.close()


def open_runtime(settings: Settings) -> Runtime:
    """The runtime the settings ask for. Starts and connects to nothing."""
    means = Means(settings.grader_seconds, _sandbox(settings), _endpoint(settings))
    return Runtime(means, Slots(settings.grader_runs, settings.grader_runs_per_project))


def _sandbox(settings: Settings) -> Sandbox | None:
    if not settings.python_graders:
        return None
    limits = Limits(
        seconds=settings.python_grader_seconds,
        memory=settings.python_grader_memory_bytes,
        disk=settings.python_grader_disk_bytes,
        processes=settings.python_grader_processes,
    )
    return Sandbox(limits, str(settings.python_grader_interpreter or sys.executable))


def _endpoint(settings: Settings) -> Endpoint | None:
    if settings.grader_base_url is None:
        return None
    key = settings.grader_api_key.get_secret_value() if settings.grader_api_key else None
    return Endpoint(str(settings.grader_base_url), key, settings.grader_models, settings.grader_model_seconds)
