"""Half an hour of everything (SOAK_SECONDS): does any process of `tunesmith up` grow, in memory or in descriptors?

Jobs are trained or cancelled, models and files come and go, events are streamed, webhooks delivered, nonsense is sent.
Memory is what is a process's own (RssAnon): pages it shares with files and others come and go by themselves. The
first third is warming up; what counts is the slope of the rest.
"""

import itertools
import os
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import openai
from openai import OpenAI

from benchmarks import running
from benchmarks.figures import memory_mb, show
from tests.e2e.stack import descendants
from tests.receivers import receiving

SECONDS = float(os.environ.get("SOAK_SECONDS", "1800"))
SAMPLE_SECONDS = 5.0
WARM = 1 / 3  # of the time
ROWS = 40
UPLOAD = running.TICKETS.read_bytes() * 40
TEN_MINUTES = 600.0


@dataclass
class Samples:
    """Of one process. at: seconds since the start; memory: MB; descriptors: how many are open."""

    command: str
    at: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def slope(self) -> float:
        """MB in ten minutes."""
        return statistics.linear_regression(self.at, self.memory).slope * TEN_MINUTES

    def more_descriptors(self) -> int:
        """By how much the most of the second half is more than the most of the first."""
        half = len(self.descriptors) // 2
        return max(self.descriptors[half:]) - max(self.descriptors[:half])


class Visitor:
    """Does one thing again and again until the time is over; what went wrong is raised in the end."""

    def __init__(self, visit: Callable[[int], None], pause: float) -> None:
        self._visit, self._pause = visit, pause
        self._over = threading.Event()
        self._error: BaseException | None = None
        self.visits = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._over.wait(self._pause):
                self._visit(self.visits)
                self.visits += 1
        except BaseException as error:  # noqa: BLE001 - raised by whoever stops it
            self._error = error


def run() -> None:
    with running.stack() as (client, data_dir), receiving() as hooks:
        client.post("/webhook_endpoints", body=_endpoint(hooks.url), cast_to=object)
        visits = {"jobs": (_jobs(client), 1.0), "polls": (_polls(client), 0.1), "files": (_files(client), 2.0)}
        visits |= {"streams": (_streams(client), 1.0), "nonsense": (_nonsense(client), 0.2)}
        visitors = {name: Visitor(*how) for name, how in visits.items()}
        try:
            samples = _watch(int((data_dir / "lock").read_text()))
        finally:
            for visitor in visitors.values():
                visitor.stop()
        counts = ", ".join(f"{visitor.visits} {name}" for name, visitor in visitors.items())
        print(f"  {counts}, {len(hooks.requests)} webhooks in {SECONDS:.0f} s; the last two thirds count")
    for one in sorted(samples, key=Samples.slope, reverse=True):
        grown = f"{one.slope():8.2f} MB / 10 min of {one.memory[-1]:6.0f}   {one.more_descriptors():+d} fd"
        print(f"  {grown}   {one.command[-70:]}")
    ours = [one for one in samples if "python" in one.command]
    show("memory in 10 min, the steepest of ours (≤ 1)", [max(one.slope() for one in ours)], "MB")
    show("memory in 10 min, the steepest of all", [max(one.slope() for one in samples)], "MB")
    show("descriptors more, of ours (0)", [max(one.more_descriptors() for one in ours)], "")


def _watch(root: int) -> list[Samples]:
    """Look at all processes until the time is over; those that were there all the time after warming up."""
    found: dict[int, Samples] = {}
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < SECONDS:
        if elapsed > SECONDS * WARM:
            for pid, command in descendants(root).items():
                _look(found.setdefault(pid, Samples(command)), pid, elapsed)
        time.sleep(SAMPLE_SECONDS)
    most = max(len(samples.at) for samples in found.values())
    return [samples for samples in found.values() if len(samples.at) == most]


def _look(samples: Samples, pid: int, elapsed: float) -> None:
    try:
        memory, descriptors = memory_mb(pid, "RssAnon"), len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except (OSError, StopIteration):
        return  # it has just ended
    samples.at.append(elapsed)
    samples.memory.append(memory)
    samples.descriptors.append(descriptors)


def _endpoint(url: str) -> dict[str, object]:
    events = ["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"]
    return {"name": "soak", "url": url, "event_types": events}


def _jobs(client: OpenAI) -> Callable[[int], None]:
    lines = running.TICKETS.read_bytes().splitlines(keepends=True)

    def visit(number: int) -> None:
        rows = b"".join(itertools.islice(itertools.cycle(lines), number % len(lines), number % len(lines) + ROWS))
        file = client.files.create(file=("tickets.jsonl", rows), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(model="tiny-chat", training_file=file.id)
        if number % 5 == 1:
            client.fine_tuning.jobs.cancel(job.id)
        while (job := client.fine_tuning.jobs.retrieve(job.id)).status not in running.ENDS:
            time.sleep(0.2)
        if job.fine_tuned_model:
            client.get(f"/fine_tuning/jobs/{job.id}/adapter", cast_to=openai.HttpxBinaryResponseContent).read()
            client.models.delete(job.fine_tuned_model)
        client.files.delete(file.id)

    return visit


def _polls(client: OpenAI) -> Callable[[int], None]:
    def visit(_: int) -> None:
        for job in client.fine_tuning.jobs.list(limit=5).data:
            client.fine_tuning.jobs.retrieve(job.id)
            client.fine_tuning.jobs.list_events(job.id, limit=10)

    return visit


def _files(client: OpenAI) -> Callable[[int], None]:
    def visit(_: int) -> None:
        file = client.files.create(file=("large.jsonl", UPLOAD), purpose="fine-tune")
        assert client.files.content(file.id).content == UPLOAD
        client.files.delete(file.id)

    return visit


def _streams(client: OpenAI) -> Callable[[int], None]:
    """Follow the newest job to its end."""

    def visit(_: int) -> None:
        for job in client.fine_tuning.jobs.list(limit=1).data:
            path = f"/fine_tuning/jobs/{job.id}/events?stream=true"
            client.get(path, cast_to=openai.HttpxBinaryResponseContent).read()

    return visit


def _nonsense(client: OpenAI) -> Callable[[int], None]:
    stranger = client.with_options(api_key="sk-none", max_retries=0)
    wrong: list[Callable[[], object]] = [
        lambda: client.fine_tuning.jobs.retrieve("ftjob-none"),
        lambda: client.files.create(file=("a.jsonl", b"{"), purpose="fine-tune"),
        lambda: client.fine_tuning.jobs.create(model="none", training_file="file-none"),
        stranger.models.list,
    ]

    def visit(number: int) -> None:
        try:
            wrong[number % len(wrong)]()
        except (openai.BadRequestError, openai.NotFoundError, openai.AuthenticationError, openai.RateLimitError):
            return
        raise AssertionError("nonsense was accepted")

    return visit
