"""Where the time of one optimizer step goes, against what its matrix products alone would take.

The limit counts the products that LoRA training cannot do without (the base's forward and the gradient of its input,
the head where there is loss, attention, the adapters) at the speed that this machine multiplies 2048³ matrices of the
same dtype, measured in the same minute with as many threads.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile

from benchmarks import ours, shapes
from benchmarks.figures import show
from worker.engine import base_model, lanes, passes
from worker.engine.base_model import Base
from worker.engine.batches import Chunk, Part, open_dataset
from worker.engine.lora import allocate
from worker.engine.optimizer import adamw, clip

SHAPE, ROWS, RANK, STEPS = ("12.6M" if not torch.cuda.is_available() else "1B"), 8, 16, 12
PARTS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm"),
    "copies and casts": ("aten::copy_", "aten::fill_", "aten::index", "aten::index_put_"),
    "softmax": ("aten::_softmax", "aten::_softmax_backward_data"),
    "optimizer": ("aten::_fused_adamw_", "aten::linalg_vector_norm"),
}


def run() -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = ours.load_base(shapes.save_model(Path(folder) / "model", SHAPE), jobs=1)
        rows = shapes.chat_rows(ROWS, shapes.SHAPES[SHAPE].vocabulary)
        part = _part(shapes.save_rows(Path(folder) / "rows", rows), rows, base)
        step = _step(base, part)
        for _ in range(3):
            step()
        seconds = [_timed(step) for _ in range(STEPS)]
        limit = _products(base, rows) / _flops_per_second(base)
        show(
            f"{SHAPE} one step, {rows.total} tokens, {base.bank.lanes} lanes",
            [s * 1e3 for s in seconds],
            "ms",
        )
        show("its products at this machine's measured speed", [limit * 1e3], "ms")
        show("the limit's share of the step", [100 * limit / s for s in seconds], "%")
        _breakdown(step)


def _part(folder: Path, rows: shapes.Rows, base: Base) -> Part:
    dataset = open_dataset(folder, base.vocabulary)
    weight = float(dataset.weights.sum())
    return Part(Chunk(dataset, tuple(range(ROWS)), weight, rows.total, regime=0, number=0, training=True), slot=0)


def _step(base: Base, part: Part) -> Any:
    """What `loop.optimizer_step` does with a step of one chunk."""
    adapter = allocate(base.bank, rank=RANK, alpha=32, dropout=0.0, targets=shapes.LINEARS, seed=0)
    base.bank.adapters[0] = adapter
    optimizer = adamw(adapter.master, adapter.grad, 0.0)

    def step() -> None:
        adapter.grad.zero_()
        (sums,) = passes.run(base, [part])
        torch.cat([sums, clip(adapter.grad, 1.0)[None]]).tolist()
        optimizer.step()
        adapter.publish()

    return step


def _timed(action: Any) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _products(base: Base, rows: shapes.Rows) -> float:
    """Floating-point operations of the products of a step; the first layer's inputs want no gradient, but get one."""
    shape = shapes.SHAPES[SHAPE]
    linears = sum(out * inner for out, inner in base.bank.shapes.values())
    adapters = sum(RANK * (out + inner) for out, inner in base.bank.shapes.values())
    targets = rows.total - sum(rows.contexts)
    pairs = sum(len(row) ** 2 for row in rows.tokens) / 2
    attention = 12 * pairs * shape.hidden * shape.layers
    return (
        4 * linears * rows.total + 6 * adapters * rows.total + 4 * shape.vocabulary * shape.hidden * targets + attention
    )


def _flops_per_second(base: Base) -> float:
    size = 2048
    lanes.set_threads(base_model.CORES)
    a, b = (torch.randn(size, size, device=base.bank.device, dtype=base.bank.dtype) for _ in range(2))

    def multiply() -> None:
        (a @ b)[0, 0].item()

    multiply()
    return 2 * size**3 / min(_timed(multiply) for _ in range(5))


def _breakdown(step: Any) -> None:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    every = _ExperimentalConfig(profile_all_threads=True)
    with profile(activities=activities, experimental_config=every) as recorded:
        for _ in range(STEPS):
            step()
    times = {event.key: event.self_cpu_time_total + event.self_device_time_total for event in recorded.key_averages()}
    total = sum(times.values())
    known = {part: sum(times.pop(name, 0) for name in names) for part, names in PARTS.items()}
    python = sum(time for name, time in times.items() if not name.startswith("aten::"))
    rest = total - sum(known.values()) - python
    for part, spent in {**known, "other element-wise work": rest, "Python between the operations": python}.items():
        show(f"  {part}", [100 * spent / total], "%")


if __name__ == "__main__":
    run()
