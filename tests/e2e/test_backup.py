"""A backup of a running `tunesmith up`, restored elsewhere: keys, files, jobs, events and adapters are all there."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.e2e.stack import ROOT, Up, clean_environment, command, train_a_little

pytestmark = pytest.mark.xdist_group("e2e-backup")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=clean_environment(), cwd=ROOT, capture_output=True, text=True, check=False
    )


def seen(up: Up) -> dict[str, Any]:
    """All that a client can see, bytes included."""
    with OpenAI(base_url=up.base_url, api_key=up.api_key) as client:
        jobs = list(client.fine_tuning.jobs.list())
        return {
            "files": {file.id: client.files.content(file.id).read() for file in client.files.list()},
            "jobs": [json.loads(job.to_json()) for job in jobs],
            "events": {job.id: [e.to_json() for e in client.fine_tuning.jobs.list_events(job.id)] for job in jobs},
            "models": sorted(model.id for model in client.models.list()),
            "adapters": {job.id: client.get(f"/fine_tuning/jobs/{job.id}/adapter", cast_to=str) for job in jobs},
        }


def test_what_was_saved_while_running_comes_back_elsewhere(tmp_path: Path) -> None:
    up = Up(tmp_path / "data").start()
    try:
        train_a_little(up)
        before = seen(up)
        key = up.api_key
        saved = run("backup", str(tmp_path / "saved"), "--data-dir", str(up.data_dir))
        assert saved.returncode == 0, saved.stderr
    finally:
        up.kill()
    up.data_dir.rename(tmp_path / "gone")

    restored = run("restore", str(tmp_path / "saved"), "--data-dir", str(tmp_path / "again"))
    assert restored.returncode == 0, restored.stderr
    again = Up(tmp_path / "again").start()
    try:
        assert again.api_key == key
        assert seen(again) == before
        train_a_little(again)
    finally:
        again.stop()


def test_what_must_not_be_overwritten_is_not(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("x")
    refused = run("restore", str(tmp_path / "there"), "--data-dir", str(tmp_path / "new"))
    assert (refused.returncode, "no backup" in refused.stderr) == (1, True)
    refused = run("backup", str(tmp_path / "saved"), "--data-dir", str(tmp_path / "there"))
    assert (refused.returncode, "not the data directory" in refused.stderr) == (1, True)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "database.dump").write_text("no dump")
    refused = run("restore", str(tmp_path / "saved"), "--data-dir", str(tmp_path / "there"))
    assert (refused.returncode, "is not empty" in refused.stderr) == (1, True)
    assert (tmp_path / "there" / "file").read_text() == "x"
