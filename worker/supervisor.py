"""The engine child: start it, talk to it, watch it, end it.

The child gets three descriptors and a bare environment: no settings, no keys; where the machine lets us, no network and
no sight of other processes either. When this process dies, the lifeline closes and the child ends itself; when the
child dies, everybody who waits for it is told.
"""

import contextlib
import dataclasses
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import Any

from app import metrics
from app.isolation import confined
from app.isolation.confined import Isolation
from worker.engine import protocol

log = logging.getLogger(__name__)

LOAD_SECONDS = 1800.0  # reading tens of gigabytes from a slow disk
MODULE = "worker.engine"
PASS_SECONDS = 120.0  # the engine answers between two passes; one that does not hangs
STEP_SECONDS = 1800.0  # a save waits for the step boundary
STOP_SECONDS = 5.0
# What the child may see of our environment; nothing of it is a secret.
PASSED_ON = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "OMP_NUM_THREADS",
    "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_TF32_OVERRIDE",
)  # fmt: skip
PASSED_PREFIXES = ("CUDA_", "PYTORCH_")

Message = dict[str, Any]


class EngineDied(Exception):
    """The engine child is gone."""


class EngineRefused(Exception):
    """The engine answered a command with an error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Engine:
    """One engine child. Thread-safe: any job's thread may send commands; reports go to each job's own queue."""

    def __init__(self, environment: dict[str, str], *, isolation: Isolation = "auto", gpu: bool = False) -> None:
        """environment: this process's, of which the child gets what PASSED_ON names. Raises CannotConfine."""
        commands, self._commands = os.pipe()
        self._replies, replies = os.pipe()
        lifeline, kept = os.pipe()
        self._lifeline = os.fdopen(kept, "wb", buffering=0)
        inherited = (commands, replies, lifeline)
        arguments = ["--commands", str(commands), "--replies", str(replies), "--lifeline", str(lifeline)]
        try:
            self._process = confined.start(
                [sys.executable, "-m", MODULE, *arguments],
                environment=_bare(environment),
                descriptors=inherited,
                isolation=isolation,
                local_sockets=gpu,  # CUDA's driver makes some
            )
        finally:
            for descriptor in inherited:
                os.close(descriptor)
        self._lock = threading.Lock()
        self._next_id = 0
        self._waiting: dict[int, Future[Message]] = {}
        self._reports: dict[str, queue.SimpleQueue[Message | None]] = {}
        self.alive = True
        self._stopping = False
        metrics.ENGINE_STARTS.inc()
        threading.Thread(target=self._read, name="engine-replies", daemon=True).start()

    def load_base(
        self, *, path: str, key: str, name: str, dtype: Any, device: str, linears: list[str], slots: int, threads: int
    ) -> Message:
        """Make a base resident. Raises EngineDied, EngineRefused."""
        command = protocol.LoadBase(0, path, key, dtype, device, linears, slots, threads or None, name)
        return self._ask(command, LOAD_SECONDS)

    def admit(
        self,
        job: str,
        *,
        spec: Message,
        dataset: str,
        validation: str | None,
        resume: str | None,
        adapter: str | None,
        out: str,
        tenant: str,
    ) -> "tuple[Message, queue.SimpleQueue[Message | None]]":
        """Start a job; the reply, and the queue of its reports, which ends with None if the engine dies.

        Passes are shared fairly between tenants.
        Raises EngineDied, EngineRefused.
        """
        reports: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._reports[job] = reports
        known = {field.name for field in dataclasses.fields(protocol.Spec)}
        settings = protocol.Spec(**{name: value for name, value in spec.items() if name in known})
        try:
            command = protocol.Admit(0, job, settings, dataset, validation, resume, adapter, out, tenant)
            return self._ask(command, PASS_SECONDS), reports
        except BaseException:
            self._reports.pop(job, None)
            raise

    def release(self, job: str, *, save: bool) -> Message:
        """Take a job off its slot: at its next step boundary with a resume state, or at once without one.

        Raises EngineDied, EngineRefused.
        """
        return self._ask(protocol.Release(0, job, save), STEP_SECONDS if save else PASS_SECONDS)

    def forget(self, job: str) -> None:
        """Stop keeping a job's reports."""
        self._reports.pop(job, None)

    def stop(self) -> None:
        """End the child: politely, then by its process group. A second time there is nothing to do."""
        self._stopping = True
        if self.alive:
            try:
                self._send(protocol.Shutdown(0))
                self._process.wait(STOP_SECONDS)
            except (EngineDied, subprocess.TimeoutExpired):
                self.kill()
        self._lifeline.close()

    def kill(self) -> None:
        """End the child's process group at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _ask(self, command: protocol.Command, seconds: float) -> Message:
        answer = self._send(command)
        try:
            reply = answer.result(seconds)
        except TimeoutError:
            log.warning("engine.silent", extra={"command": type(command).__name__, "seconds": seconds})
            self.kill()
            raise EngineDied("the engine did not answer") from None
        if reply["type"] == "error":
            raise EngineRefused(reply["code"], reply["message"])
        return reply

    def _send(self, command: protocol.Command) -> "Future[Message]":
        answer: Future[Message] = Future()
        with self._lock:
            if not self.alive:
                raise EngineDied("the engine is gone")
            self._next_id += 1
            self._waiting[self._next_id] = answer
            data = protocol.encode(dataclasses.replace(command, id=self._next_id))
            try:
                while data:
                    data = data[os.write(self._commands, data) :]
            except BrokenPipeError:
                raise EngineDied("the engine is gone") from None
        return answer

    def _read(self) -> None:
        with os.fdopen(self._replies, "rb") as replies:
            for line in replies:
                if line.endswith(b"\n"):  # else it was killed while it wrote
                    self._dispatch(json.loads(line))
        self._process.wait()
        if not self._stopping:
            metrics.ENGINE_CRASHES.inc()
        log.warning("engine.ended", extra={"status": self._process.returncode, "asked": self._stopping})
        with self._lock:
            self.alive = False
            waiting, self._waiting = self._waiting, {}
            os.close(self._commands)
        for answer in waiting.values():
            answer.set_exception(EngineDied("the engine is gone"))
        for reports in list(self._reports.values()):
            reports.put(None)

    def _dispatch(self, message: Message) -> None:
        if message["id"] is None:
            reports = self._reports.get(message.get("job") or "")
            if reports is not None:
                reports.put(message)
            return
        with self._lock:
            answer = self._waiting.pop(message["id"], None)
        if answer is not None:
            answer.set_result(message)


def _bare(environment: dict[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in environment.items() if name in PASSED_ON or name.startswith(PASSED_PREFIXES)
    } | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
