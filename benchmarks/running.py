"""A running stack for benchmarks, and jobs on it."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openai import OpenAI

from tests.e2e.stack import ROOT, Up

TICKETS = ROOT / "examples" / "support-tickets" / "train.jsonl"
ENDS = ("succeeded", "failed", "cancelled")


@contextmanager
def stack() -> Iterator[tuple[OpenAI, Path]]:
    """A client of a fresh `tunesmith up`, and its data directory."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # Postgres runs as another user when this runs as root
        up = Up(Path(folder) / "data").start()
        try:
            with OpenAI(base_url=up.base_url, api_key=up.api_key) as client:
                yield client, up.data_dir
        finally:
            up.stop()


def train(client: OpenAI, rows: bytes, epochs: int) -> str:
    """Train tiny-chat on JSONL; the job's id once it has succeeded."""
    file = client.files.create(file=("tickets.jsonl", rows), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="tiny-chat",
        training_file=file.id,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs, "batch_size": 8}}},
    )
    while (now := client.fine_tuning.jobs.retrieve(job.id)).status not in ENDS:
        time.sleep(0.1)
    assert now.status == "succeeded", now.error
    return job.id
