"""`python -m tests.chaos.fake_engine`: the engine's protocol without torch, up in a tenth of a second.

It "trains" a chain of hashes: each step's weights follow from the step before, so a resume that is not exact shows in
the last ones, and anybody can compute what an undisturbed run ends with. What it does is written to a trace, and it can
be told to die, hang or fail at a step. Both are told by variables that the supervisor passes on.
"""

import argparse
import hashlib
import json
import os
import queue
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker.engine import protocol
from worker.engine.__main__ import watch
from worker.engine.protocol import Admit, Command, LoadBase, Ping, ProtocolError, Release, Replies, Save, Shutdown

STEP_SECONDS = "CUDA_FAKE_STEP_SECONDS"
TRACE = "CUDA_FAKE_TRACE"  # a file: one line of JSON for each step
FAULT = (
    "CUDA_FAKE_FAULT"  # JSON: {"action": kill|hang|fail, "step": n, "code": …, "once": a file that says it was done}
)
WEIGHTS = "adapter_model.safetensors"


def beginning(manifest: bytes, seed: int) -> bytes:
    """The weights of step 0."""
    return hashlib.sha256(manifest + str(seed).encode()).digest()


def after(weights: bytes, step: int) -> bytes:
    """The weights that step number `step` makes of those before it."""
    return hashlib.sha256(weights + step.to_bytes(4, "big")).digest()


def undisturbed(manifest: bytes, seed: int, steps: int) -> str:
    """The sha256 of the file of weights after a run in which nothing happened."""
    weights = beginning(manifest, seed)
    for step in range(1, steps + 1):
        weights = after(weights, step)
    return hashlib.sha256(weights).hexdigest()


@dataclass
class Job:
    id: str
    spec: protocol.Spec
    out: Path
    steps_per_epoch: int
    weights: bytes
    step: int = 0
    tokens: int = 0
    saved_at: float = field(default_factory=time.monotonic)
    asked: list[Release | Save] = field(default_factory=list)

    @property
    def total_steps(self) -> int:
        return self.spec.n_epochs * self.steps_per_epoch


