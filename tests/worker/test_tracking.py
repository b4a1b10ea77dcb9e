"""Weights & Biases: what a run is given, that an offline one is on disk, and that a broken server disturbs nobody."""

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import wandb
from pydantic import SecretStr
from worker_bench import Bench, lines

from app.config import Settings
from app.jobs import states
from app.jobs.tables import Job
from worker import tracking

WANTED = {"project": "tickets", "name": "a name", "tags": ["mine", "mine", "x" * 80]}


def job(**changes: Any) -> Job:
    values: dict[str, Any] = {
        "id": "ftjob-1",
        "model": "tiny-chat",
        "base_model": "tiny-chat",
        "training_file": "file-1",
        "validation_file": None,
        "resolved": {"n_epochs": 2},
        "seed": 7,
        "integrations": [{"type": "wandb", "wandb": WANTED}],
    }
    return Job(**(values | changes))


def told() -> tuple[list[tuple[str, str]], tracking.Tell]:
    heard: list[tuple[str, str]] = []
    return heard, lambda level, message: heard.append((level, message))


def step(number: int) -> dict[str, Any]:
    return {"step": number, "total_steps": 3, "train_loss": 1 / number, "train_mean_token_accuracy": 0.5}


def on_disk(folder: Path) -> bytes:
    (run,) = folder.rglob("*.wandb")
    return run.read_bytes()


def wait_for(folder: Path, part: bytes) -> None:
    """A process of W&B's own writes the file, and may be behind."""
    deadline = time.monotonic() + 60
    while not list(folder.rglob("*.wandb")) or part not in on_disk(folder):
        assert time.monotonic() < deadline, part
        time.sleep(0.05)


def test_a_job_without_integrations_has_no_run(tmp_path: Path) -> None:
    _, tell = told()
    for integrations in (None, []):
        assert tracking.runs(job(integrations=integrations), Settings(wandb_dir=tmp_path), tell) == []


def test_an_offline_run_is_on_disk(tmp_path: Path) -> None:
    heard, tell = told()
    (run,) = tracking.runs(job(), Settings(wandb_dir=tmp_path, wandb_offline=True), tell)
    for number in (1, 2, 3):
        run.log(step(number))
    run.end(failed=False)
    for part in (b"tickets", b"a name", b"ftjob-1", b"train_loss", b"train_mean_token_accuracy", b"openai/tiny-chat"):
        wait_for(tmp_path, part)
    assert heard == []


def test_nothing_of_this_machine_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb.teardown()  # it keeps what the first run of a process found out
    monkeypatch.setattr(socket, "gethostname", lambda: "canary-of-a-host")
    _, tell = told()
    (run,) = tracking.runs(job(), Settings(wandb_dir=tmp_path, wandb_offline=True), tell)
    run.end(failed=False)
    wait_for(tmp_path, b"ftjob-1")
    assert b"canary-of-a-host" not in on_disk(tmp_path)
    assert not list(tmp_path.rglob("requirements.txt"))
    assert not list(tmp_path.rglob("wandb-metadata.json"))


def test_tags_are_those_of_openai_and_the_users() -> None:
    assert tracking.tags(job(), WANTED) == [
        "openai/finetune", "openai/tiny-chat", "openai/ftjob-1", "mine", "x" * 64,
    ]  # fmt: skip
    assert len(tracking.tags(job(), {"tags": [str(n) for n in range(60)]})) == 50


def test_a_run_remembers_its_job() -> None:
    assert tracking.config(job()) == {
        "model": "tiny-chat",
        "training_file": "file-1",
        "validation_file": None,
        "hyperparameters": {"n_epochs": 2},
        "seed": 7,
    }


def test_an_absent_server_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "START_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    heard, tell = told()
    settings = Settings(wandb_dir=tmp_path, wandb_base_url=url, wandb_api_key=SecretStr("k" * 40))
    logged, start = threading.Event(), tracking.WandbRun._start

    def start_later(run: tracking.WandbRun) -> Any:
        assert logged.wait(30), "a step waits for the server"
        return start(run)

    monkeypatch.setattr(tracking.WandbRun, "_start", start_later)
    (run,) = tracking.runs(job(), settings, tell)
    run.log(step(1))
    logged.set()
    run.end(failed=False)
    ((level, message),) = heard
    assert level == "warn"
    assert "not logged there" in message
    assert "k" * 40 not in message


def test_a_job_is_logged_while_it_trains(bench: Bench, tmp_path: Path) -> None:
    bench.settings.wandb_offline, bench.settings.wandb_dir = True, tmp_path / "wandb"
    bench.start("cpu", "gpu")
    integrations = [{"type": "wandb", "wandb": {"project": "tickets"}}]
    done = bench.wait(bench.create(lines(12), body={"integrations": integrations}), states.SUCCEEDED)
    assert done.integrations == [{"type": "wandb", "wandb": {"project": "tickets", "run_id": done.id}}]
    wait_for(tmp_path / "wandb", b"train_loss")
