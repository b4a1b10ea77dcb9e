"""The supervisor's parts on their own: restarts with growing pauses, the lock, and the folders of a data directory."""

import stat
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from app.embedded import data_directory, supervisor
from app.embedded.process import Lifeline, Process


class Fragile:
    """A child that is dead whenever it is looked at; counts its starts."""

    def __init__(self, log: Path) -> None:
        self.process = Process("fragile", [sys.executable, "-c", ""], log, Lifeline())
        self.starts = 0
        self.fails = False

    def start(self) -> None:
        self.starts += 1
        if self.fails:
            raise RuntimeError("it will not start")

    def stop(self) -> None:
        return


def starts_at(watch: supervisor.Watch, child: Fragile, until: float, step: float = 0.25) -> list[float]:
    """The moments, on a clock that moves by `step`, at which the child was started."""
    found, now = [], 0.0
    while now < until:
        before = child.starts
        watch.look(now)
        if child.starts > before:
            found.append(now)
        now += step
    return found


def test_a_dead_child_is_started_again_after_growing_pauses(tmp_path: Path) -> None:
    child = Fragile(tmp_path / "log")
    moments = starts_at(supervisor.Watch(child, 0.0), child, until=100)
    pauses = [round(b - a, 2) for a, b in pairwise(moments)]
    assert moments[0] == 0.5
    assert pauses[:6] == [1.25, 2.25, 4.25, 8.25, 16.25, 30.25]  # one look more to see that it is dead
    assert set(pauses[6:]) <= {30.25}


def test_a_child_that_was_steady_is_started_at_the_first_pause(tmp_path: Path) -> None:
    child = Fragile(tmp_path / "log")
    watch = supervisor.Watch(child, started=0.0, pause=16.0)
    watch.look(supervisor.STEADY_SECONDS + 1)
    watch.look(supervisor.STEADY_SECONDS + 1 + supervisor.FIRST_PAUSE_SECONDS)
    assert child.starts == 1


def test_a_child_that_cannot_be_started_is_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    child = Fragile(tmp_path / "log")
    child.fails = True
    assert len(starts_at(supervisor.Watch(child, 0.0), child, until=5)) >= 2
    assert "it will not start" in capsys.readouterr().err


def test_two_at_once_on_one_data_directory(tmp_path: Path) -> None:
    with data_directory.locked(tmp_path):
        script = (
            "import sys; from pathlib import Path; from app.embedded import data_directory\n"
            "with data_directory.locked(Path(sys.argv[1])): pass"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert "is in use by another `tunesmith up`" in done.stderr
    with data_directory.locked(tmp_path):
        pass  # it was let go


def test_the_folders_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    data_directory.prepare(folder)
    data_directory.prepare(folder)
    assert {path.name for path in folder.iterdir()} == {"logs", "objects", "scratch", "models"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o700}
    assert stat.S_IMODE(folder.stat().st_mode) & 0o066 == 0


def test_the_key_file_is_private_even_where_one_lies_already(tmp_path: Path) -> None:
    path = tmp_path / "api-key"
    path.write_text("old")
    path.chmod(0o644)
    data_directory.write_private(path, "new\n")
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["api-key"]


def test_a_taken_port_is_an_error() -> None:
    with supervisor.listening("127.0.0.1", 0) as first:
        with pytest.raises(OSError, match="in use"), supervisor.listening("127.0.0.1", first.getsockname()[1]):
            pass
