"""Cutting steps into passes: what a pass holds, and that the cut does not matter."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tests.engine import tiny
from worker.engine import base_model, batches, loop
from worker.engine.job import admit
from worker.engine.protocol import Admit, Spec

CPU = torch.device("cpu")


def cut(data: batches.Dataset, budget: int, regime_from: float = np.inf, each_length: bool = False) -> batches.Batch:
    examples = np.arange(data.examples)
    return batches.cut(data, examples, budget=budget, regime_from=regime_from, each_length=each_length)


def test_a_pass_holds_its_rows_without_padding(tmp_path: Path) -> None:
    rows = [[5, 6, 7, 8, 9], [15, 16], [25, 26, 27, 28]]
    data = batches.open_dataset(tiny.save_dataset(tmp_path / "data", rows, context=2, weight=0.5), tiny.VOCABULARY)
    stream = batches.pack(data, [2, 0], slot=3, weight=2.5, device=CPU)
    assert stream.tokens.tolist() == [[25, 26, 27, 28, 5, 6, 7, 8, 9]]
    assert stream.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 4]]
    assert stream.segments.bounds == ((0, 4), (4, 9))
    assert stream.segments.cumulative.tolist() == [0, 4, 9]
    assert stream.segments.longest == 5
    assert [(run.slot, run.start, run.stop) for run in stream.runs] == [(3, 0, 9)]
    assert stream.predicting.tolist() == [1, 2, 5, 6, 7]
    assert stream.targets.tolist() == [27, 28, 7, 8, 9]
    assert stream.coefficients.tolist() == pytest.approx([0.2] * 5)


@pytest.mark.parametrize("budget", [1, 10, 37, 64, 1000])
def test_every_row_is_in_one_pass_and_no_pass_is_over_budget(budget: int, tmp_path: Path) -> None:
    lengths = [10, 3, 30, 7, 7, 25, 4, 18, 2, 9]
    data = batches.open_dataset(tiny.save_dataset(tmp_path / "data", tiny.random_rows(lengths)), tiny.VOCABULARY)
    batch = cut(data, budget)
    assert [row for part in batch.passes for row in part] == list(range(10))
    assert all(len(part) == 1 or sum(lengths[row] for row in part) <= budget for part in batch.passes)
    assert batch.tokens == sum(lengths)
    assert batch.targets == batch.weight == sum(max(0, length - 3) for length in lengths)


def test_rows_of_different_rope_tables_never_share_a_pass(tmp_path: Path) -> None:
    lengths = [10, 33, 32, 40, 33]
    data = batches.open_dataset(tiny.save_dataset(tmp_path / "data", tiny.random_rows(lengths)), tiny.VOCABULARY)
    assert cut(data, 1000, regime_from=32).passes == [[0, 2], [1, 3, 4]]
    assert cut(data, 1000, regime_from=32, each_length=True).passes == [[0, 2], [1, 4], [3]]


def test_an_example_of_several_rows_stays_whole(tmp_path: Path) -> None:
    directory = tiny.save_dataset(tmp_path / "data", tiny.random_rows([5, 6, 7, 8]), examples=[0, 1, 1, 2])
    data = batches.open_dataset(directory, tiny.VOCABULARY)
    assert [list(data.rows(example)) for example in range(data.examples)] == [[0], [1, 2], [3]]


def test_an_epochs_order_is_its_own_and_known_beforehand() -> None:
    orders = [batches.epoch_order(seed, epoch, 50).tolist() for seed, epoch in [(1, 0), (1, 0), (1, 1), (2, 0)]]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_how_a_step_is_cut_does_not_change_its_gradient(tmp_path: Path) -> None:
    """Rows of very different length and weight: a mean of the passes' means would fail this."""
    model = base_model.load(
        tiny.save_model(tmp_path / "base"),
        key="a",
        name="a",
        dtype="float32",
        device="cpu",
        linears=tiny.SPLIT,
        slots=1,
    )
    directory = tiny.save_dataset(tmp_path / "data", tiny.random_rows([4, 40, 9, 5, 21, 4, 4, 60]))
    columns = load_file(directory / "data.safetensors")
    columns["weights"] *= np.linspace(0.1, 2.0, len(columns["weights"]), dtype=np.float32)
    save_file(columns, directory / "data.safetensors")
    gradients, reports = [], []
    for budget in (1000, 64, 1):
        model.token_budget = budget
        settings = Spec(**tiny.spec(n_epochs=1, batch_size=8, max_grad_norm=0.0))
        job = admit(Admit(1, "ftjob", settings, str(directory), None, None, None, str(tmp_path)), model)
        turns = list(loop.train(job, model, lambda kind, **fields: reports.append((kind, fields))))
        gradients.append((job.adapter.grad.clone(), len(turns) - 1))
        model.bank.adapters[0] = None
    assert [passes for _, passes in gradients] == [1, 3, 8]
    losses = [fields["train_loss"] for kind, fields in reports if kind == "step"]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    for gradient, _ in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0][0], atol=1e-6, rtol=1e-4)


def broken(directory: Path, column: str, place: int, value: float) -> None:
    columns = load_file(directory / "data.safetensors")
    columns[column][place] = value
    save_file(columns, directory / "data.safetensors")


@pytest.mark.parametrize(
    ("column", "place", "value"),
    [
        ("offsets", 1, 0),
        ("offsets", -1, 999),
        ("example", 0, 1),
        ("example", -1, 9),
        ("tokens", 0, tiny.VOCABULARY),
        ("weights", 0, 1.0),
        ("weights", 4, np.nan),
        ("weights", 4, -1.0),
    ],
)
def test_a_dataset_at_odds_with_itself_is_refused(column: str, place: int, value: float, tmp_path: Path) -> None:
    directory = tiny.save_dataset(tmp_path / "data", tiny.random_rows([5, 6, 7]))
    broken(directory, column, place, value)
    with pytest.raises(batches.BadDataset):
        batches.open_dataset(directory, tiny.VOCABULARY)


def test_a_dataset_that_is_cut_short_or_of_another_version_is_refused(tmp_path: Path) -> None:
    directory = tiny.save_dataset(tmp_path / "data", tiny.random_rows([5, 6, 7]))
    manifest = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps({**manifest, "version": 2}))
    with pytest.raises(batches.BadDataset, match="version 2"):
        batches.open_dataset(directory, tiny.VOCABULARY)
    (directory / "manifest.json").write_text(json.dumps(manifest))
    file = directory / "data.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(batches.BadDataset):
        batches.open_dataset(directory, tiny.VOCABULARY)
