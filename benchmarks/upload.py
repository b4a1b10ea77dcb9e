"""Uploads from one client to the folder store: how fast, and how much memory the API process needs for it."""

import json
import time
from pathlib import Path

import httpx

from benchmarks import api
from benchmarks.figures import memory_mb, show

MEGABYTES = 512
RUNS = 3


def run() -> None:
    with api.backend() as behind, api.running(behind) as process:
        path = dataset(behind.folder / "train.jsonl")
        headers = {"Authorization": f"Bearer {behind.key}"}
        with httpx.Client(base_url=process.url, headers=headers, timeout=600) as client:
            before = memory_mb(process.pid, "VmHWM")
            rates = [upload(client, path) for _ in range(RUNS)]
        more = memory_mb(process.pid, "VmHWM") - before
    show(f"upload of {MEGABYTES} MB of JSONL, checked line by line (≥ 80)", rates, "MB/s")
    show("peak memory of the API process above what it held", [more], "MB")


def dataset(path: Path) -> Path:
    """Chat examples of about 1 kB a line."""
    messages = [{"role": "user", "content": "Why? " * 120}, {"role": "assistant", "content": "Because. " * 40}]
    block = (json.dumps({"messages": messages}) + "\n").encode() * 1000
    with path.open("wb") as file:
        while file.tell() < MEGABYTES * 1e6:
            file.write(block)
    return path


def upload(client: httpx.Client, path: Path) -> float:
    """Upload once; returns MB/s."""
    began = time.perf_counter()
    with path.open("rb") as file:
        client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": file}).raise_for_status()
    return path.stat().st_size / 1e6 / (time.perf_counter() - began)
