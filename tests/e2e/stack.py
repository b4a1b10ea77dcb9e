"""A real `tunesmith up` in a process of its own, and what a test may ask of it."""

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent.parent
BUCKET = "tunesmith-e2e"
# Other stacks of this machine may be on the next ports; they do not know the token.
METRICS_PORT, METRICS_TOKEN = 20_000 + secrets.randbelow(30_000), secrets.token_hex()
READY_SECONDS = 180  # two cores, and other tests beside this one


@dataclass(frozen=True)
class Project:
    """A project beside the default one, with a key of its own, and a key of the organisation's administrator."""

    id: str
    api_key: str
    admin_key: str


class Up:
    """One run of `tunesmith up`; `start` returns once it has said "ready"."""

    def __init__(self, data_dir: Path, environment: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.environment = clean_environment() | dict(environment or {})
        self.said: dict[str, str] = {}

    def start(self) -> "Up":
        self.process = subprocess.Popen(
            command("up", "--data-dir", str(self.data_dir), "--port", "0"),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment, cwd=ROOT,
        )  # fmt: skip
        self._errors: list[str] = []
        self._reader = threading.Thread(target=self._read_errors)
        self._reader.start()
        watchdog = threading.Timer(READY_SECONDS, self.process.kill)
        watchdog.start()
        assert self.process.stdout is not None
        for line in self.process.stdout:
            label, _, value = line.strip().partition("  ")
            self.said[label] = value.strip()
            if label == "ready":
                break
        watchdog.cancel()
        assert "ready" in self.said, f"not ready: {self.errors}\n{self.logs()}"
        return self

    def stop(self) -> int:
        """Stop it as Ctrl-C does; returns the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self._wait()

    def kill(self) -> None:
        self.process.kill()
        self._wait()

    def _wait(self) -> int:
        status = self.process.wait(180)
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return status

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self._errors.extend(self.process.stderr)

    @property
    def errors(self) -> str:
        return "".join(self._errors)

    @property
    def base_url(self) -> str:
        return self.said["base URL"]

    @property
    def api_key(self) -> str:
        return self.said["API key"]

    @property
    def client_environment(self) -> dict[str, str]:
        """What a user's commands and the openai client read."""
        return clean_environment() | {"OPENAI_BASE_URL": self.base_url, "OPENAI_API_KEY": self.api_key}

    def new_project(self, name: str) -> Project:
        """Let an administrator make a project and a key for it."""
        made = subprocess.run(
            command("keys", "create", "--data-dir", str(self.data_dir), "--scope", "admin"),
            env=clean_environment(), capture_output=True, text=True, check=True,
        )  # fmt: skip
        admin_key = made.stdout.strip()
        headers = {"Authorization": f"Bearer {admin_key}"}
        with httpx.Client(base_url=f"{self.base_url}/organization/", headers=headers, timeout=60) as admin:
            project = admin.post("projects", json={"name": name}).json()["id"]
            key = admin.post(f"projects/{project}/api_keys", json={"name": name}).json()["value"]
        return Project(project, key, admin_key)

    def descendants(self) -> dict[int, str]:
        """The processes below it: process id → command line."""
        return descendants(self.process.pid)

    def logs(self) -> str:
        """The end of each child's log."""
        files = sorted((self.data_dir / "logs").glob("*.log"))
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in files)


class Journey:
    """Runs journey.py with a client against a stack; returns what it saw."""

    def __init__(self, tickets: Path) -> None:
        self.tickets = tickets

    def __call__(self, up: Up, out: Path, *, client: Path | None = None) -> dict[str, Any]:
        environment = up.client_environment | ({} if client is None else {"PYTHONPATH": str(client)})
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("journey.py")), str(self.tickets), str(out)],
            env=environment, capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stderr}\n{up.logs()}"
        seen: dict[str, Any] = json.loads(done.stdout)
        return seen


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "app.cli.main", *arguments]


def clean_environment() -> dict[str, str]:
    """This process's environment without settings of ours, and with one thread a process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TUNESMITH_", "OPENAI_"))}
    return kept | {"OMP_NUM_THREADS": "1", "TUNESMITH_ENGINE_THREADS": "1", "TUNESMITH_WARM_BASE": "tiny-chat"}


def descendants(root: int) -> dict[int, str]:
    """The processes below `root` (Linux): process id → command line."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found: dict[int, str] = {}
    fresh = {root}
    while fresh := {pid for pid, parent in parents.items() if parent in fresh} - found.keys():
        found.update({pid: _command_line(pid) for pid in fresh})
    return found


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def train_a_little(up: Up) -> None:
    """One small job, from the upload to its end."""
    from openai import OpenAI

    settings: Any = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 8}}}
    tickets = (ROOT / "examples" / "support-tickets" / "train.jsonl").read_text("utf-8").splitlines(keepends=True)
    with OpenAI(base_url=up.base_url, api_key=up.api_key) as client:
        file = client.files.create(file=("train.jsonl", "".join(tickets[:40]).encode()), purpose="fine-tune")
        job_id = client.fine_tuning.jobs.create(model="tiny-chat", training_file=file.id, method=settings).id

        def ended() -> bool:
            job = client.fine_tuning.jobs.retrieve(job_id)
            assert job.status not in {"failed", "cancelled"}, job.error
            return job.status == "succeeded"

        until(ended, 180)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for a condition to hold."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
