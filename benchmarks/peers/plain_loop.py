"""`python -m benchmarks.peers.plain_loop`: the loop that one writes oneself, with transformers, peft and right padding.

Prints one JSON line, as the other contestants do.
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from benchmarks import shapes

WARM_STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, help="start from this adapter instead of a fresh one")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    print(json.dumps(train(parser.parse_args())))


def train(options: argparse.Namespace) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = _model(options).to(device)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=options.learning_rate, weight_decay=0.0)
    rows = load_file(options.data / "data.safetensors")
    spans = [slice(start, stop) for start, stop in itertools.pairwise(rows["offsets"].tolist())]
    losses, norms, ends, tokens = [], [], [], []
    began = time.perf_counter()
    for first in range(0, len(spans), options.batch_size):
        batch = spans[first : first + options.batch_size]
        loss = _loss(model, rows, batch, device)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(weights, 1.0)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
        tokens.append(sum(span.stop - span.start for span in batch))
        ends.append(time.perf_counter())
    return {
        "tokens_per_second": sum(tokens[WARM_STEPS:]) / (ends[-1] - ends[WARM_STEPS - 1]),
        "seconds": ends[-1] - began,
        "tokens": sum(tokens),
        "steps": len(ends),
        "losses": losses,
        "grad_norm": max(norms),
    }


def _model(options: argparse.Namespace) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype))
    if options.adapter:
        return PeftModel.from_pretrained(model, options.adapter, is_trainable=True)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules=shapes.LINEARS, task_type="CAUSAL_LM")
    return get_peft_model(model, lora)


def _loss(model: Any, rows: dict[str, Any], spans: list[slice], device: str) -> torch.Tensor:
    """The mean NLL of the tokens that carry loss, over rows padded on the right to the longest."""
    longest = max(span.stop - span.start for span in spans)
    ids = torch.zeros(len(spans), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for number, span in enumerate(spans):
        row = torch.from_numpy(rows["tokens"][span].astype("int64"))
        ids[number, : len(row)], mask[number, : len(row)] = row, 1
        labels[number, : len(row)] = torch.where(torch.from_numpy(rows["weights"][span]) > 0, row, -100)
    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten().to(device))


if __name__ == "__main__":
    main()
