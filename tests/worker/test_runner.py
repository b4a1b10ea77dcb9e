"""One job in a runner's hands, with an engine that says what the test wants: what happens when something breaks."""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import sqlalchemy as sa
from job_rows import add_job, add_project, job

from app import db, storage
from app.config import Settings
from app.events.tables import Event
from app.jobs import states
from app.jobs.tables import Job
from app.models import catalog
from app.models.catalog import CatalogEntry
from app.storage import Store
from worker import artefacts, outages, publishing, runner
from worker.artefacts import write_manifest
from worker.node import Held
from worker.runner import Runner
from worker.supervisor import EngineDied, EngineRefused

STEPS = 6
FENCE = 3


class FakeEngine:
    """It admits one job and has already said everything about it; it notes who was released."""

    def __init__(self, *reports: dict[str, Any] | None, refuses: Exception | None = None) -> None:
        self.reports: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        for report in reports:
            self.reports.put(report)
        self.refuses = refuses
        self.released: list[bool] = []
        self.admitted: dict[str, Any] = {}

    def admit(self, _job: str, **given: Any) -> tuple[dict[str, Any], Any]:
        self.admitted = given
        return {"step": 0, "threads": 1, "device": "cpu"}, self.reports

    def release(self, _job: str, *, save: bool) -> dict[str, Any]:
        self.released.append(save)
        if self.refuses is not None:
            raise self.refuses
        return {"step": 2, "resume": None}

    def forget(self, _job: str) -> None:
        pass


def step(number: int) -> dict[str, Any]:
    metrics = {"train_loss": 1.0 / number, "train_mean_token_accuracy": 0.5}
    counts = {"step": number, "total_steps": STEPS, "trained_tokens": 10 * number, "tokens": 10, "seconds": 0.01}
    return {"type": "step", **counts, "device_bytes": 1, **metrics}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def finished(adapter: Path) -> dict[str, Any]:
    sizes = {"predicted_bytes": 1, "peak_bytes": 1}
    return {"type": "finished", "step": STEPS, "trained_tokens": 60, "path": str(adapter), "metrics": {}, **sizes}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(storage_url=f"file://{tmp_path}/objects", scratch_dir=tmp_path / "scratch", models_dir=tmp_path)


@pytest.fixture
def store(settings: Settings) -> Store:
    return storage.open_store(settings)


@pytest.fixture
def claimed(database: sa.Connection, store: Store, tmp_path: Path) -> Job:
    """A running job with prepared data."""
    folder = tmp_path / "prepared"
    folder.mkdir()
    (folder / "tokens.bin").write_bytes(b"tokens")
    write_manifest(folder)
    project = add_project()
    prefix = f"projects/{project}/prepared/key/"
    for path in folder.iterdir():
        storage.put_file(store, prefix + path.name, path)
    resolved = {
        "n_epochs": 1, "batch_size": 1, "learning_rate": 0.1, "lora_rank": 1, "lora_alpha": 1, "lora_dropout": 0.0,
        "lora_target_modules": ["q_proj"], "max_sequence_length": 8, "warmup_ratio": 0.0, "lr_scheduler": "constant",
        "weight_decay": 0.0, "max_grad_norm": 1.0,
    }  # fmt: skip
    lease = sa.func.now() + sa.func.make_interval(0, 0, 0, 0, 0, 0, 60)
    job_id = add_job(
        project, status=states.RUNNING, worker_id="w", fence=FENCE, lease_until=lease, prepared_key=prefix,
        resolved=resolved, total_steps=STEPS,
    )  # fmt: skip
    return job(job_id)


def entry() -> CatalogEntry:
    found = catalog.load(Settings().catalog_path).find("tiny-chat")
    assert found is not None
    return found


@pytest.fixture
def run(settings: Settings, store: Store) -> Iterator[Callable[..., Held]]:
    def run(job: Job, engine: FakeEngine, *, seconds: float = 60, alone: bool = False, drain: bool = False) -> Held:
        held = Held(job.id, job.fence, until=time.monotonic() + seconds)
        if drain:
            held.draining.set()
        Runner(settings, store).run(job, held, entry(), engine, alone=alone)  # type: ignore[arg-type]
        return held

    yield run
    assert list((settings.scratch_dir / "jobs").glob("*")) == []


def steps_told(job_id: str) -> list[int | None]:
    with db.reading() as session:
        query = sa.select(Event.step).where(Event.job_id == job_id, Event.step.is_not(None)).order_by(Event.step)
        return list(session.scalars(query))


def messages(job_id: str) -> list[str]:
    with db.reading() as session:
        query = sa.select(Event.message).where(Event.job_id == job_id, Event.step.is_(None)).order_by(Event.seq)
        return list(session.scalars(query))


