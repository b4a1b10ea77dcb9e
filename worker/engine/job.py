"""A job in its slot: what it trains, on what, and how far it is."""

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from worker.engine import batches, export, lora, resume
from worker.engine.base_model import Base
from worker.engine.batches import Batch, Dataset
from worker.engine.lora import Adapter, allocate
from worker.engine.memory import STATE_BYTES, free_bytes
from worker.engine.optimizer import adamw
from worker.engine.protocol import Admit, Spec

# Examples that an evaluation between epochs looks at; the end of an epoch looks at all.
SUBSET = 64


class NoSlot(Exception):
    """Every slot of the bank is taken."""


class NoRoom(Exception):
    """The adapter's state and a pass together do not fit into the memory that is left."""


class BadSpec(Exception):
    """Settings that cannot be trained: an unknown target, or a count below one."""


@dataclass
class Progress:
    """How far a job is; together with the adapter and its moments this is everything a resume needs.

    `best` and `worse` count for early stopping: the lowest validation loss, and evaluations since then.
    """

    step: int = 0
    trained_tokens: int = 0
    best: float | None = None
    worse: int = 0
    stopped: bool = False
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class Job:
    """Everything of one job. Nothing in here is shared with another. `saved` is the last resume state written.

    `threads` run its passes if it is `deterministic`: those of its first step, wherever it goes on.
    """

    id: str
    spec: Spec
    slot: int
    adapter: Adapter
    optimizer: torch.optim.Optimizer
    dataset: Dataset
    validation: Dataset | None
    out: Path
    progress: Progress
    threads: int
    saved: Path | None = None

    @property
    def steps_per_epoch(self) -> int:
        return batches.steps_per_epoch(self.dataset.examples, self.spec.batch_size)

    @property
    def total_steps(self) -> int:
        return self.spec.n_epochs * self.steps_per_epoch

    @property
    def done(self) -> bool:
        return self.progress.stopped or self.progress.step >= self.total_steps

    @property
    def at_epoch_end(self) -> bool:
        return self.progress.step % self.steps_per_epoch == 0

    @property
    def epoch(self) -> int:
        """The epoch that the last step belongs to, from 1."""
        return math.ceil(self.progress.step / self.steps_per_epoch)

    def next_batch(self, base: Base) -> Batch:
        """The examples of the coming step, by the epoch's order."""
        epoch, place = divmod(self.progress.step, self.steps_per_epoch)
        order = batches.epoch_order(self.spec.seed, epoch, self.dataset.examples)
        first = place * self.spec.batch_size
        return self._cut(base, self.dataset, order[first : first + self.spec.batch_size], training=True)

    def validation_batch(self, base: Base, *, whole: bool) -> Batch:
        """The whole validation set, or the fixed part of it that evaluations between epochs use."""
        assert self.validation is not None
        examples = np.arange(self.validation.examples)
        if not whole and len(examples) > SUBSET:
            examples = np.sort(batches.epoch_order(self.spec.seed, 0, len(examples))[:SUBSET])
        return self._cut(base, self.validation, examples, training=False)

    def _cut(self, base: Base, dataset: Dataset, examples: np.ndarray, *, training: bool) -> Batch:
        """Chunks of a size that depends on the company and the memory, unless the job is `deterministic`."""
        return batches.cut(
            dataset,
            examples,
            limit=base.memory.fixed if self.spec.deterministic else base.memory.chunk_limit,
            regime_from=base.regime_from,
            each_length=base.each_length,
            training=training,
        )

    @property
    def draw(self) -> int:
        """The seed of the coming step's dropout; each row adds its number."""
        key = f"{self.spec.seed} {self.progress.step}".encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")

    def resume_state(self) -> resume.State:
        """References to what a resume state holds; the tensors are not copied."""
        moments = self.optimizer.state[self.adapter.master]
        tensors = {
            "master": self.adapter.master,
            "exp_avg": moments["exp_avg"],
            "exp_avg_sq": moments["exp_avg_sq"],
            "optimizer_step": moments["step"].reshape(1),
        }
        identity = resume.identity(self.spec, self.dataset.sha256)
        return resume.State(tensors, vars(self.progress), identity, self.threads)


def admit(command: Admit, base: Base) -> Job:
    """Take a slot and set a job up in it, fresh, from an adapter, or from a resume state.

    Raises NoSlot, NoRoom, BadSpec, batches.BadDataset, export.BadAdapter or resume.BadResume, and then holds no slot.
    """
    spec, slot = command.spec, base.bank.free_slot()
    if slot is None:
        raise NoSlot(f"all {len(base.bank.adapters)} slots are taken")
    _check(spec)
    dataset = batches.open_dataset(Path(command.dataset), base.vocabulary)
    validation = batches.open_dataset(Path(command.validation), base.vocabulary) if command.validation else None
    _check_room(spec, base)
    adapter = _adapter(spec, base)
    optimizer = adamw(adapter.master, adapter.grad, spec.weight_decay)
    out = Path(command.out)
    job = Job(command.job, spec, slot, adapter, optimizer, dataset, validation, out, Progress(), base.threads)
    if command.resume:
        _restore(job, Path(command.resume))
    elif command.adapter:
        export.read_adapter(Path(command.adapter), adapter, base.bank, spec)
    base.bank.adapters[slot] = adapter
    return job


def _check(spec: Spec) -> None:
    counts = {"n_epochs": spec.n_epochs, "batch_size": spec.batch_size, "lora_rank": spec.lora_rank}
    if low := [name for name, count in counts.items() if count < 1]:
        raise BadSpec(f"{', '.join(low)} must be at least 1")
    if not 0 <= spec.lora_dropout < 1:
        raise BadSpec("lora_dropout must be at least 0 and below 1")
    if spec.eval_interval is not None and spec.eval_interval < 1:
        raise BadSpec("eval_interval must be at least 1")


def _check_room(spec: Spec, base: Base) -> None:
    needed = lora.parameters(base.bank, spec.lora_rank, spec.lora_target_modules)
    needed *= STATE_BYTES + (1 + base.bank.lanes) * base.bank.dtype.itemsize
    needed += base.pass_bytes()
    free = free_bytes(base.bank.device)
    if needed > free:
        raise NoRoom(f"the job and a pass need {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free")


def _adapter(spec: Spec, base: Base) -> Adapter:
    try:
        return allocate(
            base.bank,
            rank=spec.lora_rank,
            alpha=spec.lora_alpha,
            dropout=spec.lora_dropout,
            targets=spec.lora_target_modules,
            seed=spec.seed,
        )
    except ValueError as error:
        raise BadSpec(str(error)) from error


def _restore(job: Job, directory: Path) -> None:
    """Put a saved state where a fresh job has its beginning."""
    saved = resume.read(directory, like=job.resume_state())
    moments = job.optimizer.state[job.adapter.master]
    job.adapter.master.copy_(saved.tensors["master"])
    moments["exp_avg"].copy_(saved.tensors["exp_avg"])
    moments["exp_avg_sq"].copy_(saved.tensors["exp_avg_sq"])
    moments["step"].copy_(saved.tensors["optimizer_step"][0])
    job.progress, job.threads = Progress(**saved.progress), saved.threads
    job.adapter.publish()
