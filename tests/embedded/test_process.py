"""A child behind its lifeline: it ends when asked, when its grace is over, and when nobody is left to ask."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.embedded.process import Lifeline, Process

POLITE = "import sys, time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
TELLS_ITS_SIGNAL = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: (print("interrupted", flush=True), sys.exit(7)))
print("up", flush=True)
time.sleep(600)
"""
TELLS_ITS_PID = "import os, time; print('up', os.getpid(), flush=True); time.sleep(600)"
OWNER = """
import sys, time
from pathlib import Path
from app.embedded.process import Lifeline, Process
process = Process("child", [sys.executable, "-c", sys.argv[2]], Path(sys.argv[1]), Lifeline(), grace=0.5)
process.start()
time.sleep(600)
"""


@pytest.fixture
def lifeline() -> Iterator[Lifeline]:
    line = Lifeline()
    yield line
    line.close()


def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def started(program: str, log: Path, lifeline: Lifeline, **options: object) -> Process:
    process = Process("child", [sys.executable, "-c", program], log, lifeline, **options)  # type: ignore[arg-type]
    process.start()
    until(lambda: "up" in log.read_text())
    return process


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_stop_ends_the_program(tmp_path: Path, lifeline: Lifeline) -> None:
    process = started(TELLS_ITS_PID, tmp_path / "log", lifeline)
    pid = int((tmp_path / "log").read_text().split()[1])
    process.stop()
    assert not process.alive()
    assert gone(pid)


def test_the_program_gets_its_own_signal_and_its_status_comes_back(tmp_path: Path, lifeline: Lifeline) -> None:
    process = started(TELLS_ITS_SIGNAL, tmp_path / "log", lifeline, stop_signal=signal.SIGINT)
    process.ask_to_stop()
    until(lambda: not process.alive())
    assert process.status() == 7
    assert "interrupted" in (tmp_path / "log").read_text()


def test_a_program_that_does_not_listen_is_killed_after_its_grace(tmp_path: Path, lifeline: Lifeline) -> None:
    process = started(STUBBORN, tmp_path / "log", lifeline, grace=0.3)
    before = time.monotonic()
    process.ask_to_stop()
    until(lambda: not process.alive())
    assert process.status() == 128 + signal.SIGKILL
    assert time.monotonic() - before >= 0.3


def test_a_program_that_ends_by_itself_is_seen(tmp_path: Path, lifeline: Lifeline) -> None:
    process = Process("child", [sys.executable, "-c", "raise SystemExit(5)"], tmp_path / "log", lifeline)
    process.start()
    until(lambda: not process.alive())
    assert process.status() == 5


def test_the_program_does_not_outlive_its_watcher(tmp_path: Path, lifeline: Lifeline) -> None:
    process = started(TELLS_ITS_PID, tmp_path / "log", lifeline)
    pid = int((tmp_path / "log").read_text().split()[1])
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: not process.alive())
    process.start()  # a start never leaves an earlier run behind
    assert gone(pid)
    process.stop()


@pytest.mark.parametrize("program", [TELLS_ITS_PID, STUBBORN.replace("'up'", "'up', __import__('os').getpid()")])
def test_the_program_does_not_outlive_a_killed_owner(tmp_path: Path, program: str) -> None:
    log = tmp_path / "log"
    log.touch()
    with subprocess.Popen([sys.executable, "-c", OWNER, str(log), program]) as owner:
        until(lambda: "up" in log.read_text())
        owner.kill()
    pid = int(log.read_text().split()[1])
    until(lambda: gone(pid), seconds=15)


def test_a_signal_to_the_terminal_does_not_reach_the_program(tmp_path: Path, lifeline: Lifeline) -> None:
    """Ctrl-C goes to the foreground process group; children are in groups of their own, and stop in order."""
    process = started(POLITE, tmp_path / "log", lifeline)
    assert process.pid is not None
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    process.stop()
