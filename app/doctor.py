"""`tunesmith doctor`: looks at a deployment from where it runs, and says what to fix.

Each check looks at one thing and yields findings; a check that itself fails is a finding too, so that one broken part
does not hide the others.
"""

import secrets
import shutil
import socket
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import sqlalchemy as sa

from app import db, exposure, queue, storage
from app.auth import service as auth
from app.config import Settings
from app.graders.faults import PythonServerFault
from app.graders.runtime import open_runtime
from app.models import catalog
from app.models.catalog import Catalog
from app.secrets import Vault
from app.webhooks import service as webhooks
from app.webhooks.errors import SecretUnreadable
from app.webhooks.tables import Endpoint
from app.workers import service as workers
from migrations import run as migrations

OLDEST_POSTGRES = 14
SKEW_SECONDS = 5.0  # lease times are the database's; logs and expiry dates of files are compared across machines
LOW_DISK_BYTES = 5 << 30
MANY_CONNECTIONS = 0.8  # of those that Postgres allows
LEFT_BEHIND = "doctor/"  # objects of an earlier run that was killed lie here

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """What one look found; `fix` says what to do about it."""

    check: str
    state: State
    message: str
    fix: str = ""


Findings = Iterator[Finding]


def examine(settings: Settings, key_files: tuple[Path, ...] = ()) -> list[Finding]:
    """Everything there is to find. key_files: files that hold keys, which only their owner may read."""
    found = list(_checked("settings", lambda: _settings(settings)))
    found += _database(settings)
    found += _checked("objects", lambda: _objects(settings))
    found += _checked("redis", lambda: _redis(settings))
    found += _checked("catalogue", lambda: _catalogue(settings))
    found += _checked("disk", lambda: _disk(settings))
    found += _checked("files", lambda: _files(key_files))
    found += _checked("sandbox", lambda: _sandbox(settings))
    return found


def _database(settings: Settings) -> list[Finding]:
    """What Postgres holds is looked at only if it can be."""
    try:
        engine = db.create_engine(settings.database_url, pool_size=2)
    except sa.exc.ArgumentError:
        trouble = "TUNESMITH_DATABASE_URL is no database's URL"
        return [Finding("postgres", "fail", trouble, "write postgresql+psycopg://user:password@host:5432/name")]
    db.configure(engine)
    found = list(_checked("postgres", lambda: _postgres(engine)))
    if not any(finding.state == "fail" for finding in found):
        found += _checked("postgres", _connections)
        found += _checked("clock", _clock)
        found += _checked("keys", _keys)
        found += _checked("secrets", lambda: _secrets(settings))
        found += _checked("workers", lambda: _workers(settings))
    engine.dispose()
    return found


def _checked(name: str, check: Callable[[], Findings]) -> Findings:
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 - whatever breaks a check is its finding
        yield Finding(name, "fail", f"{type(error).__name__}: {' '.join(str(error).split())}")


def _settings(settings: Settings) -> Findings:
    for danger in exposure.dangers(settings):
        trouble, _, fix = danger.partition(": ")
        yield Finding("settings", "fail", trouble, fix)
    if not settings.secret_keys.get_secret_value():
        fix = "set TUNESMITH_SECRET_KEYS (docs/webhooks.md)"
        yield Finding("settings", "warn", "no keys for secrets at rest: webhooks are refused", fix)
    if settings.development:
        yield Finding("settings", "warn", "development settings are let through", "unset TUNESMITH_DEVELOPMENT")
    else:
        yield Finding("settings", "ok", f"the API would listen on {settings.host}:{settings.port}")


