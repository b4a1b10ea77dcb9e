"""Both stores keep the same promises: objects appear whole, keys stay inside, what is missing says so."""

import hashlib
from pathlib import Path

import pytest
from object_stores import s3_settings, store

from app import storage
from app.config import Settings

__all__ = ["s3_settings", "store"]


@pytest.mark.parametrize("size", [0, 1, storage.PART_BYTES - 1, storage.PART_BYTES, 2 * storage.PART_BYTES + 7])
def test_what_is_written_is_read_back(store: storage.Store, size: int) -> None:
    data = hashlib.sha256(b"seed").digest() * (size // 32 + 1)
    with store.writing("projects/p/files/f") as target:
        for start in range(0, size, 1_000_000):
            target.write(data[start : min(start + 1_000_000, size)])
    assert b"".join(store.read("projects/p/files/f")) == data[:size]
    assert store.size("projects/p/files/f") == size


def test_a_write_that_fails_leaves_nothing(store: storage.Store) -> None:
    with pytest.raises(ConnectionResetError):  # noqa: PT012 - the failure comes after some bytes
        with store.writing("projects/p/half") as target:
            target.write(b"x" * (storage.PART_BYTES + 1))
            raise ConnectionResetError
    assert list(store.keys("projects/")) == []
    with pytest.raises(storage.ObjectMissing):
        store.size("projects/p/half")


def test_a_missing_object_says_so(store: storage.Store) -> None:
    with pytest.raises(storage.ObjectMissing):
        store.read("projects/p/nothing")
    with pytest.raises(storage.ObjectMissing):
        store.size("projects/p/nothing")
    store.delete("projects/p/nothing")


def test_a_prefix_is_listed_and_deleted_without_its_neighbours(store: storage.Store) -> None:
    for key in ("a/1/x", "a/1/y", "a/12/z"):
        with store.writing(key) as target:
            target.write(b"-")
    assert list(store.keys("a/1/")) == ["a/1/x", "a/1/y"]
    storage.delete_prefix(store, "a/1/")
    assert list(store.keys("a/")) == ["a/12/z"]


def test_a_file_travels_through_the_store(store: storage.Store, tmp_path: Path) -> None:
    (tmp_path / "in.bin").write_bytes(b"adapter")
    storage.put_file(store, "m/adapter", tmp_path / "in.bin")
    storage.get_file(store, "m/adapter", tmp_path / "out.bin")
    assert (tmp_path / "out.bin").read_bytes() == b"adapter"
    assert not (tmp_path / "out.bin.partial").exists()


def test_both_kinds_of_store_answer_their_check(store: storage.Store) -> None:
    store.check()


def test_a_bucket_that_is_not_there_fails_the_check(s3_settings: Settings) -> None:
    settings = s3_settings.model_copy(update={"storage_url": "s3://absent"})
    with pytest.raises(storage.StoreUnavailable, match="no bucket"):
        storage.open_store(settings).check()


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "/etc/passwd"])
def test_a_key_cannot_leave_the_folder(tmp_path: Path, key: str) -> None:
    store = storage.FolderStore(tmp_path / "objects")
    with pytest.raises(ValueError, match="leaves the store"), store.writing(key):
        pass
    with pytest.raises(ValueError, match="leaves the store"):
        store.read(key)


def test_a_url_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="file:// or s3://"):
        storage.open_store(Settings(storage_url="ftp://host/objects"))
