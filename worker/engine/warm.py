"""What a base goes through once when it is loaded: it is measured, and everything that is slow the first time is done.

Without it the first job would wait for kernels to be chosen and for torch's optimizer code to be imported (2 s).
"""

import numpy as np

from worker.engine import lora, memory, passes
from worker.engine.base_model import Base
from worker.engine.batches import Chunk, Dataset, Part
from worker.engine.loss import chunk_of
from worker.engine.optimizer import adamw

RANK = 16


def warm(base: Base) -> None:
    """Measure what passes cost, set the limit on their tokens, and train a throw-away adapter for one step."""
    targets = sorted({name.rsplit(".", 1)[-1] for name in base.bank.shapes})
    adapter = lora.allocate(base.bank, rank=RANK, alpha=1.0, dropout=0.0, targets=targets, seed=0)
    base.bank.adapters[0] = adapter
    base.cost = measured(base)
    base.memory.fit(base.cost, memory.free_bytes(base.bank.device), base.longest)
    passes.run(base, [part([32, 64])])
    optimizer = adamw(adapter.master, adapter.grad, 0.0)
    optimizer.step()
    adapter.publish()
    base.bank.adapters[0] = None


def measured(base: Base) -> memory.Cost:
    """The cost of passes with the adapter in slot 0."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in base.model.parameters()}
    return memory.measure(
        lambda lengths: memory.kept_bytes(lambda: passes.forward(base, [part(lengths)]), weights),
        hidden=base.head.weight.shape[1],
        widest=max(max(shape) for shape in base.bank.shapes.values()),
        logits=base.bank.lanes * len(base.head.weight) * chunk_of(base.head),
        size=base.bank.dtype.itemsize,
    )


def part(lengths: list[int]) -> Part:
    """Rows of any tokens, with loss on all but the first."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    weights = np.ones(offsets[-1], dtype=np.float32)
    weights[offsets[:-1]] = 0
    tokens = np.zeros(offsets[-1], dtype=np.uint32)
    dataset = Dataset(tokens, offsets, weights, np.arange(len(lengths) + 1), sha256="")
    rows = tuple(range(len(lengths)))
    chunk = Chunk(dataset, rows, float(weights.sum()), sum(lengths), regime=0, number=0, training=True)
    return Part(chunk, slot=0)
