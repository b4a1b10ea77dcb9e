"""Adapter folders: completed with tokenizer, model card and manifest, and copied to the object store.

The manifest names every file with its size and sha256 and is written last, here and in the store: an adapter without
a manifest does not exist.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from app import storage
from app.failpoints import failpoint
from app.jobs.tables import Job
from app.models.catalog import CatalogEntry
from app.storage import ObjectMissing, Store

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "tokenizer.model",
)
RETRY_SECONDS = (0.5, 1, 2, 5, 10, 20, 30, 60)  # about two minutes before a store counts as unavailable

Result = TypeVar("Result")


class StorageUnavailable(Exception):
    """The object store failed again and again."""


class CorruptObject(Exception):
    """What came out of the store is not what its manifest says."""


@dataclass(frozen=True)
class Card:
    """What a model card tells: the job and its data by id and hash, never their contents."""

    job: Job
    entry: CatalogEntry
    data_sha256: dict[str, str]  # file id → sha256
    metrics: dict[str, Any]


def job_prefix(job: Job) -> str:
    """Where this attempt at a job may write in the object store."""
    return f"projects/{job.project_id}/jobs/{job.id}/{job.fence}/"


def complete(folder: Path, base: Path, card: Card) -> str:
    """Add tokenizer files, model card and manifest to an adapter folder; the manifest's sha256."""
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    (folder / "README.md").write_text(_card(card), encoding="utf-8")
    return write_manifest(folder)


def write_manifest(folder: Path) -> str:
    """Describe every file of a folder in its manifest; the manifest's own sha256."""
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    files = {name: {"size": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in names}
    text = json.dumps({"version": 1, "files": files}, indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def upload(store: Store, folder: Path, prefix: str) -> None:
    """Copy a folder into the store, its manifest last. Raises StorageUnavailable."""
    names = sorted((path.name for path in folder.iterdir()), key=lambda name: (name == MANIFEST, name))
    for name in names:
        persistently(partial(storage.put_file, store, prefix + name, folder / name))
        failpoint("artefact.stored")


def put_bytes(store: Store, key: str, data: bytes) -> str:
    """Store a small object; its sha256. Raises StorageUnavailable."""

    def put() -> None:
        with store.writing(key) as target:
            target.write(data)

    persistently(put)
    return hashlib.sha256(data).hexdigest()


def download(store: Store, prefix: str, folder: Path) -> None:
    """Fetch what the manifest under `prefix` names, and check it. Raises StorageUnavailable, CorruptObject."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / MANIFEST
    persistently(partial(storage.get_file, store, prefix + MANIFEST, manifest))
    listed = json.loads(manifest.read_text(encoding="utf-8"))
    # A prepared dataset's manifest gives hashes alone; an artefact's gives sizes too.
    hashes = listed["sha256"] if "sha256" in listed else {n: f["sha256"] for n, f in listed["files"].items()}
    for name, expected in hashes.items():
        persistently(partial(storage.get_file, store, prefix + name, folder / name))
        if sha256(folder / name) != expected:
            raise CorruptObject(prefix + name)


def persistently(action: Callable[[], Result]) -> Result:
    """Do it until it works, with growing pauses. Raises ObjectMissing at once, StorageUnavailable in the end."""
    for pause in RETRY_SECONDS:
        try:
            return action()
        except ObjectMissing:
            raise
        except Exception as error:  # noqa: BLE001 - the stores' clients raise many types for the same trouble
            log.warning("storage.retry", extra={"reason": f"{type(error).__name__}: {error}", "pause": pause})
            time.sleep(pause)
    raise StorageUnavailable


def sha256(path: Path) -> str:
    """A file's sha256 in hexadecimal."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _card(card: Card) -> str:
    job, entry = card.job, card.entry
    data = "\n".join(f"- `{file_id}`, sha256 `{digest}`" for file_id, digest in card.data_sha256.items())
    settings = "\n".join(f"| {name} | {value} |" for name, value in sorted((job.resolved or {}).items()))
    metrics = "\n".join(f"| {name} | {value} |" for name, value in card.metrics.items())
    return f"""---
base_model: {entry.published_name}
library_name: peft
license: {entry.licence}
tags: [lora, tunesmith]
---

# A LoRA adapter for {entry.published_name}

Trained by fine-tuning job `{job.id}` (method {job.method}, seed {job.seed}) on base `{job.base_key}`.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file lies
base = AutoModelForCausalLM.from_pretrained("{entry.published_name}")
model = PeftModel.from_pretrained(base, folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
```

## Data

{data}

## Settings

| setting | value |
|---|---|
{settings}

## Metrics

| metric | value |
|---|---|
{metrics}
"""
