"""Training beside its peers: the same tokens, LoRA, optimizer and step count, one process each, in turns.

Every contestant starts from the same adapter, reads the same rows in the same order, and is counted in tokens that are
no padding. Its figures are thrown away unless its adapter has a gradient and, where it makes the same steps, its losses
are ours. The several small jobs are the same rows in eight parts, one example a step, as a fine-tune of a hundred rows
has it.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import shapes
from benchmarks.figures import show

JOBS = 8
# Two trainers in bf16 differ by rounding: the losses of a step by so much of each other at most.
LOSS_TOLERANCE = 0.02
TRL = ("trl default", "trl packed", "trl grouped")


@dataclass(frozen=True)
class Plan:
    """How much is trained of a shape: rows for a job alone, rows of each of several small jobs (0: none), rounds.

    long: rows of 4,096 tokens, which only we train, to be held against published figures.
    """

    shape: str
    rows: int
    small: int
    rounds: int
    batch_size: int = 8
    long: int = 0


# Sized so that the contestants of a GPU take less than 8 minutes together, those of 2 CPU cores about half an hour.
PLANS = {
    "cpu": (Plan("12.6M", 160, 24, 3), Plan("82M", 96, 0, 2)),
    "cuda": (
        Plan("0.5B", 1600, 100, 1, batch_size=16),
        Plan("1B", 960, 100, 1, batch_size=16),
        Plan("8B", 240, 0, 1, batch_size=16, long=32),
    ),
}


def run() -> None:
    import torch

    for plan in PLANS["cuda" if torch.cuda.is_available() else "cpu"]:
        with tempfile.TemporaryDirectory() as folder:
            _compare(plan, Path(folder))


def _compare(plan: Plan, folder: Path) -> None:
    """All contestants of one shape, round after round."""
    commands = _commands(plan, folder)
    results: dict[str, list[dict]] = {name: [] for name in commands}
    for _ in range(plan.rounds):
        for name, command in commands.items():
            results[name].append(_contest(command))
        _validate({name: found[-1] for name, found in results.items()})
    speeds = {name: [found["tokens_per_second"] for found in each] for name, each in results.items()}
    for name, values in speeds.items():
        show(f"{plan.shape} {name}", values, "tok/s")
    best = max(TRL, key=lambda name: statistics.median(speeds[name]))
    _ratio(f"{plan.shape} ours / TRL default (≥ 4)", speeds["ours"], speeds["trl default"])
    _ratio(f"{plan.shape} ours / TRL at its best, {best.split()[-1]} (≥ 2.5)", speeds["ours"], speeds[best])
    _ratio(f"{plan.shape} ours / plain transformers + peft", speeds["ours"], speeds["plain loop"])
    if plan.small:
        _ratio(
            f"{plan.shape} {JOBS} jobs together / one by one (≥ 2)", speeds["ours together"], speeds["ours one by one"]
        )


def _commands(plan: Plan, folder: Path) -> dict[str, list[str]]:
    """Each contestant's command line, on data written to the folder."""
    model = shapes.save_model(folder / "model", plan.shape)
    vocabulary = shapes.SHAPES[plan.shape].vocabulary
    rows = shapes.chat_rows(plan.rows, vocabulary)
    ours = shapes.save_rows(folder / "ours", rows)
    theirs = shapes.save_rows(folder / "theirs", _in_our_order(rows))
    start = ["--model", str(model), "--adapter", str(_adapter(model, folder / "adapter"))]
    size = ["--batch-size", str(plan.batch_size)]
    commands = {
        "ours": ["benchmarks.ours", *start, *size, "--data", str(ours)],
        "plain loop": ["benchmarks.peers.plain_loop", *start, *size, "--data", str(theirs)],
    }
    for name in TRL:
        mode = ["--mode", name.split()[-1]]
        commands[name] = ["benchmarks.peers.trl_sft", *start, *size, *mode, "--data", str(theirs)]
    if plan.small:
        parts = [shapes.chat_rows(plan.small, vocabulary, seed=1 + number) for number in range(JOBS)]
        data = [str(shapes.save_rows(folder / f"part-{number}", part)) for number, part in enumerate(parts)]
        small = ["benchmarks.ours", *start, "--batch-size", "1", "--data", *data]
        commands |= {"ours together": small, "ours one by one": [*small, "--one-by-one"]}
    if plan.long:
        long = str(shapes.save_rows(folder / "long", shapes.equal_rows(plan.long, vocabulary, 4096)))
        commands["ours on rows of 4,096"] = ["benchmarks.ours", *start, "--batch-size", "2", "--data", long]
    return commands


def _in_our_order(rows: shapes.Rows) -> shapes.Rows:
    """The rows as our first epoch reads them."""
    from worker.engine.batches import epoch_order

    order = epoch_order(1, 0, len(rows.tokens)).tolist()
    return shapes.Rows([rows.tokens[n] for n in order], [rows.contexts[n] for n in order])


def _adapter(model: Path, folder: Path) -> Path:
    """A fresh adapter that every contestant starts from."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules=shapes.LINEARS, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), lora).save_pretrained(str(folder))
    return folder


def _contest(command: list[str]) -> dict:
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _validate(results: dict[str, dict]) -> None:
    """Raise unless everybody's adapter learned, and those who made the same steps had the same losses."""
    for name, found in results.items():
        if not found["grad_norm"] > 0:
            raise AssertionError(f"{name} trained nothing: its gradient is {found['grad_norm']}")
    wanted = np.array(results["ours"]["losses"])
    for name in ("plain loop", "trl default"):
        losses = np.array(results[name]["losses"])
        if losses.shape != wanted.shape or np.abs(losses / wanted - 1).max() > LOSS_TOLERANCE:
            raise AssertionError(f"{name} did not train the same: {losses.tolist()} against {wanted.tolist()}")


def _ratio(label: str, ours: Iterable[float], theirs: Iterable[float]) -> None:
    show(label, [a / b for a, b in zip(ours, theirs, strict=True)], "x")


if __name__ == "__main__":
    run()
