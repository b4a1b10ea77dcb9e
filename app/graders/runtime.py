"""What this process grades with: the means, from the settings, and how many runs it lets go on at once."""

import sys
from dataclasses import dataclass

from app.config import Settings
from app.graders.endpoint import Endpoint
from app.graders.grading import Means
from app.graders.sandbox import Limits, Sandbox
from app.slots import Slots


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
