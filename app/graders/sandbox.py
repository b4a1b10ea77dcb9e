"""Run a tenant's Python in a jail of its own: a fresh process for each run, told apart from the machine by the kernel.

`app.graders.jail` does the isolating, `app.graders.prisoner` runs the code; this side starts them, waits, and judges
what comes back. What a run cannot do is listed in docs/graders.md. Imports nothing heavy, so that any interpreter on
the machine can be the jailed one.
"""

import contextlib
import fcntl
import json
import logging
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from app import strict_json
from app.graders.faults import PythonRuntimeFault, PythonServerFault, PythonTimeout
from app.isolation import syscalls

log = logging.getLogger(__name__)

JAIL = Path(__file__).with_name("jail.py")
PRISONER = Path(__file__).with_name("prisoner.py")
SYSTEM_FOLDERS = ("/usr", "/lib", "/lib64", "/bin")
TRIAL = "def grade(sample, item): return 0.0"
CHECK_SECONDS = 20.0  # an interpreter starts in well under one, also on a busy machine
END_SECONDS = 10.0  # what the kernel may take to end a namespace full of processes
MAX_RESULT_BYTES = 64 * 1024
# One thread for numerical libraries: more would not be allowed to start.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"} | dict.fromkeys(  # noqa: S108 - its own
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)
OVERHEAD_PROCESSES = 2  # the keeper and the warden count as the prisoner's user's


class CannotIsolate(PythonServerFault):
    """This machine does not let us isolate code; the message says why."""


@dataclass(frozen=True)
class Limits:
    """What one run may take.

    seconds: wall clock, and processor time of each process; memory: address space in bytes, of each process; disk:
    bytes of its one writable folder, which is memory too; processes: processes and threads at once.
    """

    seconds: float = 120.0
    memory: int = 2 << 30
    disk: int = 256 << 20
    processes: int = 1


