"""The resident base: one frozen model, its head, and the LoRA bank that its listed linears read from."""

import hashlib
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from worker.engine import attention, checkpointing, norms, rotary
from worker.engine.batches import Stream
from worker.engine.lanes import LANES, Crew
from worker.engine.lora import LoraBank
from worker.engine.loss import Head
from worker.engine.low_rank import SAME_INPUT, LoraLinear, Siblings
from worker.engine.memory import Cost, Memory, rows_of

CORES = torch.get_num_threads()  # the physical cores, or what OMP_NUM_THREADS says
# A CPU has several threads in each operation of a pass from so many parameters × tokens on, 0.2 s on one Zen 4 core.
# Below, a second one gains a quarter on an idle machine, but on a busy one every small operation waits for a thread
# that is not scheduled, and a step takes ten times as long.
LARGE_PASS = 8e9
SMALL_BASE = 50_000_000  # parameters; `deterministic` jobs, whose threads must not change, run on one core below it
# A CPU multiplies bf16 with code that oneDNN generates for each new shape, 0.6 ms every time. Rows filled up to a
# multiple of 16 have few shapes: 12.6 M parameters train 1.15 times as fast, though 5 % of the tokens are filling.
ALIGN = 16
# Tokens in one pass, where memory allows. On a Zen 4 core a 17 M model's speed varies by 15 % between 1,024 and 8,192;
# a GPU wants more.
TOKEN_LIMIT = {"cpu": 4096, "cuda": 16384}


class BadBase(Exception):
    """A directory that transformers cannot load as a causal language model, or that lacks a listed linear."""


