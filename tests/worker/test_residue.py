"""What is left of a job where its workers ran: no word of its data, in no file and in no log."""

import contextlib
import json
import logging
import secrets
import tempfile
from pathlib import Path

import pytest
from worker_bench import Bench

from app.jobs import states

CANARY = f"kanarienvogel-{secrets.token_hex(4)}"
SHARED_MEMORY = Path("/dev/shm")


def data(word: str) -> bytes:
    turns = [{"role": "user", "content": f"Say {word}"}, {"role": "assistant", "content": word}]
    return (json.dumps({"messages": turns}) + "\n").encode() * 12


def traces(*folders: Path) -> list[Path]:
    """The files that hold the canary, in their name or their bytes; other processes' come and go meanwhile."""
    return [path for folder in folders for path in folder.rglob("*") if CANARY in path.name or _holds(path)]


def _holds(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.is_file() and CANARY.encode() in path.read_bytes()
    return False


@pytest.mark.parametrize("good", [True, False], ids=["trained", "refused"])
def test_no_word_of_the_data_is_left_behind(
    good: bool,
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    caplog.set_level(logging.DEBUG)
    bench.start("cpu", "gpu")
    job_id = bench.create(data(CANARY) if good else data(CANARY) + f'{{"messages": "{CANARY}"}}\n'.encode())
    bench.wait(job_id, states.SUCCEEDED if good else states.FAILED)
    for node in bench.nodes:
        node.stop()
    bench.nodes.clear()

    assert traces(tmp_path / "objects"), "the file itself is still in the store"
    assert traces(bench.settings.scratch_dir, temporary, SHARED_MEMORY) == []
    assert CANARY not in caplog.text
    assert CANARY not in "".join(capfd.readouterr())
    assert all(CANARY not in event.message for event in bench.events(job_id))
