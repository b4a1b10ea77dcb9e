"""Real workers in this process, over a database of their own, a folder of objects, and the bundled base model."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app import db, ids, storage
from app.auth import service as auth
from app.config import Settings
from app.events.tables import Event
from app.files import service as files
from app.jobs import service as jobs
from app.jobs import states
from app.jobs.schemas import JobRequest
from app.jobs.tables import Job
from app.models import catalog
from worker import gpu, prepare_job
from worker.node import Node

HYPERPARAMETERS = {"n_epochs": 2, "batch_size": 4, "learning_rate": 0.002}
WORDS = ("red", "green", "blue", "white", "black")


@dataclass
class Bench:
    """A project, and what the tests do in it."""

    settings: Settings
    store: storage.Store
    caller: auth.Caller
    models: catalog.Catalog
    nodes: list[Node] = field(default_factory=list)

    def add_file(self, data: bytes) -> str:
        file_id = ids.new("file-")
        with self.store.writing(files.object_key(self.caller.project_id, file_id)) as target:
            target.write(data)
        with db.transaction() as session:
            files.add(
                session,
                file_id=file_id,
                project_id=self.caller.project_id,
                purpose="fine-tune",
                filename="train.jsonl",
                size=len(data),
                sha256=f"{hash(data):064x}"[-64:],
                expires_after=None,
                settings=self.settings,
            )
        return file_id

    def create(
        self,
        data: bytes,
        validation: bytes | None = None,
        model: str = "tiny-chat",
        body: dict[str, Any] | None = None,
        **settings: Any,
    ) -> str:
        """Create a job; `settings` are hyperparameters, `body` holds further fields of the request."""
        request = {
            "model": model,
            "training_file": self.add_file(data),
            "validation_file": self.add_file(validation) if validation else None,
            "seed": 3,
            "suffix": "t",
            "method": {"type": "supervised", "supervised": {"hyperparameters": {**HYPERPARAMETERS, **settings}}},
            **(body or {}),
        }
        with db.transaction() as session:
            checked = JobRequest.model_validate(request)
            return jobs.create(session, self.caller, checked, catalog=self.models, settings=self.settings).id

    def start(self, *kinds: str) -> list[Node]:
        """Start workers; the fixture stops them."""
        started: list[Node] = []
        for kind in kinds:
            node = prepare_job.create_node(self.settings) if kind == "cpu" else gpu.create_node(self.settings)
            node.start()
            started.append(node)
        self.nodes += started
        return started

    def job(self, job_id: str) -> Job:
        with db.reading() as session:
            return session.get_one(Job, job_id)

    def events(self, job_id: str, kind: str = "message") -> list[Event]:
        with db.reading() as session:
            query = sa.select(Event).where(Event.job_id == job_id, Event.type == kind).order_by(Event.seq)
            return list(session.scalars(query))

    def wait(self, job_id: str, reached: Callable[[Job], bool] | str, seconds: float = 90) -> Job:
        """Wait until the job has a status (or a predicate holds); fails with what the job says otherwise."""
        deadline = time.monotonic() + seconds
        while True:
            job = self.job(job_id)
            if job.status == reached if isinstance(reached, str) else reached(job):
                return job
            final = job.status in states.FINAL
            assert not final, (job.status, job.error, [event.message for event in self.events(job_id)])
            assert time.monotonic() < deadline, (job.status, job.phase, job.furthest_step)
            time.sleep(0.02)


@pytest.fixture
def bench(scratch_database: sa.Engine, tmp_path: Path) -> Iterator[Bench]:
    settings = Settings(
        storage_url=f"file://{tmp_path}/objects",
        scratch_dir=tmp_path / "scratch",
        models_dir=tmp_path / "models",
        heartbeat_seconds=0.2,
        lease_seconds=30.0,
        sweep_seconds=0.3,
        poll_seconds=0.1,
        drain_seconds=60,
        engine_threads=1,
        resume_interval_seconds=0.2,
    )
    with db.transaction() as session:
        key = auth.create_key(session).value
        caller = auth.authenticate(session, key)
    bench = Bench(settings, storage.open_store(settings), caller, catalog.load(settings.catalog_path))
    yield bench
    for node in bench.nodes:
        node.stop()


def lines(count: int) -> bytes:
    """Chat examples that a small model learns quickly."""
    examples = [
        {
            "messages": [
                {"role": "user", "content": f"Say the colour {WORDS[n % 5]} number {n}"},
                {"role": "assistant", "content": WORDS[n % 5]},
            ]
        }
        for n in range(count)
    ]
    return "".join(json.dumps(example) + "\n" for example in examples).encode()
