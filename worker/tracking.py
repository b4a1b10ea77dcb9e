"""Weights & Biases: a job's step metrics as a run of the operator's account, server or folder.

Everything happens in a thread of its own. A tracking server that is slow, away or refuses costs the job a warning in
its events and nothing else.
"""

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from app.config import Settings
from app.jobs.tables import Job

log = logging.getLogger(__name__)

START_SECONDS = 60.0
END_SECONDS = 30.0  # how long a finished job's thread waits for the last upload
MAX_TAGS, MAX_TAG_LENGTH = 50, 64  # W&B's own

Tell = Callable[[str, str], None]  # level, message → an event of the job


def runs(job: Job, settings: Settings, tell: Tell) -> "list[WandbRun]":
    """A run for each W&B integration that a job asks for."""
    return [WandbRun(job, item["wandb"], settings, tell) for item in job.integrations or [] if item["type"] == "wandb"]


class WandbRun:
    """One run. Its id is the job's, so that a job that moves to another worker goes on with the same run."""

    def __init__(self, job: Job, wanted: dict[str, Any], settings: Settings, tell: Tell) -> None:
        self._job, self._wanted, self._settings, self._tell = job, wanted, settings, tell
        self._steps: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._failed = False
        self._thread = threading.Thread(target=self._work, name=f"wandb-{job.id}", daemon=True)
        self._thread.start()

    def log(self, step: dict[str, Any]) -> None:
        """Take one step's metrics."""
        self._steps.put(step)

    def end(self, *, failed: bool) -> None:
        """Close the run and say how it ended. A job that goes on later opens it again."""
        self._failed = failed
        self._steps.put(None)
        self._thread.join(END_SECONDS)

    def _work(self) -> None:
        try:
            run = self._start()
            while (step := self._steps.get()) is not None:
                run.log({name: value for name, value in step.items() if name != "step"}, step=step["step"])
            run.finish(exit_code=1 if self._failed else 0)
        except Exception as error:
            log.warning("wandb.failed", extra={"job": self._job.id, "reason": type(error).__name__}, exc_info=True)
            self._tell("warn", f"Weights & Biases could not be reached, so this job is not logged there: {error}"[:400])

    def _start(self) -> Any:
        import wandb  # a second and 60 MB, for those who use it

        self._settings.wandb_dir.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=self._wanted["project"],
            entity=self._wanted.get("entity"),
            name=self._wanted.get("name") or self._job.id,
            id=self._job.id,
            resume=None if self._settings.wandb_is_offline else "allow",
            tags=tags(self._job, self._wanted),
            config=config(self._job),
            dir=self._settings.wandb_dir,
            mode="offline" if self._settings.wandb_is_offline else "online",
            reinit="create_new",
            settings=_quiet(self._settings),
        )
        if not self._settings.wandb_is_offline:
            self._tell("info", f"Weights & Biases run: {run.url}")
        return run


def tags(job: Job, wanted: dict[str, Any]) -> list[str]:
    """The user's tags after the three that OpenAI's own integration sets, within W&B's limits."""
    automatic = ["openai/finetune", f"openai/{job.base_model}", f"openai/{job.id}"]
    return [tag[:MAX_TAG_LENGTH] for tag in dict.fromkeys([*automatic, *(wanted.get("tags") or [])])][:MAX_TAGS]


def config(job: Job) -> dict[str, Any]:
    """What a run is remembered by."""
    return {
        "model": job.model,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "hyperparameters": job.resolved,
        "seed": job.seed,
    }


def _quiet(settings: Settings) -> Any:
    """Nothing of this machine is told but the metrics: no code, no console, no host, no package list."""
    import wandb

    key = settings.wandb_api_key
    told = {"api_key": key.get_secret_value() if key else None, "base_url": settings.wandb_base_url}
    return wandb.Settings(
        **{name: value for name, value in told.items() if value is not None},
        init_timeout=START_SECONDS,
        host="tunesmith",
        console="off",
        silent=True,
        save_code=False,
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
