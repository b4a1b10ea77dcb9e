"""Directories that are there whole or not at all: written under another name, synced, sealed, renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SEAL = "seal.json"


class Torn(Exception):
    """A sealed directory whose files are not those that were sealed."""


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A fresh directory to write into, which takes `target`'s place once the block ends without an error."""
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    yield draft
    for file in draft.iterdir():
        _sync(file)
    _sync(draft)
    # An attempt that died after its rename may have left one; only this attempt's is announced to anybody.
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    _sync(target.parent)


def seal(directory: Path) -> None:
    """Write down the sha256 of every file."""
    digests = {file.name: _sha256(file) for file in sorted(directory.iterdir())}
    (directory / SEAL).write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")


def check_seal(directory: Path) -> None:
    """Raises Torn unless every file is as it was sealed."""
    try:
        digests = json.loads((directory / SEAL).read_bytes())
        broken = [name for name, digest in digests.items() if _sha256(directory / name) != digest]
    except (OSError, ValueError, AttributeError) as error:
        raise Torn(f"{directory.name} is incomplete: {error!r}") from error
    if broken:
        raise Torn(f"{directory.name}: {', '.join(broken)} changed since it was written")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
