"""A closed loop of keep-alive connections that costs little: it shares the machine with what it measures."""

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import cast

import uvloop

STATUS_OK = b"HTTP/1.1 200"
LENGTH = b"content-length: "
END = b"\r\n\r\n"


@dataclass
class Taken:
    """What a run of requests took. seconds: of each request; failed: heads of replies other than 200."""

    seconds: list[float] = field(default_factory=list)
    failed: list[bytes] = field(default_factory=list)
    began: float = 0.0
    ended: float = 0.0

    @property
    def rate(self) -> float:
        return len(self.seconds) / (self.ended - self.began)

    def percentile(self, share: float) -> float:
        return sorted(self.seconds)[int(len(self.seconds) * share)]


class Exchange(asyncio.Protocol):
    """A connection that carries one request after another. answered: what is done with a reply."""

    def __init__(self) -> None:
        self._buffer = b""
        self._wanted = 0  # bytes of the reply, once its head is there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop has its own class

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._wanted:
            head = self._buffer.find(END)
            if head < 0:
                return
            found = self._buffer.index(LENGTH) + len(LENGTH)
            self._wanted = head + len(END) + int(self._buffer[found : self._buffer.index(b"\r", found)])
        if len(self._buffer) < self._wanted:
            return
        self.answered(self._buffer)

    def send(self, request: bytes) -> None:
        self._buffer, self._wanted = b"", 0
        self._transport.write(request)

    def answered(self, reply: bytes) -> None:
        raise NotImplementedError


class Connection(Exchange):
    """Sends a request, waits for the whole reply, and sends the next, until the time is over."""

    def __init__(self, requests: Iterator[bytes], taken: Taken, until: float, done: asyncio.Future[None]) -> None:
        super().__init__()
        self._requests, self._taken, self._until, self.done = requests, taken, until, done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._send()

    def answered(self, reply: bytes) -> None:
        if not reply.startswith(STATUS_OK):
            self._taken.failed.append(reply)
        now = time.perf_counter()
        self._taken.seconds.append(now - self._sent)
        if now < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self.send(next(self._requests))


def run(ports: Iterable[int], requests: Iterator[bytes], *, connections: int, seconds: float) -> Taken:
    """Send `requests`, which never end, on some connections, which are spread over the ports of a machine's servers."""
    return uvloop.run(_run(list(ports), requests, connections, seconds))


async def _run(ports: list[int], requests: Iterator[bytes], connections: int, seconds: float) -> Taken:
    loop, taken = asyncio.get_running_loop(), Taken()
    taken.began = time.perf_counter()
    done = [loop.create_future() for _ in range(connections)]
    for number, end in enumerate(done):
        await loop.create_connection(
            lambda end=end: Connection(requests, taken, taken.began + seconds, end),  # type: ignore[misc]
            "127.0.0.1",
            ports[number % len(ports)],
        )
    await asyncio.gather(*done)
    taken.ended = time.perf_counter()
    return taken


def request(method: str, path: str, key: str, body: bytes = b"") -> bytes:
    """The bytes of a request as an ordinary client sends it."""
    head = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {key}", "Accept: application/json"]
    if body:
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode() + body
