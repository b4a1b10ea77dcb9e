"""One upload in one pass: the form is parsed, the file hashed, checked and stored while its bytes arrive.

At most a couple of megabytes are in memory. Nothing is visible before the last byte was checked; whatever goes wrong,
a client that vanishes included, leaves no object.
"""

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from app import ids
from app.config import Settings
from app.files import service
from app.files.dataset import BadUpload, UploadCheck
from app.files.errors import (
    FileTooLarge,
    InvalidExpiry,
    InvalidFileContent,
    InvalidPurpose,
    InvalidUpload,
    MissingFile,
    MissingPurpose,
)
from app.storage import Store

BATCH_BYTES = 1024 * 1024  # what is handed to the thread that hashes, checks and stores
MAX_FIELD_BYTES = 64 * 1024
MAX_FORM_BYTES = 1024 * 1024  # the form around the file
FINE_TUNE = "fine-tune"
PURPOSES = frozenset({"assistants", "batch", "fine-tune", "vision", "user_data", "evals"})
BATCH_EXPIRY_SECONDS = 30 * 24 * 3600
EXPIRY_SECONDS = range(3600, 2_592_000 + 1)


class Upload:
    """A file on its way into the store, and the fields that came with it."""

    def __init__(self, project_id: str, store: Store, settings: Settings) -> None:
        self.file_id = ids.new("file-")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.size = 0
        self.sha256 = hashlib.sha256()
        self._settings = settings
        self._store = store
        self._key = service.object_key(project_id, self.file_id)
        self._check = UploadCheck()
        self._bad: BadUpload | None = None
        self._stack = ExitStack()
        self._writer: Any = None

    @property
    def purpose(self) -> str:
        """Raises MissingPurpose, InvalidPurpose."""
        purpose = self.fields.get("purpose")
        if purpose is None:
            raise MissingPurpose
        if purpose not in PURPOSES:
            raise InvalidPurpose(f"'{purpose}' is not one of {', '.join(sorted(PURPOSES))}.")
        return purpose

    @property
    def expires_after(self) -> int | None:
        """Seconds until the file expires, None for never. Raises InvalidExpiry."""
        anchor = self.fields.get("expires_after[anchor]")
        seconds = self.fields.get("expires_after[seconds]")
        if anchor is None and seconds is None:
            return BATCH_EXPIRY_SECONDS if self.purpose == "batch" else None
        if anchor != "created_at" or seconds is None or not (seconds.isascii() and seconds.isdigit()):
            raise InvalidExpiry
        if len(seconds) > 9 or int(seconds) not in EXPIRY_SECONDS:
            raise InvalidExpiry
        return int(seconds)

    def write(self, data: bytes) -> None:
        """Hash, check and store the next bytes of the file."""
        self.size += len(data)
        if self.size > self._settings.max_file_bytes:
            raise FileTooLarge(f"The file is larger than {self._settings.max_file_bytes} bytes.")
        if self._writer is None:
            self._writer = self._stack.enter_context(self._store.writing(self._key))
        self.sha256.update(data)
        self._checked(lambda: self._check.feed(data))
        self._writer.write(data)

    def finish(self) -> None:
        """Check what can only be checked at the end, and make the object whole."""
        if self.filename is None:
            raise MissingFile
        _ = self.purpose, self.expires_after
        if self.size == 0:
            raise InvalidFileContent("The file is empty.")
        self._checked(self._check.finish)
        if self._bad is not None and self.purpose == FINE_TUNE:
            raise InvalidFileContent(str(self._bad))
        self._stack.close()

    def abort(self, error: BaseException) -> None:
        """Leave no object behind."""
        self._stack.__exit__(type(error), error, error.__traceback__)

    def discard(self) -> None:
        """Remove an object whose row could not be inserted."""
        self._store.delete(self._key)

    def _checked(self, step: Callable[[], None]) -> None:
        """Lines are judged only for fine-tuning, which may become known after the file."""
        if self._bad is not None or self.fields.get("purpose", FINE_TUNE) != FINE_TUNE:
            return
        try:
            step()
        except BadUpload as error:
            self._bad = error
            if "purpose" in self.fields:
                raise InvalidFileContent(str(error)) from None


class _Form:
    """The parser's callbacks: fields are collected, the file's bytes buffered until they are taken."""

    def __init__(self, upload: Upload) -> None:
        self.buffer = bytearray()
        self.ended = False
        self._upload = upload
        self._name = b""
        self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._part: tuple[str, bool] | None = None  # the field's name, and whether it is the file
        self._field = bytearray()

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }

    def take(self) -> bytes:
        data, self.buffer = bytes(self.buffer), bytearray()
        return data

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._headers = {}
        name = options.get(b"name", b"").decode(errors="replace")
        is_file = name == "file"
        if is_file and self._upload.filename is not None:
            raise InvalidUpload("Exactly one part named 'file' is expected.", param="file")
        if is_file:
            self._upload.filename = options.get(b"filename", b"upload").decode(errors="replace")
        self._part = (name, is_file)
        self._field = bytearray()

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        assert self._part is not None
        if self._part[1]:
            self.buffer += data[start:end]
            return
        self._field += data[start:end]
        if len(self._field) > MAX_FIELD_BYTES:
            raise InvalidUpload(f"A form field is larger than {MAX_FIELD_BYTES} bytes.")

    def _on_part_end(self) -> None:
        assert self._part is not None
        name, is_file = self._part
        if is_file:
            return
        if name not in {"purpose", "expires_after[anchor]", "expires_after[seconds]"}:
            raise InvalidUpload(f"Unknown parameter: '{name[:64]}'.", param=name[:64])
        self._upload.fields[name] = self._field.decode(errors="replace")

    def _on_end(self) -> None:
        self.ended = True


async def receive(request: Request, project_id: str, store: Store, settings: Settings) -> Upload:
    """Take a whole upload into the store. Raises BadRequest, TooLarge, StoreUnavailable, ClientDisconnect."""
    _check_length(request, settings)
    upload = Upload(project_id, store, settings)
    form = _Form(upload)
    parser = MultipartParser(_boundary(request), form.callbacks())  # type: ignore[arg-type]
    try:
        await _pump(request, parser, form, upload, settings)
        await run_in_threadpool(upload.finish)
    except MultipartParseError as error:
        upload.abort(error)
        raise InvalidUpload(f"The upload is not a valid multipart form: {error}") from None
    except BaseException as error:
        upload.abort(error)
        raise
    return upload


async def _pump(request: Request, parser: MultipartParser, form: _Form, upload: Upload, settings: Settings) -> None:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > settings.max_file_bytes + MAX_FORM_BYTES:
            raise FileTooLarge(f"The upload is larger than {settings.max_file_bytes} bytes.")
        parser.write(chunk)
        if len(form.buffer) >= BATCH_BYTES:
            await run_in_threadpool(upload.write, form.take())
    parser.finalize()
    if not form.ended:
        raise InvalidUpload("The upload is not a valid multipart form: it ends early.")
    if form.buffer:
        await run_in_threadpool(upload.write, form.take())


def _check_length(request: Request, settings: Settings) -> None:
    """A length that is told and too large is refused before the first byte."""
    told = request.headers.get("content-length", "0")
    if told.isdigit() and int(told) > settings.max_file_bytes + MAX_FORM_BYTES:
        raise FileTooLarge(f"The upload is larger than {settings.max_file_bytes} bytes.")


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidUpload("A file is uploaded as multipart/form-data.")
    return boundary
