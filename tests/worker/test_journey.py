"""Jobs through real workers and a real engine: the whole way, and what happens when something dies on it."""

import csv
import hashlib
import io
import json
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue

import pytest
import sqlalchemy as sa
from worker_bench import Bench, lines

from app import db
from app.auth.tables import Project
from app.files.tables import File
from app.jobs import quotas, states
from app.jobs import service as jobs
from app.jobs.tables import Job
from app.models.tables import Checkpoint, TunedModel
from app.outbox import OutboxRow
from app.queue import GPU, Bell
from worker import garbage
from worker.gpu import GpuNode
from worker.node import Node


def engine_pid(node: Node) -> int:
    assert isinstance(node, GpuNode)
    engine = node.trainer._engine
    assert engine is not None
    return engine._process.pid


def content(bench: Bench, file_id: str) -> bytes:
    with db.reading() as session:
        key = session.get_one(File, file_id).object_key
    return b"".join(bench.store.read(key))


def test_a_job_goes_the_whole_way(bench: Bench) -> None:
    bench.start("cpu", "gpu")
    job_id = bench.create(lines(16), lines(4))
    job = bench.wait(job_id, states.SUCCEEDED)

    assert job.total_steps == job.furthest_step == 8
    assert job.trained_tokens
    assert job.trained_tokens == job.planned_tokens
    assert job.resolved is not None
    assert job.resolved["n_epochs"] == 2
    assert job.first_step_at is not None
    assert job.created_at < job.first_step_at < job.finished_at
    assert (job.lease_until, job.worker_id, job.estimated_finish, job.resume_prefix) == (None, None, None, None)

    messages = [event.message for event in bench.events(job_id)]
    assert messages[0] == f"Created fine-tuning job: {job_id}"
    assert messages[1].startswith("Validating training file: file-")
    assert " and validation file: file-" in messages[1]
    assert messages[2:4] == ["Files validated, moving job to queued state", "Fine-tuning job started"]
    assert messages[4].startswith("Checkpoint created at step 4 with Snapshot ID: ft:tiny-chat:default:t:")
    assert messages[5:] == [
        f"Checkpoint created at step 8 with Snapshot ID: {job.fine_tuned_model}",
        f"New fine-tuned model created: {job.fine_tuned_model}",
        "The job has successfully completed",
    ]

    metrics = [event.data or {} for event in bench.events(job_id, "metrics")]
    assert [data["step"] for data in metrics] == list(range(1, 9))
    assert [data["step"] for data in metrics if "full_valid_loss" in data] == [4, 8]
    assert bench.events(job_id, "metrics")[0].message.startswith("Step 1/8: training loss=")

    assert job.result_file is not None
    table = list(csv.reader(io.StringIO(content(bench, job.result_file).decode())))
    assert table[0] == ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    assert [row[0] for row in table[1:]] == [str(step) for step in range(1, 9)]
    assert table[1][3] == ""
    assert float(table[4][3]) > 0


def test_the_published_adapter_is_whole_and_says_where_it_comes_from(bench: Bench) -> None:
    bench.start("cpu", "gpu")
    job = bench.wait(bench.create(lines(12)), states.SUCCEEDED)
    with db.reading() as session:
        models = {model.source: model for model in session.scalars(sa.select(TunedModel))}
        points = session.scalars(sa.select(Checkpoint).order_by(Checkpoint.step)).all()
    assert [point.step for point in points] == [3, 6]
    final = models["trained"]
    assert final.name == job.fine_tuned_model
    assert points[-1].model_id == final.id
    manifest = b"".join(bench.store.read(final.object_prefix + "manifest.json"))
    assert hashlib.sha256(manifest).hexdigest() == final.manifest_sha256
    files = json.loads(manifest)["files"]
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= set(files)
    for name, expected in files.items():
        data = b"".join(bench.store.read(final.object_prefix + name))
        assert (len(data), hashlib.sha256(data).hexdigest()) == (expected["size"], expected["sha256"])
    config = json.loads(b"".join(bench.store.read(final.object_prefix + "adapter_config.json")))
    assert config["base_model_name_or_path"] == "tiny-chat"
    card = b"".join(bench.store.read(final.object_prefix + "README.md")).decode()
    assert job.training_file in card
    assert "learning_rate" in card