class Server:
    def __init__(self, replies: Replies) -> None:
        self.replies = replies
        self.jobs: dict[str, Job] = {}
        self.pause = float(os.environ.get(STEP_SECONDS, "0.01"))
        self.trace = Path(os.environ[TRACE]) if TRACE in os.environ else None
        self.fault: dict[str, Any] = json.loads(os.environ.get(FAULT, "{}"))

    def serve(self, inbox: "queue.SimpleQueue[Command]") -> None:
        while True:
            while not self.jobs or not inbox.empty():
                command = inbox.get()
                if isinstance(command, Shutdown):
                    return
                self.obey(command)
            for job in list(self.jobs.values()):
                self.step(job)
                self.answer(job)

    def obey(self, command: Command) -> None:
        match command:
            case LoadBase():
                facts = {"dtype": "float32", "device": "cpu", "parameters": 1, "memory_bytes": 1, "pass_tokens": 1}
                facts |= {"pass_bytes": 1, "threads": 1, "seconds": 0.0, "key": command.key}
                self.replies.reply("base_loaded", command.id, **facts)
            case Admit():
                self.admit(command)
            case Release() | Save() if command.job not in self.jobs:
                self.replies.error(command.id, "unknown_job", "it is not here", command.job)
            case Release(save=False):
                job = self.jobs.pop(command.job)
                self.replies.reply("released", command.id, job=job.id, step=job.step, resume=None)
            case Release() | Save():
                self.jobs[command.job].asked.append(command)
                self.answer(self.jobs[command.job])
            case Ping():
                self.replies.reply("pong", command.id)

    def admit(self, command: Admit) -> None:
        if command.job in self.jobs:
            self.replies.error(command.id, "duplicate_job", "it is here already", command.job)
            return
        manifest = (Path(command.dataset) / "manifest.json").read_bytes()
        examples = json.loads(manifest)["examples"]
        job = Job(
            command.job, command.spec, Path(command.out), -(-examples // command.spec.batch_size),
            beginning(manifest, command.spec.seed),
        )  # fmt: skip
        if command.resume is not None:
            saved = json.loads((Path(command.resume) / "state.json").read_text())
            job.step, job.tokens, job.weights = saved["step"], saved["tokens"], bytes.fromhex(saved["weights"])
        self.jobs[job.id] = job
        facts = {"step": job.step, "total_steps": job.total_steps, "threads": 1, "device": "cpu", "seconds": 0.0}
        self.replies.reply("admitted", command.id, job=job.id, **facts)

    def step(self, job: Job) -> None:
        time.sleep(self.pause)
        if self.strikes(job):
            return
        job.step += 1
        job.weights = after(job.weights, job.step)
        tokens = 10 + job.step % 3
        job.tokens += tokens
        loss = int.from_bytes(job.weights[:3], "big") / 2**24
        self.note(job, tokens, loss)
        counts = {"step": job.step, "total_steps": job.total_steps, "trained_tokens": job.tokens, "tokens": tokens}
        counts["device_bytes"] = 1
        metrics = {"train_loss": loss, "train_mean_token_accuracy": 0.5}
        self.replies.report("step", job=job.id, epoch=1.0, seconds=self.pause + 1e-3, **counts, **metrics)
        if job.step % job.steps_per_epoch == 0:
            path = self.write_adapter(job)
            self.replies.report("checkpoint", job=job.id, step=job.step, epoch=1, path=str(path), metrics=metrics)
        if job.step == job.total_steps:
            del self.jobs[job.id]
            self.refuse(job)
            sizes = {"predicted_bytes": 1, "peak_bytes": 1, "trained_tokens": job.tokens}
            self.replies.report("finished", job=job.id, step=job.step, path=str(path), metrics=metrics, **sizes)
        elif time.monotonic() - job.saved_at >= job.spec.resume_interval_seconds:
            self.replies.report("resume_state", job=job.id, step=job.step, path=str(self.save(job)))

    def strikes(self, job: Job) -> bool:
        """Whether what was ordered for this step ends the job; a kill or a hang does not come back."""
        if self.fault.get("step") != job.step + 1:
            return False
        once = self.fault.get("once")
        if once and Path(once).exists():
            return False
        if once:
            Path(once).touch()
        if self.fault["action"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault["action"] == "hang":
            time.sleep(3600)
        del self.jobs[job.id]
        self.replies.report("failed", job=job.id, step=job.step, code=self.fault["code"], message="as ordered")
        return True

    def note(self, job: Job, tokens: int, loss: float) -> None:
        if self.trace is None:
            return
        fence = int(job.out.parent.name.rsplit("-", 1)[1])
        line = {"job": job.id, "fence": fence, "step": job.step, "tokens": tokens, "loss": loss}
        with self.trace.open("a") as trace:
            trace.write(json.dumps(line) + "\n")

    def answer(self, job: Job) -> None:
        for command in job.asked if job.id in self.jobs else []:
            path = str(self.save(job))
            if isinstance(command, Release):
                del self.jobs[job.id]
                self.replies.reply("released", command.id, job=job.id, step=job.step, resume=path)
                return
            self.replies.reply("saved", command.id, job=job.id, step=job.step, resume=path)
        job.asked.clear()

    def refuse(self, job: Job) -> None:
        for command in job.asked:
            self.replies.error(command.id, "unknown_job", "it has ended", job.id)

    def save(self, job: Job) -> Path:
        folder = job.out / "resume" / f"step-{job.step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        state = {"step": job.step, "tokens": job.tokens, "weights": job.weights.hex()}
        (folder / "state.json").write_text(json.dumps(state))
        job.saved_at = time.monotonic()
        return folder

    def write_adapter(self, job: Job) -> Path:
        folder = job.out / "checkpoints" / f"step-{job.step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WEIGHTS).write_bytes(job.weights)
        (folder / "adapter_config.json").write_text("{}")
        return folder


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("commands", "replies", "lifeline"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    watch(arguments.lifeline)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def read() -> None:
        with os.fdopen(arguments.commands, "rb") as lines:
            for line in lines:
                command: Command | ProtocolError = protocol.decode(line)
                inbox.put(command)
        inbox.put(Shutdown(id=0))

    threading.Thread(target=read, daemon=True).start()
    Server(Replies(arguments.replies)).serve(inbox)


if __name__ == "__main__":
    main()
