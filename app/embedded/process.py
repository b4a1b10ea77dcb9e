"""One child of `tunesmith up`: a program behind a lifeline, in a process group of its own, with a log file."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.embedded import lifeline

WATCHER_SECONDS = 5.0  # what the watcher may take beyond its program's grace


class Lifeline:
    """A pipe whose writing end only this process holds: its end of file tells the children that we are gone."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()

    def close(self) -> None:
        for descriptor in (self.reader, self._writer):
            os.close(descriptor)


@dataclass
class Process:
    """A program to run, and the run of it that is alive.

    stop_signal: what asks the program to end; grace: seconds until SIGKILL follows.
    uid: the user (and group) to become first, if we are root. descriptors: inherited by the program.
    """

    name: str
    command: Sequence[str]
    log: Path
    lifeline: Lifeline
    stop_signal: signal.Signals = signal.SIGTERM
    grace: float = 10.0
    uid: int | None = None
    environment: Mapping[str, str] | None = None
    descriptors: Sequence[int] = ()
    _watcher: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start the program; what an earlier run of it may have left behind is stopped first."""
        self._reap()
        watcher = [sys.executable, "-I", "-S", lifeline.__file__, "--lifeline", str(self.lifeline.reader)]
        watcher += ["--signal", self.stop_signal.name, "--grace", str(self.grace)]
        watcher += [] if self.uid is None else ["--uid", str(self.uid)]
        with self.log.open("ab") as log:
            self._watcher = subprocess.Popen(
                [*watcher, "--", *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                pass_fds=[self.lifeline.reader, *self.descriptors],
                process_group=0,
            )

    @property
    def pid(self) -> int | None:
        """The watcher's process id, which is also the id of the group."""
        return self._watcher.pid if self._watcher else None

    def alive(self) -> bool:
        return self._watcher is not None and self._watcher.poll() is None

    def status(self) -> int | None:
        """How the last run ended: an exit status, 128 + n for signal n; None while it runs."""
        return self._watcher.poll() if self._watcher else None

    def ask_to_stop(self) -> None:
        if self._watcher is not None and self._watcher.poll() is None:
            self._watcher.terminate()

    def stop(self) -> None:
        """End the program and wait for it."""
        if self._watcher is None:
            return
        self.ask_to_stop()
        try:
            self._watcher.wait(self.grace + WATCHER_SECONDS)
        except subprocess.TimeoutExpired:
            self._watcher.kill()
            self._watcher.wait()
        self._reap()

    def _reap(self) -> None:
        """End what still runs in the group of a watcher that was killed."""
        if self._watcher is None or self._watcher.poll() is None:
            return
        group, self._watcher = self._watcher.pid, None
        asked_until = time.monotonic() + self.grace
        gives_up = asked_until + WATCHER_SECONDS  # a zombie that nobody collects stays in its group for ever
        number = int(self.stop_signal)
        while _signal_group(group, number) and time.monotonic() < gives_up:
            time.sleep(0.05)
            number = signal.SIGKILL if time.monotonic() > asked_until else 0


def _signal_group(group: int, number: int) -> bool:
    """Send a signal (0: none) to a process group; False if nobody is in it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