def test_nothing_of_a_finished_job_is_garbage_and_no_garbage_is_left_of_it(bench: Bench) -> None:
    bench.start("cpu", "gpu")
    bench.wait(bench.create(lines(12), lines(4)), states.SUCCEEDED)
    outbox_is_empty = sa.select(sa.func.count()).select_from(OutboxRow)
    deadline = time.monotonic() + 60
    while True:  # the last resume state is deleted by a sweep
        with db.reading() as session:
            if session.scalar(outbox_is_empty) == 0:
                break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    before = sorted(bench.store.keys("projects/"))
    assert len({key.split("/")[2] for key in before}) == 3, "files, prepared data and adapters"
    assert garbage.collect(bench.settings, bench.store, datetime.now(UTC) + timedelta(days=100)) == 0
    assert sorted(bench.store.keys("projects/")) == before


def test_training_goes_on_from_a_tuned_model(bench: Bench) -> None:
    bench.start("cpu", "gpu")
    first = bench.wait(bench.create(lines(12)), states.SUCCEEDED)
    assert first.fine_tuned_model is not None
    second = bench.wait(bench.create(lines(12), model=first.fine_tuned_model), states.SUCCEEDED)
    before = [event.data or {} for event in bench.events(first.id, "metrics")]
    after = [event.data or {} for event in bench.events(second.id, "metrics")]
    assert after[0]["train_loss"] < before[0]["train_loss"] / 2


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (lines(9), "invalid_n_examples", "9 examples"),
        (lines(12) + b'{"messages": []}\n', "invalid_training_file", "line 13 messages must be a list"),
        (lines(12) + b"[]\n", "invalid_training_file", "line 13 is not a JSON object"),
    ],
)
def test_bad_data_fails_the_job_and_names_the_line(bench: Bench, data: bytes, code: str, words: str) -> None:
    bench.start("cpu")
    job = bench.wait(bench.create(data), states.FAILED)
    assert job.error is not None
    assert (job.error["code"], job.error["param"]) == (code, "training_file")
    assert words in job.error["message"]
    last = bench.events(job.id)[-1]
    assert (last.level, last.message) == ("error", job.error["message"])
    assert not list(bench.store.keys(f"projects/{bench.caller.project_id}/prepared/"))


def test_the_same_data_is_prepared_once(bench: Bench) -> None:
    bench.start("cpu")
    first = bench.wait(bench.create(lines(12)), states.QUEUED)
    second = bench.wait(bench.create(lines(12)), states.QUEUED)
    assert first.prepared_key == second.prepared_key
    assert len(list(bench.store.keys(f"projects/{bench.caller.project_id}/prepared/"))) == 2


