"""The bank's one autograd function, against autograd of the plain formula; and the walls between its slots."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from worker.engine.lora import NO_ADAPTER, LoraBank, LoraLinear, Run, allocate, mask_seed

INNER, OUT, TOKENS = 6, 5, 14
RUNS = (Run(0, 0, 4, draw=1), Run(NO_ADAPTER, 4, 6), Run(1, 6, 11, draw=2), Run(0, 11, 14, draw=3))


@dataclass(frozen=True)
class Setting:
    bank: LoraBank
    layer: LoraLinear
    linear: nn.Linear


@pytest.fixture(params=[torch.float32, torch.float64], ids=["fp32", "fp64"])
def setting(request: pytest.FixtureRequest) -> Setting:
    """One linear under two adapters of different rank and scale, B no longer zero."""
    torch.manual_seed(0)
    linear = nn.Linear(INNER, OUT).to(request.param).requires_grad_(requires_grad=False)
    bank = LoraBank([None, None], torch.device("cpu"), request.param)
    layer = LoraLinear("layers.0.q_proj", linear, bank)
    for slot, (rank, alpha) in enumerate([(3, 6.0), (2, 1.0)]):
        adapter = allocate(bank, rank=rank, alpha=alpha, dropout=0.0, targets=["q_proj"], seed=slot)
        adapter.master.normal_(generator=torch.Generator().manual_seed(slot))
        adapter.publish()
        bank.adapters[slot] = adapter
    bank.read(RUNS, training=True)
    return Setting(bank, layer, linear)


def plain(setting: Setting, x: torch.Tensor, masks: dict[int, torch.Tensor]) -> tuple[torch.Tensor, dict]:
    """y = xWᵀ + b + s·((x·mask)Aᵀ)Bᵀ as autograd sees it, and its leaves (A, B) per slot."""
    leaves = {}
    for slot, adapter in enumerate(setting.bank.adapters):
        assert adapter is not None
        site = adapter.sites["layers.0.q_proj"]
        leaves[slot] = (site.A.clone().requires_grad_(), site.B.clone().requires_grad_(), adapter.scale)
    parts = []
    for number, run in enumerate(RUNS):
        rows = x[run.start : run.stop]
        y = setting.linear(rows)
        if run.slot != NO_ADAPTER:
            A, B, scale = leaves[run.slot]
            y = y + scale * (rows * masks.get(number, torch.ones(()))) @ A.T @ B.T
        parts.append(y)
    return torch.cat(parts), leaves


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_output_and_gradients_are_those_of_the_formula(setting: Setting, dropout: float) -> None:
    masks = {}
    if dropout:
        for slot, adapter in enumerate(setting.bank.adapters):
            assert adapter is not None
            object.__setattr__(adapter, "dropout", dropout)
            for number, run in enumerate(RUNS):
                if run.slot == slot:
                    noise = torch.Generator().manual_seed(mask_seed(run.draw, setting.layer.number))
                    mask = torch.empty(run.stop - run.start, INNER, dtype=setting.bank.dtype)
                    masks[number] = mask.bernoulli_(1 - dropout, generator=noise).div_(1 - dropout)
    x = torch.randn(TOKENS, INNER, dtype=setting.bank.dtype, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    weight = torch.randn(TOKENS, OUT, dtype=setting.bank.dtype)
    y = setting.layer(x[None])[0]
    expected, leaves = plain(setting, other, masks)
    torch.testing.assert_close(y, expected)
    (y * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(x.grad, other.grad)
    for slot, (A, B, _) in leaves.items():
        site = setting.bank.adapters[slot].sites["layers.0.q_proj"]  # type: ignore[union-attr]
        assert A.grad.abs().min() > 0
        torch.testing.assert_close(site.A_grad, A.grad.float(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(site.B_grad, B.grad.float(), atol=1e-5, rtol=1e-5)
    assert setting.linear.weight.grad is None


def test_gradients_reach_the_adapter_though_neither_input_nor_base_wants_any(setting: Setting) -> None:
    setting.layer(torch.randn(1, TOKENS, INNER, dtype=setting.bank.dtype)).sum().backward()
    for adapter in setting.bank.adapters:
        assert adapter is not None
        assert adapter.grad.abs().sum() > 0


def test_a_poisoned_run_leaves_the_other_slots_as_they_were(setting: Setting) -> None:
    x = torch.randn(1, TOKENS, INNER, dtype=setting.bank.dtype)
    results = []
    for poison in (0.0, float("nan")):
        for adapter in setting.bank.adapters:
            assert adapter is not None
            adapter.grad.zero_()
        company = x.clone()
        company[0, 6:11] += poison
        y = setting.layer(company)
        y.sum().backward()
        first, second = setting.bank.adapters
        assert first is not None
        assert second is not None
        results.append((y[0, :6].clone(), y[0, 11:].clone(), first.grad.clone(), second.grad.isfinite().all()))
    (clean, poisoned) = results
    assert clean[3]
    assert not poisoned[3]
    assert all(torch.equal(a, b) for a, b in zip(clean[:3], poisoned[:3], strict=True))


def test_without_training_there_is_no_dropout(setting: Setting) -> None:
    for adapter in setting.bank.adapters:
        object.__setattr__(adapter, "dropout", 0.5)
    x = torch.randn(1, TOKENS, INNER, dtype=setting.bank.dtype)
    setting.bank.read(RUNS, training=False)
    assert torch.equal(setting.layer(x), setting.layer(x))
    without = setting.layer(x)
    setting.bank.read(RUNS, training=True)
    assert not torch.equal(setting.layer(x), without)


def test_dropout_is_a_function_of_its_draw(setting: Setting) -> None:
    for adapter in setting.bank.adapters:
        object.__setattr__(adapter, "dropout", 0.5)
    x = torch.randn(1, TOKENS, INNER, dtype=setting.bank.dtype)
    first = setting.layer(x)
    assert torch.equal(setting.layer(x), first)
    setting.bank.read(tuple(replace(run, draw=run.draw + 10) for run in RUNS), training=True)
    assert not torch.equal(setting.layer(x), first)


def test_the_seeds_of_dropout_do_not_meet() -> None:
    seeds = {mask_seed(draw, number) for draw in range(100) for number in range(100)}
    assert len({seed & 0xFFFFFFFF for seed in seeds}) > 9_990


def test_a_seed_decides_the_first_weights() -> None:
    bank = LoraBank(
        [None], torch.device("cpu"), torch.float32, shapes={"a.q_proj": (OUT, INNER), "a.k_proj": (OUT, INNER)}
    )
    make = {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": ["q_proj"]}
    one, same, other = (allocate(bank, **make, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.master, same.master)
    assert not torch.equal(one.master, other.master)
    site = one.sites["a.q_proj"]
    assert list(one.sites) == ["a.q_proj"]
    assert site.B.count_nonzero() == 0
    assert 0 < site.A.abs().max() <= INNER**-0.5
    with pytest.raises(ValueError, match="v_proj"):
        allocate(bank, **{**make, "targets": ["q_proj", "v_proj"]}, seed=1)
