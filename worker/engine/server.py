"""The engine's main loop: obey commands, and let the company of admitted jobs train."""

import errno
import logging
import os
import queue
import threading
import time
from pathlib import Path

import torch

from worker.engine import base_model, loop
from worker.engine.base_model import BadBase, Base
from worker.engine.batches import BadDataset
from worker.engine.company import Company, Ended, Member
from worker.engine.export import BadAdapter
from worker.engine.job import BadSpec, NoRoom, NoSlot, admit
from worker.engine.loop import Diverged
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
from worker.engine.warm import warm

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
    NoRoom: "no_room",
    NoSlot: "no_slot",
    torch.OutOfMemoryError: "out_of_memory",
}


DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Refused(Exception):
    """A command that does not fit the present state of the engine."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Server:
    """One base, its company, and the conversation about them."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self._company: Company | None = None
        self._asked: dict[str, list[Release | Save]] = {}  # by job: commands that wait for its step boundary

    def serve(self, inbox: "queue.SimpleQueue[Command | ProtocolError]") -> None:
        """Return on Shutdown. Commands go before passes; without a job it sleeps until the next command."""
        while True:
            while self._company is None or not self._company.members or not inbox.empty():
                command = inbox.get()
                if isinstance(command, Shutdown):
                    return
                self._obey(command)
            self._company.turn()

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
            case Release(save=False):
                self._release(self._member(command.job), command, None)
            case Release() | Save():
                self._queue(command)
            case Ping():
                self._replies.reply("pong", command.id)

    def _load_base(self, command: LoadBase) -> None:
        company = self._company
        if company is None or company.base.key != command.key:
            if company is not None and company.members:
                raise Refused("busy", f"{len(company.members)} jobs still train on {company.base.key}")
            self._company = company = None
            company = self._company = Company(_ready(command), self._replies.report, self._ended)
        base = company.base
        self._replies.reply(
            "base_loaded",
            command.id,
            key=base.key,
            dtype=str(base.bank.dtype).removeprefix("torch."),
            device=str(base.bank.device),
            parameters=base.parameters,
            memory_bytes=base.memory_bytes(),
            pass_tokens=base.memory.limit,
            pass_bytes=base.pass_bytes(),
            threads=base.threads,
            seconds=base.seconds,
        )

    def _admit(self, command: Admit) -> None:
        started = time.perf_counter()
        if self._company is None:
            raise Refused("no_base", "load a base first")
        if command.job in self._company.members:
            raise Refused("duplicate_job", f"{command.job} is already admitted")
        job = admit(command, self._company.base)
        self._company.join(job, command.tenant)
        self._replies.reply(
            "admitted",
            command.id,
            job=job.id,
            step=job.progress.step,
            total_steps=job.total_steps,
            threads=job.threads,
            device=str(self._company.base.bank.device),
            seconds=time.perf_counter() - started,
        )

    def _member(self, job: str) -> Member:
        member = self._company.members.get(job) if self._company is not None else None
        if member is None:
            raise Refused("unknown_job", f"{job} is not admitted")
        return member

    def _queue(self, command: Release | Save) -> None:
        """Answer at the job's next step boundary, in the order of the commands."""
        member = self._member(command.job)
        assert self._company is not None
        self._asked.setdefault(command.job, []).append(command)
        self._company.at_boundary(member, lambda: self._answer(member, command))

    def _answer(self, member: Member, command: Release | Save) -> None:
        self._asked[command.job].remove(command)
        try:
            path = loop.save(member.job)
        except OSError as error:
            self._replies.error(command.id, "internal_error", f"cannot save: {error}", command.job)
            return
        if isinstance(command, Release):
            self._release(member, command, path)
            return
        step = member.job.progress.step
        self._replies.reply("saved", command.id, job=command.job, step=step, resume=str(path))

    def _release(self, member: Member, command: Release, path: Path | None) -> None:
        assert self._company is not None
        self._company.leave(member)
        self._refuse_asked(command.job)
        step, resume = member.job.progress.step, None if path is None else str(path)
        self._replies.reply("released", command.id, job=command.job, step=step, resume=resume)

    def _ended(self, ended: Ended) -> None:
        """A job left by itself: `finished` was reported if all is well."""
        job, error = ended.member.job, ended.error
        self._refuse_asked(job.id)
        if error is not None:
            message = str(error) or repr(error)
            self._replies.report("failed", job=job.id, step=job.progress.step, code=_code(error), message=message)

    def _refuse_asked(self, job: str) -> None:
        """Tell those who wait for a boundary that it will not come."""
        for command in self._asked.pop(job, []):
            self._replies.error(command.id, "unknown_job", f"{job} has ended", job)


def _ready(command: LoadBase) -> Base:
    """A base that has been loaded, measured and warmed. Raises BadBase."""
    started = time.perf_counter()
    base = base_model.load(
        Path(command.path),
        key=command.key,
        name=command.name or command.key,
        dtype=command.dtype,
        device=command.device,
        linears=command.linears,
        slots=command.slots,
        threads=command.threads,
    )
    torch.set_num_threads(base.threads)
    warm(base)
    base.seconds = time.perf_counter() - started
    return base


def _code(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return "disk_full"
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
