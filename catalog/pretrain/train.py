"""Pre-training in one screen: packed conversations, AdamW, a cosine schedule, most of the weight on the answers."""

import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from catalog.pretrain.conversation import Conversation
from catalog.pretrain.text import conversations as endless
from catalog.pretrain.tokenizer import CONTEXT_LENGTH, END, START

BATCH, LENGTH = 32, 256  # rows, tokens a row
WARMUP_STEPS = 40
PEAK_RATE = 4e-3
CONTEXT_WEIGHT = 0.15  # of a token that the assistant did not write, beside 1 for one it did
ANSWER = f"{START}assistant\n"


def architecture(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """A Llama of 3.5 million parameters, 7.1 MB in bf16."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="bfloat16",
    )


def rendered(tokenizer: PreTrainedTokenizerFast, conversation: Conversation) -> str:
    """A conversation's text by the chat template."""
    tools: Any = conversation.tools or None
    return str(tokenizer.apply_chat_template(conversation.messages, tools=tools, tokenize=False))


def pieces(text: str) -> Iterator[tuple[str, float]]:
    """A rendered conversation cut where the assistant begins and stops, each piece with its loss weight."""
    first, *turns = text.split(ANSWER)
    yield first, CONTEXT_WEIGHT
    for turn in turns:
        answer, end, rest = turn.partition(END)
        yield ANSWER, CONTEXT_WEIGHT
        yield answer + end, 1.0
        yield rest, CONTEXT_WEIGHT


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (BATCH, LENGTH) token ids and loss weights: whole conversations one after the other."""
    ids: list[int] = []
    weights: list[float] = []
    source = endless(seed)
    while True:
        while len(ids) < BATCH * LENGTH:
            conversations = itertools.islice(source, 128)
            cut = [piece for conversation in conversations for piece in pieces(rendered(tokenizer, conversation))]
            encoded = tokenizer([piece for piece, _ in cut], add_special_tokens=False)["input_ids"]
            for tokens, (_, weight) in zip(encoded, cut, strict=True):
                ids += tokens
                weights += [weight] * len(tokens)
        yield (
            torch.tensor(ids[: BATCH * LENGTH]).view(BATCH, LENGTH),
            torch.tensor(weights[: BATCH * LENGTH]).view(BATCH, LENGTH),
        )
        del ids[: BATCH * LENGTH], weights[: BATCH * LENGTH]


def rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a twentieth of the peak."""
    if step < WARMUP_STEPS:
        return PEAK_RATE * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return PEAK_RATE * (0.05 + 0.95 * (1 + math.cos(math.pi * progress)) / 2)


def weighted_loss(logits: torch.Tensor, tokens: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The weighted mean loss of logits (B, L, V) on the next tokens (B, L), and the plain mean over the answers."""
    losses = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none")
    weight = weights[:, 1:].flatten()
    return (losses * weight).sum() / weight.sum(), losses.detach()[weight == 1].mean().item()


def train(tokenizer: PreTrainedTokenizerFast, *, seed: int, steps: int, log_every: int = 25) -> LlamaForCausalLM:
    """Train from scratch on `steps` batches; prints the loss on the answers, and the speed."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(architecture(tokenizer)).float()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95))
    started = time.monotonic()
    for step, (tokens, weights) in zip(range(steps), batches(tokenizer, seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=tokens, use_cache=False).logits
        loss, answers = weighted_loss(logits, tokens, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % log_every == 0:
            speed = (step + 1) * BATCH * LENGTH / (time.monotonic() - started)
            losses = f"loss {loss.item():.3f}, on answers {answers:.3f}"
            print(f"step {step + 1}/{steps} {losses}, {speed:,.0f} tokens/s", flush=True)
    return model


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model in bf16, the tokenizer and the generation defaults, in Hugging Face's layout."""
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=128
    )
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
