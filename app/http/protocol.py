"""HTTP as it comes off the wire, where no application is asked yet: what is no HTTP gets the envelope too.

uvicorn's own protocol with six more refusals: no Host, or a body that is encoded on its way (400), a URL or headers
that are too large (414, 431), headers that do not end in time (the connection is closed), and more requests than can be
worked on (503). Headers after a body in chunks are not heard. A connection whose client takes nothing of its reply is
given up, and so is one whose client vanished without a word.
"""

import asyncio
import socket
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app import ids
from app.errors import AppError, BadRequest
from app.http.errors import render

MAX_URL_BYTES = 32 * 1024
MAX_HEADER_BYTES = 64 * 1024
HEADER_SECONDS = 30.0
UNREAD_SECONDS = 60.0  # a client that takes nothing of its reply for so long is gone
VANISHED_SECONDS = 40.0  # the client's machine acknowledged nothing of what was sent to it for so long


class InvalidHttp(BadRequest):
    """The request is not valid HTTP."""


class HeadersTooLarge(AppError):
    """The headers of the request are too large."""

    status = 431
    type = "invalid_request_error"
    should_retry = False


class UrlTooLong(AppError):
    """The URL of the request is too long."""

    status = 414
    type = "invalid_request_error"
    should_retry = False


class _Refused(Exception):
    """Parsing has been given up; the reply is written."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    _header_bytes = 0
    _patience: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        _notice_a_vanished_peer(transport.get_extra_info("socket"))
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_waiting_for_reader()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_waiting_for_reader()
        super().resume_writing()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._header_bytes = 0
        self._await_headers()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._refuse(UrlTooLong())

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADER_BYTES:
            self._refuse(HeadersTooLarge())
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        self._check_headers()
        super().on_headers_complete()
        self.headers = []  # what comes after the body is read into the same list: trailers are no headers

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self.cycle.response_complete and self.timeout_keep_alive_task is None:  # answered before its body came
            self._await_request()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        admission = self.app_state["admission"]
        # One that others were sent behind takes its turn, so that a refusal has no refusal inside it.
        if self.pipeline or admission.grants(cycle.scope["path"]):
            super()._start_asgi_task(cycle, app)
            return
        self.transport.write(_written(admission.refuse(cycle.scope["method"]), keep=cycle.keep_alive))
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """What the parser could not read. Called too for what was refused here, which has its reply already."""
        if not self.transport.is_closing():
            self._answer(InvalidHttp())

    def _check_headers(self) -> None:
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts != 1 and (hosts > 1 or self.parser.get_http_version() != "1.0"):
            self._refuse(InvalidHttp("A request has exactly one Host header."))
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings not in ([], [b"chunked"]):
            self._refuse(InvalidHttp("A body is sent as it is, whole or in chunks: no other Transfer-Encoding."))

    def _refuse(self, error: AppError) -> None:
        self._answer(error)
        raise _Refused

    def _answer(self, error: AppError) -> None:
        self._stop_waiting()
        self.transport.write(_written(error, keep=False))
        self.transport.close()

    def _await_headers(self) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _await_request(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _stop_waiting_for_reader(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


def _written(error: AppError, *, keep: bool) -> bytes:
    """A reply as it goes on the wire. keep: the connection stays open."""
    reply = render(error)
    head = [f"HTTP/1.1 {reply.status_code} {HTTPStatus(reply.status_code).phrase}".encode()]
    head.append(f"x-request-id: {ids.request_id()}".encode())
    head += [name + b": " + value for name, value in reply.raw_headers]
    head += [] if keep else [b"connection: close"]
    return b"\r\n".join([*head, b"", bytes(reply.body)])


def _notice_a_vanished_peer(connection: socket.socket) -> None:
    """Let the kernel end a connection whose other end is gone, which by itself it tries for a quarter of an hour.

    Event streams say something every few seconds (app.jobs.event_stream), so that there is always something to miss.
    """
    if connection.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux has it
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(VANISHED_SECONDS * 1000))
