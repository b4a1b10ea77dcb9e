"""A multipart form as it arrives: small fields are collected, the bytes of its one file are handed on.

A few megabytes are in memory at most. Only the parts that a route names are accepted, each once.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, Self

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.errors import BadRequest, TooLarge
from app.http import arrival
from app.http.arrival import InvalidContentType
from app.http.threads import move

BATCH_BYTES = 1024 * 1024  # what is handed to the thread that hashes, checks and stores
MAX_FIELD_BYTES = 64 * 1024
MAX_FORM_BYTES = 1024 * 1024  # the form around the file
MAX_HEADER_BYTES = 16 * 1024  # of one part
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=?-]{1,70}")  # RFC 2046, without its spaces
_PLAIN_ENCODINGS = {b"", b"binary", b"8bit", b"7bit"}


class InvalidForm(BadRequest):
    """The body is not a valid multipart form."""


class DuplicateParameter(BadRequest):
    """A parameter is given twice."""

    code = "duplicate_parameter"


class NotAFile(BadRequest):
    """A parameter must be a file."""

    code = "invalid_type"


class InvalidFilename(BadRequest):
    """The name of the file is not valid."""

    code = "invalid_filename"


class UnknownField(BadRequest):
    """A parameter is not known."""

    code = "unknown_parameter"


class Target(Protocol):
    """Where a form goes. `write`, `finish` and `abort` run in a thread and may wait for disks."""

    fields: dict[str, str]
    filename: str | None  # None until the file has begun

    def write(self, data: bytes) -> None: ...

    def finish(self) -> None: ...

    def abort(self, error: BaseException) -> None: ...


@dataclass(frozen=True)
class Form:
    """What a form holds: a file of at most so many bytes, and fields."""

    file: str
    most: int
    fields: frozenset[str] = frozenset()


async def receive(request: Request, form: Form, target: Target, *, meanwhile: Callable[[], None]) -> None:
    """Take a whole form into `target`, and call `meanwhile` beside each of its writes.

    Raises BadRequest, TooLarge, StoreUnavailable, ClientDisconnect. `target` is finished, or aborted whatever goes
    wrong, a client that vanishes included.
    """
    _check_length(request, form)
    reader = _Reader(form, target)
    parser = MultipartParser(_boundary(request), reader.callbacks())  # type: ignore[arg-type]
    try:
        await _pump(request, parser, reader, partial(_hand_on, target, meanwhile))
        await move(target.finish)
    except MultipartParseError as error:
        await move(target.abort, error)
        raise InvalidForm(f"The body is not a valid multipart form: {error}") from None
    except BaseException as error:
        await move(target.abort, error)
        raise


class _Reader:
    """The parser's callbacks."""

    def __init__(self, form: Form, target: Target) -> None:
        self.ended = False
        self._form = form
        self._target = target
        self._buffer = bytearray()
        self._taken = 0  # bytes of the file
        self._name = b""
        self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._part: str = ""
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

    @property
    def waiting(self) -> int:
        """How many of the file's bytes have not been taken."""
        return len(self._buffer)

    @property
    def file_bytes(self) -> int:
        return self._taken + len(self._buffer)

    def take(self) -> bytes:
        data, self._buffer = bytes(self._buffer), bytearray()
        self._taken += len(data)
        return data

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._value += data[start:end]

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEADER_BYTES:
            raise InvalidForm(f"The headers of a part are larger than {MAX_HEADER_BYTES} bytes.")

    def _on_header_end(self) -> None:
        if self._name.lower() in self._headers:
            raise InvalidForm("A part has a header twice.")
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _on_headers_finished(self) -> None:
        headers, self._headers, self._header_bytes = self._headers, {}, 0
        _check_plain(headers)
        kind, options = parse_options_header(headers.get(b"content-disposition", b""))
        name = _text(options.get(b"name", b""))
        if kind != b"form-data" or not name:
            raise InvalidForm("Each part of the form must have a name.")
        if name != self._form.file and name not in self._form.fields:
            raise UnknownField(f"Unknown parameter: '{name[:64]}'.", param=name[:64])
        if name in self._target.fields or (name == self._form.file and self._target.filename is not None):
            raise DuplicateParameter(f"'{name}' is given twice.", param=name)
        if name == self._form.file:
            self._target.filename = _filename(options, name)
        self._part, self._field = name, bytearray()

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part == self._form.file:
            self._buffer += memoryview(data)[start:end]
            return
        self._field += data[start:end]
        if len(self._field) > MAX_FIELD_BYTES:
            raise InvalidForm(f"A form field is larger than {MAX_FIELD_BYTES} bytes.", param=self._part)

    def _on_part_end(self) -> None:
        if self._part != self._form.file:
            self._target.fields[self._part] = _text(bytes(self._field), param=self._part)

    def _on_end(self) -> None:
        self.ended = True