class Outage:
    """`db.transaction` fails so many times: before the work, or after it was committed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int, *, committed: bool) -> None:
        self._real, self._times, self._committed = db.transaction, times, committed
        monkeypatch.setattr(db, "transaction", self.transaction)
        monkeypatch.setattr(outages, "FIRST_PAUSE", 0.001)

    def transaction(self) -> AbstractContextManager[db.Session]:
        return self._broken() if self._times > 0 else self._real()

    @db.contextmanager
    def _broken(self) -> Iterator[db.Session]:
        self._times -= 1
        if self._committed:
            with self._real() as session:
                yield session
        raise sa.exc.OperationalError("COMMIT", {}, Exception("the connection broke"))
        yield  # never reached: it makes this a generator


@pytest.mark.parametrize("committed", [False, True], ids=["before", "after the commit"])
def test_a_database_that_is_away_costs_no_step_and_no_second_model(
    claimed: Job, run: Callable[..., Held], adapter: Path, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    if committed:
        Outage(monkeypatch, 4, committed=True)
    else:
        original = outages.ride_out

        def away_at_first(held: Held, phase: Callable[[], Any]) -> Any:
            failing = iter([True, True])

            def sometimes() -> Any:
                if next(failing, False):
                    raise sa.exc.OperationalError("BEGIN", {}, Exception("no server"))
                return phase()

            return original(held, sometimes)

        monkeypatch.setattr(outages, "FIRST_PAUSE", 0.001)
        monkeypatch.setattr(runner, "ride_out", away_at_first)
    engine = FakeEngine(*(step(number) for number in range(1, STEPS + 1)), finished(adapter))
    run(claimed, engine)
    done = job(claimed.id)
    assert (done.status, done.furthest_step, done.attempts) == (states.SUCCEEDED, STEPS, {})
    assert steps_told(claimed.id) == list(range(1, STEPS + 1))
    assert len(messages(claimed.id)) == len(set(messages(claimed.id)))


def test_a_job_leaves_the_engine_whatever_breaks(
    claimed: Job, run: Callable[..., Held], adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any) -> None:
        raise RuntimeError("nobody expected this")

    monkeypatch.setattr(publishing, "finish", breaks)
    engine = FakeEngine(step(1), finished(adapter))
    run(claimed, engine)
    back = job(claimed.id)
    assert engine.released == [False], "else the engine would refuse the job when it comes back"
    assert (back.status, back.lease_until, back.attempts["internal_error"]) == (states.QUEUED, None, 1)


def test_a_full_disk_is_the_machines_trouble(
    claimed: Job, run: Callable[..., Held], adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artefacts, "write_manifest", full)
    run(claimed, FakeEngine(step(1), finished(adapter)))
    back = job(claimed.id)
    assert (back.status, back.attempts["storage_unavailable"]) == (states.QUEUED, 1)
    assert "internal_error" not in back.attempts


def test_a_worker_that_cannot_renew_its_lease_lets_go_before_it_ends(claimed: Job, run: Callable[..., Held]) -> None:
    engine = FakeEngine(step(1))
    held = run(claimed, engine, seconds=-1)
    assert held.lost
    assert engine.released == [False]
    assert job(claimed.id).status == states.RUNNING, "the sweeps decide, once the lease is over"
    assert steps_told(claimed.id) == []


def test_a_job_that_ends_just_as_it_is_handed_back_has_ended(
    claimed: Job, run: Callable[..., Held], adapter: Path
) -> None:
    engine = FakeEngine(step(1), finished(adapter), refuses=EngineRefused("unknown_job", "it has ended"))
    run(claimed, engine, drain=True)
    assert job(claimed.id).status == states.SUCCEEDED


def test_a_state_that_is_damaged_lets_the_job_begin_again(claimed: Job, run: Callable[..., Held]) -> None:
    values = {"resume_prefix": "projects/p/jobs/j/2/resume/step-000004/", "resume_step": 4, "furthest_step": 5}
    with db.transaction() as session:
        session.execute(sa.update(Job).where(Job.id == claimed.id).values(values))
    run(job(claimed.id), FakeEngine())
    back = job(claimed.id)
    assert (back.status, back.resume_prefix, back.resume_step) == (states.QUEUED, None, 0)
    assert messages(claimed.id) == ["The job lost its state and was put back into the queue; it goes on from step 0"]


@pytest.mark.parametrize("alone", [True, False])
def test_who_was_in_company_when_the_engine_died_is_suspected_and_not_charged(
    claimed: Job, run: Callable[..., Held], alone: bool
) -> None:
    run(claimed, FakeEngine(step(1), None, refuses=EngineDied("gone")), alone=alone)
    back = job(claimed.id)
    assert (back.status, back.suspect) == (states.QUEUED, not alone)
    assert back.attempts["engine_crashed"] == int(alone)
    assert back.attempts["total"] == 1
