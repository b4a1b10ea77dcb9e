"""What a GPU would run, as far as a machine without one can: whole steps on torch's "meta" device.

Tensors there have shapes and dtypes but no values. So every operation has to accept what it is given, torch's own
kernels for GPUs among them, and a step that reads a value on the host, for which a GPU would have to stop, fails.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.attention import varlen

from tests.engine import tiny
from tests.engine.test_attention import LENGTHS, dense, segments
from worker.engine import attention, base_model, loss, norms, passes, warm
from worker.engine.base_model import Base
from worker.engine.batches import Part
from worker.engine.lora import allocate
from worker.engine.memory import LEVELS
from worker.engine.optimizer import adamw, clip

# Ropes that change with the length of what they read have transformers look at it.
READ_LENGTHS = {"llama-dynamic-rope", "phi3-longrope"}


@pytest.fixture
def without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for what the meta device lacks: limits of its own, generators, and values to compare norms by."""
    generator = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device=None: generator())
    monkeypatch.setitem(base_model.TOKEN_LIMIT, "meta", base_model.TOKEN_LIMIT["cuda"])
    monkeypatch.setitem(loss.CHUNK, "meta", loss.CHUNK["cuda"])
    monkeypatch.setattr(norms, "_same", lambda norm, ours: "Gemma" not in type(norm).__name__)


def load(folder: Path, family: str) -> Base:
    folder = tiny.save_model(folder, family)
    known = {"key": "a", "name": "a", "dtype": "bfloat16", "device": "meta", "slots": 2}
    return base_model.load(folder, linears=tiny.linears(family), **known)


def step(base: Base, parts: list[Part]) -> list[torch.Tensor]:
    """Everything of an optimizer step of several jobs but the one read at its end."""
    adapters = [adapter for adapter in base.bank.adapters if adapter is not None]
    optimizers = [adamw(adapter.master, adapter.grad, 0.01) for adapter in adapters]
    outcomes = passes.run(base, parts)
    for adapter, optimizer in zip(adapters, optimizers, strict=True):
        clip(adapter.grad, 1.0)
        optimizer.step()
        adapter.publish()
    return outcomes


@pytest.mark.usefixtures("without_values")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", sorted(tiny.FAMILIES.keys() - READ_LENGTHS))
def test_a_step_of_two_jobs_reads_nothing_on_the_host(family: str, checkpointing: bool, tmp_path: Path) -> None:
    base = load(tmp_path / "base", family)
    base.memory._level = LEVELS.index((0.25, True)) if checkpointing else 0
    for slot, dropout in enumerate((0.0, 0.1)):
        base.bank.adapters[slot] = allocate(
            base.bank, rank=4 + slot, alpha=8.0, dropout=dropout, targets=tiny.linears(family), seed=0
        )
    outcomes = step(base, [replace(warm.part([20, 30]), slot=slot) for slot in range(2)])
    assert [(outcome.device.type, tuple(outcome.shape)) for outcome in outcomes] == [("meta", (2,))] * 2


@pytest.mark.usefixtures("without_values")
def test_such_a_step_fails_where_a_value_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = load(tmp_path / "base", "llama")
    base.bank.adapters[0] = allocate(base.bank, rank=4, alpha=8.0, dropout=0.0, targets=tiny.SPLIT, seed=0)
    real = norms.kernel
    monkeypatch.setattr(norms, "kernel", lambda x, *rest: real(x * x.sum().item(), *rest))
    with pytest.raises((RuntimeError, NotImplementedError)):
        step(base, [warm.part([20, 30])])


@pytest.mark.parametrize("window", [None, 1, 50])
@pytest.mark.parametrize("heads", [(2, 2), (4, 2)], ids=["own-keys", "grouped"])
def test_torchs_kernel_is_asked_for_the_attention_that_a_cpu_computes(
    heads: tuple[int, int], window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stand-in reads the arguments as torch's documentation defines them: `left` keys before a token's own."""

    def kernel(q, k, v, cu_q, cu_k, max_q, max_k, *, scale, window_size, enable_gqa):  # type: ignore[no-untyped-def]
        left, right = window_size
        assert torch.equal(cu_q, cu_k)
        assert cu_q.diff().tolist() == list(LENGTHS)
        assert (max_q, max_k, right) == (max(LENGTHS), max(LENGTHS), 0)
        assert enable_gqa == (q.shape[1] != k.shape[1])
        by_head = (x.transpose(0, 1) for x in (q, k, v))
        return dense(*by_head, scale, None if left == -1 else left + 1, None).transpose(0, 1)

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    q, k, v = (torch.randn(1, n, sum(LENGTHS), 8) for n in (heads[0], heads[1], heads[1]))
    expected, _ = attention.packed_attention(
        nn.Identity(), q, k, v, None, scaling=0.4, segments=segments(LENGTHS), sliding_window=window
    )
    found = attention._varlen(*(x[0].transpose(0, 1) for x in (q, k, v)), segments(LENGTHS), 0.4, window)
    torch.testing.assert_close(found, expected[0], atol=2e-6, rtol=1e-5)