@dataclass
class Sandbox:
    """Runs graders' code. Thread-safe; keeps nothing between runs.

    interpreter: the Python whose packages the code may import.
    """

    limits: Limits = field(default_factory=Limits)
    interpreter: str = sys.executable
    _proven: bool = field(default=False, init=False)  # whether a run has gone well

    def check_machine(self) -> None:
        """Raise CannotIsolate if this machine does not let us isolate code, PythonServerFault if a trial run fails."""
        if self._proven:
            return
        if not sys.platform.startswith("linux") or not syscalls.supported():
            raise CannotIsolate("it needs Linux on x86-64 or arm64")
        self.check(TRIAL)
        self._proven = True

    def check(self, source: str) -> None:
        """See that `source` can be loaded and defines `grade`. Raises PythonRuntimeFault, PythonServerFault."""
        self._run({"source": source, "check": True}, min(CHECK_SECONDS, self.limits.seconds))

    def grade(self, source: str, *, sample: dict[str, Any], item: dict[str, Any], seconds: float) -> float:
        """What `grade(sample, item)` of `source` returns. Raises PythonRuntimeFault, PythonServerFault.

        seconds: what is left of the caller's own time; the sandbox's limit counts too.
        """
        answer = self._run({"source": source, "sample": sample, "item": item}, min(seconds, self.limits.seconds))
        reward = answer.get("reward")
        if not isinstance(reward, float) or not math.isfinite(reward):
            raise PythonRuntimeFault("The grader wrote a result of its own.")
        return reward

    @cached_property
    def _plan(self) -> dict[str, Any]:
        """What the jail is told, but for the descriptors of one run."""
        limits = self.limits
        links: dict[str, str] = {}
        shown: dict[str, str] = {}
        folders = [*SYSTEM_FOLDERS, "/etc/ld.so.cache", *_prefixes(self.interpreter)]
        for path in [folder for folder in folders if Path(folder).exists()]:
            if Path(path).is_symlink() and path in SYSTEM_FOLDERS:
                links[path] = str(Path(path).readlink())
            elif not any(Path(path).is_relative_to(other) for other in shown):
                shown[path] = str(Path(path).resolve())
        return {
            "command": [self.interpreter, "-I", "-B", "-c", PRISONER.read_text("utf-8")],
            "environment": ENVIRONMENT,
            "links": links,
            "shown": shown,
            "disk": limits.disk,
            "filter": syscalls.program().hex(),
            "pivot_root": syscalls.pivot_root(),
            "limits": {
                "RLIMIT_AS": limits.memory,
                "RLIMIT_CPU": math.ceil(limits.seconds) + 1,
                "RLIMIT_FSIZE": limits.disk,
                "RLIMIT_NPROC": limits.processes + OVERHEAD_PROCESSES,
                "RLIMIT_NOFILE": 64,
                "RLIMIT_MEMLOCK": 0,
                "RLIMIT_MSGQUEUE": 0,
            },
        }

    def _run(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        try:
            data, status = self._result(json.dumps(request).encode(), seconds)
        except OSError as error:
            raise PythonServerFault(f"{type(error).__name__}: {error.strerror}") from error
        return _judged(data, status, seconds)

    def _result(self, request: bytes, seconds: float) -> tuple[bytes | None, int]:
        """What a run has written, None if it was not done in time, and its exit status."""
        with _sealed(request) as stdin, _Pipe() as result, _Pipe() as lifeline:
            process = self._start(stdin, result.writer, lifeline.reader)
            result.close_writer()
            try:
                data = _read(result.reader, time.monotonic() + seconds)
            finally:
                lifeline.close_writer()
                status = _ended(process)
        return data, status

    def _start(self, stdin: int, result: int, lifeline: int) -> "subprocess.Popen[bytes]":
        plan = self._plan | {"result": result, "lifeline": lifeline}
        plan["command"] = [*plan["command"], str(result)]
        return subprocess.Popen(
            [self.interpreter, "-I", "-S", str(JAIL), json.dumps(plan)],
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[result, lifeline],
            cwd="/",
            env={},
            start_new_session=True,
        )


class _Pipe:
    """Two descriptors, closed at the end of the block if not before."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.reader)
        self.close_writer()

    def close_writer(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1


@contextlib.contextmanager
def _sealed(data: bytes) -> Iterator[int]:
    """A descriptor of a file in memory that holds `data` and cannot be changed."""
    with os.fdopen(os.memfd_create("request", os.MFD_ALLOW_SEALING), "w+b") as file:
        file.write(data)
        file.seek(0)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(file.fileno(), fcntl.F_ADD_SEALS, seals)
        yield file.fileno()


def _prefixes(interpreter: str) -> list[str]:
    """The folders an interpreter and its packages live in, the outermost first. Raises PythonServerFault."""
    ask = [interpreter, "-I", "-c", "import json, sys; print(json.dumps([sys.base_prefix, sys.prefix]))"]
    try:
        done = subprocess.run(ask, capture_output=True, check=True, env={}, timeout=CHECK_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise PythonServerFault(f"the interpreter {interpreter} does not start: {error}") from error
    return sorted(json.loads(done.stdout), key=len)


def _read(descriptor: int, deadline: float) -> bytes | None:
    """All that is written until the writers are gone, at most MAX_RESULT_BYTES and a byte; None if time runs out."""
    data = b""
    events = select.poll()
    events.register(descriptor, select.POLLIN)
    while len(data) <= MAX_RESULT_BYTES:
        if not events.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        chunk = os.read(descriptor, MAX_RESULT_BYTES + 1 - len(data))
        if not chunk:
            return data
        data += chunk
    return data


def _ended(process: "subprocess.Popen[bytes]") -> int:
    """The exit status of a jail whose lifeline is closed."""
    try:
        return process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        log.exception("graders.jail_did_not_end", extra={"pid": process.pid})
        return process.wait()


def _judged(data: bytes | None, status: int, seconds: float) -> dict[str, Any]:
    """The answer in `data`, which the code may have written itself. Raises PythonRuntimeFault, CannotIsolate."""
    if data is None:
        raise PythonTimeout(f"The grader did not finish within {seconds:.3g} s.")
    if len(data) > MAX_RESULT_BYTES:
        raise PythonRuntimeFault("The grader wrote more than a result.")
    if not data:
        raise PythonRuntimeFault(f"The grader ended without a result: {_how(status)}.")
    try:
        answer = strict_json.parse(data)
    except strict_json.StrictJsonError:
        answer = None
    if not isinstance(answer, dict):
        raise PythonRuntimeFault("The grader wrote a result of its own.")
    if "unavailable" in answer:
        log.warning("graders.cannot_isolate", extra={"reason": str(answer["unavailable"])})
        raise CannotIsolate(str(answer["unavailable"]))
    if "error" in answer:
        raise PythonRuntimeFault(str(answer["error"]))
    return answer


def _how(status: int) -> str:
    number = status - 128
    if number in set(signal.Signals):
        return f"ended by {signal.Signals(number).name}, as for too much memory or processor time"
    return f"exit status {status}"
