"""Data preparation against `datasets.map` with `apply_chat_template`: from JSONL to token ids.

Ours checks every line strictly, renders, masks and writes the prepared dataset; the other loads JSONL, renders and
tokenises whole conversations, and masks nothing. Both run in one process, alternately, on files neither has seen.
"""

import gc
import io
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import workload
from benchmarks.figures import show

ROWS, RUNS = 20_000, 3
BASE = Path(__file__).parent.parent / "catalog" / "tiny-chat"


def run() -> None:
    ours, theirs, megabytes = [], [], 0.0
    for number in range(RUNS):
        data = workload.chat_lines(ROWS, seed=number)
        gc.freeze()  # as the worker does: what was imported is not looked through again and again
        megabytes = len(data) / 1e6
        ours.append(prepare(data))
        theirs.append(datasets_map(data))
    show(f"preparing {ROWS} conversations ({megabytes:.0f} MB)", ours, "s")
    show("datasets.map with apply_chat_template", theirs, "s")
    show("speed-up (≥ 5)", [b / a for a, b in zip(ours, theirs, strict=True)], "x")


def prepare(data: bytes) -> float:
    """Seconds to a prepared dataset, with a tokenizer that has just been loaded."""
    from worker.prepare import dataset, tokenizer

    loaded = tokenizer.load(BASE)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        dataset.prepare(
            io.BytesIO(data),
            tokenizer=loaded,
            max_sequence_length=512,
            role=dataset.TRAINING,
            file_id="file-x",
            out=Path(folder),
        )
        return time.perf_counter() - began


def datasets_map(data: bytes) -> float:
    """Seconds to a dataset of token ids."""
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    loaded = AutoTokenizer.from_pretrained(BASE, local_files_only=True)

    def tokenised(example: dict) -> Any:
        return loaded.apply_chat_template(
            example["messages"], tokenize=True, return_dict=True, truncation=True, max_length=512
        )

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.jsonl"
        path.write_bytes(data)
        began = time.perf_counter()
        rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=folder)
        rows.map(tokenised, remove_columns=rows.column_names)
        return time.perf_counter() - began
