"""AdamW over one job's flat fp32 masters, its learning-rate schedule and its clipping."""

import math

import torch

from worker.engine.protocol import Spec

BETAS = (0.9, 0.999)
EPSILON = 1e-8


def adamw(master: torch.Tensor, grad: torch.Tensor, weight_decay: float) -> torch.optim.AdamW:
    """One kernel over one flat parameter (Loshchilov and Hutter 2019, arXiv 1711.05101), with its moments in place."""
    master.grad = grad
    optimizer = torch.optim.AdamW([master], lr=0.0, betas=BETAS, eps=EPSILON, weight_decay=weight_decay, fused=True)
    optimizer.state[master] = {
        "step": torch.zeros((), device=master.device),
        "exp_avg": torch.zeros_like(master),
        "exp_avg_sq": torch.zeros_like(master),
    }
    return optimizer


def learning_rate(spec: Spec, step: int, total_steps: int) -> float:
    """The rate of step 0..total_steps - 1: linear warm-up to the full rate, then the schedule down towards zero."""
    warmup = math.ceil(spec.warmup_ratio * total_steps)
    if step < warmup:
        return spec.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total_steps - warmup)
    if spec.lr_scheduler == "cosine":
        return spec.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    if spec.lr_scheduler == "linear":
        return spec.learning_rate * (1 - done)
    return spec.learning_rate


def clip(grad: torch.Tensor, max_norm: float) -> torch.Tensor:
    """Scale the gradient to at most `max_norm` (0: never), in place; returns its L2 norm from before, on the device."""
    norm = torch.linalg.vector_norm(grad)
    if max_norm > 0:
        grad.mul_(torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return norm
