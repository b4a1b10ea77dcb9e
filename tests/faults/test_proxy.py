"""The fault proxy does what it says, between a client and an echoing server."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.chaos.proxy import Proxy


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(1024):
                    connection.sendall(data)
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(echo: tuple[str, int]) -> Iterator[Proxy]:
    with Proxy(echo) as proxy:
        yield proxy


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def asked(connection: socket.socket, data: bytes = b"hello") -> bytes:
    connection.sendall(data)
    return connection.recv(1024)


def hear(proxy: Proxy) -> bytes:
    with connect(proxy) as client:
        return client.recv(1)


def silent(connection: socket.socket) -> bool:
    connection.settimeout(0.2)
    try:
        connection.sendall(b"anyone?")
        connection.recv(1024)
    except TimeoutError:
        return True
    return False


def test_it_passes_everything_on(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert asked(client) == b"hello"
    assert proxy.passed == {"up": 5, "down": 5}


def test_cut_ends_connections_and_refuses_new_ones(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert asked(client) == b"hello"
        proxy.cut()
        assert client.recv(1) == b""
    with pytest.raises(ConnectionResetError):
        hear(proxy)
    proxy.mend()
    with connect(proxy) as client:
        assert asked(client) == b"hello"


def test_a_reset_is_not_an_end(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert asked(client) == b"hello"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with connect(proxy) as client:
        assert asked(client) == b"hello"


def test_a_black_hole_says_nothing_until_it_is_mended(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert asked(client) == b"hello"
        proxy.blackhole()
        assert silent(client)
        proxy.mend()
        client.settimeout(10)
        assert client.recv(1024) == b"anyone?"


def test_half_open_lets_requests_through_and_no_answers(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert asked(client) == b"hello"
        proxy.half_open()
        assert silent(client)
        deadline = time.monotonic() + 10
        while proxy.passed["up"] < len(b"hello" + b"anyone?"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert proxy.passed["down"] == len(b"hello")


def test_an_answer_is_swallowed_and_its_connection_cut(proxy: Proxy) -> None:
    proxy.swallow(lambda data: b"COMMIT" in data)
    with connect(proxy) as client:
        assert asked(client) == b"hello"
        assert asked(client, b"COMMIT") == b""
