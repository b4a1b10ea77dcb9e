"""A pass in two lanes: who goes where, that it comes to the same, and what happens when a lane fails."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine import tiny
from worker.engine import base_model, lanes, passes, warm
from worker.engine.base_model import Base
from worker.engine.batches import Part
from worker.engine.job import Job
from worker.engine.lanes import Crew, deal

LENGTHS = [40, 9, 31, 12, 25, 18]


def part(lengths: list[int], slot: int = 0) -> Part:
    return replace(warm.part(lengths), slot=slot)


def rows(dealt: list[list[Part]]) -> list[list[tuple[int, int]]]:
    return [[(part.slot, row) for part in lane for row in part.chunk.rows] for lane in dealt]


def test_every_row_is_in_one_lane_and_the_lanes_are_about_as_full() -> None:
    random = np.random.default_rng(1)
    for _ in range(200):
        parts = [part(random.integers(5, 60, random.integers(1, 9)).tolist(), slot) for slot in range(3)]
        dealt = deal(parts, 2)
        everything = [(one.slot, row) for one in parts for row in one.chunk.rows]
        assert sorted(row for lane in rows(dealt) for row in lane) == everything
        tokens = [sum(one.chunk.tokens for one in lane) for lane in dealt]
        assert sum(tokens) == sum(one.chunk.tokens for one in parts)
        assert len(dealt) == 1 or max(tokens) <= (lanes.FULLEST + 0.01) * sum(tokens)
        for lane in dealt:
            assert [one.slot for one in lane] == sorted({one.slot for one in lane})
            for one in lane:
                assert one.chunk.tokens == sum(map(one.chunk.dataset.row_tokens, one.chunk.rows))
                assert one.chunk.weight == parts[one.slot].chunk.weight


def test_a_long_row_weighs_more_than_its_tokens() -> None:
    """Two lanes of as many tokens would not be as full."""
    long, short = deal([part([1000, *[50] * 30])], 2)
    assert long[0].chunk.tokens < short[0].chunk.tokens


def test_rows_that_cannot_be_shared_out_stay_in_one_lane() -> None:
    for lengths in ([50], [90, 20], [30, 3, 3, 3]):
        assert rows(deal([part(lengths)], 2)) == [[(0, row) for row in range(len(lengths))]]
    assert rows(deal([part([50, 40])], 1)) == [[(0, 0), (0, 1)]]


def test_the_lane_of_a_row_depends_on_lengths_alone() -> None:
    one = part(LENGTHS)
    tokens = np.full_like(one.chunk.dataset.tokens, 5)
    other = replace(one, chunk=replace(one.chunk, dataset=replace(one.chunk.dataset, tokens=tokens)))
    assert rows(deal([one], 2)) == rows(deal([other], 2))


def test_tasks_run_at_the_same_time_on_threads_of_their_own() -> None:
    meet = threading.Barrier(2, timeout=10)
    names = Crew(2).run([lambda: (meet.wait(), threading.current_thread().name)[1]] * 2, 1)
    assert names[0] == threading.current_thread().name
    assert names[1].startswith("lane")


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_is_raised_when_no_lane_runs_any_more(failing: int) -> None:
    ended = []

    def fail() -> None:
        raise MemoryError("of this lane")

    def work() -> None:
        threading.Event().wait(0.05)
        ended.append(1)

    tasks = [work, work]
    tasks[failing] = fail
    with pytest.raises(MemoryError, match="of this lane"):
        Crew(2).run(tasks, 1)
    assert ended == [1]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[Base]:
    """The same model for passes of one lane and of two."""
    folder = tiny.save_model(tmp_path_factory.mktemp("base"))
    load = {"key": "a", "name": "a", "dtype": "float32", "device": "cpu", "linears": tiny.SPLIT, "slots": 2}
    return [base_model.load(folder, threads=threads, **load) for threads in (1, 2)]


def admitted(base: Base, folder: Path, **changes: float) -> Job:
    base.bank.adapters[0] = None
    data = tiny.save_dataset(folder / "data", tiny.random_rows(LENGTHS))
    job = tiny.admitted(base, data, folder / "out", batch_size=len(LENGTHS), **changes)
    job.adapter.master.normal_(0, 0.1, generator=torch.Generator().manual_seed(3))
    job.adapter.publish()
    return job


def taken(base: Base, job: Job, draw: int = 7) -> torch.Tensor:
    """The outcome of the job's next pass; its gradient is then the pass's alone."""
    job.adapter.grad.zero_()
    return passes.run(base, [Part(job.next_batch(base).chunks[0], job.slot, draw)])[0]


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_two_lanes_come_to_the_same_as_one(bases: list[Base], tmp_path: Path, dropout: float) -> None:
    found = []
    for base in bases:
        job = admitted(base, tmp_path / str(base.bank.lanes), lora_dropout=dropout)
        found.append((taken(base, job), job.adapter.grad.clone()))
    (one, gradient), (two, same) = found
    torch.testing.assert_close(two, one)
    assert gradient.abs().max() > 0
    torch.testing.assert_close(same, gradient, atol=1e-6, rtol=1e-4)


def test_dropout_in_lanes_is_a_function_of_the_draw(bases: list[Base], tmp_path: Path) -> None:
    base = bases[1]
    job = admitted(base, tmp_path, lora_dropout=0.5)
    first = taken(base, job), job.adapter.grad.clone()
    again = taken(base, job), job.adapter.grad.clone()
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(taken(base, job, draw=8), first[0])


@pytest.mark.parametrize("failing", [0, 1])
def test_a_pass_that_broke_in_one_lane_leaves_the_gradients_alone(
    bases: list[Base], tmp_path: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = bases[1]
    job = admitted(base, tmp_path)
    forward = passes.forward

    def fail(base: Base, parts: list[Part], lane: int = 0) -> object:
        if lane == failing:
            raise torch.OutOfMemoryError("no more")
        return forward(base, parts, lane)

    monkeypatch.setattr(passes, "forward", fail)
    with pytest.raises(torch.OutOfMemoryError):
        taken(base, job)
    assert job.adapter.grad.count_nonzero() == 0


def test_a_base_whose_rope_moves_has_one_lane(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "dynamic", "llama-dynamic-rope")
    base = base_model.load(
        folder, key="a", name="a", dtype="float32", device="cpu", linears=tiny.SPLIT, slots=1, threads=2
    )
    assert base.bank.lanes == 1
