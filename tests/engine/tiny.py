"""Tiny random models of every family, tiny prepared datasets, and a client for the engine's protocol."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

VOCABULARY = 96
SPLIT = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 32,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}

# Sliding windows (9 tokens) are shorter than most rows of `lengths` in the tests.
FAMILIES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=False),
    "llama-dynamic-rope": LlamaConfig(**{**SHAPE, "max_position_embeddings": 24, "rope_parameters": DYNAMIC}),
    "mistral": MistralConfig(**SHAPE, sliding_window=9),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen2-sliding": Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=9, max_window_layers=1),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "gemma2": Gemma2Config(
        **SHAPE,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=9,
        attn_logit_softcapping=0.3,
        final_logit_softcapping=0.5,
    ),
    "gemma3": Gemma3TextConfig(**SHAPE, head_dim=16, query_pre_attn_scalar=16, sliding_window=9),
    "phi3": Phi3Config(**SHAPE, sliding_window=None),
    "phi3-longrope": Phi3Config(**SHAPE, original_max_position_embeddings=32, rope_parameters=LONGROPE),
}


def linears(family: str) -> list[str]:
    return FUSED if family.startswith("phi3") else SPLIT


def save_model(directory: Path, family: str = "llama", seed: int = 0) -> Path:
    """A random model of the family, its weights large enough that every part of it shows in the logits."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(FAMILIES[family], attn_implementation="eager").float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.08)
    model.save_pretrained(directory)
    return directory


def stock(directory: Path, dtype: torch.dtype = torch.float32, attention: str = "eager") -> Any:
    """The model as transformers itself runs it."""
    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation=attention).eval()


