"""RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) that never learns and keeps little for the way back.

transformers writes it as a chain of operations, of which autograd keeps three results, one of them in fp32. Here the
input and one number a token are kept, and the gradient is one formula: on one core of a machine with AMX, forward and
backward over 656 tokens of width 768 take 2.3 ms rather than 3.3. On CUDA torch's own kernel does both.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import rms_norm


class RmsNorm(nn.Module):
    """Stands where the model had one of its own; both have the same output to the bit on a CPU."""

    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        super().__init__()
        self.weight = weight
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (…, width) → its rows at a root mean square of 1, times the weight."""
        if x.device.type != "cpu":
            return kernel(x, self.weight, self.epsilon)
        out = _Normalised.apply(x, self.weight, self.epsilon)
        assert isinstance(out, torch.Tensor)
        return out


def kernel(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """What CUDA has one kernel for in each direction; on a CPU torch makes it of many."""
    return rms_norm(x, weight.shape, weight, epsilon)


def replace(model: nn.Module) -> None:
    """Put an RmsNorm over each norm of the model that computes the same: those of Gemma, say, stay."""
    for module in list(model.modules()):
        for name, norm in list(module.named_children()):
            epsilon, weight = getattr(norm, "variance_epsilon", None), getattr(norm, "weight", None)
            if epsilon is not None and isinstance(weight, nn.Parameter):
                ours = RmsNorm(weight, epsilon)
                if _same(norm, ours):
                    setattr(module, name, ours)


@torch.no_grad()
def _same(norm: Any, ours: RmsNorm) -> bool:
    weight = ours.weight
    probe = torch.linspace(-3, 5, 2 * len(weight), dtype=weight.dtype, device=weight.device).view(2, -1)
    found, expected = ours(probe), norm(probe)
    if found.dtype != expected.dtype:
        return False
    return bool(torch.equal(found, expected) or (weight.is_cuda and torch.allclose(found, expected, rtol=0.02)))


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        wide = x.to(torch.float32, copy=True)
        shrink = wide.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, shrink)
        return wide.mul_(shrink).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """With y = x·r and g' = g·w: dx = r·(g' − y·mean(g'·y))."""
        x, weight, shrink = ctx.saved_tensors
        y, g = (t.to(torch.float32, copy=True).mul_(by) for t, by in ((x, shrink), (grad, weight.float())))
        dot = (g * y).mean(-1, keepdim=True)
        return g.addcmul_(y, dot, value=-1).mul_(shrink).to(x.dtype), None, None
