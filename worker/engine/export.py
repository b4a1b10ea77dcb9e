"""Adapters on disk, in the layout that stock peft reads: what the forward pass used is what is written."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from worker.engine.lora import Adapter, LoraBank, views
from worker.engine.protocol import Spec

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."


class BadAdapter(Exception):
    """A directory that holds no LoRA adapter of this base and this job's rank and targets."""


def write_adapter(directory: Path, adapter: Adapter, bank: LoraBank, *, base_name: str, targets: list[str]) -> None:
    """adapter_model.safetensors and adapter_config.json, into a directory that exists."""
    tensors = {}
    for name, (A, B) in views(bank, adapter.names, adapter.rank, adapter.compute).items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = A.detach().cpu().clone()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = B.detach().cpu().clone()
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    config = adapter_config(adapter, base_name=base_name, targets=targets)
    (directory / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def adapter_config(adapter: Adapter, *, base_name: str, targets: list[str]) -> dict[str, object]:
    """Every key that peft's LoraConfig needs to rebuild exactly this adapter; the rest are peft's defaults."""
    return {
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": adapter.rank,
        "target_modules": sorted(targets),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


@dataclass(frozen=True)
class _Shape:
    rank: int
    alpha: float
    targets: list[str]


def read_adapter(directory: Path, adapter: Adapter, bank: LoraBank, spec: Spec) -> None:
    """Fill a fresh adapter's masters from a PEFT directory, to go on training it. Raises BadAdapter."""
    try:
        config = json.loads((directory / CONFIG).read_bytes())
        tensors = load_file(directory / WEIGHTS)
        stored = _Shape(int(config["r"]), float(config["lora_alpha"]), sorted(config["target_modules"]))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BadAdapter(f"{directory.name} is not an adapter: {error!r}") from error
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("use_rslora"):
        raise BadAdapter("only plain LoRA adapters can be trained on")
    wanted = _Shape(spec.lora_rank, spec.lora_alpha, sorted(spec.lora_target_modules))
    if stored.rank != wanted.rank or stored.targets != wanted.targets or not math.isclose(stored.alpha, wanted.alpha):
        raise BadAdapter(f"the adapter is {stored}, the job wants {wanted}")
    for name, (A, B) in views(bank, adapter.names, adapter.rank, adapter.master).items():
        _fill(A, tensors.get(f"{PREFIX}{name}.lora_A.weight"), name)
        _fill(B, tensors.get(f"{PREFIX}{name}.lora_B.weight"), name)
    adapter.publish()


def _fill(place: torch.Tensor, stored: torch.Tensor | None, name: str) -> None:
    if stored is None or stored.shape != place.shape:
        raise BadAdapter(f"the adapter has no fitting weights for {name}")
    place.copy_(stored)
