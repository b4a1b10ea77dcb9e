"""Evaluation during training: what it looks at, and that it leaves the training alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine import tiny
from worker.engine import base_model
from worker.engine.base_model import Base
from worker.engine.job import SUBSET


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    directory = tiny.save_model(tmp_path_factory.mktemp("base"))
    return base_model.load(directory, key="a", name="a", dtype="float32", device="cpu", linears=tiny.SPLIT, slots=1)


def train(
    base: Base, folder: Path, validation: Path | None, **changes: Any
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Train a job to its end; its weights and its step reports."""
    data = tiny.save_dataset(folder / "data", tiny.counting_rows(12))
    job = tiny.admitted(base, data, folder / "out", validation=validation, lora_dropout=0.2, **changes)
    return job.adapter.master, tiny.train(base, job).of("step")


@pytest.mark.parametrize("examples", [SUBSET, SUBSET + 20])
def test_an_epochs_end_looks_at_everything_and_a_step_at_a_fixed_part(
    base: Base, examples: int, tmp_path: Path
) -> None:
    held_out = tiny.save_dataset(tmp_path / "held-out", tiny.counting_rows(examples, seed=1))
    # A learning rate of zero: every evaluation then sees the same model, and must say the same.
    _, steps = train(base, tmp_path, held_out, eval_interval=1, learning_rate=0.0)
    part, whole = {step["valid_loss"] for step in steps}, {step.get("full_valid_loss") for step in steps} - {None}
    assert len(steps) == 6
    assert len(part) == len(whole) == 1
    assert (part == whole) is (examples == SUBSET)
    assert [step["step"] for step in steps if "full_valid_mean_token_accuracy" in step] == [3, 6]


def test_evaluating_does_not_change_the_training(base: Base, tmp_path: Path) -> None:
    held_out = tiny.save_dataset(tmp_path / "held-out", tiny.counting_rows(5, seed=1))
    with_it, _ = train(base, tmp_path / "with", held_out, eval_interval=1)
    without, steps = train(base, tmp_path / "without", None)
    assert torch.equal(with_it, without)
    assert not any(name.startswith(("valid", "full")) for step in steps for name in step)
