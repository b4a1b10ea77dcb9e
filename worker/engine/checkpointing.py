"""Activation checkpointing: a decoder layer's activations are computed again on the way back rather than kept.

Half again as much work in the layers for an n-th of their memory, with n layers. The same numbers come out to the bit:
the layers compute the same from the same input, and dropout is a function of what it is applied to (`lora.Run`).
Whichever thread computes them again reads what the first did (`LoraBank.carried`).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from worker.engine.lora import LoraBank


def wrap(layers: nn.ModuleList, bank: LoraBank, wanted: Callable[[], bool]) -> None:
    """Let each layer ask, at each call, whether it should keep its activations."""
    for layer in layers:
        layer.forward = _asking(layer.forward, bank, wanted)


def _asking(forward: Callable[..., Any], bank: LoraBank, wanted: Callable[[], bool]) -> Callable[..., Any]:
    def ask(*arguments: Any, **named: Any) -> Any:
        if not (wanted() and torch.is_grad_enabled()):
            return forward(*arguments, **named)
        return checkpoint(bank.carried(forward), *arguments, use_reentrant=False, preserve_rng_state=False, **named)

    return ask
