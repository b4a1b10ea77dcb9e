"""`tunesmith up`: one process that starts the stack, starts again what dies, and stops it all on one signal.

When this process dies without stopping its children, its lifeline's end of file does.
"""

import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.config import Settings
from app.embedded.data_directory import locked, prepare
from app.embedded.stack import Child, Ready, Stack

WATCH_SECONDS = 0.5
FIRST_PAUSE_SECONDS = 0.5  # before a dead child is started again; doubles
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0  # a child that lived so long starts again at the first pause
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """Ctrl-C, SIGTERM or a closed terminal."""


def run(data_dir: Path, settings: Settings, announce: Callable[[Ready], None]) -> None:
    """Bring the stack up, say so, and keep it up until a signal ends it; every child is stopped on the way out.

    Raises AlreadyRunning, NotReady, OSError (the port is taken), RuntimeError (a server cannot be started).
    """
    data_dir = data_dir.resolve()
    prepare(data_dir)
    with locked(data_dir), listening(settings.host, settings.port) as listener, _signals_raise():
        stack = Stack(data_dir, listener, settings)
        try:
            announce(stack.start())
            keep_alive(stack.children)
        except Stopped:
            _say("stopping")
        finally:
            _ignore_signals()
            stack.stop()


def keep_alive(children: Sequence[Child]) -> None:
    """Start dead children again, for ever; ends by an exception."""
    watches = [Watch(child, time.monotonic()) for child in children]
    while True:
        time.sleep(WATCH_SECONDS)
        for watch in watches:
            watch.look(time.monotonic())


@dataclass
class Watch:
    """One child: when it was last started, the pause before the next start, and when that is due.

    Times are in seconds of one monotonic clock.
    """

    child: Child
    started: float
    pause: float = FIRST_PAUSE_SECONDS
    due: float | None = None

    def look(self, now: float) -> None:
        """Start the child again if it is dead and its pause is over."""
        process = self.child.process
        if process.alive():
            return
        if self.due is None:
            if now - self.started > STEADY_SECONDS:
                self.pause = FIRST_PAUSE_SECONDS
            _say(f"{process.name} ended with status {process.status()}; starting it again (log: {process.log})")
            self.due = now + self.pause
            self.pause = min(self.pause * 2, LONGEST_PAUSE_SECONDS)
        if now >= self.due:
            self._restart(now)

    def _restart(self, now: float) -> None:
        self.due, self.started = None, now
        try:
            self.child.start()
        except RuntimeError as error:
            _say(str(error))


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens on host and port (0: a free one). Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=2048) as listener:
        yield listener


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Turn the signals that ask us to end into Stopped, once."""

    def stop(_number: int, _frame: object) -> None:
        _ignore_signals()
        raise Stopped

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    """One request to stop is enough; a second would interrupt the stopping."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _say(text: str) -> None:
    print(f"tunesmith: {text}", file=sys.stderr, flush=True)
