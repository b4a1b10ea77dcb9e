"""`tunesmith up` as a process: ready, private, alone on its directory, and back after any process of it was killed."""

import contextlib
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from tests.e2e.stack import ROOT, Up, alive, clean_environment, command, until

pytestmark = pytest.mark.xdist_group("e2e-up")

CHILDREN = {
    "postgres": "bin/postgres -D",
    "redis": "redis-server",
    "api": "app.cli.main api",
    "worker-cpu": "worker.cpu",
    "worker-gpu": "worker.gpu",
}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    stack = Up(tmp_path_factory.mktemp("up") / "data").start()
    yield stack
    stack.stop()


def health(up: Up, path: str = "/readyz") -> int:
    try:
        return httpx.get(up.base_url.removesuffix("/v1") + path, timeout=10).status_code
    except httpx.HTTPError:
        return 0


def child(up: Up, name: str) -> int:
    """The process id of a child's program (not of its watcher)."""
    found = [pid for pid, line in up.descendants().items() if CHILDREN[name] in line and "lifeline.py" not in line]
    return min(found, default=0)


def file_names(up: Up) -> set[str]:
    with OpenAI(base_url=up.base_url, api_key=up.api_key) as client:
        return {file.filename for file in client.files.list()}


def upload(up: Up, name: str) -> None:
    data = (ROOT / "examples" / "support-tickets" / "valid.jsonl").read_bytes()
    with OpenAI(base_url=up.base_url, api_key=up.api_key) as client:
        client.files.create(file=(name, data), purpose="fine-tune")


def test_the_doctor_finds_it_well_until_others_may_read_its_keys(up: Up) -> None:
    def doctor() -> subprocess.CompletedProcess[str]:
        ask = command("doctor", "--data-dir", str(up.data_dir))
        return subprocess.run(ask, env=clean_environment(), cwd=ROOT, capture_output=True, text=True, check=False)

    before = doctor()
    assert before.returncode == 0, before.stdout + before.stderr
    keys = up.data_dir / "secret-keys"
    keys.chmod(0o644)
    after = doctor()
    keys.chmod(0o600)
    assert after.returncode == 1
    assert f"chmod 600 {keys}" in after.stdout


def test_says_where_it_is_and_keeps_the_key_private(up: Up) -> None:
    key_file = up.data_dir / "api-key"
    assert up.said["key file"] == str(key_file)
    assert key_file.read_text().strip() == up.api_key
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert health(up) == health(up, "/healthz") == 200
    assert all(child(up, name) for name in CHILDREN)


def test_a_second_up_on_the_directory_says_so_and_exits(up: Up) -> None:
    done = subprocess.run(
        command("up", "--data-dir", str(up.data_dir), "--port", "0"),
        env=clean_environment(), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "is in use by another `tunesmith up`" in done.stderr
    assert health(up) == 200


def test_keys_create_prints_a_key_that_opens_its_own_project(up: Up) -> None:
    upload(up, "mine.jsonl")
    made = subprocess.run(
        command("keys", "create", "--data-dir", str(up.data_dir), "--project", "other"),
        env=clean_environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    key = made.stdout.strip()
    with OpenAI(base_url=up.base_url, api_key=key) as client:
        assert list(client.files.list()) == []
    assert "mine.jsonl" in file_names(up)


def test_commands_for_users(up: Up, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments), env=up.client_environment, capture_output=True, text=True, check=False, timeout=200
        )

    done = run("models", "list")
    assert (done.returncode, "tiny-chat" in done.stdout) == (0, True), done.stderr
    data = str(ROOT / "examples" / "support-tickets" / "valid.jsonl")
    done = run("finetune", data, "--model", "tiny-chat", "--epochs", "1", "--batch-size", "10", "--follow")
    assert done.returncode == 0, f"{done.stderr}\n{up.logs()}"
    name = done.stdout.splitlines()[-1]
    assert name.startswith("ft:tiny-chat:")
    done = run("models", "download", name, "--out", str(tmp_path / "adapter"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    done = run("finetune", data, "--model", "no-such-model")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_a_watch_outlives_the_server(up: Up, tickets: Path) -> None:
    """The API dies while a job is watched: the stream goes on after the last event that was seen."""
    with OpenAI(base_url=up.base_url, api_key=up.api_key, max_retries=20) as client:
        with (tickets / "train.jsonl").open("rb") as source:
            file = client.files.create(file=source, purpose="fine-tune").id
        many = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 50, "batch_size": 1}}}
        job = client.fine_tuning.jobs.create(model="tiny-chat", training_file=file, method=many)  # type: ignore[arg-type]
        watch = subprocess.Popen(
            command("jobs", "watch", job.id), env=up.client_environment, stderr=subprocess.PIPE, text=True
        )
        with watch:
            assert watch.stderr is not None
            told = []
            for line in watch.stderr:
                told.append(line)
                if "Fine-tuning job started" in line:
                    os.kill(child(up, "api"), signal.SIGKILL)
                    break
            until(lambda: health(up) == 200)
            client.fine_tuning.jobs.cancel(job.id)
            told += watch.stderr
        assert watch.returncode == 1
        messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id) if event.type == "message"]
    shown = [line[6:].strip() for line in told if line.startswith(("info  ", "warn  ")) and "Step " not in line]
    assert shown == messages[::-1]
    assert shown[-1] == "The job was cancelled on the user's request"


@pytest.mark.parametrize("name", CHILDREN)
def test_a_killed_child_comes_back(up: Up, name: str) -> None:
    before = child(up, name)
    os.kill(before, signal.SIGKILL)
    until(lambda: child(up, name) not in {0, before} and health(up) == 200)
    upload(up, f"after-{name}.jsonl")
    assert f"after-{name}.jsonl" in file_names(up)


def test_stop_and_start_again(up: Up) -> None:
    upload(up, "kept.jsonl")
    key, processes = up.api_key, up.descendants()
    assert up.stop() == 0
    assert [line for pid, line in processes.items() if alive(pid)] == []
    up.start()
    assert up.api_key == key
    assert "kept.jsonl" in file_names(up)


def test_start_after_the_supervisor_alone_was_killed(up: Up) -> None:
    upload(up, "before-kill.jsonl")
    processes = up.descendants()
    up.kill()
    until(lambda: not any(alive(pid) for pid in processes))
    up.start()
    assert "before-kill.jsonl" in file_names(up)


def test_start_after_the_whole_tree_was_killed(up: Up) -> None:
    upload(up, "before-kill-of-all.jsonl")
    processes = up.descendants()
    for pid in (up.process.pid, *processes):
        with contextlib.suppress(ProcessLookupError):  # some end by themselves once the first is gone
            os.kill(pid, signal.SIGKILL)
    up.kill()
    up.start()
    assert "before-kill-of-all.jsonl" in file_names(up)
