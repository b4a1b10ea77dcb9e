"""What the training benchmarks train: Llama-shaped models with random weights, and rows of tokens to train them on.

Lengths are log-normal, as those of chats are. A row is a prompt of random words and an answer
that repeats it shifted by one token, so that the loss falls and two trainers can be held against each other.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Shape:
    """A Llama architecture."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int


SHAPES = {
    "12.6M": Shape(384, 6, 6, 6, 1024, 8192),
    "82M": Shape(768, 10, 12, 12, 2048, 8192),
    "0.5B": Shape(896, 24, 14, 2, 4864, 151_936),
    "1B": Shape(2048, 16, 32, 8, 8192, 128_256),
    "8B": Shape(4096, 32, 32, 8, 14_336, 128_256),
}


def save_model(folder: Path, name: str) -> Path:
    """A model folder with seeded random weights in bf16."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    shape = SHAPES[name]
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocabulary,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Rows:
    """Token ids of each row, and how many of its first tokens are context."""

    tokens: list[np.ndarray]
    contexts: list[int]

    @property
    def total(self) -> int:
        return sum(len(row) for row in self.tokens)


def chat_rows(count: int, vocabulary: int, *, seed: int = 0, mean: float = 152, longest: int = 1024) -> Rows:
    """Rows of log-normal lengths with `mean` tokens in the mean; 40 % of a row is context."""
    random = np.random.default_rng(seed)
    spread = 0.65
    lengths = np.clip(random.lognormal(np.log(mean) - spread**2 / 2, spread, count), 10, longest).astype(int)
    return _rows(random, lengths, vocabulary)


def equal_rows(count: int, vocabulary: int, length: int, *, seed: int = 0) -> Rows:
    """Rows that are all as long."""
    return _rows(np.random.default_rng(seed), np.full(count, length), vocabulary)


def _rows(random: np.random.Generator, lengths: np.ndarray, vocabulary: int) -> Rows:
    tokens, contexts = [], []
    for length in lengths.tolist():
        context = max(4, int(length * 0.4))
        prompt = 3 + random.zipf(1.3, context) % (vocabulary - 4)
        answer = 3 + (np.resize(prompt, length - context) - 2) % (vocabulary - 4)
        tokens.append(np.concatenate([prompt, answer]).astype(np.uint32))
        contexts.append(context)
    return Rows(tokens, contexts)


def save_rows(folder: Path, rows: Rows) -> Path:
    """The rows as a prepared dataset (docs/architecture.md), one example each."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    weights = [np.arange(len(row)) >= context for row, context in zip(rows.tokens, rows.contexts, strict=True)]
    columns: dict[str, np.ndarray] = {
        "tokens": np.concatenate(rows.tokens).astype(np.uint32),
        "offsets": np.concatenate([[0], np.cumsum([len(row) for row in rows.tokens])]).astype(np.int64),
        "weights": np.concatenate(weights).astype(np.float32),
        "example": np.arange(len(rows.tokens), dtype=np.int32),
    }
    save_file(columns, folder / "data.safetensors")
    digest = hashlib.sha256((folder / "data.safetensors").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"version": 1, "sha256": {"data.safetensors": digest}}))
    return folder
