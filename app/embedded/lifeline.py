"""Run one program and stop it when the process that asked for it is gone. Standard library only: it starts in 20 ms.

`python lifeline.py --lifeline FD --signal NAME --grace SECONDS -- PROGRAM …`

The supervisor holds the writing end of the lifeline and never writes. However it dies, the kernel closes that end, and
the end of file seen here stops the program: first with its own signal, after the grace with SIGKILL.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from select import select

PR_SET_PDEATHSIG = 1  # prctl(2)


def main(arguments: list[str]) -> int:
    """Run the program to its end. Returns its exit status, 128 + n when signal n ended it."""
    options = _parse(arguments)
    stop = signal.Signals[options.signal]
    wake, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: asked.append(received))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    prepare = _before_exec(options, stop)
    program = subprocess.Popen(options.program, close_fds=False, preexec_fn=prepare)  # noqa: PLW1509 - one thread only
    stopping = False
    while program.poll() is None:
        watched = [wake] if stopping else [wake, options.lifeline]
        ready, _, _ = select(watched, [], [], options.grace if stopping else None)
        if stopping and not ready:
            program.kill()
        if wake in ready:
            os.read(wake, 512)
        if not stopping and (asked or options.lifeline in ready):
            stopping = True
            program.send_signal(stop)
    status = program.returncode
    return status if status >= 0 else 128 - status


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lifeline", type=int, required=True)
    parser.add_argument("--signal", default="SIGTERM")
    parser.add_argument("--grace", type=float, default=10.0)
    parser.add_argument("--uid", type=int)
    parser.add_argument("program", nargs="+")
    return parser.parse_args(arguments)


def _before_exec(options: argparse.Namespace, stop: signal.Signals) -> Callable[[], None]:
    """What the program's process does before it becomes the program; everything it imports is imported here.

    Another user may not be able to read this interpreter's library any more.
    """
    parent, prctl = os.getpid(), _prctl()

    def prepare() -> None:
        if options.uid is not None:
            os.setgroups([])
            os.setgid(options.uid)
            os.setuid(options.uid)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        prctl(PR_SET_PDEATHSIG, int(stop))
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return prepare


def _prctl() -> Callable[[int, int], object]:
    """prctl(2) where the kernel has it: there, the death of this watcher itself is covered too.

    The signal is sent when the *thread* that forked ends; this process has one thread, so that is its own end.
    """
    if not sys.platform.startswith("linux"):
        return lambda _option, _value: None
    import ctypes

    return ctypes.CDLL(None).prctl


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
