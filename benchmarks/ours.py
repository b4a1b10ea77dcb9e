"""`python -m benchmarks.ours`: our engine on the rows of the training benchmarks, one job or several.

Prints one JSON line, in the form of `benchmarks/peers/`. Several jobs get the rows in equal parts, and train together
or one after the other; the engine is warm, and the clock runs from the first admission to the last adapter.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import shapes
from worker.engine import base_model, memory, process
from worker.engine.base_model import Base
from worker.engine.company import Company, Ended
from worker.engine.job import admit
from worker.engine.protocol import Admit, Spec
from worker.engine.warm import warm

WARM_STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="prepared datasets: one job each")
    parser.add_argument("--one-by-one", action="store_true", help="each job begins when the one before has ended")
    parser.add_argument("--adapter", type=Path, help="start from this adapter instead of a fresh one")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="default: what the engine chooses")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--ranks", type=int, nargs="+", default=[16], help="of the jobs in turn")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    print(json.dumps(train(parser.parse_args())))


class Clock:
    """What the engine reported, and when."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ends: list[float] = []
        self.steps: list[dict[str, Any]] = []

    def report(self, kind: str, **fields: Any) -> None:
        if kind == "step":
            self.ends.append(time.perf_counter())
            self.steps.append(fields)

    def ended(self, ended: Ended) -> None:
        if ended.error is not None:
            raise ended.error


def train(options: argparse.Namespace) -> dict[str, Any]:
    base = load_base(
        options.model, jobs=len(options.data), dtype=options.dtype, device=options.device, threads=options.threads
    )
    digest = base.digest()
    clock = Clock(base.bank.device)
    company = Company(base, clock.report, clock.ended)
    with tempfile.TemporaryDirectory() as folder:
        waiting = [_admission(options, number, Path(folder) / str(number)) for number in range(len(options.data))]
        began = time.perf_counter()
        while waiting or company.members:
            while waiting and not (options.one_by_one and company.members):
                company.join(admit(waiting.pop(0), base), tenant=str(len(waiting)))
            company.turn()
        seconds = time.perf_counter() - began
    if base.digest() != digest:
        raise AssertionError("training changed the base")
    return _figures(clock, seconds, alone=len(options.data) == 1) | {
        "threads": base.threads,
        "predicted_bytes": base.pass_bytes(),
        "peak_bytes": memory.peak_bytes(base.bank.device),
    }


def load_base(
    folder: Path, *, jobs: int, dtype: str = "bfloat16", device: str = "auto", threads: int | None = None
) -> Base:
    """The model as the engine's process holds it, measured and warm."""
    process.settle()
    base = base_model.load(
        folder,
        key="bench",
        name="bench",
        dtype=dtype,
        device=device,
        linears=shapes.LINEARS,
        slots=jobs,
        threads=threads,
    )
    warm(base)
    return base


def _admission(options: argparse.Namespace, number: int, out: Path) -> Admit:
    return admission(
        number + 1,
        options.data[number],
        out,
        rank=options.ranks[number % len(options.ranks)],
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        adapter=options.adapter,
    )


def admission(
    number: int,
    data: Path,
    out: Path,
    *,
    rank: int = 16,
    batch_size: int = 8,
    learning_rate: float = 1e-3,
    adapter: Path | None = None,
) -> Admit:
    """One epoch over prepared rows, on every linear."""
    spec = Spec(
        method="supervised",
        n_epochs=1,
        batch_size=batch_size,
        learning_rate=learning_rate,
        lora_rank=rank,
        lora_alpha=2.0 * rank,
        lora_dropout=0.0,
        lora_target_modules=shapes.LINEARS,
        max_sequence_length=8192,
        warmup_ratio=0.0,
        lr_scheduler="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        eval_interval=None,
        early_stopping_patience=None,
        deterministic=False,
        seed=1,
        resume_interval_seconds=3600.0,
    )
    return Admit(number, f"job-{number}", spec, str(data), None, None, str(adapter) if adapter else None, str(out))


def _figures(clock: Clock, seconds: float, *, alone: bool) -> dict[str, Any]:
    """Tokens per second: of one job once it is warm, as with the peers; of several over everything."""
    tokens = sum(step["tokens"] for step in clock.steps)
    if alone:
        warm_tokens = sum(step["tokens"] for step in clock.steps[WARM_STEPS:])
        speed = warm_tokens / (clock.ends[-1] - clock.ends[WARM_STEPS - 1])
    else:
        speed = tokens / seconds
    return {
        "tokens_per_second": speed,
        "seconds": seconds,
        "tokens": tokens,
        "steps": len(clock.steps),
        "losses": [step["train_loss"] for step in clock.steps],
        "grad_norm": max(step["grad_norm"] for step in clock.steps),
    }


if __name__ == "__main__":
    main()
