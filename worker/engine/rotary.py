"""Rotary positions (Su et al. 2021, arXiv 2104.09864) in three operations each way rather than ten.

transformers turns queries and keys by negating, joining, multiplying and adding whole copies, and autograd does as much
on the way back. Here a result is written once and added to in place, in the order in which its reader wants it: on one
core of a machine with AMX both ways take 3.0 ms rather than 5.1 for 704 tokens of 12 heads of 64, and a step is
4 % faster at 12.6 M parameters, at 82 M less than 1 %.
"""

from collections.abc import Callable
from functools import cache, partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

# What transformers calls it in the file of every family that has it.
NAME = "apply_rotary_pos_emb"

Rotation = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def replace(model: nn.Module) -> None:
    """Let each attention of this model that turns by halves do it with ours; other models keep their own."""
    for module in model.modules():
        forward: Any = type(module).forward
        theirs = getattr(forward, "__globals__", {}).get(NAME)
        if theirs is not None and NAME in forward.__code__.co_names and _same(theirs):
            module.forward = MethodType(_with(forward, partial(rotate, theirs)), module)


def rotate(
    theirs: Rotation, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *more: Any, **named: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """q and k (1, heads, tokens, dim) turned by the angles of cos and sin (1, tokens, dim).

    Where only a part of a head is turned, the tables are of another dtype, or more is asked for, `theirs` does it.
    """
    if more or named or cos.shape[-1] != q.shape[-1] or cos.dtype != q.dtype:
        return theirs(q, k, cos, sin, *more, **named)
    cos, sin = cos[:, None], sin[:, None]
    return _Turned.apply(q, cos, sin), _Turned.apply(k, cos, sin)


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """(x₁, x₂) → (x₁·cos − x₂·sin, x₂·cos + x₁·sin), head by head in memory, as attention reads it."""
        ctx.save_for_backward(cos, sin)
        (x1, x2), (sin1, sin2) = x.chunk(2, -1), sin.chunk(2, -1)
        out = torch.mul(x, cos, out=x.new_empty(x.shape))
        out1, out2 = out.chunk(2, -1)
        out1.addcmul_(x2, sin1, value=-1)
        out2.addcmul_(x1, sin2)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """(g₁, g₂) → (g₁·cos + g₂·sin, g₂·cos − g₁·sin), token by token in memory, as the linears read it."""
        cos, sin = ctx.saved_tensors
        (g1, g2), (sin1, sin2) = grad.chunk(2, -1), sin.chunk(2, -1)
        out = torch.mul(grad, cos, out=grad.new_empty(grad.transpose(1, 2).shape).transpose(1, 2))
        out1, out2 = out.chunk(2, -1)
        out1.addcmul_(g2, sin2)
        out2.addcmul_(g1, sin1, value=-1)
        return out, None, None


@cache
def _same(theirs: Rotation) -> bool:
    """Whether it computes what ours does: some turn neighbours instead of halves, or take something else."""
    q, k = torch.linspace(-1, 1, 48).view(1, 2, 3, 8), torch.linspace(-2, 1, 24).view(1, 1, 3, 8)
    angles = torch.linspace(0, 5, 12).view(1, 3, 4).repeat(1, 1, 2)
    table = angles.cos(), angles.sin()
    try:
        pairs = list(zip(rotate(theirs, q, k, *table), theirs(q, k, *table), strict=True))
    except (TypeError, ValueError, RuntimeError):
        return False
    return all(a.shape == b.shape and torch.allclose(a, b) for a, b in pairs)


def _with(function: Any, ours: Rotation) -> FunctionType:
    """The function, with its own view of the file that it stands in: NAME means `ours` there.

    The file itself stays as it is, so that no other model of this process is changed.
    """
    copy = FunctionType(
        function.__code__,
        {**function.__globals__, NAME: ours},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
