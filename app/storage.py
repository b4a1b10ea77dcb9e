"""The object store: a local folder or any S3-compatible endpoint, chosen by one URL. The only boto3 in the repository.

Keys are relative paths with forward slashes (`projects/<project>/files/<file>`). An object appears whole or not at
all: a folder writes a temporary file, syncs and renames; S3 completes a multipart upload.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlparse

from app.config import Settings

CHUNK_BYTES = 1024 * 1024  # read size of downloads
PART_BYTES = 8 * 1024 * 1024  # S3 wants parts of at least 5 MiB
PARTIAL = ".partial-"  # what a file is called before it is whole
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ObjectMissing(Exception):
    """No object lies under this key."""


class StoreUnavailable(Exception):
    """The object store does not answer, refuses, or is full."""


class StoreFull(StoreUnavailable):
    """The disk of the object store is full."""


@dataclass(frozen=True)
class Stored:
    """An object, or what is left of one that never became whole."""

    key: str
    modified: datetime


class Store(Protocol):
    """What the rest of the code may do with objects."""

    def writing(self, key: str) -> AbstractContextManager["Writer"]:
        """Stream an object in; it becomes visible when the block ends well and leaves no trace when it raises."""
        ...

    def read(self, key: str) -> Iterator[bytes]:
        """The object's bytes in chunks. Raises ObjectMissing before the first chunk."""
        ...

    def size(self, key: str) -> int:
        """The object's size in bytes. Raises ObjectMissing."""
        ...

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that start with `prefix`, which ends in a slash."""
        ...

    def listing(self, prefix: str) -> Iterator[Stored]:
        """All that lies under `prefix`, which ends in a slash, in the order of keys."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error."""
        ...

    def check(self) -> None:
        """Raise if the store cannot be reached or is not writable."""
        ...


class Writer(Protocol):
    def write(self, data: bytes) -> Any: ...


def put_file(store: Store, key: str, path: Path) -> None:
    """Copy a local file into the store."""
    with path.open("rb") as source, store.writing(key) as target:
        shutil.copyfileobj(source, target, PART_BYTES)


def get_file(store: Store, key: str, path: Path) -> None:
    """Copy an object to a local file, which appears whole or not at all. Raises ObjectMissing."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as target:
        for chunk in store.read(key):
            target.write(chunk)
    partial.replace(path)


def delete_prefix(store: Store, prefix: str) -> None:
    """Remove every object under `prefix`, which ends in a slash."""
    for key in list(store.keys(prefix)):
        store.delete(key)


class FolderStore:
    """Objects as files below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _path(self, key: str) -> Path:
        path = (self.root / key).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise ValueError(f"object key leaves the store: {key!r}")
        return path

    @contextmanager
    def writing(self, key: str) -> Iterator[BinaryIO]:
        path = self._path(key)
        partial = self._partial(path)
        try:
            with partial.open("wb") as target:
                yield target
                target.flush()
                os.fsync(target.fileno())
            partial.replace(path)
            _sync_folder(path.parent)
        except BaseException as error:
            partial.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in FULL:
                raise StoreFull(f"the disk is full: {self.root}") from error
            raise

    def _partial(self, path: Path) -> Path:
        """A fresh file beside `path`. Another object's deletion may take the empty folder away meanwhile."""
        for _ in range(8):
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                descriptor, name = tempfile.mkstemp(prefix=PARTIAL, dir=path.parent)
                os.close(descriptor)
                return Path(name)
        raise StoreUnavailable(f"cannot write below {path.parent}")

    def read(self, key: str) -> Iterator[bytes]:
        try:
            source = self._path(key).open("rb")
        except (FileNotFoundError, IsADirectoryError):
            raise ObjectMissing(key) from None
        return _chunks(source)

    def size(self, key: str) -> int:
        path = self._path(key)
        if not path.is_file():
            raise ObjectMissing(key)
        return path.stat().st_size

    def keys(self, prefix: str) -> Iterator[str]:
        return (stored.key for stored in self.listing(prefix) if not Path(stored.key).name.startswith(PARTIAL))

    def listing(self, prefix: str) -> Iterator[Stored]:
        for path in sorted(self._path(prefix).rglob("*")):
            with suppress(FileNotFoundError):  # deleted meanwhile
                if path.is_file():
                    key = path.relative_to(self.root.resolve()).as_posix()
                    yield Stored(key, datetime.fromtimestamp(path.stat().st_mtime, UTC))

    def delete(self, key: str) -> None:
        path = self._path(key)
        path.unlink(missing_ok=True)
        for parent in path.parents:
            if parent == self.root.resolve():
                return
            try:
                parent.rmdir()
            except OSError:
                return

    def check(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.root):
            pass


