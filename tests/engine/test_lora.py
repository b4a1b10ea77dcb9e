"""The bank's one autograd function, against autograd of the plain formula; and the walls between its slots."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from worker.engine import low_rank
from worker.engine.lora import NO_ADAPTER, LoraBank, Run, allocate, views
from worker.engine.low_rank import LoraLinear, Siblings, mask_seed

INNER, TOKENS = 6, 14
OUT = {"layers.0.q_proj": 5, "layers.0.k_proj": 3, "layers.0.v_proj": 4}
RUNS = (
    Run(0, 0, 4, ((4, 1),)),
    Run(NO_ADAPTER, 4, 6),
    Run(1, 6, 11, ((3, 2), (2, 9))),
    Run(2, 11, 14, ((3, 3),)),
)
# One slot has the siblings' first and last, one the middle one, one all.
SLOTS = ((3, 6.0, ["q_proj", "v_proj"]), (2, 1.0, ["k_proj"]), (1, 2.0, ["q_proj", "k_proj", "v_proj"]))


@dataclass(frozen=True)
class Setting:
    bank: LoraBank
    layers: dict[str, LoraLinear]
    linears: dict[str, nn.Linear]

    def outputs(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: layer(x) for name, layer in self.layers.items()}

    def zero(self) -> None:
        for adapter in self.bank.adapters:
            assert adapter is not None
            adapter.grad.zero_()

    def collect(self) -> None:
        for adapter in self.bank.adapters:
            assert adapter is not None
            adapter.collect()


@pytest.fixture(params=[torch.float32, torch.float64], ids=["fp32", "fp64"])
def setting(request: pytest.FixtureRequest) -> Setting:
    """Three siblings under adapters of different rank, scale and targets, B no longer zero."""
    torch.manual_seed(0)
    linears = {
        name: nn.Linear(INNER, out).to(request.param).requires_grad_(requires_grad=False) for name, out in OUT.items()
    }
    bank = LoraBank([None] * len(SLOTS), torch.device("cpu"), request.param)
    siblings = Siblings(linears, bank)
    layers = {name: LoraLinear(siblings, place) for place, name in enumerate(linears)}
    for slot, (rank, alpha, targets) in enumerate(SLOTS):
        adapter = allocate(bank, rank=rank, alpha=alpha, dropout=0.0, targets=targets, seed=slot)
        adapter.master.normal_(generator=torch.Generator().manual_seed(slot))
        adapter.publish()
        bank.adapters[slot] = adapter
    bank.read(RUNS, training=True)
    return Setting(bank, layers, linears)


Leaves = dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]


def plain(setting: Setting, x: torch.Tensor, masks: dict[int, torch.Tensor]) -> tuple[dict[str, torch.Tensor], Leaves]:
    """y = xWᵀ + b + s·((x·mask)Aᵀ)Bᵀ as autograd sees it, by linear, and its leaves (A, B) by slot and linear."""
    leaves = {
        (slot, name): (A.clone().requires_grad_(), B.clone().requires_grad_())
        for slot, adapter in enumerate(setting.bank.adapters)
        if adapter is not None
        for name, (A, B) in views(setting.bank, adapter.names, adapter.rank, adapter.compute).items()
    }
    outputs = {}
    for name, linear in setting.linears.items():
        parts = []
        for run in RUNS:
            rows = x[run.start : run.stop]
            y = linear(rows)
            if (run.slot, name) in leaves:
                A, B = leaves[run.slot, name]
                scale = SLOTS[run.slot][1] / SLOTS[run.slot][0]
                y = y + scale * (rows * masks.get(run.slot, torch.ones(()))) @ A.T @ B.T
            parts.append(y)
        outputs[name] = torch.cat(parts)
    return outputs, leaves


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_outputs_and_gradients_are_those_of_the_formula(setting: Setting, dropout: float) -> None:
    masks = {}
    if dropout:
        for run in RUNS:
            if run.slot == NO_ADAPTER:
                continue
            object.__setattr__(setting.bank.adapters[run.slot], "dropout", dropout)
            rows = []
            for tokens, draw in run.draws:
                noise = torch.Generator().manual_seed(mask_seed(draw, 0))
                mask = torch.empty(tokens, INNER, dtype=setting.bank.dtype)
                rows.append(mask.bernoulli_(1 - dropout, generator=noise).div_(1 - dropout))
            masks[run.slot] = torch.cat(rows)
    x = torch.randn(TOKENS, INNER, dtype=setting.bank.dtype, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    weights = {name: torch.randn(TOKENS, out, dtype=setting.bank.dtype) for name, out in OUT.items()}
    outputs = {name: y[0] for name, y in setting.outputs(x[None]).items()}
    expected, leaves = plain(setting, other, masks)
    torch.testing.assert_close(outputs, expected)
    torch.stack([(outputs[name] * weight).sum() for name, weight in weights.items()]).sum().backward()
    torch.stack([(expected[name] * weight).sum() for name, weight in weights.items()]).sum().backward()
    setting.collect()
    torch.testing.assert_close(x.grad, other.grad)
    grads = {
        slot: views(setting.bank, adapter.names, adapter.rank, adapter.grad)
        for slot, adapter in enumerate(setting.bank.adapters)
        if adapter is not None
    }
    assert len(leaves) == 6
    for (slot, name), expected_pair in leaves.items():
        for found, leaf in zip(grads[slot][name], expected_pair, strict=True):
            assert leaf.grad is not None
            assert leaf.grad.abs().max() > 0
            torch.testing.assert_close(found, leaf.grad.float(), atol=1e-5, rtol=1e-5)
    assert all(linear.weight.grad is None for linear in setting.linears.values())


def test_siblings_are_computed_once_for_one_input(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    apply = low_rank._LowRankSum.apply
    monkeypatch.setattr(low_rank._LowRankSum, "apply", lambda *args: computed.append(1) or apply(*args))
    x, other = torch.randn(2, 1, TOKENS, INNER, dtype=setting.bank.dtype)
    of_x, of_other = setting.outputs(x), setting.outputs(other)
    assert len(computed) == 2
    assert not setting.bank.reading.ahead
    q, k, v = setting.layers.values()
    for found, expected in ((k(other), "k_proj"), (v(other), "v_proj")):
        assert torch.equal(found, of_other[f"layers.0.{expected}"])
    assert torch.equal(q(x), of_x["layers.0.q_proj"])
    assert torch.equal(v(other), of_other["layers.0.v_proj"])
    setting.bank.read(RUNS, training=True)
    assert not setting.bank.reading.ahead


def test_a_sibling_that_nobody_asked_for_has_no_gradient(setting: Setting) -> None:
    x = torch.randn(1, TOKENS, INNER, dtype=setting.bank.dtype, requires_grad=True)
    setting.layers["layers.0.q_proj"](x).sum().backward()
    setting.collect()
    last = setting.bank.adapters[2]
    assert last is not None
    grads = views(setting.bank, last.names, last.rank, last.grad)
    assert grads["layers.0.q_proj"][1].abs().min() > 0
    assert grads["layers.0.k_proj"][1].count_nonzero() == 0
    assert x.grad is not None


def test_a_slot_has_one_run_in_training(setting: Setting) -> None:
    twice = (Run(0, 0, 4), Run(0, 4, TOKENS))
    setting.bank.read(twice, training=False)
    with pytest.raises(AssertionError, match="last run"):
        setting.bank.read(twice, training=True)


def test_gradients_reach_the_adapter_though_neither_input_nor_base_wants_any(setting: Setting) -> None:
    outputs = setting.outputs(torch.randn(1, TOKENS, INNER, dtype=setting.bank.dtype))
    torch.cat([y.flatten() for y in outputs.values()]).sum().backward()
    setting.collect()
    for adapter in setting.bank.adapters:
        assert adapter is not None
        assert adapter.grad.abs().sum() > 0


def test_a_poisoned_run_leaves_the_other_slots_as_they_were(setting: Setting) -> None:
    x = torch.randn(1, TOKENS, INNER, dtype=setting.bank.dtype)
    results = []
    for poison in (0.0, float("nan")):
        setting.zero()
        company = x.clone()
        company[0, 6:11] += poison
        y = torch.cat(list(setting.outputs(company).values()), -1)
        y.sum().backward()
        setting.collect()
        first, second, third = (adapter.grad for adapter in setting.bank.adapters if adapter is not None)
        results.append((y[0, :6].clone(), y[0, 11:].clone(), first.clone(), third.clone(), second.isfinite().all()))
    clean, poisoned = results
    assert clean[-1]
    assert not poisoned[-1]
    assert all(torch.equal(a, b) for a, b in zip(clean[:-1], poisoned[:-1], strict=True))


def test_without_training_there_is_no_dropout(setting: Setting) -> None:
    for adapter in setting.bank.adapters:
        object.__setattr__(adapter, "dropout", 0.5)
    x = torch.randn(1, TOKENS, INNER, dtype=setting.bank.dtype)
    setting.bank.read(RUNS, training=False)
    layer = setting.layers["layers.0.v_proj"]
    without = layer(x)
    assert torch.equal(layer(x), without)
    setting.bank.read(RUNS, training=True)
    assert not torch.equal(layer(x), without)


def test_dropout_is_a_function_of_its_draw(setting: Setting) -> None:
    for adapter in setting.bank.adapters:
        object.__setattr__(adapter, "dropout", 0.5)
    x = torch.randn(1, TOKENS, INNER, dtype=setting.bank.dtype)
    layer = setting.layers["layers.0.v_proj"]
    first = layer(x)
    assert torch.equal(layer(x), first)
    other = tuple(replace(run, draws=tuple((tokens, draw + 20) for tokens, draw in run.draws)) for run in RUNS)
    setting.bank.read(other, training=True)
    assert not torch.equal(layer(x), first)


def test_a_rows_dropout_is_the_same_wherever_it_stands_and_however_it_is_filled_up(setting: Setting) -> None:
    for adapter in setting.bank.adapters:
        object.__setattr__(adapter, "dropout", 0.5)
    x, filling = (torch.randn(1, 7, INNER, dtype=setting.bank.dtype) for _ in range(2))
    layer = setting.layers["layers.0.v_proj"]
    setting.bank.read((Run(2, 0, 7, ((4, 5), (3, 6))),), training=True)
    first = layer(x)[0]
    setting.bank.read((Run(2, 0, 14, ((6, 6), (8, 5))),), training=True)
    turned = layer(torch.cat([x[:, 4:], filling[:, :3], x[:, :4], filling[:, 3:]], 1))[0]
    torch.testing.assert_close(turned[:3], first[4:])
    torch.testing.assert_close(turned[6:10], first[:4])


def test_the_seeds_of_dropout_do_not_meet() -> None:
    seeds = {mask_seed(draw, number) for draw in range(100) for number in range(100)}
    assert len({seed & 0xFFFFFFFF for seed in seeds}) > 9_990


def test_a_seed_decides_the_first_weights() -> None:
    bank = LoraBank([None], torch.device("cpu"), torch.float32)
    Siblings({"a.q_proj": nn.Linear(INNER, 5), "a.k_proj": nn.Linear(INNER, 5)}, bank)
    make = {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": ["q_proj"]}
    one, same, other = (allocate(bank, **make, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.master, same.master)
    assert not torch.equal(one.master, other.master)
    assert one.names == ("a.q_proj",)
    A, B = views(bank, one.names, one.rank, one.master)["a.q_proj"]
    assert B.count_nonzero() == 0
    assert 0 < A.abs().max() <= INNER**-0.5
    with pytest.raises(ValueError, match="v_proj"):
        allocate(bank, **{**make, "targets": ["q_proj", "v_proj"]}, seed=1)
