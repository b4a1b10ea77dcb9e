"""One pass of the model over the chunks of one job or of several: forward, loss, and in training backward.

The base's products run once over everybody's tokens. Nothing of one job can reach another: segments see only
themselves, norms and products work row by row, each run of tokens has its own adapter, and each target its own
coefficient; the jobs' gradients go into buffers of their own.
"""

import torch

from worker.engine import batches
from worker.engine.base_model import Base
from worker.engine.batches import Part, Stream
from worker.engine.loss import Losses, weighted_nll


def run(base: Base, parts: list[Part]) -> list[torch.Tensor]:
    """Each part's weighted loss and number of correct targets, (2,), on the device. Gradients are added to the slots'.

    All parts are of one regime and one purpose (training or not). Raises torch.OutOfMemoryError; the slots' gradients
    are then as they were.
    """
    stream, losses = forward(base, parts)
    if parts[0].chunk.training:
        losses.total.backward()
        _collect(base, parts)
    weighted = losses.nll * stream.coefficients
    ends = zip(stream.edges[:-1], stream.edges[1:], strict=True)
    return [torch.stack([weighted[a:b].sum(), losses.correct[a:b].sum()]) for a, b in ends]


def _collect(base: Base, parts: list[Part]) -> None:
    """The pass is whole: its gradients count."""
    for part in parts:
        adapter = base.bank.adapters[part.slot]
        assert adapter is not None
        adapter.collect()


def forward(base: Base, parts: list[Part]) -> tuple[Stream, Losses]:
    """The stream of the parts, and the losses of its targets."""
    training = parts[0].chunk.training
    stream = batches.pack(parts, base.bank.device, base.align)
    with torch.set_grad_enabled(training):
        hidden = base.hidden(stream, training=training)
        return stream, weighted_nll(base.head, hidden, stream.predicting, stream.targets, stream.coefficients)
