"""A linear layer of the base model. It never learns, so it only knows its output and the gradient of its input.

Three functions are all that LoRA asks of the base, so a quantised weight needs no more than these.
"""

import torch
from torch import nn
from torch.nn.functional import linear


class FrozenLinear(nn.Module):
    """y = x Wᵀ + b with W of shape (out, in), shared by every job."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = layer.weight
        self.bias = layer.bias
        self.out_features, self.in_features = self.weight.shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (tokens, in) → a fresh (tokens, out), which the caller may write into."""
        return linear(x, self.weight, self.bias)

    def grad_input(self, grad_output: torch.Tensor) -> torch.Tensor:
        """grad_output (tokens, out) → a fresh (tokens, in)."""
        return grad_output @ self.weight

    def add_grad_input(self, grad_output: torch.Tensor, into: torch.Tensor) -> None:
        """Add the gradient of the input to what siblings made of theirs."""
        into.addmm_(grad_output, self.weight)
