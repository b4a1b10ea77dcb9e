"""Uploads from one client to the folder store: how fast, how much memory the API process needs for it, and how long
other requests wait meanwhile.
"""

import json
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import httpx

from benchmarks import api
from benchmarks.figures import memory_mb, show

MEGABYTES = 512
RUNS = 3
KINDS = {"raw (≥ 150)": "user_data", "with the check of its lines (≥ 80)": "fine-tune"}
PAUSE_SECONDS = 0.02  # between two of the other requests


def run() -> None:
    with api.backend() as behind, api.running(behind) as process, uploader() as pool:
        path = dataset(behind.folder / "train.jsonl")
        upload(process.url, behind.key, path, "user_data")  # what is loaded at the first upload is no cost of the next
        before = memory_mb(process.pid, "VmRSS")
        for label, purpose in KINDS.items():
            rates, waits = [], []
            for _ in range(RUNS):
                uploading = pool.submit(upload, process.url, behind.key, path, purpose)
                waits += others_wait(process.url, behind.key, uploading)
                rates.append(uploading.result())
            show(f"upload of {MEGABYTES} MB, {label}", rates, "MB/s")
            show("other requests meanwhile, p99 (≤ 150)", [statistics.quantiles(waits, n=100)[98] * 1000], "ms")
        more = memory_mb(process.pid, "VmHWM") - before
    show("peak memory of the API process above what it held", [more], "MB")


@contextmanager
def uploader() -> Iterator[ProcessPoolExecutor]:
    """A process for the client that uploads, so that it does not hold up the one that measures the others."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(int).result()
        yield pool


def dataset(path: Path) -> Path:
    """Chat examples of about 1 kB a line."""
    messages = [{"role": "user", "content": "Why? " * 120}, {"role": "assistant", "content": "Because. " * 40}]
    block = (json.dumps({"messages": messages}) + "\n").encode() * 1000
    with path.open("wb") as file:
        while file.tell() < MEGABYTES * 1e6:
            file.write(block)
    return path


def upload(url: str, key: str, path: Path, purpose: str) -> float:
    """Upload once, and delete it; returns MB/s."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=600) as client:
        began = time.perf_counter()
        with path.open("rb") as file:
            made = client.post("/v1/files", data={"purpose": purpose}, files={"file": file}).raise_for_status()
        seconds = time.perf_counter() - began
        client.delete(f"/v1/files/{made.json()['id']}").raise_for_status()
    return path.stat().st_size / 1e6 / seconds


def others_wait(url: str, key: str, uploading: "Future[float]") -> list[float]:
    """How many seconds each of some small requests took while an upload was going on."""
    waits = []
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        while not uploading.done():
            began = time.perf_counter()
            client.get("/v1/fine_tuning/jobs").raise_for_status()
            waits.append(time.perf_counter() - began)
            time.sleep(PAUSE_SECONDS)
    return waits
