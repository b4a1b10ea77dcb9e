"""Follow a job to its end: a live bar on a terminal, plain lines elsewhere."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.cli import events

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
    from rich.console import Console
    from rich.progress import Progress


PATIENCE = 40  # retries of a request; with the client's pauses five minutes, enough for a server to come back
PLAIN_SECONDS = 10.0  # between two steps that are told where no bar can be shown


@dataclass
class Pace:
    """Steps a second since the first step seen; the clock is passed in."""

    first_step: int | None = None
    first_seen: float = 0.0
    step: int = 0
    seen: float = 0.0

    def note(self, step: int, now: float) -> None:
        if self.first_step is None:
            self.first_step, self.first_seen = step, now
        self.step, self.seen = step, now

    def rate(self) -> float | None:
        """Steps per second, None before two different moments were seen."""
        if self.first_step is None or self.seen <= self.first_seen or self.step <= self.first_step:
            return None
        return (self.step - self.first_step) / (self.seen - self.first_seen)


def follow(client: "OpenAI", job_id: str, *, console: "Console") -> "FineTuningJob":
    """Show a job's events and progress until it ends; returns the finished job.

    A server that is there at first may go away for minutes. One that is not is an error at once.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}  {task.fields[speed]}  ETA {task.fields[eta]}"),
    )
    client.fine_tuning.jobs.retrieve(job_id)
    with Progress(*columns, console=console, transient=False) as progress:
        return _show(client.with_options(max_retries=PATIENCE), job_id, progress)


def _show(client: "OpenAI", job_id: str, progress: "Progress") -> "FineTuningJob":
    bar = progress.add_task("…", total=None, loss="-", speed="-", eta="-")
    pace, told = Pace(), -PLAIN_SECONDS
    for event in events.follow(client, job_id):
        if event.type == "metrics":
            _advance(progress, bar, pace, event)
            if not progress.console.is_terminal and pace.seen - told >= PLAIN_SECONDS:
                told = pace.seen
                _say(progress, event)
            continue
        _say(progress, event)
        # A message often tells of a new status.
        progress.update(bar, description=client.fine_tuning.jobs.retrieve(job_id).status)
    job = client.fine_tuning.jobs.retrieve(job_id)
    progress.update(bar, description=job.status, eta="0 s")
    return job


def _say(progress: "Progress", event: "FineTuningJobEvent") -> None:
    progress.console.print(f"{event.level:<5} {event.message}", markup=False, highlight=False, soft_wrap=True)


def _advance(progress: "Progress", bar: Any, pace: Pace, event: "FineTuningJobEvent") -> None:
    data: Any = event.data or {}
    if "step" not in data:
        return
    pace.note(data["step"], time.monotonic())
    progress.update(
        bar,
        completed=data["step"],
        total=data.get("total_steps"),
        loss=f"{data['train_loss']:.4f}" if "train_loss" in data else "-",
        speed=_speed(data, pace),
        eta=_eta(data, pace),
    )


def _speed(data: dict[str, Any], pace: Pace) -> str:
    """Tokens a second as the engine measured them, where the event says so; steps a second else."""
    if data.get("tokens_per_second"):
        return f"{data['tokens_per_second']:,.0f} tokens/s"
    rate = pace.rate()
    return f"{rate:.1f} steps/s" if rate else "-"


def _eta(data: dict[str, Any], pace: Pace) -> str:
    """Seconds to go, from the pace seen here."""
    rate = pace.rate()
    return f"{max(0, data['total_steps'] - pace.step) / rate:.0f} s" if rate and data.get("total_steps") else "-"
