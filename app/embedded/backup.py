"""A backup of a data directory, taken while it is in use or at rest, and a new data directory made of one.

<backup>/ database.dump objects/ models/ api-key secret-keys
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.embedded.data_directory import AlreadyRunning, locked, prepare
from app.embedded.postgres import Postgres, binary
from app.storage import PARTIAL

DUMP = "database.dump"
KEYS = ("api-key", "secret-keys")
FOLDERS = ("objects", "models")


class BackupFailed(Exception):
    """A backup could not be made or used; the message says why."""


def create(data_dir: Path, target: Path) -> None:
    """Write a backup to `target`, which must not exist yet; it appears whole or not at all. Raises BackupFailed.

    The objects are copied, then the database is dumped in one snapshot, then the objects that came in between are
    copied: every object that a row of the dump names was there at one time or the other. Objects never change.
    """
    if target.exists():
        raise BackupFailed(f"{target} is already there")
    if not (data_dir / "postgres" / "data").is_dir():
        raise BackupFailed(f"{data_dir} is not the data directory of a `tunesmith up`")
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, mode=0o700)
    with _answering(data_dir) as postgres:
        _copy_objects(data_dir, partial)
        _run("pg_dump", postgres, "--format=custom", f"--file={partial / DUMP}")
        _copy_objects(data_dir, partial)
    for name in KEYS:
        shutil.copy2(data_dir / name, partial / name)
    partial.rename(target)


def restore(source: Path, data_dir: Path) -> None:
    """Make a data directory from a backup; `data_dir` must be empty or not there. Raises BackupFailed."""
    if not (source / DUMP).is_file():
        raise BackupFailed(f"{source} is no backup: it has no {DUMP}")
    if data_dir.exists() and any(data_dir.iterdir()):
        raise BackupFailed(f"{data_dir} is not empty")
    prepare(data_dir)
    with _answering(data_dir) as postgres:
        _run("pg_restore", postgres, "--exit-on-error", "--no-owner", str(source / DUMP))
    _copy_objects(source, data_dir)
    for name in KEYS:
        shutil.copy2(source / name, data_dir / name)


@contextmanager
def _answering(data_dir: Path) -> Iterator[Postgres]:
    """The directory's Postgres: that of the `tunesmith up` which holds it, or our own for the while."""
    postgres = Postgres(data_dir / "postgres", log=data_dir / "logs" / "postgres.log")
    try:
        with locked(data_dir):
            postgres.start()
            try:
                yield postgres
            finally:
                postgres.stop()
    except AlreadyRunning:
        yield postgres


def _run(program: str, postgres: Postgres, *arguments: str) -> None:
    where = ["--host", str(postgres.sockets), "--username", "tunesmith", "--dbname", "tunesmith"]
    done = subprocess.run([binary(program), *where, *arguments], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise BackupFailed(f"{program}: {done.stderr.strip()}")


def _copy_objects(source: Path, target: Path) -> None:
    """Copy what is not there yet; an object that is deleted meanwhile is nobody's any more."""
    for folder in FOLDERS:
        for path in (source / folder).rglob("*"):
            copy = target / folder / path.relative_to(source / folder)
            if path.is_file() and not path.name.startswith(PARTIAL) and not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                with suppress(FileNotFoundError):
                    shutil.copy2(path, copy)
