"""An adapter as one tar stream, made on the fly from its objects: no file of it is ever whole in memory."""

import hashlib
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from app.models.errors import AdapterMissing
from app.models.tables import TunedModel
from app.storage import ObjectMissing, Store

MANIFEST = "manifest.json"
BLOCK = tarfile.BLOCKSIZE  # 512 bytes
END = bytes(2 * BLOCK)


class CorruptAdapter(Exception):
    """The stored objects are not those that were published."""


@dataclass(frozen=True)
class Archive:
    """A tar stream whose length in bytes is known before its first chunk."""

    size: int
    chunks: Iterator[bytes]


def open_archive(store: Store, model: TunedModel) -> Archive:
    """The model's adapter files and their manifest as an ustar archive, dated when the model was made.

    Raises AdapterMissing if objects are gone, CorruptAdapter if they are not as published; the latter also while
    streaming, which breaks the reply off rather than deliver a wrong file.
    """
    try:
        manifest = b"".join(store.read(model.object_prefix + MANIFEST))
        sizes = {name: store.size(model.object_prefix + name) for name in _listed(manifest, model)}
    except ObjectMissing:
        raise AdapterMissing from None
    for name, size in _listed(manifest, model).items():
        if sizes[name] != size:
            raise CorruptAdapter(f"{model.object_prefix}{name} has {sizes[name]} bytes, its manifest says {size}")
    sizes[MANIFEST] = len(manifest)
    padded = sum(BLOCK + size + _padding(size) for size in sizes.values())
    return Archive(padded + len(END), _stream(store, model, sizes))


def _listed(manifest: bytes, model: TunedModel) -> dict[str, int]:
    """File names and their sizes in bytes, from a manifest that is the published one."""
    if hashlib.sha256(manifest).hexdigest() != model.manifest_sha256:
        raise CorruptAdapter(f"{model.object_prefix}{MANIFEST} is not the published one")
    return {name: entry["size"] for name, entry in json.loads(manifest)["files"].items()}


def _stream(store: Store, model: TunedModel, sizes: dict[str, int]) -> Iterator[bytes]:
    modified = int(model.created_at.timestamp())
    for name, size in sizes.items():
        yield _header(name, size, modified)
        sent = 0
        for chunk in store.read(model.object_prefix + name):
            sent += len(chunk)
            yield chunk
        if sent != size:
            raise CorruptAdapter(f"{model.object_prefix}{name} gave {sent} of {size} bytes")
        yield bytes(_padding(size))
    yield END


def _header(name: str, size: int, modified: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size, modified, 0o644
    return entry.tobuf(tarfile.USTAR_FORMAT)


def _padding(size: int) -> int:
    """Bytes that fill the last block."""
    return -size % BLOCK
