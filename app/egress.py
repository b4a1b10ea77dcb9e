"""The one door for requests to URLs that tenants give: where they may go, and one POST to there.

A name is looked up once, every address of the answer is judged, and the connection goes to a judged address, with the
name in SNI and Host: a second answer of the name server is never asked for. Redirects are not followed, proxies of the
environment not used, and one clock bounds the request from the look-up to the last byte.
"""

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import httpcore

from app.addresses import Address, InvalidUrl, Network, Url, is_public, parse, within
from app.config import Settings

Resolver = Callable[[str, float], list[str]]  # name, seconds → addresses; none: the name is not known (now)

CONNECT_SECONDS = 5.0
MOST_TRIED_ADDRESSES = 3
MOST_REPLY_BYTES = 64 * 1024


class Refused(Exception):
    """The URL leads where requests are not sent; the message completes "The URL is refused: …"."""


class Unanswered(Exception):
    """There was no answer. code: a word for programs; the message is a sentence for the tenant."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Reply:
    """What came back. body: its beginning; seconds: from the look-up to the end of the reply."""

    status: int
    body: bytes
    retry_after: str | None
    seconds: float


def look_up(name: str, seconds: float) -> list[str]:
    """The addresses of a name by the system's resolver, which has no time limit of its own: hence the thread."""
    answer: SimpleQueue[list[str]] = SimpleQueue()

    def ask() -> None:
        try:
            answer.put([str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)])
        except (OSError, UnicodeError):
            answer.put([])

    Thread(target=ask, daemon=True).start()
    try:
        return answer.get(timeout=seconds)
    except Empty:
        return []


@dataclass(frozen=True)
class Egress:
    """Where requests may go, and how long they may take. Thread-safe.

    ports: of https URLs; networks: those beside the internet that the operator opens; loopback_http: also plain http,
    on any port, to this very machine; seconds: for one request, all in all; authorities: a file of certificates to
    trust in place of the system's.
    """

    ports: frozenset[int] = frozenset({443})
    networks: tuple[Network, ...] = ()
    loopback_http: bool = False
    seconds: float = 15.0
    authorities: str | None = None
    resolve: Resolver = field(default=look_up)

    def check(self, text: str) -> None:
        """Judge a URL before anything is sent there. A name that nobody knows yet passes. Raises Refused."""
        url = self._judged(text)
        self._addresses(url, CONNECT_SECONDS)

    def post(self, text: str, content: bytes, headers: dict[str, str]) -> Reply:
        """Send one POST. Raises Refused, Unanswered."""
        clock = _Clock(self.seconds)
        url = self._judged(text)
        addresses = self._addresses(url, min(CONNECT_SECONDS, clock.left()))
        if not addresses:
            raise Unanswered("name_not_resolved", "The name of the host could not be resolved.")
        try:
            return self._exchange(url, _Pinned(addresses, clock), content, headers)
        except (httpcore.TimeoutException, TimeoutError):
            raise Unanswered("timeout", f"There was no complete answer within {self.seconds:g} seconds.") from None
        except httpcore.ConnectError as error:
            if _is_about_tls(error):
                raise Unanswered("tls_failed", "No trusted TLS connection could be made.") from error
            raise Unanswered("connection_failed", "The host could not be connected to.") from error
        except (httpcore.ProtocolError, httpcore.NetworkError) as error:
            raise Unanswered("invalid_answer", "The connection broke, or the answer was not HTTP.") from error

    def _judged(self, text: str) -> Url:
        try:
            url = parse(text)
        except InvalidUrl as error:
            raise Refused(str(error)) from None
        if url.scheme != "https" and not self.loopback_http:
            raise Refused("its scheme must be https")
        if url.scheme == "https" and url.port not in self.ports:
            raise Refused(f"its port must be {' or '.join(str(port) for port in sorted(self.ports))}")
        return url

    def _addresses(self, url: Url, seconds: float) -> list[Address]:
        """Where the host is, all of it allowed; empty if its name is not known. Raises Refused."""
        if url.address is not None:
            found = [url.address]
        else:
            found = [ipaddress.ip_address(text) for text in self.resolve(url.host, seconds)]
        if not all(self._allowed(address, url.scheme) for address in found):
            raise Refused("its host is not on the public internet")
        return found

    def _allowed(self, address: Address, scheme: str) -> bool:
        if scheme == "http":
            return address.is_loopback
        return is_public(address) or within(address, self.networks)

    def _exchange(self, url: Url, pinned: "_Pinned", content: bytes, headers: dict[str, str]) -> Reply:
        own = [("Host", url.authority), ("Connection", "close"), ("Accept-Encoding", "identity")]
        to = httpcore.URL(scheme=url.scheme, host=url.host, port=url.port, target=url.target)
        with httpcore.ConnectionPool(self._tls, max_connections=1, network_backend=pinned) as pool:
            with pool.stream("POST", to, headers=[*own, *headers.items()], content=content) as response:
                body = _beginning(response.iter_stream())
                waits = [value for name, value in response.headers if name.lower() == b"retry-after"]
        retry_after = waits[0].decode("latin-1") if waits else None
        return Reply(response.status, body, retry_after, pinned.clock.passed())

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.authorities)


class _Clock:
    """Counts down the seconds of one request."""

    def __init__(self, seconds: float) -> None:
        self._started = time.monotonic()
        self._seconds = seconds

    def passed(self) -> float:
        return time.monotonic() - self._started

    def left(self) -> float:
        """Seconds left. Raises TimeoutError when there are none."""
        left = self._seconds - self.passed()
        if left <= 0:
            raise TimeoutError
        return left


class _Pinned(httpcore.NetworkBackend):
    """Connects to the addresses it was given, whatever host it is asked for, as long as its clock runs."""

    def __init__(self, addresses: list[Address], clock: _Clock) -> None:
        self._addresses = _taking_turns(addresses)[:MOST_TRIED_ADDRESSES]
        self.clock = clock

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        for address in self._addresses[:-1]:
            try:
                return self._connect(address, port)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return self._connect(self._addresses[-1], port)

    def _connect(self, address: Address, port: int) -> httpcore.NetworkStream:
        seconds = min(CONNECT_SECONDS, self.clock.left())
        return _Timed(httpcore.SyncBackend().connect_tcp(str(address), port, seconds), self.clock)


class _Timed(httpcore.NetworkStream):
    """A connection on which every wait ends with the request's clock: a byte now and then does not prolong it."""

    def __init__(self, stream: httpcore.NetworkStream, clock: _Clock) -> None:
        self._stream = stream
        self._clock = clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._clock.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._clock.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        return _Timed(self._stream.start_tls(ssl_context, server_hostname, self._clock.left()), self._clock)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def open_egress(settings: Settings) -> Egress:
    """The door as the settings have it."""
    return Egress(
        ports=settings.webhook_ports,
        networks=settings.webhook_networks,
        loopback_http=settings.webhook_loopback_http,
        seconds=settings.webhook_seconds,
        authorities=None if settings.webhook_authorities is None else str(settings.webhook_authorities),
    )


def _taking_turns(addresses: list[Address]) -> list[Address]:
    """The same with both families in turn: a machine without IPv6 must not use up its tries on it."""
    families = [[address for address in dict.fromkeys(addresses) if address.version == version] for version in (4, 6)]
    return [address for pair in zip_longest(*families) for address in pair if address is not None]


def _beginning(chunks: Iterable[bytes]) -> bytes:
    """The first MOST_REPLY_BYTES; the rest stays unread."""
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) >= MOST_REPLY_BYTES:
            break
    return bytes(data[:MOST_REPLY_BYTES])


def _is_about_tls(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
