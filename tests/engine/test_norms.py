"""RMSNorm of our own against the model's."""

from pathlib import Path

import pytest
import torch
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tests.engine import tiny
from worker.engine import base_model
from worker.engine.norms import RmsNorm, kernel, replace

WIDTH = 24


def stock(dtype: torch.dtype) -> LlamaRMSNorm:
    norm = LlamaRMSNorm(WIDTH, eps=1e-5).to(dtype).requires_grad_(requires_grad=False)
    norm.weight.normal_(generator=torch.Generator().manual_seed(1))
    return norm


@pytest.mark.parametrize("shape", [(1, 9, WIDTH), (1, 4, 9, WIDTH)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_are_the_models_to_the_bit_and_gradients_within_rounding(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    theirs = stock(dtype)
    ours = RmsNorm(theirs.weight, theirs.variance_epsilon)
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    before, weights = x.detach().clone(), torch.randn(shape, dtype=dtype)
    found, expected = ours(x), theirs(x)
    assert torch.equal(found, expected)
    (gradient,) = torch.autograd.grad(found, x, weights)
    (wanted,) = torch.autograd.grad(expected, x, weights)
    assert torch.equal(x, before)
    near = {"rtol": 2e-2, "atol": 1e-2} if dtype is torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(gradient, wanted, **near)


def test_the_kernel_for_gpus_gives_the_same() -> None:
    theirs = stock(torch.float32)
    x = torch.randn(1, 9, WIDTH)
    torch.testing.assert_close(kernel(x, theirs.weight, theirs.variance_epsilon), theirs(x))


def test_rows_do_not_meet_in_a_norm() -> None:
    ours = RmsNorm(stock(torch.float32).weight, 1e-5)
    gradients = []
    for poison in (0.0, float("nan")):
        x = torch.randn(1, 3, WIDTH, generator=torch.Generator().manual_seed(2))
        x[0, 1] += poison
        ours(x.requires_grad_()).sum().backward()
        assert x.grad is not None
        gradients.append(x.grad[0, [0, 2]])
    assert torch.equal(*gradients)


def test_a_norm_that_computes_something_else_stays() -> None:
    model = torch.nn.ModuleDict({"same": stock(torch.float32), "other": Gemma3RMSNorm(WIDTH)})
    model["named_alike"] = Gemma3RMSNorm(WIDTH)
    model["named_alike"].weight.data.fill_(0.5)
    model["named_alike"].variance_epsilon = 1e-6
    replace(model)
    assert [type(norm).__name__ for norm in model.values()] == ["RmsNorm", "Gemma3RMSNorm", "Gemma3RMSNorm"]


@pytest.mark.parametrize(("family", "replaced"), [("llama", 5), ("qwen3", 9), ("phi3", 5), ("gemma3", 0)])
def test_every_norm_of_a_family_is_replaced_or_none(family: str, replaced: int, tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "base", family)
    load = {"key": "a", "name": "a", "dtype": "float32", "device": "cpu", "slots": 1}
    base = base_model.load(folder, linears=tiny.linears(family), **load)
    assert sum(isinstance(module, RmsNorm) for module in base.model.modules()) == replaced