def _postgres(engine: sa.Engine) -> Findings:
    try:
        with db.reading() as session:
            version = int(session.scalars(sa.text("SHOW server_version_num")).one()) // 10_000
        current, newest = migrations.revisions(engine)
    except sa.exc.OperationalError as error:
        fix = "check TUNESMITH_DATABASE_URL: user, password, host, and that the server runs"
        yield Finding("postgres", "fail", f"cannot be reached: {_reason(error)}", fix)
        return
    except sa.exc.ProgrammingError as error:
        fix = "let the user of TUNESMITH_DATABASE_URL own the tables"
        yield Finding("postgres", "fail", f"answers, but refuses: {_reason(error)}", fix)
        return
    if version < OLDEST_POSTGRES:
        yield Finding("postgres", "fail", f"version {version}", f"use Postgres {OLDEST_POSTGRES} or newer")
    if current == newest:
        yield Finding("postgres", "ok", f"version {version}, schema {current}")
    elif current is None or current < newest:
        yield Finding("postgres", "fail", f"the schema is {current}, not {newest}", "run `tunesmith migrate`")
    else:
        yield Finding("postgres", "warn", f"the schema {current} is newer than this program's {newest}", "upgrade it")


def _reason(error: sa.exc.DBAPIError) -> str:
    return " ".join(str(error.orig).split())


def _connections() -> Findings:
    with db.reading() as session:
        most = int(session.scalars(sa.text("SHOW max_connections")).one())
        used = session.scalars(sa.text("SELECT count(*) FROM pg_stat_activity")).one()
    if used > most * MANY_CONNECTIONS:
        fix = "raise max_connections, or put a pooler in between (docs/operating.md)"
        yield Finding("postgres", "warn", f"{used} of {most} connections are in use", fix)


def _clock() -> Findings:
    before = time.time()
    with db.reading() as session:
        theirs = session.scalars(sa.select(sa.func.clock_timestamp())).one()
    skew = theirs.timestamp() - (before + time.time()) / 2
    if abs(skew) > SKEW_SECONDS:
        message = f"the database's clock is {skew:+.1f} s from this machine's ({datetime.now(UTC):%H:%M:%S} UTC)"
        yield Finding("clock", "warn", message, "run a time service (NTP) on both")
    else:
        yield Finding("clock", "ok", f"{skew:+.1f} s from the database's")


def _keys() -> Findings:
    with db.reading() as session:
        count = auth.usable_keys(session)
    if count:
        yield Finding("keys", "ok", f"{count} that open something")
    else:
        yield Finding("keys", "fail", "there is no API key: nobody can call", "run `tunesmith keys create`")


def _secrets(settings: Settings) -> Findings:
    """Whether the operator's keys open what was sealed: not so after a restore without them."""
    vault = Vault(settings.secret_keys.get_secret_value())
    closed = 0
    with db.reading() as session:
        endpoints = session.scalars(sa.select(Endpoint)).all()
        for endpoint in endpoints:
            try:
                webhooks.secrets(session, endpoint, vault)
            except SecretUnreadable:
                closed += 1
    if closed:
        fix = "put the key they were sealed under behind the newest in TUNESMITH_SECRET_KEYS"
        yield Finding("secrets", "fail", f"{closed} of {len(endpoints)} webhook secrets cannot be opened", fix)
    else:
        yield Finding("secrets", "ok", f"all {len(endpoints)} webhook secrets can be opened")


def _workers(settings: Settings) -> Findings:
    with db.reading() as session:
        living = workers.living(session, settings.lease_seconds)
    counts = Counter(worker.kind for worker in living)
    for kind, purpose in ((workers.CPU, "no file is prepared"), (workers.GPU, "nothing is trained")):
        if not counts[kind]:
            yield Finding("workers", "fail", f"no {kind} worker lives: {purpose}", f"start `tunesmith worker {kind}`")
    for worker in living:
        base = f", holds {worker.base_key}" if worker.base_key else ""
        device = f" on {worker.device_group}" if worker.device_group else ""
        draining = ", draining" if worker.draining else ""
        message = f"{worker.kind} worker at {worker.host}{device}: {worker.free_slots} of {worker.slots} slots free"
        yield Finding("workers", "ok", message + base + draining)
    others = {str(worker.version) for worker in living} - {workers.VERSION}
    if others:
        message = f"workers of version {', '.join(sorted(others))} beside this program's {workers.VERSION}"
        yield Finding("workers", "warn", message, "fine during an upgrade; restart them to end it")


