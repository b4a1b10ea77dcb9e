"""The user's commands against a server of canned replies over real HTTP: what is sent, printed, and the exit status."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import errors, events
from app.cli.main import app

Reply = tuple[int, Any]


class CannedServer:
    """Answers each method and path with the replies it was given, the last one for ever; keeps what was asked."""

    def __init__(self) -> None:
        self.replies: dict[str, list[Reply]] = {}
        self.asked: list[tuple[str, bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                key = f"{self.command} {self.path.split('?')[0].removeprefix('/v1')}"
                outer.asked.append((key, body))
                replies = outer.replies.get(key, [(404, envelope("no such path", None))])
                status, value = replies.pop(0) if len(replies) > 1 else replies[0]
                kind, data = encoded(value)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_DELETE = do_GET  # noqa: N815 - http.server's names

            def log_message(self, *_args: object) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def sent(self, key: str) -> bytes:
        return next(body for asked, body in self.asked if asked == key)


def envelope(message: str, param: str | None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def job(status: str = "succeeded", **changes: Any) -> dict[str, Any]:
    return {
        "id": "ftjob-1", "object": "fine_tuning.job", "created_at": 1_700_000_000, "finished_at": None,
        "estimated_finish": None, "status": status, "model": "tiny-chat", "organization_id": "org-1",
        "fine_tuned_model": "ft:tiny-chat:acme:x:12345678" if status == "succeeded" else None,
        "training_file": "file-1", "validation_file": None, "result_files": [], "trained_tokens": None,
        "hyperparameters": {"n_epochs": 1}, "seed": 1, "error": None, "integrations": [],
    } | changes  # fmt: skip


def event(number: int, message: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "id": f"ftevent-{number}", "object": "fine_tuning.job.event", "created_at": number, "level": "info",
        "message": message, "type": "metrics" if data else "message", "data": data or {},
    }  # fmt: skip


def page(*data: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": list(data), "has_more": False}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[CannedServer]:
    canned = CannedServer()
    monkeypatch.setenv("OPENAI_BASE_URL", canned.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-ts_test")
    thread = threading.Thread(target=canned.http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield canned
    canned.http.shutdown()
    thread.join()
    canned.http.server_close()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text('{"messages": []}\n')
    return path


def encoded(value: Any) -> tuple[str, bytes]:
    """The content type and the bytes of a reply: bytes are an archive, a list of texts is a stream of events."""
    if isinstance(value, bytes):
        return "application/x-tar", value
    if isinstance(value, list):
        return "text/event-stream", "".join(f"data: {text}\n\n" for text in value).encode()
    return "application/json", json.dumps(value).encode()


def run(*arguments: str) -> tuple[int, str, str]:
    """Run a command in this process as `main` does; returns the exit status, stdout and stderr."""
    result = CliRunner().invoke(app, list(arguments))
    status, stderr = result.exit_code, result.stderr
    if isinstance(result.exception, Exception):
        message, status = errors.explain(result.exception)
        stderr += message
    return status, result.stdout, stderr


def test_finetune_uploads_and_creates(server: CannedServer, dataset: Path) -> None:
    server.replies = {
        "POST /files": [(200, {"id": "file-1", "object": "file", "bytes": 1, "created_at": 1, "filename": "t",
                               "purpose": "fine-tune", "status": "processed"})],
        "POST /fine_tuning/jobs": [(200, job("validating_files"))],
    }  # fmt: skip
    status, out, _ = run(
        "finetune", str(dataset), "--model", "tiny-chat", "--epochs", "2", "--learning-rate", "0.001", "--suffix", "x",
        "--validation", str(dataset), "--seed", "5",
    )  # fmt: skip
    assert (status, out) == (0, "ftjob-1\n")
    assert b'{"messages": []}' in server.sent("POST /files")
    assert json.loads(server.sent("POST /fine_tuning/jobs")) == {
        "model": "tiny-chat",
        "training_file": "file-1",
        "validation_file": "file-1",
        "suffix": "x",
        "seed": 5,
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "learning_rate": 0.001}}},
    }


METRICS = {"step": 3, "total_steps": 3, "train_loss": 0.25}


def watched(server: CannedServer) -> list[tuple[str, bytes]]:
    """Watch a job of three events; each must have been shown once. Returns what the server was asked."""
    status, out, err = run("jobs", "watch", "ftjob-1")
    assert (status, out) == (0, "ft:tiny-chat:acme:x:12345678\n")
    assert err.count("Created") == err.count("The job has completed") == 1
    assert "3/3" in err
    assert "0.2500" in err
    return server.asked


def test_watch_polls_a_server_that_does_not_stream(server: CannedServer) -> None:
    server.replies = {
        "GET /fine_tuning/jobs/ftjob-1": [(200, job("running"))] * 3 + [(200, job())],
        "GET /fine_tuning/jobs/ftjob-1/events": [
            (200, page(event(1, "Created fine-tuning job"))),
            (200, page(event(1, "Created fine-tuning job"))),
            (200, page(event(3, "The job has completed"), event(2, "Step 3/3", METRICS), event(1, "Created"))),
        ],
    }
    watched(server)


def test_watch_follows_a_stream_and_goes_on_where_it_broke_off(server: CannedServer) -> None:
    first, second, third = event(1, "Created"), event(2, "Step 3/3", METRICS), event(3, "The job has completed")
    server.replies = {
        "GET /fine_tuning/jobs/ftjob-1": [(200, job("running"))] * 4 + [(200, job())],
        "GET /fine_tuning/jobs/ftjob-1/events": [
            (503, envelope("not now", None)),
            (200, [json.dumps(first), json.dumps(second)]),
            (200, [json.dumps(third), "[DONE]"]),
            (200, page(third, second, first)),
        ],
    }
    asked = watched(server)
    assert [key for key, _ in asked].count("GET /fine_tuning/jobs/ftjob-1/events") == 4


def test_watch_tells_of_steps_now_and_then_where_no_bar_can_be_shown(server: CannedServer) -> None:
    steps = [event(n, f"Step {n}/3: training loss=0.5", METRICS | {"step": n}) for n in (1, 2, 3)]
    server.replies = {
        "GET /fine_tuning/jobs/ftjob-1": [(200, job())],
        "GET /fine_tuning/jobs/ftjob-1/events": [
            (200, [*map(json.dumps, steps), "[DONE]"]),
            (200, page(*steps[::-1])),
        ],
    }
    status, _, err = run("jobs", "watch", "ftjob-1")
    assert status == 0
    assert re.findall(r"Step \d/3", err) == ["Step 1/3"]


def test_whoever_interrupts_watching_is_told_that_the_job_goes_on(
    server: CannedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> Iterator[None]:
        raise KeyboardInterrupt
        yield

    server.replies = {"GET /fine_tuning/jobs/ftjob-1": [(200, job("running"))]}
    monkeypatch.setattr(events, "follow", interrupted)
    status, out, err = run("jobs", "watch", "ftjob-1")
    assert (status, out) == (130, "")
    assert "ftjob-1 goes on" in err
    assert "tunesmith jobs cancel ftjob-1" in err


@pytest.mark.parametrize("ended", ["failed", "cancelled"])
def test_watch_exits_with_one_unless_the_job_succeeded(server: CannedServer, ended: str) -> None:
    error = {"code": "invalid_training_file", "message": "line 3 is no object", "param": "training_file"}
    server.replies = {
        "GET /fine_tuning/jobs/ftjob-1": [(200, job(ended, error=error))],
        "GET /fine_tuning/jobs/ftjob-1/events": [(200, page())],
    }
    status, out, err = run("jobs", "watch", "ftjob-1")
    assert (status, out) == (1, "")
    assert f"ftjob-1 {ended}: line 3 is no object" in err


def test_list_and_show(server: CannedServer) -> None:
    server.replies = {
        "GET /fine_tuning/jobs": [(200, page(job(), job("queued", id="ftjob-2")))],
        "GET /fine_tuning/jobs/ftjob-1": [(200, job())],
        "GET /models": [
            (200, page({"id": "tiny-chat", "object": "model", "created": 1_700_000_000, "owned_by": "tunesmith"}))
        ],
    }
    _, out, _ = run("jobs", "list")
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["ftjob-1", "succeeded"], ["ftjob-2", "queued"]]
    _, out, _ = run("jobs", "list", "--limit", "1", "--json")
    assert [entry["id"] for entry in json.loads(out)] == ["ftjob-1"]
    _, out, _ = run("jobs", "show", "ftjob-1", "--json")
    assert json.loads(out) == job()
    _, out, _ = run("models", "list")
    assert out.splitlines()[1].split() == ["tiny-chat", "tunesmith", "2023-11-14", "22:13:20"]


def test_cancel(server: CannedServer) -> None:
    server.replies = {"POST /fine_tuning/jobs/ftjob-1/cancel": [(200, job("cancelled"))]}
    assert run("jobs", "cancel", "ftjob-1")[:2] == (0, "ftjob-1 cancelled\n")


@pytest.mark.parametrize(("verb", "status"), [("pause", "paused"), ("resume", "queued")])
def test_pause_and_resume(server: CannedServer, verb: str, status: str) -> None:
    server.replies = {f"POST /fine_tuning/jobs/ftjob-1/{verb}": [(200, job(status))]}
    assert run("jobs", verb, "ftjob-1")[:2] == (0, f"ftjob-1 {status}\n")


def adapter_archive() -> bytes:
    buffer = io.BytesIO()
    weights = b"weights"
    files = {"adapter_model.safetensors": {"size": 7, "sha256": hashlib.sha256(weights).hexdigest()}}
    manifest = {"version": 1, "files": files}
    with tarfile.open(fileobj=buffer, mode="w") as target:
        for name, data in (("adapter_model.safetensors", weights), ("manifest.json", json.dumps(manifest).encode())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            target.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("ftjob-1", "/fine_tuning/jobs/ftjob-1/adapter"),
        ("ft:tiny-chat:acme:x:12345678", "/fine_tuning/jobs/ftjob-1/adapter"),
        ("ft:tiny-chat:acme:x:87654321:ckpt-step-4", "/fine_tuning/jobs/ftjob-1/checkpoints/ftckpt_1/adapter"),
    ],
    ids=["job", "model", "checkpoint"],
)
def test_download(server: CannedServer, tmp_path: Path, name: str, path: str) -> None:
    checkpoint = {
        "id": "ftckpt_1", "object": "fine_tuning.job.checkpoint", "created_at": 1, "fine_tuning_job_id": "ftjob-1",
        "fine_tuned_model_checkpoint": "ft:tiny-chat:acme:x:87654321:ckpt-step-4", "metrics": {}, "step_number": 4,
    }  # fmt: skip
    server.replies = {
        "GET /fine_tuning/jobs": [(200, page(job()))],
        "GET /fine_tuning/jobs/ftjob-1/checkpoints": [(200, page(checkpoint))],
        f"GET {path}": [(200, adapter_archive())],
    }
    out_folder = tmp_path / "new" / "adapter"
    status, out, err = run("models", "download", name, "--out", str(out_folder))
    assert (status, out) == (0, f"{out_folder}\n"), err
    assert (out_folder / "adapter_model.safetensors").read_bytes() == b"weights"
    assert [entry.name for entry in out_folder.parent.iterdir()] == ["adapter"]
    assert run("models", "download", name, "--out", str(out_folder))[0] == errors.USAGE


def test_a_bad_archive_leaves_nothing(server: CannedServer, tmp_path: Path) -> None:
    server.replies = {"GET /fine_tuning/jobs/ftjob-1/adapter": [(200, b"no tar at all")]}
    status, _, err = run("models", "download", "ftjob-1", "--out", str(tmp_path / "adapter"))
    assert status == errors.FAILED
    assert "cannot be read" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("http_status", "exit_status"), [(400, 2), (404, 2), (401, 3), (403, 3), (429, 4), (500, 4), (503, 4)]
)
def test_exit_status_of_a_refusal(
    server: CannedServer, monkeypatch: pytest.MonkeyPatch, http_status: int, exit_status: int
) -> None:
    monkeypatch.setattr("openai._base_client.BaseClient._calculate_retry_timeout", lambda *_args, **_kwargs: 0.0)
    server.replies = {"GET /fine_tuning/jobs/ftjob-1": [(http_status, envelope("No such thing", "model"))]}
    status, _, err = run("jobs", "show", "ftjob-1")
    assert status == exit_status
    assert "No such thing (param: model)" in err


def tunesmith(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a process, as a user meets it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "TUNESMITH_"))}
    return subprocess.run(
        [sys.executable, "-m", "app.cli.main", *arguments],
        capture_output=True, text=True, check=False, env=clean | environment,
    )  # fmt: skip


def test_without_a_key() -> None:
    done = tunesmith("jobs", "list")
    assert done.returncode == 3
    assert done.stderr == "tunesmith: OPENAI_API_KEY is not set; `tunesmith up` prints a key\n"


def test_without_a_server() -> None:
    done = tunesmith("jobs", "list", OPENAI_API_KEY="sk-x", OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    assert done.returncode == 3
    assert re.fullmatch(r"tunesmith: cannot reach the server: .*\n", done.stderr)


def test_a_wrong_command_line() -> None:
    assert tunesmith("finetune", "/no/such/file", "--model", "m").returncode == 2
    assert tunesmith("jobs", "frobnicate").returncode == 2


def test_no_database() -> None:
    done = tunesmith("migrate", TUNESMITH_DATABASE_URL="postgresql+psycopg://x@127.0.0.1:9/x")
    assert done.returncode == 3
    assert re.fullmatch(r"tunesmith: the database cannot be reached: .*\n", done.stderr)


def test_keys_of_a_folder_that_is_no_data_directory(tmp_path: Path) -> None:
    done = tunesmith("keys", "create", "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert "no data directory" in done.stderr


def test_help_names_the_exit_statuses() -> None:
    done = tunesmith("--help")
    assert done.returncode == 0
    for words in ("Exit status: 0", "OPENAI_BASE_URL", "finetune", "jobs", "models", "catalog", "keys", "up", "worker"):
        assert words in done.stdout
