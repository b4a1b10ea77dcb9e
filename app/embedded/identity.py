"""Who the embedded servers run as: Postgres refuses to be root, so root's servers run as `nobody`."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

NOBODY = 65534  # the uid and gid; an entry for it is in every passwd file, which initdb insists on
SEARCH = 0o001  # permission to pass through a folder, not to list it


def server_uid() -> int | None:
    """The uid the servers change to, None where we are an ordinary user already."""
    return NOBODY if os.geteuid() == 0 else None


def own(folder: Path) -> None:
    """Make `folder`, private to the servers' user."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    uid = server_uid()
    if uid is not None and folder.stat().st_uid != uid:
        os.chown(folder, uid, uid)


def open_the_way(path: Path) -> None:
    """Let the servers' user pass through the folders above `path`: search permission only, and said on stderr.

    Does nothing for an ordinary user, whose own folders are open to them.
    """
    if server_uid() is None:
        return
    for folder in path.resolve().parents:
        mode = folder.stat().st_mode
        if mode & SEARCH == 0:
            folder.chmod((mode & 0o7777) | SEARCH)
            print(
                f"tunesmith: {folder} may now be passed through (o+x) by user {NOBODY}, who runs the database.",
                file=sys.stderr,
            )


def packaged(package: str, *parts: str) -> Path:
    """A file inside an installed package, found without importing it. Raises FileNotFoundError."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(f"the package {package} is not installed; pip install 'tunesmith[embedded]'")
    return Path(found.submodule_search_locations[0]).resolve().joinpath(*parts)


def runs(command: list[str]) -> str | None:
    """What a program prints, run as the servers' user; None if it cannot be run by that user."""
    uid = server_uid()
    try:
        done = subprocess.run(
            command, user=uid, group=uid, extra_groups=None if uid is None else [],
            cwd="/", capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
