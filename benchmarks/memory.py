"""LoRA's training memory beside full fine-tuning of the same model, and the predictor of a pass beside what it took.

Full fine-tuning is AdamW over fp32 masters with a bf16 copy to compute with. Each is a process of its own that trains
for two steps and then adds up the tensors it holds; activations are those that autograd keeps for the way back.
"""

import argparse
import ctypes
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import shapes
from benchmarks.figures import show

SHAPE, ROWS, LENGTH = "82M", 8, 256


def run() -> None:
    with tempfile.TemporaryDirectory() as folder:
        shapes.save_model(Path(folder), SHAPE)
        lora, full = (_measured(folder, way) for way in ("lora", "full"))
    held = {name: (lora[name] / 1e6, full[name] / 1e6) for name in ("weights", "gradients", "optimizer", "activations")}
    for name, (ours, theirs) in held.items():
        show(f"{SHAPE} {name}: LoRA", [ours], "MB")
        show(f"{SHAPE} {name}: full fine-tuning", [theirs], "MB")
    ours, theirs = (sum(held[name][n] for name in held if name != "activations") for n in (0, 1))
    show("weights, gradients and optimizer: LoRA less by (≥ 80)", [100 * (1 - ours / theirs)], "%")
    show("a pass: predicted / what it took (0.8 to 1.5)", [lora["predicted"] / lora["took"]], "x")


def _measured(folder: str, way: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-m", __name__, way, folder], capture_output=True, text=True, check=True, timeout=600
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def lora(folder: Path) -> dict[str, int]:
    """What our engine holds: the base, one adapter of rank 16, and one pass."""
    from benchmarks import ours
    from worker.engine import memory, passes, warm
    from worker.engine.lora import allocate
    from worker.engine.optimizer import adamw

    base = ours.load_base(folder, jobs=1)
    adapter = allocate(base.bank, rank=16, alpha=32, dropout=0.0, targets=shapes.LINEARS, seed=0)
    base.bank.adapters[0] = adapter
    optimizer = adamw(adapter.master, adapter.grad, 0.0)
    part = warm.part([LENGTH] * ROWS)
    passes.run(base, [part])
    optimizer.step()
    adapter.publish()
    weights = {parameter.untyped_storage().data_ptr() for parameter in base.model.parameters()}
    before = _resident_peak(reset=True)
    passes.run(base, [part])
    took = _resident_peak() - before
    assert base.cost is not None
    return {
        "weights": base.memory_bytes() + _bytes([adapter.master, adapter.compute]),
        "gradients": _bytes([adapter.grad]),
        "optimizer": _bytes(optimizer.state[adapter.master].values()),
        "activations": memory.kept_bytes(lambda: passes.forward(base, [part]), weights),
        "predicted": base.cost.of([LENGTH] * ROWS),
        "took": took,
    }


def full(folder: Path) -> dict[str, int]:
    """What full fine-tuning holds, with the same rows in one batch."""
    import torch
    from transformers import AutoModelForCausalLM

    from worker.engine import memory

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    masters = [parameter.detach().float() for parameter in model.parameters()]
    for master in masters:
        master.grad = torch.zeros_like(master)
    optimizer = torch.optim.AdamW(masters, fused=True)
    optimizer.step()
    ids = torch.randint(3, 1000, (ROWS, LENGTH))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return {
        "weights": _bytes(model.parameters()) + _bytes(masters),
        "gradients": _bytes(master.grad for master in masters if master.grad is not None),
        "optimizer": _bytes(itertools.chain(*(state.values() for state in optimizer.state.values()))),
        "activations": memory.kept_bytes(lambda: model(input_ids=ids, labels=ids, use_cache=False).loss, weights),
    }


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _resident_peak(*, reset: bool = False) -> int:
    """The most memory this process had since the last reset; after a reset, what it has now (Linux)."""
    if reset:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed but kept by the allocator would be counted as held
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=["lora", "full"])
    parser.add_argument("model", type=Path)
    options = parser.parse_args()
    print(json.dumps({"lora": lora, "full": full}[options.way](options.model)))
