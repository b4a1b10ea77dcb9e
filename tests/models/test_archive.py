"""The tar stream of an adapter, over a real folder store."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.models.archive import CorruptAdapter, open_archive
from app.models.errors import AdapterMissing
from app.models.tables import TunedModel
from app.storage import FolderStore

FILES = {
    "adapter_model.safetensors": bytes(range(256)) * 9000,  # more than one chunk of the store
    "adapter_config.json": b"{}",
    "empty.txt": b"",
    "block.bin": b"x" * 512,
}


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


@pytest.fixture
def model(store: FolderStore) -> TunedModel:
    files = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in FILES.items()}
    manifest = json.dumps({"version": 1, "files": files}).encode()
    for name, data in {**FILES, "manifest.json": manifest}.items():
        with store.writing(f"a/{name}") as target:
            target.write(data)
    return TunedModel(
        object_prefix="a/",
        manifest_sha256=hashlib.sha256(manifest).hexdigest(),
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
    )


def test_the_archive_holds_every_file_and_the_manifest_last(store: FolderStore, model: TunedModel) -> None:
    archive = open_archive(store, model)
    body = b"".join(archive.chunks)

    assert len(body) == archive.size
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        members = {entry.name: tar.extractfile(entry).read() for entry in tar}
        assert {entry.mtime for entry in tar} == {1767312000}
    assert list(members) == [*FILES, "manifest.json"]
    assert {name: members[name] for name in FILES} == FILES


def test_the_archive_is_the_same_bytes_each_time(store: FolderStore, model: TunedModel) -> None:
    assert b"".join(open_archive(store, model).chunks) == b"".join(open_archive(store, model).chunks)


def test_chunks_stay_small(store: FolderStore, model: TunedModel) -> None:
    chunks: Iterator[bytes] = open_archive(store, model).chunks
    assert max(len(chunk) for chunk in chunks) <= 1024 * 1024


@pytest.mark.parametrize("name", ["manifest.json", "adapter_model.safetensors"])
def test_a_missing_object_is_a_missing_adapter(name: str, store: FolderStore, model: TunedModel) -> None:
    store.delete(f"a/{name}")
    with pytest.raises(AdapterMissing):
        open_archive(store, model)


@pytest.mark.parametrize("name", ["manifest.json", "adapter_config.json"])
def test_objects_that_are_not_as_published_are_refused(name: str, store: FolderStore, model: TunedModel) -> None:
    with store.writing(f"a/{name}") as target:
        target.write(b'{"other": 1}')
    with pytest.raises(CorruptAdapter):
        open_archive(store, model)


def test_a_file_that_shrinks_while_streaming_breaks_off(store: FolderStore, model: TunedModel) -> None:
    chunks = open_archive(store, model).chunks
    with store.writing("a/block.bin") as target:
        target.write(b"short")
    with pytest.raises(CorruptAdapter):
        list(chunks)
