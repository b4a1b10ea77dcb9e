"""The data directory of `tunesmith up`, and who holds it.

<data-dir>/ postgres/ redis/ objects/ scratch/ models/ wandb/ logs/<child>.log api-key secret-keys lock
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app import secrets
from app.embedded.identity import open_the_way


class AlreadyRunning(Exception):
    """Another `tunesmith up` holds this data directory."""


def prepare(data_dir: Path) -> None:
    """Make the folders, private to their owner; root's may be passed through by the servers' user."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("logs", "objects", "scratch", "models"):
        (data_dir / name).mkdir(exist_ok=True, mode=0o700)
    open_the_way(data_dir / "postgres")


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the data directory; the kernel lets go of it however this process ends. Raises AlreadyRunning."""
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode().strip()
            raise AlreadyRunning(f"{data_dir} is in use by another `tunesmith up` (process {holder})") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def secret_keys(data_dir: Path) -> str:
    """The keys that secrets are kept under, as the settings take them; one is made where there is none."""
    path = data_dir / "secret-keys"
    if not path.exists():
        write_private(path, f"{secrets.new_key()}\n")
    return ",".join(path.read_text("utf-8").split())


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as target:
        target.write(text)
    partial.replace(path)
