"""Secrets and data that are planted in real processes must not come out in what those write."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from app import db
from app.auth import service as auth
from app.jobs import states
from app.jobs.tables import Job

ROOT = Path(__file__).parent.parent.parent
SECRETS = {
    "database password": "canary-database-7f3a",
    "redis password": "canary-redis-7f3a",
    "s3 secret": "canary-s3-secret-7f3a",
    "metrics token": "canary-metrics-7f3a",
    "wandb key": "canary-wandb-7f3a",
}
TEXT = "canarytrainingtext"
FILE_NAME = "canaryfilename.jsonl"
QUERY = "canaryquerystring"


@pytest.fixture
def environment(scratch_database: sa.Engine, tmp_path: Path) -> dict[str, str]:
    """Settings full of canaries. Postgres trusts its socket, so that any password opens it; no Redis answers."""
    url = scratch_database.url.set(password=SECRETS["database password"]).render_as_string(hide_password=False)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TUNESMITH_")}
    return kept | {
        "TUNESMITH_DATABASE_URL": url,
        "TUNESMITH_REDIS_URL": f"redis://:{SECRETS['redis password']}@127.0.0.1:1/0",
        "TUNESMITH_STORAGE_URL": f"file://{tmp_path}/objects",
        "TUNESMITH_S3_SECRET_ACCESS_KEY": SECRETS["s3 secret"],
        "TUNESMITH_METRICS_TOKEN": SECRETS["metrics token"],
        "TUNESMITH_WANDB_API_KEY": SECRETS["wandb key"],
        "TUNESMITH_MODELS_DIR": str(tmp_path / "models"),
        "TUNESMITH_SCRATCH_DIR": str(tmp_path / "scratch"),
        "TUNESMITH_POLL_SECONDS": "0.1",
        "PYTHONPATH": str(ROOT),
    }


class Running:
    """One of our commands in a process of its own; `said` is all that it wrote."""

    def __init__(self, environment: dict[str, str], log: Path, *arguments: str, descriptor: int | None = None) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app.cli.main", *arguments],
                env=environment, stdout=output, stderr=output, cwd=ROOT,
                pass_fds=[] if descriptor is None else [descriptor],
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self._log.read_text("utf-8")

    def stop(self) -> str:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        return self.said


@pytest.fixture
def api(environment: dict[str, str], tmp_path: Path) -> Iterator[tuple[Running, str]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = Running(
            environment, tmp_path / "api.log", "api", "--listen-fd", str(listener.fileno()),
            descriptor=listener.fileno(),
        )  # fmt: skip
        yield process, f"http://127.0.0.1:{listener.getsockname()[1]}"
        process.stop()


def until(condition: Callable[[], object], process: Running) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, process.said
        time.sleep(0.1)


def status(job_id: str) -> str:
    with db.reading() as session:
        return session.scalars(sa.select(Job.status).where(Job.id == job_id)).one()


def rows(*, broken: bool) -> bytes:
    turns = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": TEXT}]
    lines = [json.dumps({"messages": turns})] * 12
    if broken:
        # Of the wrong shape, not JSON, and holding a special token: three ways for a text to get into a message.
        lines += [
            json.dumps({"messages": [{"role": TEXT, "content": TEXT}]}),
            json.dumps({"messages": [{"role": "user", "content": [TEXT]}, turns[1]]}),
            json.dumps({"messages": [turns[0], {"role": "assistant", "content": f"{TEXT}<|im_end|>"}]}),
        ]
    return "\n".join(lines).encode()


def test_canaries_stay_in(api: tuple[Running, str], environment: dict[str, str], tmp_path: Path) -> None:
    server, url = api
    with db.transaction() as session:
        key = auth.create_key(session).value
    secret_part = key.split("_")[2]
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as http:
        assert http.get(f"/v1/files?after={QUERY}").status_code in {200, 400, 404}
        assert http.get("/v1/files", headers={"Authorization": f"Bearer {key}x"}).status_code == 401
        assert http.post("/v1/fine_tuning/jobs", json={"model": TEXT, "training_file": TEXT}).status_code == 400
        assert (
            http.post(
                "/v1/fine_tuning/jobs", content=f'{{"{TEXT}": '.encode(), headers={"Content-Type": "application/json"}
            ).status_code
            == 400
        )
        jobs = [make_job(http, rows(broken=broken)) for broken in (False, True)]
    worker = Running(environment, tmp_path / "cpu.log", "worker", "cpu")
    try:
        until(lambda: [status(job) for job in jobs] == [states.QUEUED, states.FAILED], worker)
        until(lambda: all(f'"job": "{job}"' in worker.said for job in jobs), worker)  # a line follows its transaction
    finally:
        worker.stop()
    for process in (server, worker):
        said = process.stop()
        lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        assert lines, said
        found = [canary for canary in (*SECRETS.values(), TEXT, FILE_NAME, QUERY, secret_part) if canary in said]
        assert found == [], said
    requests = [json.loads(line) for line in server.said.splitlines() if '"event": "request"' in line]
    assert all(line["request"].startswith("req_") for line in requests)
    assert {job for job in jobs if f'"job": "{job}"' in worker.said} == set(jobs)


def make_job(http: httpx.Client, data: bytes) -> str:
    form = {"purpose": "fine-tune"}
    made = http.post("/v1/files", data=form, files={"file": (FILE_NAME, data)})
    assert made.status_code == 200, made.text
    body = {"model": "tiny-chat", "training_file": made.json()["id"], "suffix": "canary"}
    job = http.post("/v1/fine_tuning/jobs", json=body)
    assert job.status_code == 200, job.text
    return str(job.json()["id"])
