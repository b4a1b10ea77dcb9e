"""The embedded Postgres and Redis: real servers, started, killed and started again."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis

from app.config import Settings
from app.db import create_engine
from app.embedded import sockets
from app.embedded.identity import open_the_way, server_uid
from app.embedded.postgres import Postgres
from app.embedded.redis import Redis
from app.queue import create_celery

ROOT = Path(__file__).parent.parent.parent
OWNER = """
import sys, time
from pathlib import Path
from app.embedded.postgres import Postgres
from app.embedded.redis import Redis
from app.queue import create_celery
server = {"Postgres": lambda f: Postgres(f, durable=False), "Redis": Redis}[sys.argv[1]](Path(sys.argv[2]))
server.start()
print(server.process.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "server"


@pytest.fixture
def cluster(folder: Path) -> Iterator[Postgres]:
    server = Postgres(folder, durable=False)
    yield server
    server.stop()


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def execute(server: Postgres, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(host=str(server.sockets), user="tunesmith", dbname="tunesmith", autocommit=True) as connection:
        cursor = connection.execute(statement)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def postmaster(server: Postgres) -> int:
    return int((server.data / "postmaster.pid").read_text().split("\n")[0])


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@contextmanager
def owned_elsewhere(kind: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns a server in `folder`, up and running; killed at the end."""
    command = [sys.executable, "-c", OWNER, kind, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline().strip().isdigit()
        yield owner
        owner.kill()


def test_second_start_finds_the_rows_of_the_first(cluster: Postgres, folder: Path) -> None:
    cluster.start()
    execute(cluster, "CREATE TABLE kept AS SELECT 7 AS n")
    cluster.stop()
    assert not cluster.answers()
    again = Postgres(folder, durable=False)
    again.start()
    try:
        assert execute(again, "SELECT n FROM kept") == [(7,)]
    finally:
        again.stop()


def test_start_after_the_server_alone_was_killed(cluster: Postgres) -> None:
    cluster.process.command = Postgres(cluster.folder).command()  # with fsync
    cluster.start()
    execute(cluster, "CREATE TABLE kept AS SELECT 7 AS n")
    os.kill(postmaster(cluster), signal.SIGKILL)
    until(lambda: not cluster.process.alive())
    cluster.start()
    assert execute(cluster, "SELECT n FROM kept") == [(7,)]


def test_start_after_its_watcher_alone_was_killed(cluster: Postgres) -> None:
    cluster.start()
    first = postmaster(cluster)
    assert cluster.process.pid is not None
    os.kill(cluster.process.pid, signal.SIGKILL)
    until(lambda: not cluster.process.alive())
    cluster.start()
    assert postmaster(cluster) != first
    assert gone(first)


def test_a_server_left_by_a_killed_owner_is_stopped_first(folder: Path, cluster: Postgres) -> None:
    """Nothing above the server lives: no watcher, no owner. Linux tells it by the folder it works in."""
    cluster.start()
    command = [*cluster.process.command]
    cluster.stop()
    uid = server_uid()
    with (folder / "left.log").open("wb") as log:
        left = subprocess.Popen(
            command, stdout=log, stderr=log, user=uid, group=uid, extra_groups=None if uid is None else []
        )
    until(cluster.answers)
    cluster.start()
    assert left.wait(5) == 0
    assert postmaster(cluster) != left.pid


def test_lock_file_with_the_number_of_another_program(cluster: Postgres) -> None:
    cluster.start()
    cluster.stop()
    lock = cluster.data / "postmaster.pid"
    lock.write_text(f"{os.getpid()}\n{cluster.data}\n")
    if server_uid() is not None:
        os.chown(lock, server_uid(), server_uid())  # type: ignore[arg-type]
    cluster.start()
    assert cluster.answers()


def test_killed_owner_takes_its_postgres_along(folder: Path) -> None:
    with owned_elsewhere("Postgres", folder):
        server = postmaster(Postgres(folder))
    until(lambda: gone(server))
    assert not (folder / "data" / "postmaster.pid").exists()


def test_killed_owner_takes_its_redis_along(folder: Path) -> None:
    server = Redis(folder)
    with owned_elsewhere("Redis", folder):
        assert server.answers()
    until(lambda: not server.answers())


def test_redis_keeps_rings_when_memory_is_short_and_writes_nothing(folder: Path) -> None:
    server = Redis(folder)
    server.start()
    try:
        with redis.Redis(unix_socket_path=str(server.socket), decode_responses=True) as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("save") == {"save": ""}
            assert client.config_get("appendonly") == {"appendonly": "no"}
        assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
    finally:
        server.stop()
    assert not server.answers()


def test_redis_replaces_one_left_by_a_killed_owner(folder: Path) -> None:
    left = Redis(folder)
    left.start()
    server = Redis(folder)
    server.start()
    try:
        until(lambda: not left.process.alive())
        assert server.answers()
    finally:
        left.stop()
        server.stop()


def test_long_path_gets_a_private_folder_that_a_second_start_finds(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30) / "server"
    server = Redis(folder)
    server.start()
    try:
        assert not server.socket.is_relative_to(folder)
        assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700
        assert Redis(folder).socket == server.socket
        assert Redis(folder).answers()
    finally:
        server.stop()


def test_recorded_socket_folder_of_another_mode_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30)
    first = sockets.socket_folder(folder, "x.sock")
    assert sockets.socket_folder(folder, "x.sock") == first
    first.chmod(0o755)
    second = sockets.socket_folder(folder, "x.sock")
    assert second != first
    first.rmdir()
    second.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root opens folders for another user")
def test_root_opens_parents_to_search_only_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    private = tmp_path / "private"
    (private / "data").mkdir(parents=True)
    private.chmod(0o700)
    open_the_way(private / "data")
    assert stat.S_IMODE(private.stat().st_mode) == 0o701
    assert str(private) in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user cannot become another")
def test_an_ordinary_user_runs_both_servers(tmp_path: Path) -> None:
    """The same start as a user without rights, in a folder of theirs."""
    open_the_way(tmp_path / "x")
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o700)
    os.chown(mine, 65534, 65534)
    script = """
import sys
from pathlib import Path
from app.embedded.postgres import Postgres
from app.embedded.redis import Redis
from app.queue import create_celery
for server in (Postgres(Path(sys.argv[1], "p"), durable=False), Redis(Path(sys.argv[1], "r"))):
    server.start()
    assert server.answers()
    server.stop()
"""
    interpreter = interpreter_for_everybody()
    if interpreter is None:
        pytest.skip("every interpreter here lies in a folder that only root may enter")
    done = subprocess.run(
        [interpreter, "-c", script, str(mine)],
        user=65534, group=65534, extra_groups=[], capture_output=True, text=True, check=False, cwd="/",
        env={"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {path.stat().st_uid for path in mine.iterdir()} == {65534}


def interpreter_for_everybody() -> str | None:
    """A Python of this version that any user may run."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for found in (sys.executable, shutil.which(name, path="/usr/local/bin:/usr/bin")):
        if found and all(folder.stat().st_mode & 0o001 for folder in Path(found).resolve().parents):
            return found
    return None


def test_a_folder_with_awkward_characters(tmp_path: Path) -> None:
    server = Postgres(tmp_path / "a, b %41", durable=False)
    server.start()
    engine = create_engine(server.url)
    try:
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    finally:
        engine.dispose()
        server.stop()


def test_celery_and_redis_clients_reach_it_by_one_url(tmp_path: Path) -> None:
    server = Redis(tmp_path / "a, b")
    server.start()
    try:
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
        celery = create_celery(Settings(redis_url=server.url))
        with celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=5)
            assert connection.connected
        celery.close()
    finally:
        server.stop()
