"""`tunesmith doctor`: a deployment looked at from here, and what to fix."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.errors import FAILED, USAGE, CommandError
from app.cli.output import print_json, print_table

if TYPE_CHECKING:
    from app.config import Settings


def doctor(
    data_dir: Annotated[
        Path | None, typer.Option(help="The data directory of a running `tunesmith up`; else TUNESMITH_… is read.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the deployment that the settings describe: database, object store, workers, files. Says what to fix.

    Exit status 0 if nothing failed (warnings may stand), else 1.
    """
    import dataclasses

    from app import doctor as doctors
    from app.config import Settings

    settings = Settings() if data_dir is None else _embedded(data_dir)
    keys = () if data_dir is None else (data_dir / "api-key", data_dir / "secret-keys")
    found = doctors.examine(settings, keys)
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in found])
    else:
        rows = ((f.state.upper(), f.check, f.message + (f"; {f.fix}" if f.fix else "")) for f in found)
        print_table(("STATE", "CHECK", "FOUND"), rows)
    if any(finding.state == "fail" for finding in found):
        raise typer.Exit(FAILED)


def _embedded(data_dir: Path) -> "Settings":
    """The settings that the processes of a `tunesmith up` have."""
    import socket

    from app.config import Settings
    from app.embedded.stack import Stack

    if not (data_dir / "lock").is_file():
        raise CommandError(f"{data_dir} is not the data directory of a `tunesmith up`", USAGE)
    with socket.socket() as listener:
        stack = Stack(data_dir.resolve(), listener, Settings())
        stack.lifeline.close()
    changes: dict[str, Any] = stack.changes
    return Settings(**changes)