async def _pump(request: Request, parser: MultipartParser, reader: _Reader, hand_on: Callable[[bytes], None]) -> None:
    received = 0
    async with _Behind(hand_on) as behind:
        async for chunk in arrival.chunks(request):
            received += len(chunk)
            parser.write(chunk)
            # What is not the file is bounded too: a preamble, an epilogue, fields.
            if received - reader.file_bytes > MAX_FORM_BYTES:
                raise TooLarge(f"The form around the file is larger than {MAX_FORM_BYTES} bytes.")
            if reader.waiting >= BATCH_BYTES:
                await behind.take(reader.take())
        parser.finalize()
        if not reader.ended:
            raise InvalidForm("The body is not a valid multipart form: it ends early.")
        if reader.waiting:
            await behind.take(reader.take())


class _Behind:
    """A thread that writes one batch while the next arrives; it is done when the block is left."""

    def __init__(self, hand_on: Callable[[bytes], None]) -> None:
        self._hand_on = hand_on
        self._writing: asyncio.Future[None] | None = None

    async def take(self, data: bytes) -> None:
        """Write `data` once the batch before it is written. Raises what went wrong with that one."""
        if self._writing is not None:
            await asyncio.wait([self._writing])  # and not the thing itself: a request that ends must not take it along
            self._writing.result()
        self._writing = asyncio.ensure_future(move(self._hand_on, data))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writing is None:
            return
        await asyncio.wait([self._writing])
        failed = self._writing.exception()
        if failed is not None and kind is None:
            raise failed


def _hand_on(target: Target, meanwhile: Callable[[], None], data: bytes) -> None:
    target.write(data)
    meanwhile()


def _check_length(request: Request, form: Form) -> None:
    """A length that is told and too large is refused before the first byte."""
    if arrival.told_length(request) > form.most + MAX_FORM_BYTES:
        raise TooLarge(f"'{form.file}' is larger than {form.most} bytes.", param=form.file)


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or len(request.headers.getlist("content-type")) > 1:
        raise InvalidContentType("The body must be sent as multipart/form-data.")
    if not _BOUNDARY.fullmatch(boundary):
        raise InvalidForm("The body needs a boundary of 1 to 70 characters.")
    return boundary


def _check_plain(headers: dict[bytes, bytes]) -> None:
    """A part is taken as it is: nothing in it is decoded."""
    if headers.get(b"content-transfer-encoding", b"").strip().lower() not in _PLAIN_ENCODINGS:
        raise InvalidForm("A part must not have a Content-Transfer-Encoding.")
    if headers.get(b"content-type", b"").strip().lower().startswith(b"multipart/"):
        raise InvalidForm("A part must not be a multipart form itself.")


def _filename(options: dict[bytes, bytes], param: str) -> str:
    if b"filename" not in options:
        raise NotAFile(f"'{param}' must be a file: a part with a filename.", param=param)
    try:
        name = options[b"filename"].decode()
    except UnicodeDecodeError:
        raise InvalidFilename("The name of the file is not UTF-8.", param=param) from None
    if "\0" in name:
        raise InvalidFilename("The name of the file holds a NUL character.", param=param)
    return name


def _text(data: bytes, *, param: str | None = None) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidForm("A form field is not UTF-8.", param=param) from None
