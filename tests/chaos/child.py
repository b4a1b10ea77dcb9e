"""A process of ours that can break where a test wants: an API or a worker, with failpoints armed from inside.

    process = start("gpu", environment, log=path, points=[Point("checkpoint.uploaded", "kill")], hits=path)

Processes are forked from one that has imported everything, which makes a start cheap.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

STATEMENT = "statement.done"  # a failpoint of "migrate" alone: after each statement that changes something
FAKE_ENGINE = "tests.chaos.fake_engine"
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.chaos.child", "app.main", "worker.gpu", "worker.prepare_job", "boto3"])


class Fault(Exception):
    """What an armed failpoint raises."""


@dataclass(frozen=True)
class Point:
    """Where and how to break. action: kill, raise, hang, or a number of seconds to wait. nth: 0 for every time."""

    name: str
    action: str = "kill"
    nth: int = 1


def arm(points: Sequence[Point], hits: Path | None) -> None:
    """From now on this process breaks at these points; each place it comes past is written to `hits`."""
    from app import failpoints

    seen: Counter[str] = Counter()
    lock = threading.Lock()

    def armed(name: str) -> None:
        with lock:
            seen[name] += 1
            number = seen[name]
        if hits is not None:
            descriptor = os.open(hits, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, f"{name}\n".encode())
            os.close(descriptor)
        for point in points:
            if point.name == name and point.nth in {0, number}:
                _act(point)

    failpoints.armed = armed


def _act(point: Point) -> None:
    if point.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif point.action == "raise":
        raise Fault(point.name)
    else:
        time.sleep(3600 if point.action == "hang" else float(point.action))


def start(
    kind: str,
    environment: Mapping[str, str],
    *,
    log: Path,
    points: Sequence[Point] = (),
    hits: Path | None = None,
    engine: str = FAKE_ENGINE,
) -> ForkServerProcess:
    process = _context.Process(
        target=_main, args=(kind, dict(environment), str(log), tuple(points), hits, engine), name=kind, daemon=False
    )
    process.start()
    return process


def _main(
    kind: str, environment: dict[str, str], log: str, points: tuple[Point, ...], hits: Path | None, engine: str
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from worker import supervisor

    supervisor.MODULE = engine
    _hurry(environment)
    _shift_clock(float(environment.get("CLOCK_SHIFT", "0")))
    arm(points, hits)
    if kind == "api":
        _serve()
    elif kind == "cpu":
        _prepare()
    elif kind == "migrate":
        _migrate()
    else:
        from worker import gpu

        gpu.main()


def _hurry(environment: dict[str, str]) -> None:
    """Let what is no setting be smaller than it is: a variable, named as in its module, says how much."""
    from app.http import protocol, server
    from app.jobs import event_stream
    from app.models import catalog
    from worker import shunned, supervisor

    for module, name in (
        (supervisor, "PASS_SECONDS"),
        (server, "HANG_SECONDS"),
        (server, "BEAT_SECONDS"),
        (protocol, "VANISHED_SECONDS"),
        (event_stream, "PING_SECONDS"),
        (shunned, "PAUSE_SECONDS"),
        (catalog, "SMALL_FILE"),
    ):
        if name in environment:
            setattr(module, name, float(environment[name]))


def _shift_clock(seconds: float) -> None:
    """Let the wall clock of this process be wrong; the monotonic one goes on as it should."""
    real = time.time
    if seconds:
        time.time = lambda: real() + seconds


def _serve() -> None:
    """The API as `tunesmith api` runs it."""
    from app import logs
    from app.config import Settings
    from app.http import server
    from app.main import create_app

    settings = Settings()
    logs.configure(settings)
    server.serve(create_app(settings), settings)


def _prepare() -> None:
    """What worker/cpu.py does; that module forbids torch to the process, and this one is forked from one without it."""
    from app import db, logs, queue
    from app.config import Settings
    from worker import celery_process, prepare_job

    settings = Settings()
    logs.configure(settings)
    db.configure(
        db.create_engine(
            settings.database_url, pool_size=settings.prepare_slots + 3, idle_seconds=settings.lease_seconds / 3
        )
    )
    celery_process.serve(prepare_job.create_node(settings), queue.CPU, settings)


def _migrate() -> None:
    """What `tunesmith migrate` does."""
    import sqlalchemy as sa

    from app import db
    from app.config import Settings
    from app.failpoints import failpoint
    from migrations import run as migrations

    engine = db.create_engine(Settings().database_url)

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.split(maxsplit=1)[0].upper() not in {"SELECT", "SET", "RESET"}:
            failpoint(STATEMENT)

    sa.event.listen(engine, "after_cursor_execute", note)
    migrations.upgrade(engine)
