"""Supervised training of one job, from its first step to its last.

`train` is a generator. It gives out a chunk of rows whenever some have to go through the model, and is sent what came
of them; in between it holds no state but the job's own. So each job of a company reads as if it were alone, while their
chunks share passes (`company.py`). When it waits for a training step's first chunk, it stands between two steps.
"""

import math
import time
from collections.abc import Callable, Generator
from pathlib import Path

import torch

from worker.engine import directories, export, resume
from worker.engine.base_model import Base
from worker.engine.batches import Batch, Chunk
from worker.engine.job import SUBSET, Job
from worker.engine.memory import TooMuch, peak_bytes, used_bytes
from worker.engine.optimizer import clip, learning_rate

Report = Callable[..., None]
Metrics = dict[str, float]
Turns = Generator[Chunk, torch.Tensor | None, None]
Work = Generator[Chunk, torch.Tensor | None, Metrics]


class Diverged(Exception):
    """The loss or the gradient is no longer a finite number."""


def train(job: Job, base: Base, report: Report) -> Turns:
    """Train until the last step or the early stop, reporting on the way. Raises Diverged."""
    saved_at = time.monotonic()
    while not job.done:
        metrics = yield from optimizer_step(job, base)
        metrics |= yield from evaluations(job, base)
        job.progress.metrics = {name: metrics[name] for name in metrics if name not in {"tokens", "seconds"}}
        report_step(job, base, metrics, report)
        if job.at_epoch_end and not job.done:
            checkpoint(job, base, report)
        if not job.done and time.monotonic() - saved_at >= job.spec.resume_interval_seconds:
            report("resume_state", job=job.id, step=job.progress.step, path=str(save(job)))
            saved_at = time.monotonic()
    path = checkpoint(job, base, report)
    report(
        "finished",
        job=job.id,
        step=job.progress.step,
        path=str(path),
        trained_tokens=job.progress.trained_tokens,
        metrics=job.progress.metrics,
        predicted_bytes=base.pass_bytes(),
        peak_bytes=peak_bytes(base.bank.device),
    )


def optimizer_step(job: Job, base: Base) -> Work:
    """One step over `batch_size` examples, chunk by chunk; its metrics."""
    started = time.perf_counter()
    batch, sums = yield from _through(job, lambda: job.next_batch(base))
    metrics = _update(job, batch, sums)
    return metrics | {"tokens": batch.tokens, "seconds": time.perf_counter() - started}


def _through(job: Job, cut: Callable[[], Batch]) -> Generator[Chunk, torch.Tensor | None, tuple[Batch, torch.Tensor]]:
    """Every chunk of a batch through the model: the batch, and its summed loss and correct targets, on the device.

    When a pass took too much memory the batch is cut anew and begun again: the step and its gradient stay the same.
    """
    while True:
        batch, sums = cut(), torch.zeros(2, device=job.adapter.grad.device)
        if batch.chunks[0].training:
            job.adapter.grad.zero_()
        try:
            for chunk in batch.chunks:
                outcome = yield chunk
                assert outcome is not None
                sums += outcome
        except TooMuch:
            continue
        return batch, sums


def _update(job: Job, batch: Batch, sums: torch.Tensor) -> Metrics:
    """Move the adapter along its gradient. Loss, accuracy and norm are one read of the device."""
    spec, progress = job.spec, job.progress
    norm = clip(job.adapter.grad, spec.max_grad_norm)
    loss, correct, grad_norm = torch.cat([sums, norm[None]]).tolist()
    _demand_finite(progress.step + 1, train_loss=loss, grad_norm=grad_norm)
    rate = learning_rate(spec, progress.step, job.total_steps)
    job.optimizer.param_groups[0]["lr"] = rate
    job.optimizer.step()
    job.adapter.publish()
    progress.step += 1
    progress.trained_tokens += batch.tokens
    return {
        "train_loss": loss,
        "train_mean_token_accuracy": correct / batch.targets,
        "learning_rate": rate,
        "grad_norm": grad_norm,
    }


def evaluations(job: Job, base: Base) -> Work:
    """Validation where it is due: a fixed part every `eval_interval` steps, and everything at the end of an epoch."""
    interval = job.spec.eval_interval
    due = job.at_epoch_end or (interval is not None and job.progress.step % interval == 0)
    if job.validation is None or not due:
        return {}
    metrics: Metrics = {}
    if not job.at_epoch_end or job.validation.examples > SUBSET:
        metrics |= yield from _evaluate(job, base, whole=False)
    if job.at_epoch_end:
        whole = yield from _evaluate(job, base, whole=True)
        metrics = whole | metrics | {f"full_{name}": value for name, value in whole.items()}
    if interval is not None or job.at_epoch_end:
        _judge(job, metrics["valid_loss"] if interval else metrics["full_valid_loss"])
    return metrics


def _evaluate(job: Job, base: Base, *, whole: bool) -> Work:
    batch, sums = yield from _through(job, lambda: job.validation_batch(base, whole=whole))
    loss, correct = sums.tolist()
    _demand_finite(job.progress.step, valid_loss=loss)
    return {"valid_loss": loss, "valid_mean_token_accuracy": correct / batch.targets}


def _judge(job: Job, loss: float) -> None:
    """Stop early once `early_stopping_patience` evaluations on end brought no new best."""
    progress, patience = job.progress, job.spec.early_stopping_patience
    if progress.best is None or loss < progress.best:
        progress.best, progress.worse = loss, 0
        return
    progress.worse += 1
    progress.stopped = patience is not None and progress.worse >= patience


def report_step(job: Job, base: Base, metrics: Metrics, report: Report) -> None:
    report(
        "step",
        job=job.id,
        step=job.progress.step,
        total_steps=job.total_steps,
        epoch=job.progress.step / job.steps_per_epoch,
        trained_tokens=job.progress.trained_tokens,
        device_bytes=used_bytes(base.bank.device),
        **metrics,
    )


def checkpoint(job: Job, base: Base, report: Report) -> Path:
    """Write the adapter as it is now, and say so."""
    path = job.out / "checkpoints" / f"step-{job.progress.step:06d}"
    with directories.whole(path) as draft:
        export.write_adapter(draft, job.adapter, base.bank, base_name=base.name, targets=job.spec.lora_target_modules)
    report(
        "checkpoint",
        job=job.id,
        step=job.progress.step,
        epoch=job.epoch,
        path=str(path),
        metrics=job.progress.metrics,
    )
    return path


def save(job: Job) -> Path:
    """Write a resume state; call it between steps only. A state that the worker may be reading is not written again."""
    path = job.out / "resume" / f"step-{job.progress.step:06d}"
    if job.saved != path or not path.exists():
        resume.write(path, job.resume_state())
        job.saved = path
    return path


def _demand_finite(step: int, **metrics: float) -> None:
    if bad := [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]:
        raise Diverged(f"at step {step}, {' and '.join(bad)}")
