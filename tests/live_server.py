"""The `live` fixture: the application on a real port over a database of its own, with two projects' keys.

For route tests: `def` routes run in threads, where the rolled-back connection of `database` must not go.
"""

import hashlib
import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI

from app import db, ids
from app import secrets as secrets_at_rest
from app.auth import service as auth
from app.auth.service import Caller
from app.config import Settings
from app.embedded.postgres import Postgres
from app.events import service as events
from app.files.tables import File
from app.http.protocol import Protocol
from app.jobs import hyperparameters, states
from app.jobs.tables import Job
from app.main import create_app
from app.models import catalog
from app.models import service as models
from app.storage import Store, open_store

CATALOG = """\
families:
  llama:
    linears: [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]
    attention: [q_proj, k_proj, v_proj, o_proj]
models:
  - {id: tiny-chat, path: tiny-chat, family: llama, context_length: 512, learning_rate: 2.0e-4, licence: apache-2.0,
     aliases: [gpt-4o-mini-2024-07-18]}
  - {id: not-here, path: not-here, family: llama, context_length: 512, learning_rate: 2.0e-4, licence: apache-2.0}
"""


@dataclass
class Live:
    """A running application, and what a worker would do to its jobs."""

    url: str
    key: str
    caller: Caller
    http: httpx.Client
    stranger: httpx.Client
    training_file: str
    strangers_file: str
    job: str  # a job that no test changes
    store: Store
    catalog: catalog.Catalog
    app: FastAPI

    @property
    def organization_id(self) -> str:
        return self.caller.organization_id

    def append_steps(self, job_id: str, count: int) -> None:
        """Tell metrics of `count` steps."""
        with db.transaction() as session:
            events.append_metrics(session, job_id, [_metrics(step, count) for step in range(1, count + 1)])

    def resolve(self, job_id: str) -> None:
        """Put numbers where "auto" stood, as preparing does."""
        entry = self.catalog.find("tiny-chat")
        assert entry is not None
        with db.transaction() as session:
            job = session.get_one(Job, job_id)
            job.resolved = hyperparameters.resolve(job.request, n_examples=100, entry=entry)

    def publish(self, job_id: str, steps: tuple[int, ...] = (4,)) -> str:
        """Let a job succeed with a checkpoint at each step, and give its model's name."""
        with db.transaction() as session:
            job = session.get_one(Job, job_id)
            for step in steps[:-1]:
                models.publish_checkpoint(session, job, **self._adapter(job, step))
            model = models.publish_final(session, job, **self._adapter(job, steps[-1]))
            job.status, job.finished_at, job.trained_tokens = states.SUCCEEDED, sa.func.now(), 1234
            job.fine_tuned_model = model.name
        return model.name

    def move(self, job_id: str, status: str) -> None:
        """Let a worker move a job."""
        with db.transaction() as session:
            session.get_one(Job, job_id).status = status

    def fail(self, job_id: str) -> None:
        """Let a job fail on its data."""
        error = {"code": "invalid_training_file", "message": "Line 3 is no JSON object.", "param": "training_file"}
        with db.transaction() as session:
            changes = {"status": states.FAILED, "finished_at": sa.func.now(), "error": error}
            session.execute(sa.update(Job).where(Job.id == job_id).values(changes))

    def _adapter(self, job: Job, step: int) -> dict[str, Any]:
        """Store an adapter, and say where, as `publish_…` wants it."""
        prefix = f"projects/{job.project_id}/jobs/{job.id}/1/checkpoints/step-{step:06d}/"
        weights = f"weights at {step}".encode()
        entry = {"size": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
        manifest = json.dumps({"version": 1, "files": {"adapter_model.safetensors": entry}}).encode()
        for name, data in [("adapter_model.safetensors", weights), ("manifest.json", manifest)]:
            with self.store.writing(prefix + name) as target:
                target.write(data)
        return {
            "step": step,
            "metrics": _metrics(step, step),
            "prefix": prefix,
            "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
            "organization_slug": self.caller.organization_slug,
        }


@pytest.fixture(scope="module")
def live(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One running application for the tests of a module; they share its database, so each makes its own jobs."""
    name = f"live_{secrets.token_hex(4)}"
    with psycopg.connect(host=str(postgres.sockets), user="tunesmith", dbname="postgres", autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'tunesmith' AND state = 'idle'"
        )
        admin.execute(f"CREATE DATABASE {name} TEMPLATE tunesmith")
        folder = tmp_path_factory.mktemp("live")
        settings = Settings(
            database_url=postgres.database_url(name),
            storage_url=f"file://{folder}/objects",
            catalog_path=write_catalog(folder),
            models_dir=folder / "models",
            stream_poll_seconds=0.02,
            streams_per_key=4,
            requests_per_minute=0,
            secret_keys=secrets_at_rest.new_key(),
            webhook_loopback_http=True,
            webhook_seconds=5.0,
        )
        app = create_app(settings)
        with serving(app) as url:
            yield from _live(url, settings, app)
        bound = db.bound()
        assert isinstance(bound, sa.Engine)
        bound.dispose()
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def write_catalog(folder: Path) -> Path:
    """A catalogue with a base model that is on this machine (by its name and an alias) and one that is not."""
    path = folder / "base_models.yaml"
    path.write_text(CATALOG)
    (folder / "tiny-chat").mkdir()
    (folder / "tiny-chat" / "config.json").write_text("{}")
    return path


def _live(url: str, settings: Settings, app: FastAPI) -> Iterator[Live]:
    with db.transaction() as session:
        keys = [auth.create_key(session, organization=name).value for name in ("acme", "other")]
    with db.transaction() as session:
        callers = [auth.authenticate(session, key) for key in keys]
        files = [_add_file(session, caller.project_id) for caller in callers]
    clients = [httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) for key in keys]
    with clients[0], clients[1]:
        made = clients[0].post("/v1/fine_tuning/jobs", json={"model": "tiny-chat", "training_file": files[0]})
        assert made.status_code == 200, made.text
        yield Live(
            url=url,
            key=keys[0],
            caller=callers[0],
            http=clients[0],
            stranger=clients[1],
            training_file=files[0],
            strangers_file=files[1],
            job=made.json()["id"],
            store=open_store(settings),
            catalog=catalog.load(settings.catalog_path),
            app=app,
        )


def _add_file(session: db.Session, project_id: str) -> str:
    file = File(
        id=ids.new("file-"),
        project_id=project_id,
        purpose="fine-tune",
        filename="train.jsonl",
        bytes=1,
        sha256="0" * 64,
        object_key="k",
    )
    session.add(file)
    return file.id


def _metrics(step: int, total: int) -> dict[str, Any]:
    return {"step": step, "total_steps": total, "train_loss": 0.5, "train_mean_token_accuracy": 0.75}


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an application on a free loopback port, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", http=Protocol, ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