def save_dataset(
    directory: Path, rows: list[list[int]], *, context: int = 3, examples: list[int] | None = None, weight: float = 1.0
) -> Path:
    """A prepared dataset: loss on everything but the first `context` tokens of each row."""
    directory.mkdir(parents=True)
    weights = [np.where(np.arange(len(row)) < context, 0.0, weight) for row in rows]
    columns = {
        "tokens": np.concatenate([np.array(row) for row in rows]).astype(np.uint32),
        "offsets": np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        "weights": np.concatenate(weights).astype(np.float32),
        "example": np.array(examples or range(len(rows)), dtype=np.int32),
    }
    save_file(columns, directory / "data.safetensors")
    manifest = {
        "version": 1,
        "kind": "supervised",
        "rows": len(rows),
        "examples": int(columns["example"][-1]) + 1,
        "tokens": len(columns["tokens"]),
        "target_tokens": int((columns["weights"] > 0).sum()),
        "sha256": {"data.safetensors": hashlib.sha256((directory / "data.safetensors").read_bytes()).hexdigest()},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def random_rows(lengths: list[int], seed: int = 0) -> list[list[int]]:
    generator = np.random.Generator(np.random.Philox(seed))
    return [generator.integers(3, VOCABULARY, length).tolist() for length in lengths]


def counting_rows(count: int, seed: int = 0) -> list[list[int]]:
    """Rows that count up in steps of one from somewhere: a rule that a few steps of training pick up."""
    generator = np.random.Generator(np.random.Philox(seed))
    starts, lengths = generator.integers(3, 40, count), generator.integers(6, 20, count)
    return [list(range(start, start + length)) for start, length in zip(starts, lengths, strict=True)]


def spec(**changes: Any) -> dict[str, Any]:
    """A job's settings, small and quick."""
    return {
        "method": "supervised",
        "n_epochs": 2,
        "batch_size": 4,
        "learning_rate": 0.01,
        "lora_rank": 4,
        "lora_alpha": 8.0,
        "lora_dropout": 0.0,
        "lora_target_modules": SPLIT,
        "max_sequence_length": 512,
        "warmup_ratio": 0.1,
        "lr_scheduler": "cosine",
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "eval_interval": None,
        "early_stopping_patience": None,
        "deterministic": False,
        "seed": 7,
        "resume_interval_seconds": 600.0,
        **changes,
    }


def admitted(base: Any, data: Path, out: Path, *, name: str = "ftjob", **changes: Any) -> Any:
    """A job in a slot of `base`; `validation` and settings as wanted."""
    from worker.engine.job import admit
    from worker.engine.protocol import Admit, Spec

    validation = changes.pop("validation", None)
    resume = changes.pop("resume", None)
    settings = Spec(**spec(**changes))
    paths = [str(path) if path else None for path in (validation, resume)]
    return admit(Admit(1, name, settings, str(data), paths[0], paths[1], None, str(out)), base)


class Reports(list[dict[str, Any]]):
    """What a company reported, each with its type."""

    def __call__(self, kind: str, **fields: Any) -> None:
        self.append({"type": kind, **fields})

    def of(self, kind: str, job: str = "ftjob") -> list[dict[str, Any]]:
        return [report for report in self if report["type"] == kind and report["job"] == job]


def train(base: Any, *jobs: Any) -> Reports:
    """Train jobs together to their ends; what they reported. Raises what breaks one of them."""
    from worker.engine.company import Company

    reports, errors = Reports(), []
    company = Company(base, reports, lambda ended: errors.append(ended.error))
    for job in jobs:
        company.join(job, tenant=job.id)
    while company.members:
        company.turn()
    for error in errors:
        if error is not None:
            raise error
    return reports


class Client:
    """The worker's end of the protocol."""

    def __init__(
        self, commands: BinaryIO, replies: BinaryIO, lifeline: int, process: "subprocess.Popen[bytes]"
    ) -> None:
        self.commands, self.replies, self.lifeline, self.process = commands, replies, lifeline, process
        self.reports: list[dict[str, Any]] = []
        self.requests = 0

    def send(self, kind: str, **fields: Any) -> int:
        self.requests += 1
        self.write(json.dumps({"type": kind, "id": self.requests, **fields}).encode())
        return self.requests

    def write(self, line: bytes) -> None:
        self.commands.write(line + b"\n")
        self.commands.flush()

    def read(self) -> dict[str, Any]:
        line = self.replies.readline()
        assert line, f"the engine is gone, status {self.process.wait()}"
        message = json.loads(line)
        if message["id"] is None and message["type"] != "error":
            self.reports.append(message)
        return message

    def ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Send a command and read up to its reply; reports on the way are kept."""
        return self.reply_to(self.send(kind, **fields))

    def reply_to(self, request: int) -> dict[str, Any]:
        while (message := self.read())["id"] != request:
            pass
        return message

    def until(self, kind: str, job: str) -> dict[str, Any]:
        """Read up to the job's report of this kind."""
        while not ((message := self.read())["type"] == kind and message.get("job") == job):
            assert message["type"] != "failed" or kind == "failed" or message.get("job") != job, message
        return message

    def of(self, kind: str, job: str) -> list[dict[str, Any]]:
        return [message for message in self.reports if message["type"] == kind and message["job"] == job]


@contextmanager
def engine() -> Iterator[Client]:
    """A real engine process."""
    (commands_in, commands), (replies, replies_out), (lifeline_in, lifeline) = os.pipe(), os.pipe(), os.pipe()
    child_ends = (commands_in, replies_out, lifeline_in)
    arguments = ["--commands", str(commands_in), "--replies", str(replies_out), "--lifeline", str(lifeline_in)]
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.engine", *arguments],
        pass_fds=child_ends,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
    )
    for end in child_ends:
        os.close(end)
    with os.fdopen(commands, "wb") as to_engine, os.fdopen(replies, "rb") as from_engine:
        try:
            yield (client := Client(to_engine, from_engine, lifeline, process))
        finally:
            os.close(client.lifeline)
            process.wait(timeout=20)


def load_base(client: Client, directory: Path, **changes: Any) -> dict[str, Any]:
    """Load a base in fp32 on the CPU, unless told otherwise."""
    fields = {"key": "tiny", "dtype": "float32", "device": "cpu", "linears": SPLIT, "slots": 4, "threads": 1, **changes}
    return client.ask("load_base", path=str(directory), **fields)


def admit(client: Client, job: str, dataset: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Admit a job; `spec`, `validation`, `resume` and `adapter` as wanted."""
    return client.reply_to(send_admit(client, job, dataset, out, **changes))


def send_admit(client: Client, job: str, dataset: Path, out: Path, **changes: Any) -> int:
    """Ask for the same, and do not wait for the reply to this number."""
    optional = {name: str(changes[name]) if changes.get(name) else None for name in ("validation", "resume", "adapter")}
    settings = changes.get("spec", spec())
    return client.send("admit", job=job, spec=settings, dataset=str(dataset), out=str(out), **optional)
