"""What passes cost, how many tokens they may therefore have, and what gives when memory runs out all the same."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine import tiny
from worker.engine import base_model, job, lora, memory, passes, warm
from worker.engine.base_model import Base
from worker.engine.batches import Part
from worker.engine.memory import LEVELS, Cost, Memory

COST = Cost(token=100.0, pair=1.0, working_token=10.0, working=1000.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    directory = tiny.save_model(tmp_path_factory.mktemp("base"))
    loaded = base_model.load(directory, key="a", name="a", dtype="float32", device="cpu", linears=tiny.SPLIT, slots=3)
    warm.warm(loaded)
    return loaded


@pytest.fixture(autouse=True)
def relaxed(base: Base) -> Iterator[None]:
    yield
    base.memory.relax()


def data(folder: Path, **changes: Any) -> Path:
    return tiny.save_dataset(folder / "data", tiny.counting_rows(12), **changes)


def test_a_pass_costs_its_tokens_and_their_pairs() -> None:
    assert COST.of([10]) == int(memory.SLACK * (100 * 10 + 100 + 10 * 10 + 1000))
    assert COST.of([5, 5]) == int(memory.SLACK * (100 * 10 + 50 + 10 * 10 + 1000))
    assert COST.of([10], checkpointing=True, layers=11) == int(memory.SLACK * (100 + 10 * 10 + 1000))


def test_the_limit_follows_from_the_free_memory() -> None:
    limits = []
    for free in (10**9, 7 * 10**5, 10**5, 10):
        limit = Memory(4096)
        limit.fit(COST, free, longest=64)
        limits.append(limit.limit)
    assert limits == [4096, 2048, 256, 1]
    assert COST.of(memory.rows_of(2048, 64)) <= memory.SHARE_OF_FREE * 7 * 10**5 < COST.of(memory.rows_of(4096, 64))


def test_in_company_a_chunk_is_half_a_pass() -> None:
    limit = Memory(1000)
    assert limit.chunk_limit == 1000
    limit.share(2)
    assert (limit.limit, limit.chunk_limit) == (1000, 500)


def test_every_level_is_taken_once_and_then_no_more() -> None:
    limit = Memory(1000)
    notices = [limit.step_down(alone=False) for _ in LEVELS]
    assert [notice is not None for notice in notices] == [True] * (len(LEVELS) - 1) + [False]
    assert (limit.limit, limit.checkpointing) == (1, True)
    limit.relax()
    assert (limit.limit, limit.checkpointing) == (1000, False)


def test_a_job_whose_shapes_must_not_change_only_saves_activations() -> None:
    limit = Memory(1000)
    assert "computed twice" in (limit.step_down(alone=True) or "")
    assert limit.checkpointing
    assert limit.fixed == 1000
    assert limit.step_down(alone=True) is None


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "phi3"])
@pytest.mark.parametrize("lengths", [[100, 37, 200], [16] * 20, [400]])
def test_what_a_pass_keeps_is_predicted(family: str, lengths: list[int], tmp_path: Path) -> None:
    directory = tiny.save_model(tmp_path / "base", family)
    loaded = base_model.load(
        directory, key="a", name="a", dtype="float32", device="cpu", linears=tiny.linears(family), slots=1
    )
    warm.warm(loaded)
    assert loaded.cost is not None
    targets = tiny.linears(family)
    loaded.bank.adapters[0] = lora.allocate(loaded.bank, rank=16, alpha=1.0, dropout=0.0, targets=targets, seed=0)
    weights = {parameter.untyped_storage().data_ptr() for parameter in loaded.model.parameters()}
    kept = memory.kept_bytes(lambda: passes.forward(loaded, [warm.part(lengths)]), weights)
    predicted = (loaded.cost.of(lengths) - loaded.cost.of([])) / memory.SLACK
    predicted -= loaded.cost.working_token * sum(lengths)
    assert kept == pytest.approx(predicted, rel=0.25)


def starving(limit: int, monkeypatch: pytest.MonkeyPatch, *, checkpointed: int | None = None) -> list[int]:
    """Let passes of more than `limit` tokens (while activations are saved: `checkpointed`) run out of memory."""
    sizes: list[int] = []
    run = passes.run

    def run_or_starve(base: Base, parts: list[Part], threads: int | None = None) -> list[torch.Tensor]:
        tokens = sum(part.chunk.tokens for part in parts)
        sizes.append(tokens)
        most = checkpointed if checkpointed is not None and base.memory.checkpointing else limit
        if tokens > most and len(parts[0].chunk.rows) + len(parts) > 2:
            parts[0].chunk.dataset  # noqa: B018 - the pass had begun
            raise torch.OutOfMemoryError("no more")
        return run(base, parts, threads)

    monkeypatch.setattr(passes, "run", run_or_starve)
    return sizes


def losses(reports: tiny.Reports) -> list[float]:
    return [report["train_loss"] for report in reports.of("step")]


def test_out_of_memory_makes_chunks_smaller_and_keeps_the_step(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base.memory = Memory(60)
    settings = {"batch_size": 6, "lora_dropout": 0.0}
    expected = tiny.train(base, tiny.admitted(base, data(tmp_path / "a"), tmp_path / "a" / "out", **settings))
    sizes = starving(40, monkeypatch)
    starved = tiny.train(base, tiny.admitted(base, data(tmp_path / "b"), tmp_path / "b" / "out", **settings))
    assert losses(starved) == pytest.approx(losses(expected), rel=1e-4)
    (notice,) = starved.of("notice")
    assert "passes of at most 30 tokens from now on" in notice["message"]
    assert sum(size > 40 for size in sizes) == 1


def test_everybody_in_the_pass_begins_the_step_again(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base.memory = Memory(200)
    names = ("ftjob-x", "ftjob-y")
    expected = {}
    for name in names:
        only = tiny.admitted(base, data(tmp_path / name), tmp_path / name / "out", name=name, seed=len(name))
        expected[name] = [report["train_loss"] for report in tiny.train(base, only).of("step", name)]
    starving(90, monkeypatch)
    both = [
        tiny.admitted(base, data(tmp_path / f"{name}2"), tmp_path / f"{name}2" / "out", name=name, seed=len(name))
        for name in names
    ]
    reports = tiny.train(base, *both)
    for name in names:
        assert [r["train_loss"] for r in reports.of("step", name)] == pytest.approx(expected[name], rel=1e-4)
        assert reports.of("notice", name)


def test_then_activations_are_computed_twice(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base.memory = Memory(60)
    base_model.checkpointing.wrap(base.decoder.layers, base.bank, lambda: base.memory.checkpointing)  # type: ignore[arg-type]
    starving(0, monkeypatch, checkpointed=1000)
    reports = tiny.train(base, tiny.admitted(base, data(tmp_path), tmp_path / "out", batch_size=6))
    assert [("computed twice" in notice["message"]) for notice in reports.of("notice")] == [False, False, True]
    assert len(losses(reports)) == 4


def test_a_job_that_needs_more_than_there_is_fails(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def starve(base: Base, parts: list[Part], threads: int | None) -> list[torch.Tensor]:
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(passes, "run", starve)
    with pytest.raises(torch.OutOfMemoryError):
        tiny.train(base, tiny.admitted(base, data(tmp_path), tmp_path / "out"))
    assert base.bank.adapters == [None] * 3
    assert not base.memory.checkpointing


@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3"])
def test_computing_activations_twice_gives_the_same_bytes(family: str, tmp_path: Path) -> None:
    directory = tiny.save_model(tmp_path / "base", family)
    found = []
    for level in (0, LEVELS.index((0.25, True))):
        loaded = base_model.load(
            directory, key="a", name="a", dtype="bfloat16", device="cpu", linears=tiny.linears(family), slots=1
        )
        loaded.memory._level = level
        folder = tmp_path / str(level)
        trained = tiny.admitted(
            loaded, data(folder), folder / "out", deterministic=True, lora_dropout=0.3,
            lora_target_modules=tiny.linears(family),
        )  # fmt: skip
        tiny.train(loaded, trained)
        found.append(trained.adapter.master)
    assert torch.equal(*found)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_way_back_may_be_another_threads(checkpointing: bool, tmp_path: Path) -> None:
    """Autograd has its own for a GPU; layers that are computed again there need the pass's adapters and dropout."""
    path = tiny.save_model(tmp_path / "base")
    loaded = base_model.load(path, key="a", name="a", dtype="float32", device="cpu", linears=tiny.SPLIT, slots=1)
    loaded.memory._level = LEVELS.index((0.25, True)) if checkpointing else 0
    adapter = lora.allocate(loaded.bank, rank=4, alpha=8.0, dropout=0.3, targets=tiny.SPLIT, seed=0)
    loaded.bank.adapters[0] = adapter
    gradients = []
    for elsewhere in (False, True):
        adapter.drafts[0].gradient.zero_()
        _, found = passes.forward(loaded, [warm.part([20, 30])])
        if elsewhere:
            with ThreadPoolExecutor(1) as other:
                other.submit(found.total.backward).result()
        else:
            found.total.backward()
        gradients.append(adapter.drafts[0].gradient.clone())
    assert gradients[0].abs().sum() > 0
    assert torch.equal(*gradients)


def test_a_job_for_which_there_is_no_room_is_refused(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "free_bytes", lambda _: 1000)
    with pytest.raises(job.NoRoom, match="free"):
        tiny.admitted(base, data(tmp_path), tmp_path / "out")
    assert base.bank.adapters == [None] * 3


@pytest.mark.parametrize("read", [memory.free_bytes, memory.peak_bytes])
def test_the_machines_memory_can_be_read(read: Callable[[torch.device], int]) -> None:
    assert read(torch.device("cpu")) > 10**7
