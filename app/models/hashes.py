"""The sha256 of files that take long to read, remembered for as long as nobody touches them."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def sha256_of(path: Path) -> str:
    """A file's sha256 in hexadecimal."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


class Hashes:
    """Hashes kept in a file. Where several processes write it at once, one of them reads something again; no more."""

    def __init__(self, kept: Path) -> None:
        self._kept = kept

    def of(self, path: Path) -> str:
        """The hash of a file, which is read unless it is the very file that was read before. Raises OSError."""
        before = _identity(path)
        known = self._known()
        found = known.get(str(path))
        if isinstance(found, dict) and found.get("identity") == before:
            return str(found["sha256"])
        digest = sha256_of(path)
        if _identity(path) == before:  # else somebody is writing it
            self._keep({**known, str(path): {"identity": before, "sha256": digest}})
        return digest

    def _known(self) -> dict[str, Any]:
        try:
            known = json.loads(self._kept.read_bytes())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def _keep(self, known: Mapping[str, Any]) -> None:
        partial = self._kept.with_name(f"{self._kept.name}.partial")
        with contextlib.suppress(OSError):  # a full disk costs another hash, next time
            self._kept.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(known, indent=2), encoding="utf-8")
            partial.replace(self._kept)


def _identity(path: Path) -> list[int]:
    """What changes when a file does: writing to it sets both times, and only the first of them can be set back."""
    found = path.stat()
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