def test_a_prepared_job_rings_for_a_gpu_worker(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    rung: SimpleQueue[str] = SimpleQueue()
    monkeypatch.setattr(Bell, "ring", lambda _, name: rung.put(name))
    bench.start("cpu")
    bench.wait(bench.create(lines(12)), states.QUEUED)
    assert rung.get(timeout=10) == GPU


def test_truncated_examples_are_told(bench: Bench) -> None:
    bench.start("cpu")
    data = lines(12).replace(b'"red"', b'"red and then red and then red and then red"')
    job = bench.wait(bench.create(data, max_sequence_length=24), states.QUEUED)
    (warning,) = [event for event in bench.events(job.id) if event.level == "warn"]
    assert "3 examples longer than 24 tokens truncated" in warning.message
    assert "line 1; line 6; line 11" in warning.message


def test_an_engine_that_is_killed_costs_a_resume_and_nothing_else(bench: Bench) -> None:
    _, trainer = bench.start("cpu", "gpu")
    job_id, undisturbed = (bench.create(lines(40), n_epochs=30, deterministic=True) for _ in range(2))
    bench.wait(job_id, lambda job: job.resume_step > 4)
    os.kill(engine_pid(trainer), signal.SIGKILL)
    job = bench.wait(job_id, states.SUCCEEDED)
    messages = [event.message for event in bench.events(job_id)]
    assert any(message.startswith("Fine-tuning job resumed at step ") for message in messages)
    assert messages.count("Fine-tuning job started") == 1
    steps = [(event.data or {})["step"] for event in bench.events(job_id, "metrics")]
    assert steps == list(range(1, 301))
    assert adapter_sha256(bench, job) == adapter_sha256(bench, bench.wait(undisturbed, states.SUCCEEDED))


def adapter_sha256(bench: Bench, job: Job) -> str:
    with db.reading() as session:
        model = session.scalars(sa.select(TunedModel).where(TunedModel.name == job.fine_tuned_model)).one()
    manifest = json.loads(b"".join(bench.store.read(model.object_prefix + "manifest.json")))
    return manifest["files"]["adapter_model.safetensors"]["sha256"]


def test_a_worker_that_stops_hands_its_job_back_and_another_goes_on(bench: Bench) -> None:
    bench.start("cpu")
    (first,) = bench.start("gpu")
    job_id = bench.create(lines(40), n_epochs=30)
    bench.wait(job_id, lambda job: job.furthest_step > 4)
    first.stop()
    bench.nodes.remove(first)
    job = bench.job(job_id)
    assert (job.status, job.worker_id, job.lease_until) == (states.QUEUED, None, None)
    assert job.resume_step >= 4
    assert job.attempts == {}
    bench.start("gpu")
    bench.wait(job_id, states.SUCCEEDED)
    steps = [(event.data or {})["step"] for event in bench.events(job_id, "metrics")]
    assert steps == list(range(1, 301))


def test_a_cancelled_job_stops_and_publishes_nothing_more(bench: Bench) -> None:
    _, trainer = bench.start("cpu", "gpu")
    job_id = bench.create(lines(40), n_epochs=50)
    bench.wait(job_id, lambda job: job.furthest_step > 2)
    with db.transaction() as session:
        assert jobs.cancel(session, bench.caller.project_id, job_id).status == states.CANCELLED
    other = bench.create(lines(12))
    bench.wait(other, states.SUCCEEDED)
    job = bench.job(job_id)
    assert (job.status, job.fine_tuned_model, job.lease_until) == (states.CANCELLED, None, None)
    assert not list(bench.store.keys(f"projects/{job.project_id}/jobs/{job.id}/{job.fence}/final/"))
    deadline = time.monotonic() + 20
    while trainer.running:
        assert time.monotonic() < deadline, "a job that is over still holds a slot"
        time.sleep(0.02)


def test_a_cancelled_jobs_tokens_are_counted(bench: Bench) -> None:
    bench.start("cpu", "gpu")
    job_id = bench.create(lines(40), n_epochs=50)
    bench.wait(job_id, lambda job: (job.trained_tokens or 0) > 0)
    with db.transaction() as session:
        jobs.cancel(session, bench.caller.project_id, job_id)
        job = session.get_one(Job, job_id)
        assert job.trained_tokens is not None
        assert job.planned_tokens is not None
        assert 0 < job.trained_tokens < job.planned_tokens
        assert quotas.tokens_this_month(session, job.project_id) == job.trained_tokens


def test_a_job_whose_tokens_the_month_does_not_have_fails_before_it_trains(bench: Bench) -> None:
    with db.transaction() as session:
        session.execute(sa.update(Project).values(quota_monthly_tokens=100))
    bench.start("cpu")
    job_id = bench.create(lines(40))
    job = bench.wait(job_id, states.FAILED)
    assert job.error is not None
    assert job.error["code"] == "insufficient_quota"
    assert "100" in job.error["message"]
    assert (job.planned_tokens, job.trained_tokens) == (None, None)


def test_a_paused_job_goes_on_where_it_was(bench: Bench) -> None:
    bench.start("cpu", "gpu")
    job_id = bench.create(lines(40), n_epochs=30)
    bench.wait(job_id, lambda job: job.furthest_step > 2)
    with db.transaction() as session:
        assert jobs.pause(session, bench.caller.project_id, job_id).status == states.PAUSING
    paused = bench.wait(job_id, states.PAUSED)
    assert paused.resume_step > 2
    with db.transaction() as session:
        assert jobs.resume(session, bench.caller.project_id, job_id).status == states.QUEUED
    bench.wait(job_id, states.SUCCEEDED)
    steps = [(event.data or {})["step"] for event in bench.events(job_id, "metrics")]
    assert steps == list(range(1, 301))


def test_scratch_is_clean_after_a_job(bench: Bench) -> None:
    bench.start("cpu", "gpu")
    bench.wait(bench.create(lines(12)), states.SUCCEEDED)
    for node in bench.nodes:
        node.stop()
    bench.nodes.clear()
    assert list((Path(bench.settings.scratch_dir) / "jobs").iterdir()) == []