def _objects(settings: Settings) -> Findings:
    """Write an object, read it, list it, delete it."""
    store = storage.open_store(settings)
    key, data = f"{LEFT_BEHIND}{secrets.token_hex(8)}", secrets.token_bytes(64)
    try:
        store.check()
        with store.writing(key) as target:
            target.write(data)
        same = b"".join(store.read(key)) == data and key in store.keys(LEFT_BEHIND)
        store.delete(key)
        gone = key not in store.keys(LEFT_BEHIND)
    except (storage.StoreUnavailable, storage.ObjectMissing, OSError) as error:
        fix = "check TUNESMITH_STORAGE_URL, TUNESMITH_S3_… and what this key may do"
        yield Finding("objects", "fail", f"the store does not work: {error}", fix)
        return
    if same and gone:
        yield Finding("objects", "ok", "write, read, list and delete work")
    else:
        trouble = "reading gives something else than was written" if not same else "deleting leaves the object there"
        yield Finding("objects", "fail", trouble, "the store must be strongly consistent, without object locks")


def _redis(settings: Settings) -> Findings:
    if not settings.redis_url:
        yield Finding("redis", "warn", "not configured: work starts at the next poll", "set TUNESMITH_REDIS_URL")
    elif trouble := queue.trouble(settings):
        message = f"no doorbell, work starts at the next poll: {trouble}"
        yield Finding("redis", "warn", message, "check TUNESMITH_REDIS_URL: password, host, and that the server runs")
    else:
        yield Finding("redis", "ok", "answers")


def _catalogue(settings: Settings) -> Findings:
    offered = catalog.load(settings.catalog_path, catalog.lock_path(settings.models_dir))
    here = [entry.id for entry in offered.entries if entry.available(settings.models_dir)]
    if not here:
        yield Finding("catalogue", "fail", "no base model is on this machine", "run `tunesmith catalog pull ID`")
    else:
        yield Finding("catalogue", "ok", f"on this machine: {', '.join(here)}")
    yield from _incomplete(offered, settings)


def _incomplete(offered: Catalog, settings: Settings) -> Findings:
    for entry in offered.entries:
        folder = entry.directory(settings.models_dir)
        if entry.available(settings.models_dir) and not any(folder.glob("*.safetensors")):
            fix = f"run `tunesmith catalog pull {entry.id}`"
            yield Finding("catalogue", "fail", f"{entry.id} has no weights in {folder}", fix)


def _disk(settings: Settings) -> Findings:
    places = {"scratch_dir": settings.scratch_dir, "models_dir": settings.models_dir}
    if settings.storage_url.startswith("file://"):
        places["storage_url"] = Path(settings.storage_url.removeprefix("file://"))
    for name, path in places.items():
        there = next(folder for folder in [path, *path.absolute().parents] if folder.exists())
        free = shutil.disk_usage(there).free
        state: State = "warn" if free < LOW_DISK_BYTES else "ok"
        fix = f"make room, or point TUNESMITH_{name.upper()} elsewhere" if state == "warn" else ""
        yield Finding("disk", state, f"{free / (1 << 30):.1f} GiB free at {path}", fix)


def _files(key_files: tuple[Path, ...]) -> Findings:
    for path in key_files:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            yield Finding("files", "fail", f"others may read {path} (mode {mode:04o})", f"chmod 600 {path}")
        else:
            yield Finding("files", "ok", f"{path} is its owner's alone")


def _sandbox(settings: Settings) -> Findings:
    if not settings.python_graders:
        yield Finding("sandbox", "ok", "Python graders are off")
        return
    runtime = open_runtime(settings)
    try:
        assert runtime.means.sandbox is not None
        runtime.means.sandbox.check_machine()
    except PythonServerFault as error:
        fix = "allow unprivileged user namespaces here (docs/graders.md), or unset TUNESMITH_PYTHON_GRADERS"
        yield Finding("sandbox", "fail", f"Python graders cannot run on {socket.gethostname()}: {error}", fix)
    else:
        yield Finding("sandbox", "ok", "Python graders run, shut in")
    finally:
        runtime.close()
