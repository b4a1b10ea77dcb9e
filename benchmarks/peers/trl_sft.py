"""`python -m benchmarks.peers.trl_sft`: TRL's SFTTrainer on the same rows, the same LoRA and the same optimizer.

Prints one JSON line: real tokens per second once warm, the losses of each step, and the adapter's gradient norm.
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks import shapes

MODES: dict[str, dict[str, Any]] = {
    "default": {},
    "packed": {"packing": True, "max_length": 1024, "per_device_train_batch_size": 2},
    "grouped": {"train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 16},
}
WARM_STEPS = 3


class Clock(TrainerCallback):
    """When each optimizer step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--mode", choices=MODES, required=True)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--adapter", type=Path, help="start from this adapter instead of a fresh one")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    print(json.dumps(train(parser.parse_args())))


def train(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    model: Any = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=getattr(torch, options.dtype), attn_implementation=options.attention
    )
    lora: LoraConfig | None = LoraConfig(r=16, lora_alpha=32, target_modules=shapes.LINEARS, task_type="CAUSAL_LM")
    if options.adapter:
        model, lora = PeftModel.from_pretrained(model, options.adapter, is_trainable=True), None
    rows = load_file(options.data / "data.safetensors")
    dataset = _dataset(rows)
    clock = Clock()
    trainer = SFTTrainer(
        model=model,
        args=_arguments(options),
        train_dataset=dataset,
        processing_class=_tokenizer(int(model.config.vocab_size)),
        peft_config=lora,
        callbacks=[clock],
    )
    began = time.perf_counter()
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    total = len(rows["tokens"])
    steps = len(clock.ends)
    # Every epoch has all tokens in it; the first steps' share is taken off with their time.
    seconds = clock.ends[-1] - clock.ends[WARM_STEPS - 1]
    return {
        "tokens_per_second": total * (steps - WARM_STEPS) / steps / seconds,
        "seconds": clock.ends[-1] - began,
        "steps": steps,
        "losses": [entry["loss"] for entry in history],
        "grad_norm": max(entry.get("grad_norm", 0.0) for entry in history),
    }


def _arguments(options: argparse.Namespace) -> SFTConfig:
    mode = {"per_device_train_batch_size": options.batch_size, "train_sampling_strategy": "sequential"}
    return SFTConfig(
        output_dir="/tmp/trl-bench",  # noqa: S108 - nothing is saved
        **{**mode, **MODES[options.mode]},
        num_train_epochs=1,
        learning_rate=options.learning_rate,
        completion_only_loss=True,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=False,  # the model itself is in the wanted dtype; autocast over it only adds casts
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        seed=1,
    )


def _dataset(rows: dict[str, Any]) -> Dataset:
    """Token ids and labels, in the rows' order; -100 where there is no loss."""
    edges = rows["offsets"]
    spans = [slice(start, stop) for start, stop in itertools.pairwise(edges)]
    tokens = [rows["tokens"][span].astype("int64") for span in spans]
    masks = [(rows["weights"][span] > 0).astype("int64") for span in spans]
    return Dataset.from_dict(
        {
            "input_ids": [ids.tolist() for ids in tokens],
            "completion_mask": [mask.tolist() for mask in masks],
        }
    )


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer that only has to name the padding: the rows are token ids already."""
    from tokenizers import Tokenizer, models

    words = {f"t{number}": number for number in range(min(vocabulary, 1000))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t3"))  # noqa: S106 - a token of text
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="t0", eos_token="t2")  # noqa: S106 - the same


if __name__ == "__main__":
    main()
