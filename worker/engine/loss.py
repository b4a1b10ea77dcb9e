"""Weighted cross entropy through the frozen head, only where a token carries loss.

The head's products run in the model's dtype, the softmax in fp32, over chunks of positions, and the gradient of the
hidden state is made on the way forward: neither all logits nor a gradient of the head's weight ever exist.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear, pad

# Positions at a time, and fewer where the vocabulary is large: 2²⁶ logits are 256 MB in fp32.
CHUNK = {"cpu": 256, "cuda": 1024}
LOGITS = 2**26


@dataclass(frozen=True)
class Head:
    """The output layer: weight (vocabulary, hidden). Logits are scaled by `scale`, then soft-capped.

    Positions are filled up to a multiple of `align`, so that its products have few shapes (`base_model.ALIGN`): where
    oneDNN uses AMX, the code for 343 positions and 8,192 words took it 43 ms.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    scale: float
    softcap: float | None
    align: int = 1


@dataclass(frozen=True)
class Losses:
    """`total` is the sum of coefficient × NLL, and differentiable; `nll` and `correct` (targets,) are not."""

    total: torch.Tensor
    nll: torch.Tensor
    correct: torch.Tensor


def logits(head: Head, hidden: torch.Tensor) -> torch.Tensor:
    """hidden (positions, hidden) → fp32 (positions, vocabulary), as the model itself gives them."""
    raw = linear(hidden, head.weight, head.bias).float()
    if head.scale != 1:
        raw.mul_(head.scale)
    return raw if head.softcap is None else raw.div_(head.softcap).tanh_().mul_(head.softcap)


def chunk_of(head: Head) -> int:
    """How many positions' logits exist at a time."""
    fitting = min(CHUNK[head.weight.device.type], LOGITS // len(head.weight))
    return max(1, fitting // head.align) * head.align


def weighted_nll(
    head: Head, hidden: torch.Tensor, positions: torch.Tensor, targets: torch.Tensor, coefficients: torch.Tensor
) -> Losses:
    """hidden (tokens, hidden); position p predicts its target, weighted by its coefficient, all three (targets,)."""
    total, nll, correct = _WeightedNll.apply(hidden, head, positions, targets, coefficients)
    return Losses(total, nll, correct)


class _WeightedNll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: Head,
        positions: torch.Tensor,
        targets: torch.Tensor,
        coefficients: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        count, fill = len(positions), (0, -len(positions) % head.align)
        read, targets, weights = hidden[pad(positions, fill)], pad(targets, fill), pad(coefficients, fill)
        nll = torch.empty(len(read), device=hidden.device)
        correct = torch.empty(len(read), device=hidden.device, dtype=torch.bool)
        grad = torch.empty_like(read) if ctx.needs_input_grad[0] else None
        size = chunk_of(head)
        for start in range(0, len(read), size):
            part = slice(start, start + size)
            scores = logits(head, read[part])
            top, wanted = scores.amax(-1), scores.gather(1, targets[part, None])[:, 0]
            correct[part] = wanted >= top
            p = torch.softmax(scores, -1)
            # The likeliest has at least the mean probability, so its logarithm loses nothing.
            nll[part] = top - p.amax(-1).log_() - wanted
            if grad is not None:
                grad[part] = _hidden_gradient(head, scores, p, targets[part], weights[part])
        nll, correct = nll[:count], correct[:count]
        ctx.save_for_backward(positions, *([] if grad is None else [grad[:count]]))
        ctx.shape = hidden.shape
        ctx.mark_non_differentiable(nll, correct)
        return (nll * coefficients).sum(), nll, correct

    @staticmethod
    def backward(ctx: Any, grad_total: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        positions, grad = ctx.saved_tensors
        full = torch.zeros(ctx.shape, dtype=grad.dtype, device=grad.device)
        full[positions] = grad * grad_total.to(grad.dtype)
        return full, None, None, None, None


def _hidden_gradient(
    head: Head, scores: torch.Tensor, p: torch.Tensor, targets: torch.Tensor, coefficients: torch.Tensor
) -> torch.Tensor:
    """d(coefficient × NLL)/d hidden; writes over the probabilities `p`."""
    d = p
    d[torch.arange(len(targets), device=d.device), targets] -= 1
    d.mul_(coefficients[:, None])
    if head.softcap is not None:
        d.mul_(1 - (scores / head.softcap).square_())
    if head.scale != 1:
        d.mul_(head.scale)
    return d.to(head.weight.dtype) @ head.weight
