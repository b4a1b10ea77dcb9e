"""What `tunesmith up` runs: Postgres, Redis, the API and both workers, in this order."""

import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app import config
from app.embedded.data_directory import secret_keys
from app.embedded.postgres import Postgres
from app.embedded.process import Lifeline, Process
from app.embedded.redis import Redis

READY_SECONDS = 120.0  # a cold disk reads torch for most of a minute
HAND_BACK_SECONDS = 10.0  # what a worker may take beyond its drain time
BUNDLED_BASE = "tiny-chat"  # on every machine, so that the engine is warm before the first job
WORKER_KINDS = frozenset({"cpu", "gpu"})
# Off where only this machine can call; else as everywhere.
LIMITS = (
    "requests_per_minute",
    "quota_storage_bytes",
    "quota_running_jobs",
    "quota_waiting_jobs",
    "quota_monthly_tokens",
)


class NotReady(Exception):
    """The stack did not come up; the message names what is missing."""


class Child(Protocol):
    """What the supervisor asks of each thing it runs."""

    @property
    def process(self) -> Process: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


@dataclass
class Command:
    """A child that is one of our own commands."""

    process: Process

    def start(self) -> None:
        self.process.start()

    def stop(self) -> None:
        self.process.stop()


@dataclass(frozen=True)
class Ready:
    """What `up` tells its user."""

    base_url: str
    api_key: str
    key_file: Path


class Stack:
    """Everything behind one data directory.

    listener: the API's listening socket; held here, so that a restarted API finds its port and no client is refused.
    """

    def __init__(self, data_dir: Path, listener: socket.socket, settings: config.Settings) -> None:
        self.data_dir = data_dir
        self.listener = listener
        self.settings = settings
        self.lifeline = Lifeline()
        logs = data_dir / "logs"
        self.postgres = Postgres(data_dir / "postgres", log=logs / "postgres.log", lifeline=self.lifeline)
        self.redis = Redis(data_dir / "redis", log=logs / "redis.log", lifeline=self.lifeline)
        drain = settings.drain_seconds + HAND_BACK_SECONDS
        serve = ["api", "--listen-fd", str(listener.fileno())]
        self.commands: list[Child] = [
            self._command("api", serve, grace=10.0, descriptors=[listener.fileno()]),
            self._command("worker-cpu", ["worker", "cpu"], grace=drain),
            self._command("worker-gpu", ["worker", "gpu"], grace=drain),
        ]
        self.children: list[Child] = [self.postgres, self.redis, *self.commands]

    @property
    def address(self) -> str:
        """Scheme, host and port of the API."""
        return f"http://{_for_url(self.settings.host)}:{self.listener.getsockname()[1]}"

    @property
    def changes(self) -> dict[str, object]:
        """The settings the children get beside those of the environment; what the user has set is kept."""
        defaults: dict[str, object] = {
            "warm_base": BUNDLED_BASE,
            "storage_url": f"file://{self.data_dir / 'objects'}",
            "models_dir": self.data_dir / "models",
            "scratch_dir": self.data_dir / "scratch",
            "wandb_dir": self.data_dir / "wandb",
            "wandb_offline": True,
            "secret_keys": secret_keys(self.data_dir),
        }
        if config.is_loopback(self.settings.host):
            defaults |= dict.fromkeys(LIMITS, 0)
            defaults["webhook_loopback_http"] = True
        defaults = {name: value for name, value in defaults.items() if name not in self.settings.model_fields_set}
        return defaults | {"database_url": self.postgres.url, "redis_url": self.redis.url}

    def start(self) -> Ready:
        """Start everything and wait until the API is ready and both workers have reported.

        Raises NotReady, or RuntimeError if Postgres or Redis cannot be started.
        """
        from app.embedded import own_database

        self.postgres.start()
        self.redis.start()
        key_file = self.data_dir / "api-key"
        key = own_database.open_with_key(self.postgres.url, key_file)
        since = own_database.now()
        for child in self.commands:
            child.start()
        self._wait_until_ready(lambda: own_database.worker_kinds(since))
        return Ready(f"{self.address}/v1", key, key_file)

    def stop(self) -> None:
        """Stop every child, the last started first."""
        for child in reversed(self.children):
            child.stop()
        self.lifeline.close()

    def _wait_until_ready(self, kinds: Callable[[], set[str]]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while missing := self._missing(kinds):
            for child in self.children:
                if not child.process.alive():
                    name, log = child.process.name, child.process.log
                    raise NotReady(f"{name} ended with status {child.process.status()}; see {log}")
            if time.monotonic() > deadline:
                raise NotReady(f"not ready after {READY_SECONDS:.0f} s: {missing}; see {self.data_dir / 'logs'}")
            time.sleep(0.25)

    def _missing(self, kinds: Callable[[], set[str]]) -> str:
        """What is not there yet, in words; empty when all is."""
        trouble = _trouble(f"{self.address}/readyz")
        if trouble:
            return trouble
        absent = WORKER_KINDS - kinds()
        return f"no sign of worker {' and '.join(sorted(absent))}" if absent else ""

    def _command(
        self, name: str, arguments: Sequence[str], *, grace: float, descriptors: Sequence[int] = ()
    ) -> Command:
        process = Process(
            name=name,
            command=[sys.executable, "-m", "app.cli.main", *arguments],
            log=self.data_dir / "logs" / f"{name}.log",
            lifeline=self.lifeline,
            grace=grace,
            environment=config.environment(self.changes),
            descriptors=descriptors,
        )
        return Command(process)


def _trouble(url: str) -> str:
    """Why a health check fails, in words; empty when it does not."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy stands before our own child
    try:
        with opener.open(url, timeout=5):
            return ""
    except urllib.error.HTTPError as error:
        with error:
            return f"the API is not ready: {error.read().decode(errors='replace')}"
    except OSError as error:
        return f"the API does not answer ({error})"


def _for_url(host: str) -> str:
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared with, not bound to
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
