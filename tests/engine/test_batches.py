"""Cutting steps into passes: what a pass holds, and that the cut does not matter."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tests.engine import tiny
from worker.engine import base_model, batches
from worker.engine.lora import Run
from worker.engine.memory import Memory

CPU = torch.device("cpu")


def cut(data: batches.Dataset, limit: int, regime_from: float = np.inf, each_length: bool = False) -> batches.Batch:
    examples = np.arange(data.examples)
    return batches.cut(data, examples, limit=limit, regime_from=regime_from, each_length=each_length, training=True)


def chunk(data: batches.Dataset, *rows: int, weight: float) -> batches.Chunk:
    tokens = sum(data.row_tokens(row) for row in rows)
    return batches.Chunk(data, rows, weight, tokens, regime=0, number=0, training=True)


def test_a_pass_holds_its_rows_without_padding(tmp_path: Path) -> None:
    rows = [[5, 6, 7, 8, 9], [15, 16], [25, 26, 27, 28]]
    data = batches.open_dataset(tiny.save_dataset(tmp_path / "data", rows, context=2, weight=0.5), tiny.VOCABULARY)
    stream = batches.pack([batches.Part(chunk(data, 2, 0, weight=2.5), slot=3, draw=8)], CPU)
    assert stream.tokens.tolist() == [[25, 26, 27, 28, 5, 6, 7, 8, 9]]
    assert stream.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 4]]
    assert stream.segments.bounds == ((0, 4), (4, 9))
    assert stream.segments.cumulative.tolist() == [0, 4, 9]
    assert stream.segments.longest == 5
    assert stream.runs == (Run(3, 0, 9, ((4, 10), (5, 8))),)
    assert stream.edges == (0, 5)
    assert stream.predicting.tolist() == [1, 2, 5, 6, 7]
    assert stream.targets.tolist() == [27, 28, 7, 8, 9]
    assert stream.coefficients.tolist() == pytest.approx([0.2] * 5)


def test_a_pass_holds_the_chunks_of_several_jobs_side_by_side(tmp_path: Path) -> None:
    first = batches.open_dataset(tiny.save_dataset(tmp_path / "a", [[5, 6, 7], [8, 9]], context=1), tiny.VOCABULARY)
    other = batches.open_dataset(tiny.save_dataset(tmp_path / "b", [[15, 16, 17, 18]], context=2), tiny.VOCABULARY)
    parts = [batches.Part(chunk(first, 0, 1, weight=3), slot=0), batches.Part(chunk(other, 0, weight=4), slot=2)]
    stream = batches.pack(parts, CPU)
    assert stream.tokens.tolist() == [[5, 6, 7, 8, 9, 15, 16, 17, 18]]
    assert stream.segments.bounds == ((0, 3), (3, 5), (5, 9))
    assert [(run.slot, run.start, run.stop) for run in stream.runs] == [(0, 0, 5), (2, 5, 9)]
    assert stream.targets.tolist() == [6, 7, 9, 17, 18]
    assert stream.edges == (0, 3, 5)
    assert stream.coefficients.tolist() == pytest.approx([1 / 3] * 3 + [1 / 4] * 2)


@pytest.mark.parametrize("limit", [1, 10, 37, 64, 1000])
def test_every_row_is_in_one_chunk_and_no_chunk_is_over_the_limit(limit: int, tmp_path: Path) -> None:
    lengths = [10, 3, 30, 7, 7, 25, 4, 18, 2, 9]
    data = batches.open_dataset(tiny.save_dataset(tmp_path / "data", tiny.random_rows(lengths)), tiny.VOCABULARY)
    batch = cut(data, limit)
    assert [row for chunk in batch.chunks for row in chunk.rows] == list(range(10))
    assert all(len(chunk.rows) == 1 or chunk.tokens <= limit for chunk in batch.chunks)
    assert all(chunk.tokens == sum(lengths[row] for row in chunk.rows) for chunk in batch.chunks)
    assert [chunk.number for chunk in batch.chunks] == list(range(len(batch.chunks)))
    assert batch.tokens == sum(lengths)
    weights = {batch.targets, *(chunk.weight for chunk in batch.chunks)}
    assert weights == {sum(max(0, length - 3) for length in lengths)}


def test_rows_of_different_rope_tables_never_share_a_pass(tmp_path: Path) -> None:
    lengths = [10, 33, 32, 40, 33]
    data = batches.open_dataset(tiny.save_dataset(tmp_path / "data", tiny.random_rows(lengths)), tiny.VOCABULARY)
    assert [chunk.rows for chunk in cut(data, 1000, regime_from=32).chunks] == [(0, 2), (1, 3, 4)]
    by_length = cut(data, 1000, regime_from=32, each_length=True).chunks
    assert [(chunk.rows, chunk.regime) for chunk in by_length] == [((0, 2), 0), ((1, 4), 33), ((3,), 40)]


def test_an_example_of_several_rows_stays_whole(tmp_path: Path) -> None:
    directory = tiny.save_dataset(tmp_path / "data", tiny.random_rows([5, 6, 7, 8]), examples=[0, 1, 1, 2])
    data = batches.open_dataset(directory, tiny.VOCABULARY)
    assert [list(data.rows(example)) for example in range(data.examples)] == [[0], [1, 2], [3]]


def test_rows_are_filled_up_without_a_change_to_what_they_learn(tmp_path: Path) -> None:
    lengths = [10, 33, 16, 5]
    data = batches.open_dataset(tiny.save_dataset(tmp_path / "data", tiny.random_rows(lengths)), tiny.VOCABULARY)
    parts = [
        batches.Part(replace(cut(data, 1000).chunks[0], rows=rows), slot) for slot, rows in enumerate([(0, 1), (2, 3)])
    ]
    plain, filled = (batches.pack(parts, torch.device("cpu"), align) for align in (1, 16))
    assert plain.length == sum(lengths)
    assert [b - a for a, b in filled.segments.bounds] == [16, 48, 16, 16]
    assert [(run.start, run.stop) for run in filled.runs] == [(0, 64), (64, 96)]
    two = batches.pack(parts[:1] * 2, torch.device("cpu"), 16)
    assert [b - a for a, b in two.segments.bounds] == [16, 48, 16, 48]
    odd = batches.pack([replace(parts[1], chunk=replace(parts[1].chunk, rows=(2, 3, 0)))], torch.device("cpu"), 16)
    assert [b - a for a, b in odd.segments.bounds] == [16, 16, 32]
    assert torch.equal(filled.targets, plain.targets)
    assert torch.equal(filled.coefficients, plain.coefficients)
    assert filled.edges == plain.edges
    before = filled.tokens[0, filled.predicting]
    assert torch.equal(before, plain.tokens[0, plain.predicting])


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
    gradients, losses, chunks = [], [], []
    for limit in (1000, 64, 1):
        model.memory = Memory(limit)
        job = tiny.admitted(model, directory, tmp_path, n_epochs=1, batch_size=8, max_grad_norm=0.0)
        chunks.append(len(job.next_batch(model).chunks))
        losses += [report["train_loss"] for report in tiny.train(model, job).of("step")]
        gradients.append(job.adapter.grad.clone())
    assert chunks == [1, 3, 8]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], atol=1e-6, rtol=1e-4)


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
