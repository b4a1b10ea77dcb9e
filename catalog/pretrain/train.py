"""Pre-training in one screen: packed conversations, AdamW, a cosine schedule, loss on every token."""

import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from catalog.pretrain import text
from catalog.pretrain.tokenizer import CONTEXT_LENGTH

BATCH, LENGTH = 32, 256  # rows, tokens a row
WARMUP_STEPS = 60
PEAK_RATE = 3e-3


def architecture(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """A Llama of 3.3 million parameters, 6.6 MB in bf16."""
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


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[torch.Tensor]:
    """Endless (BATCH, LENGTH) token ids: whole conversations one after the other."""
    stream: list[int] = []
    source = text.conversations(seed)
    while True:
        while len(stream) < BATCH * LENGTH:
            turns = [
                [{"role": role, "content": content} for role, content in conversation]
                for conversation in itertools.islice(source, 256)
            ]
            rendered = tokenizer.apply_chat_template(turns, tokenize=False)
            stream.extend(itertools.chain.from_iterable(tokenizer(rendered, add_special_tokens=False)["input_ids"]))
        yield torch.tensor(stream[: BATCH * LENGTH]).view(BATCH, LENGTH)
        del stream[: BATCH * LENGTH]


def rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a twentieth of the peak."""
    if step < WARMUP_STEPS:
        return PEAK_RATE * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return PEAK_RATE * (0.05 + 0.95 * (1 + math.cos(math.pi * progress)) / 2)


def train(tokenizer: PreTrainedTokenizerFast, *, seed: int, steps: int, log_every: int = 50) -> LlamaForCausalLM:
    """Train from scratch on `steps` batches; prints loss and speed."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(architecture(tokenizer)).float()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95))
    started = time.monotonic()
    for step, tokens in zip(range(steps), batches(tokenizer, seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % log_every == 0:
            speed = (step + 1) * BATCH * LENGTH / (time.monotonic() - started)
            print(f"step {step + 1}/{steps} loss {loss.item():.3f} {speed:,.0f} tokens/s", flush=True)
    return model


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model in bf16, the tokenizer and the generation defaults, in Hugging Face's layout."""
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=128
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
