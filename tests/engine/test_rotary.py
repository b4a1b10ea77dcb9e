"""Rotary positions of our own against the model's."""

from functools import partial
from pathlib import Path

import pytest
import torch
from transformers.models.codegen.modeling_codegen import apply_rotary_pos_emb as of_one
from transformers.models.cohere.modeling_cohere import apply_rotary_pos_emb as by_neighbours
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as by_halves
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb as in_part

from tests.engine import tiny
from worker.engine import base_model, rotary

TOKENS, DIM = 7, 16
OURS = partial(rotary.rotate, by_halves)


def tables(dtype: torch.dtype, dim: int = DIM) -> tuple[torch.Tensor, torch.Tensor]:
    angles = torch.rand(1, TOKENS, dim // 2, generator=torch.Generator().manual_seed(3)).mul(6).repeat(1, 1, 2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def heads(count: int, dtype: torch.dtype) -> torch.Tensor:
    """As attention has them: token by token in memory."""
    states = torch.randn(1, TOKENS, count, DIM, generator=torch.Generator().manual_seed(count)).to(dtype)
    return states.transpose(1, 2).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_and_gradients_are_the_models(dtype: torch.dtype) -> None:
    q, k, table = heads(4, dtype), heads(2, dtype), tables(dtype)
    found, expected = OURS(q, k, *table), by_halves(q, k, *table)
    back = [torch.randn(x.shape, dtype=dtype) for x in expected]
    gradients, wanted = (torch.autograd.grad(out, [q, k], back) for out in (found, expected))
    near = {"rtol": 2e-2, "atol": 4e-2} if dtype is torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close([*found, *gradients], [*expected, *wanted], **near)


def test_results_lie_as_their_readers_want_them() -> None:
    q, k = heads(4, torch.float32), heads(2, torch.float32)
    out, _ = OURS(q, k, *tables(torch.float32))
    (gradient,) = torch.autograd.grad(out.sum(), q)
    assert out.is_contiguous()
    assert gradient.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("case", ["a part of a head", "tables of fp32"])
def test_what_ours_does_not_cover_is_the_models_own(case: str) -> None:
    q, k = heads(4, torch.bfloat16), heads(2, torch.bfloat16)
    table = tables(torch.bfloat16, DIM // 2) if case == "a part of a head" else tables(torch.float32)
    found, expected = rotary.rotate(in_part, q, k, *table), in_part(q, k, *table)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_heads_that_lie_otherwise_are_the_models_own() -> None:
    q, k = (heads(count, torch.float32).transpose(1, 2) for count in (4, 2))
    found, expected = (turn(q, k, *tables(torch.float32), unsqueeze_dim=2) for turn in (OURS, by_halves))
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_a_model_that_turns_neighbours_keeps_its_own() -> None:
    assert rotary._same(by_halves)
    assert rotary._same(in_part)
    assert not rotary._same(by_neighbours)
    assert not rotary._same(of_one)


@pytest.mark.parametrize("family", [*tiny.FAMILIES])
def test_every_attention_of_a_family_turns_with_ours_and_no_other_models(family: str, tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "base", family)
    load = {"key": "a", "name": "a", "dtype": "float32", "device": "cpu", "slots": 1}
    base = base_model.load(folder, linears=tiny.linears(family), **load)
    layers = base.decoder.layers
    assert all(isinstance(turning(layer.self_attn), partial) for layer in layers)
    assert all(not isinstance(turning(layer.self_attn), partial) for layer in tiny.stock(folder).model.layers)
    assert modeling_llama.apply_rotary_pos_emb is by_halves


def turning(attention: torch.nn.Module) -> object:
    return attention.forward.__globals__[rotary.NAME]