class S3Store:
    """Objects in an S3-compatible bucket, below a prefix."""

    def __init__(self, bucket: str, prefix: str, settings: Settings) -> None:
        self.bucket = bucket
        self.prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._settings = settings

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        secret = self._settings.s3_secret_access_key
        return boto3.client(
            "s3",
            endpoint_url=self._settings.s3_endpoint_url,
            region_name=self._settings.s3_region,
            aws_access_key_id=self._settings.s3_access_key_id,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
            # Checksums by default break several compatible stores; our own sha256 is checked in any case.
            config=Config(
                connect_timeout=5,
                read_timeout=60,
                retries={"max_attempts": 4, "mode": "standard"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    @contextmanager
    def writing(self, key: str) -> Iterator["_S3Writer"]:
        writer = _S3Writer(self._client, self.bucket, self.prefix + key)
        try:
            yield writer
            writer.complete()
        except BaseException:
            writer.abort()
            raise

    def read(self, key: str) -> Iterator[bytes]:
        with _translated(key):
            reply = self._client.get_object(Bucket=self.bucket, Key=self.prefix + key)
        return reply["Body"].iter_chunks(CHUNK_BYTES)

    def size(self, key: str) -> int:
        with _translated(key):
            return self._client.head_object(Bucket=self.bucket, Key=self.prefix + key)["ContentLength"]

    def keys(self, prefix: str) -> Iterator[str]:
        return (stored.key for stored in self.listing(prefix))

    def listing(self, prefix: str) -> Iterator[Stored]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
        with _translated(prefix):
            for page in pages:
                for entry in page.get("Contents", []):
                    yield Stored(entry["Key"].removeprefix(self.prefix), entry["LastModified"])

    def delete(self, key: str) -> None:
        with _translated(key):
            self._client.delete_object(Bucket=self.bucket, Key=self.prefix + key)

    def check(self) -> None:
        try:
            with _translated(self.bucket):
                self._client.head_bucket(Bucket=self.bucket)
        except ObjectMissing:
            raise StoreUnavailable(f"there is no bucket {self.bucket!r}") from None


class _S3Writer:
    """Collects bytes into parts; a small object is one PUT, a larger one a multipart upload."""

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        self._client = client
        self._where = {"Bucket": bucket, "Key": key}
        self._buffer = bytearray()
        self._upload_id: str | None = None
        self._parts: list[dict[str, Any]] = []

    def write(self, data: bytes) -> int:
        self._buffer += data
        while len(self._buffer) >= PART_BYTES:
            self._send(bytes(self._buffer[:PART_BYTES]))
            del self._buffer[:PART_BYTES]
        return len(data)

    def _send(self, part: bytes) -> None:
        number = len(self._parts) + 1
        with _translated(self._where["Key"]):
            if self._upload_id is None:
                self._upload_id = self._client.create_multipart_upload(**self._where)["UploadId"]
            reply = self._client.upload_part(**self._where, UploadId=self._upload_id, PartNumber=number, Body=part)
        self._parts.append({"ETag": reply["ETag"], "PartNumber": number})

    def complete(self) -> None:
        """Make the object appear."""
        if self._upload_id is not None and self._buffer:
            self._send(bytes(self._buffer))
        with _translated(self._where["Key"]):
            if self._upload_id is None:
                self._client.put_object(**self._where, Body=bytes(self._buffer))
                return
            self._client.complete_multipart_upload(
                **self._where, UploadId=self._upload_id, MultipartUpload={"Parts": self._parts}
            )

    def abort(self) -> None:
        """Forget the parts; if even that fails, the bucket's own rule for unfinished uploads removes them."""
        if self._upload_id is not None:
            with suppress(StoreUnavailable), _translated(self._where["Key"]):
                self._client.abort_multipart_upload(**self._where, UploadId=self._upload_id)


@contextmanager
def _translated(key: str) -> Iterator[None]:
    """boto3's errors as ours."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404 and "NoSuchBucket" not in str(error):
            raise ObjectMissing(key) from None
        raise StoreUnavailable(str(error)) from error
    except BotoCoreError as error:
        raise StoreUnavailable(str(error)) from error


def open_store(settings: Settings) -> Store:
    """The store that `storage_url` names. Raises ValueError for a URL of another kind."""
    url = urlparse(settings.storage_url)
    if url.scheme == "file":
        return FolderStore(Path(url.path))
    if url.scheme == "s3":
        return S3Store(url.netloc, url.path, settings)
    raise ValueError(f"storage_url must start with file:// or s3://, not {settings.storage_url!r}")


def _chunks(source: BinaryIO) -> Iterator[bytes]:
    with source:
        while chunk := source.read(CHUNK_BYTES):
            yield chunk


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
