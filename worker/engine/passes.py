"""One pass of the model over the chunks of one job or of several: forward, loss, and in training backward.

The base's products run once over everybody's tokens, on a CPU once in each lane. Nothing of one job can reach another:
segments see only themselves, norms and products work row by row, each run of tokens has its own adapter, and each
target its own coefficient; the jobs' gradients go into buffers of their own.
"""

from functools import partial

import torch

from worker.engine import batches, lanes
from worker.engine.base_model import Base
from worker.engine.batches import Part, Stream
from worker.engine.loss import Losses, weighted_nll


def run(base: Base, parts: list[Part], threads: int | None = None) -> list[torch.Tensor]:
    """Each part's weighted loss and number of correct targets, (2,), on the device. Gradients are added to the slots'.

    All parts are of one regime and one purpose (training or not). threads: of a `deterministic` job, whose pass is not
    dealt to lanes; None: what pays. Raises torch.OutOfMemoryError; the slots' gradients are then as they were.
    """
    dealt = [parts] if threads else lanes.deal(parts, base.bank.lanes)
    threads = threads or base.threads_for(sum(part.chunk.tokens for part in parts), len(dealt))
    tasks = [partial(_lane, base, mine, lane) for lane, mine in enumerate(dealt)]
    outcomes = {part.slot: torch.zeros(2, device=base.bank.device) for part in parts}
    for lane, (mine, found) in enumerate(zip(dealt, base.crew.run(tasks, threads), strict=True)):
        for part, outcome in zip(mine, found, strict=True):
            outcomes[part.slot] += outcome
            if part.chunk.training:
                _collect(base, part, lane)
    return list(outcomes.values())


def _lane(base: Base, parts: list[Part], lane: int) -> list[torch.Tensor]:
    """What one lane makes of its parts; in training it leaves their gradients in its drafts."""
    stream, losses = forward(base, parts, lane)
    if parts[0].chunk.training:
        losses.total.backward()
    weighted = losses.nll * stream.coefficients
    ends = zip(stream.edges[:-1], stream.edges[1:], strict=True)
    return [torch.stack([weighted[a:b].sum(), losses.correct[a:b].sum()]) for a, b in ends]


def _collect(base: Base, part: Part, lane: int) -> None:
    """The pass is whole: its gradients count."""
    adapter = base.bank.adapters[part.slot]
    assert adapter is not None
    adapter.collect(lane)


def forward(base: Base, parts: list[Part], lane: int = 0) -> tuple[Stream, Losses]:
    """The stream of the parts, and the losses of its targets."""
    training = parts[0].chunk.training
    stream = batches.pack(parts, base.bank.device, base.align)
    with torch.set_grad_enabled(training):
        hidden = base.hidden(stream, training=training, lane=lane)
        return stream, weighted_nll(base.head, hidden, stream.predicting, stream.targets, stream.coefficients)
