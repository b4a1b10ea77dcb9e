"""Where a server's unix socket lies: beside its data, or in a private folder when that path is too long for one."""

import os
import stat
import tempfile
from pathlib import Path

from app.embedded.identity import own, server_uid

LONGEST_PATH = 100  # bytes; the kernel's own limit is 107 on Linux, 103 on macOS
RECORD = "sockets"  # names the private folder, so that the next start and other commands find it


def socket_folder(folder: Path, file_name: str) -> Path:
    """The folder for the socket `file_name` of the server that lives in `folder`. Makes nothing in the usual case.

    A private folder is made once, under the system's temporary folder with mode 0700, and its path is recorded in
    `<folder>/sockets`. It is used again only while it is still ours and still private.
    """
    inside = folder / "run"
    path = str(inside / file_name)
    if len(os.fsencode(path)) <= LONGEST_PATH and "," not in path:  # libpq would read a comma as two hosts
        return inside
    record = folder / RECORD
    if record.is_file():
        recorded = Path(record.read_text("utf-8").strip())
        if _private(recorded):
            return recorded
    made = Path(tempfile.mkdtemp(prefix="tunesmith-"))
    own(made)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    record.write_text(f"{made}\n", "utf-8")
    return made


def _private(folder: Path) -> bool:
    """Whether `folder` is a real folder of the servers' user that nobody else can enter."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    owner = server_uid() if server_uid() is not None else os.geteuid()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == owner and stat.S_IMODE(found.st_mode) == 0o700
