"""Receivers of webhooks on real loopback ports: what they answer is up to the test, and they remember what came."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trustme

HOST = "hooks.example.com"  # the name on the certificates
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass(frozen=True)
class Arrived:
    """One request."""

    line: str
    headers: dict[str, str]  # names in lower case
    body: bytes


@dataclass
class Receiver:
    """A server that reads a request and lets `answer` write on the socket; it closes the connection afterwards."""

    answer: Callable[[socket.socket, int], None]  # the connection, and how many requests came before
    tls: ssl.SSLContext | None = None
    requests: list[Arrived] = field(default_factory=list)
    connections: int = 0
    names: list[str | None] = field(default_factory=list)  # asked for by SNI

    def __post_init__(self) -> None:
        self.ended = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        if self.tls is not None:
            self.tls.sni_callback = lambda _socket, name, _context: self.names.append(name)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook" if self.tls is None else f"https://{HOST}:{self.port}/hook"

    def close(self) -> None:
        self.ended.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                served = connection if self.tls is None else self.tls.wrap_socket(connection, server_side=True)
                with served:
                    before = len(self.requests)
                    self.requests.append(_read(served))
                    self.answer(served, before)
            except (OSError, EOFError):
                pass  # the other side had enough


def _read(connection: socket.socket) -> Arrived:
    with connection.makefile("rb") as stream:
        line = stream.readline().decode("latin-1").strip()
        if not line:
            raise EOFError
        headers = {}
        while header := stream.readline().decode("latin-1").strip():
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        return Arrived(line, headers, stream.read(int(headers.get("content-length", 0))))


def always(data: bytes) -> Callable[[socket.socket, int], None]:
    """Answer every request with the same bytes."""
    return lambda connection, _: connection.sendall(data)


def status(code: int, *headers: str) -> bytes:
    """An answer without a body."""
    lines = [f"HTTP/1.1 {code} Some", "Content-Length: 0", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


@contextmanager
def receiving(
    answer: Callable[[socket.socket, int], None] | bytes = OK, *, tls: ssl.SSLContext | None = None
) -> Iterator[Receiver]:
    receiver = Receiver(always(answer) if isinstance(answer, bytes) else answer, tls)
    try:
        yield receiver
    finally:
        receiver.close()


class Certificates:
    """An authority of the test's own, in a file that `Egress` can be given."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.path = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(self.path)

    def server(self, *names: str) -> ssl.SSLContext:
        """A server's side with a certificate for these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*names).configure_cert(context)
        return context
