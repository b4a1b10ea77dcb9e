"""A TCP proxy that can break: in front of Postgres, Redis or an object store, between two ends that are both fine.

with Proxy(address) as proxy:
    proxy.cut()          every connection closed, new ones refused, until `mend`
    proxy.blackhole()    connections stay open, nothing passes, until `mend`; new ones hang too
    proxy.half_open()    what clients send arrives, what servers answer does not
    proxy.reset()        every connection gets an RST, once
    proxy.delay(0.2)     each chunk to the server waits so long
    proxy.swallow(fn)    a chunk of an answer for which fn is true is kept, and its connection cut
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

Address = tuple[str, int] | str  # host and port, or the path of a unix socket
RST = struct.pack("ii", 1, 0)  # SO_LINGER with 0 seconds: close() sends a reset


class Proxy:
    """Thread-safe. `port` is where clients connect; `passed` counts the bytes each way."""

    def __init__(self, target: Address) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self.passed = {"up": 0, "down": 0}
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._flow = {"up": threading.Event(), "down": threading.Event()}
        self._refusing = False
        self._delay = 0.0
        self._swallow: Callable[[bytes], bool] | None = None
        self.mend()
        threading.Thread(target=self._accept, name=f"proxy-{self.port}", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def mend(self) -> None:
        """Be a good proxy again; what a black hole held back flows on."""
        self._refusing, self._delay, self._swallow = False, 0.0, None
        for flow in self._flow.values():
            flow.set()

    def cut(self) -> None:
        self._refusing = True
        self._end_all()

    def reset(self) -> None:
        self._end_all(hard=True)

    def blackhole(self) -> None:
        self._flow["up"].clear()
        self._flow["down"].clear()

    def half_open(self) -> None:
        self._flow["down"].clear()

    def delay(self, seconds: float) -> None:
        self._delay = seconds

    def swallow(self, judge: Callable[[bytes], bool]) -> None:
        self._swallow = judge

    def close(self) -> None:
        self._listener.close()
        self.cut()
        self.mend()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self._refusing:
            _hang_up(client, hard=True)
            return
        try:
            server = _connect(self._target)
        except OSError:
            _hang_up(client, hard=True)
            return
        pair = (client, server)
        with self._lock:
            self._pairs.add(pair)
        threading.Thread(target=self._pump, args=(pair, client, server, "up"), daemon=True).start()
        self._pump(pair, server, client, "down")

    def _pump(
        self, pair: tuple[socket.socket, socket.socket], source: socket.socket, to: socket.socket, way: str
    ) -> None:
        try:
            while data := source.recv(65536):
                if self._delay and way == "up":
                    time.sleep(self._delay)
                self._flow[way].wait()
                if way == "down" and self._swallow is not None and self._swallow(data):
                    break
                self.passed[way] += len(data)
                to.sendall(data)
        except OSError:
            pass  # one of the ends had enough, or `cut` closed them
        self._end(pair)

    def _end_all(self, *, hard: bool = False) -> None:
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._end(pair, hard=hard)

    def _end(self, pair: tuple[socket.socket, socket.socket], *, hard: bool = False) -> None:
        with self._lock:
            ours = pair in self._pairs
            self._pairs.discard(pair)
        for end in pair if ours else ():
            _hang_up(end, hard=hard)


def _connect(target: Address) -> socket.socket:
    if isinstance(target, tuple):
        return socket.create_connection(target, timeout=None)
    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(target)
    except OSError:
        server.close()
        raise
    return server


def _hang_up(end: socket.socket, *, hard: bool) -> None:
    with contextlib.suppress(OSError):
        if hard:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
        # Whoever waits in recv() keeps a closed socket open; SHUT_RD wakes it and says nothing to the other side.
        end.shutdown(socket.SHUT_RD if hard else socket.SHUT_RDWR)
    end.close()
