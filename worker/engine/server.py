"""The engine's main loop: obey commands, and let the admitted jobs take turns, fairly by tokens."""

import logging
import os
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from worker.engine import base_model, loop
from worker.engine.base_model import BadBase, Base
from worker.engine.batches import BadDataset
from worker.engine.export import BadAdapter
from worker.engine.job import BadSpec, Job, NoSlot, admit
from worker.engine.loop import Diverged, Turn
from worker.engine.protocol import (
    Admit,
    Command,
    LoadBase,
    Ping,
    ProtocolError,
    Release,
    Replies,
    Save,
    Shutdown,
    decode,
)
from worker.engine.resume import BadResume

log = logging.getLogger(__name__)

# What a reply or a report calls each failure; whatever is not here is an internal error.
CODES: dict[type[Exception], str] = {
    BadAdapter: "bad_adapter",
    BadBase: "bad_base",
    BadDataset: "bad_dataset",
    BadResume: "bad_resume",
    BadSpec: "bad_spec",
    Diverged: "diverged",
    MemoryError: "out_of_memory",
    NoSlot: "no_slot",
    torch.OutOfMemoryError: "out_of_memory",
}


# Below so many parameters the CPU runs one thread: a second gains a quarter on an idle machine, but on a busy one every
# small operation waits for a thread that is not scheduled, and a step takes ten times as long.
SMALL_BASE = 50_000_000
CORES = torch.get_num_threads()  # the physical cores, or what OMP_NUM_THREADS says


class Refused(Exception):
    """A command that does not fit the present state of the engine."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Running:
    """A job, its generator of turns, the tokens it was served, and the commands that wait for its step boundary."""

    job: Job
    turns: Iterator[Turn]
    served: int
    at_boundary: bool = True
    waiting: list[Release | Save] = field(default_factory=list)


class Server:
    """One base, its jobs, and the conversation about them."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self._base: Base | None = None
        self._running: dict[str, Running] = {}

    def serve(self, inbox: "queue.SimpleQueue[Command | ProtocolError]") -> None:
        """Return on Shutdown. Commands go before turns; without a job it sleeps until the next command."""
        while True:
            while not self._running or not inbox.empty():
                command = inbox.get()
                if isinstance(command, Shutdown):
                    return
                self._obey(command)
            self._take_turn(min(self._running.values(), key=lambda running: running.served))

    def _obey(self, command: Command | ProtocolError) -> None:
        if isinstance(command, ProtocolError):
            self._replies.error(command.id, "bad_command", str(command))
            return
        job = getattr(command, "job", None)
        try:
            self._dispatch(command)
        except Refused as error:
            self._replies.error(command.id, error.code, str(error), job)
        except Exception as error:  # a command may fail in any way, and the other jobs must not notice
            log.exception("command failed", extra={"command": type(command).__name__})
            self._replies.error(command.id, _code(error), str(error) or repr(error), job)

    def _dispatch(self, command: Command) -> None:
        match command:
            case LoadBase():
                self._load_base(command)
            case Admit():
                self._admit(command)
            case Release() | Save():
                self._queue(command)
            case Ping():
                self._replies.reply("pong", command.id)

    def _load_base(self, command: LoadBase) -> None:
        if self._base is None or self._base.key != command.key:
            if self._running:
                raise Refused("busy", f"{len(self._running)} jobs still train on {self._base and self._base.key}")
            self._base = None
            self._base = base_model.load(
                Path(command.path),
                key=command.key,
                name=command.name or command.key,
                dtype=command.dtype,
                device=command.device,
                linears=command.linears,
                slots=command.slots,
            )
            threads = 1 if self._base.parameters() < SMALL_BASE else CORES
            torch.set_num_threads(command.threads or threads)
        base = self._base
        self._replies.reply(
            "base_loaded",
            command.id,
            key=base.key,
            dtype=str(base.bank.dtype).removeprefix("torch."),
            device=str(base.bank.device),
            parameters=base.parameters(),
            memory_bytes=base.memory_bytes(),
            seconds=base.seconds,
        )

    def _admit(self, command: Admit) -> None:
        started = time.perf_counter()
        if self._base is None:
            raise Refused("no_base", "load a base first")
        if command.job in self._running:
            raise Refused("duplicate_job", f"{command.job} is already admitted")
        job = admit(command, self._base)
        # A newcomer starts level with the least served, or it would have the engine for itself until it caught up.
        served = min((running.served for running in self._running.values()), default=0)
        turns = loop.train(job, self._base, self._replies.report)
        self._running[job.id] = Running(job, turns, served)
        self._replies.reply(
            "admitted",
            command.id,
            job=job.id,
            step=job.progress.step,
            total_steps=job.total_steps,
            seconds=time.perf_counter() - started,
        )

    def _queue(self, command: Release | Save) -> None:
        running = self._running.get(command.job)
        if running is None:
            raise Refused("unknown_job", f"{command.job} is not admitted")
        running.waiting.append(command)
        if isinstance(command, Release) and not command.save:
            self._release(running, command, None)
        elif running.at_boundary:
            self._answer_waiting(running)

    def _take_turn(self, running: Running) -> None:
        try:
            turn = next(running.turns)
        except StopIteration:
            self._leave(running)
        except Exception as error:  # whatever breaks one job, the others go on
            log.exception("job failed", extra={"job": running.job.id, "step": running.job.progress.step})
            self._leave(running)
            self._replies.report(
                "failed",
                job=running.job.id,
                step=running.job.progress.step,
                code=_code(error),
                message=str(error) or repr(error),
            )
        else:
            running.served += turn.tokens
            running.at_boundary = turn.boundary
            if turn.boundary:
                self._answer_waiting(running)

    def _answer_waiting(self, running: Running) -> None:
        while running.waiting:
            command = running.waiting[0]
            try:
                path = loop.save(running.job)
            except OSError as error:
                running.waiting.pop(0)
                self._replies.error(command.id, "internal_error", f"cannot save: {error}", command.job)
                continue
            if isinstance(command, Release):
                self._release(running, command, path)
                return
            running.waiting.pop(0)
            self._replies.reply("saved", command.id, job=command.job, step=running.job.progress.step, resume=str(path))

    def _release(self, running: Running, command: Release, path: Path | None) -> None:
        running.waiting.remove(command)
        self._leave(running)
        self._replies.reply(
            "released",
            command.id,
            job=command.job,
            step=running.job.progress.step,
            resume=None if path is None else str(path),
        )

    def _leave(self, running: Running) -> None:
        """Free the slot, and tell those who wait for a boundary that will not come."""
        assert self._base is not None
        del self._running[running.job.id]
        self._base.bank.adapters[running.job.slot] = None
        for command in running.waiting:
            self._replies.error(command.id, "unknown_job", f"{command.job} has ended", command.job)
        running.waiting.clear()


def _code(error: Exception) -> str:
    if isinstance(error, RuntimeError) and "not enough memory" in str(error):  # what torch's CPU allocator says
        return "out_of_memory"
    return next((code for kind, code in CODES.items() if isinstance(error, kind)), "internal_error")


def read_commands(descriptor: int, inbox: "queue.SimpleQueue[Command | ProtocolError]") -> None:
    """Fill the inbox from a thread of its own. The end of the commands is a Shutdown."""

    def read() -> None:
        with os.fdopen(descriptor, "rb") as lines:
            for line in lines:
                try:
                    inbox.put(decode(line))
                except ProtocolError as error:
                    inbox.put(error)
        inbox.put(Shutdown(id=0))

    threading.Thread(target=read, name="commands", daemon=True).start()