@dataclass
class Base:
    """A model that does not learn. `decoder` gives hidden states; `ropes` are those whose tables move with use.

    `longest` is the length of its context in tokens; rows are filled up to a multiple of `align`.
    `asked_threads` run its passes on a CPU; None: as many as pay.
    """

    key: str
    name: str
    model: Any
    decoder: nn.Module
    head: Head
    bank: LoraBank
    ropes: list[Any]
    regime_from: float
    each_length: bool
    vocabulary: int
    longest: int
    memory: Memory
    seconds: float
    crew: Crew
    asked_threads: int | None = None
    align: int = 1
    cost: Cost | None = None

    def hidden(self, stream: Stream, *, training: bool, lane: int = 0) -> torch.Tensor:
        """The final hidden states of a stream, (tokens, hidden)."""
        self.bank.read(stream.runs, training=training, lane=lane)
        self._settle_ropes()
        out = self.decoder(
            input_ids=stream.tokens, position_ids=stream.position_ids, use_cache=False, segments=stream.segments
        )
        return out.last_hidden_state[0]

    def memory_bytes(self) -> int:
        return sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())

    def pass_bytes(self) -> int:
        """What a full pass is predicted to take; 0 before the base was measured."""
        if self.cost is None:
            return 0
        lengths = rows_of(self.memory.limit, self.longest)
        layers = len(self.decoder.layers)  # type: ignore[arg-type]
        return self.cost.of(lengths, checkpointing=self.memory.checkpointing, layers=layers)

    @property
    def threads(self) -> int:
        """The threads that run passes of any size, as a `deterministic` job needs it."""
        return self.asked_threads or (1 if self.parameters < SMALL_BASE else CORES)

    def threads_for(self, tokens: int, lanes: int) -> int:
        """The threads that run each lane of a pass of so many tokens."""
        several = self.asked_threads or (1 if self.parameters * tokens < LARGE_PASS else CORES)
        return max(1, several // lanes)

    @cached_property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def digest(self) -> str:
        """sha256 over every weight, to show that training left the base alone."""
        digest = hashlib.sha256()
        for parameter in self.model.parameters():
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _settle_ropes(self) -> None:
        """A dynamic rope keeps the longest length seen; put it back, so that a pass depends on its own rows only."""
        for rope in self.ropes:
            rope.register_buffer("inv_freq", rope.original_inv_freq, persistent=False)
            rope.max_seq_len_cached = rope.original_max_seq_len


def load(
    path: Path,
    *,
    key: str,
    name: str,
    dtype: str,
    device: str,
    linears: list[str],
    slots: int,
    threads: int | None = None,
) -> Base:
    """Load, freeze, and put a LoraLinear over every listed linear. Raises BadBase."""
    started = time.perf_counter()
    where, kind = pick_device(device), torch.float32
    kind = pick_dtype(dtype, where)
    attention.register()
    model = _load(path, kind, where)
    align = ALIGN if where.type == "cpu" and kind == torch.bfloat16 else 1
    ropes, regime_from, each_length = _rope_regimes(model)
    # Ropes that change with what they read are one for all lanes.
    lanes = min(LANES, threads or CORES) if where.type == "cpu" and regime_from == float("inf") else 1
    bank = LoraBank([None] * slots, where, kind, lanes)
    _wrap(model, linears, bank)
    norms.replace(model)
    rotary.replace(model)
    memory = Memory(TOKEN_LIMIT[where.type])
    checkpointing.wrap(model.get_decoder().layers, bank, lambda: memory.checkpointing)
    return Base(
        key=key,
        name=name,
        model=model,
        decoder=model.get_decoder(),
        head=_head(model, align),
        bank=bank,
        ropes=ropes,
        regime_from=regime_from,
        each_length=each_length,
        vocabulary=model.get_input_embeddings().weight.shape[0],
        longest=_context(model),
        memory=memory,
        seconds=time.perf_counter() - started,
        crew=Crew(lanes),
        asked_threads=threads,
        align=align,
    )


def pick_device(device: str) -> torch.device:
    """`auto` is the first GPU, or else the CPU."""
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the machine multiplies it natively.

    On a Zen 4 core (avx512_bf16, no AMX) bf16 multiplies at 210 GFLOP/s and fp32 at 90; training is 1.5 times as fast
    with 4 M parameters and 1.6 times with 17 M.
    """
    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bf16()
    return torch.bfloat16 if native else torch.float32


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def _load(path: Path, dtype: torch.dtype, device: torch.device) -> Any:
    transformers_logging.disable_progress_bar()
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            path,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype,
            attn_implementation=attention.IMPLEMENTATION,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BadBase(f"{path.name} does not load as a causal language model: {error}") from error
    # Evaluation mode turns off whatever dropout the base was pre-trained with; an adapter's dropout is the bank's.
    return model.to(device).eval().requires_grad_(requires_grad=False)


def _wrap(model: Any, linears: list[str], bank: LoraBank) -> None:
    decoder = model.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    found = [
        (f"{prefix}.{name}", module)
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in set(linears)
    ]
    if missing := set(linears) - {name.rsplit(".", 1)[-1] for name, _ in found}:
        raise BadBase(f"the model has no linear called {', '.join(sorted(missing))}")
    for group in _siblings(found):
        siblings = Siblings(group, bank)
        for place, name in enumerate(group):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, LoraLinear(siblings, place))


def _siblings(found: list[tuple[str, nn.Linear]]) -> list[dict[str, nn.Linear]]:
    """Those of one parent that read the same input, together; every other linear by itself."""
    groups: dict[tuple[Any, ...], dict[str, nn.Linear]] = defaultdict(dict)
    for name, linear in found:
        parent, _, last = name.rpartition(".")
        kin = next((names for names in SAME_INPUT if last in names), last)
        groups[parent, kin, linear.in_features][name] = linear
    return list(groups.values())


def _context(model: Any) -> int:
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 8192))


def _head(model: Any, align: int) -> Head:
    """Gemma 2 soft-caps its logits, Cohere multiplies them (logit_scale), Granite divides them (logits_scaling)."""
    config, output = model.config.get_text_config(), model.get_output_embeddings()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return Head(output.weight, output.bias, scale, getattr(config, "final_logit_softcapping", None), align)


def _rope_regimes(model: Any) -> tuple[list[Any], float, bool]:
    """Which ropes move their tables with use, from which row length on, and whether each length has its own."""
    dynamic, limits = [], []
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if kind == "longrope":
            limits.append(module.config.rope_parameters["original_max_position_embeddings"])
        elif isinstance(kind, str) and "dynamic" in kind:
            dynamic.append(module)
            limits.append(module.original_max_seq_len)
    return dynamic, min(limits, default=float("inf")), bool(dynamic)
